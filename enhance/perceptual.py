"""Losses on a network's features, on the frames of a group: value and gradient in one go, a few pictures at a time. LPIPS (Zhang et al.
2018) compares features place by place, the Gram loss (Gatys et al. 2015, arXiv 1508.06576) how they go together, wherever they are.

What a perceptual network keeps for its backward pass is many times the size of a picture. Here the gradient with respect to the pictures
is computed together with the value, so that no more than one set of pictures' features is ever held, and only that gradient is kept. The
network may run in half precision; normalisation, differences and sums are in float32 at least.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

PIXELS_AT_ONCE = 1 << 19
"""Pixels of the pictures that go through the network together: one frame of 480x832, or many small crops."""
_EPSILON = 1e-10

Distance = Callable[[Any, torch.Tensor, torch.Tensor, torch.dtype], torch.Tensor]
"""`(network, pictures [N, 3, H, W], truths, dtype)`: the sum over pictures."""

_cast: weakref.WeakKeyDictionary[nn.Module, dict[tuple[torch.device, torch.dtype], tuple[int, nn.Module]]] = weakref.WeakKeyDictionary()
"""Copies of networks' features, each with the sum of versions of the weights that it was made of."""


def lpips_of_frames(network: nn.Module, frames: torch.Tensor, target: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The sum over all pictures of `frames` and `target` [B, 3, t, H, W] in [-1, 1]; a scalar, differentiable once and by `frames` alone.

    `network`: an `lpips.LPIPS`, frozen. `dtype`: what its features are computed in; None: autocast's where that is on, else the frames'.
    """
    return _summed(_distance, network, frames, target, dtype)


def gram_of_frames(network: nn.Module, frames: torch.Tensor, target: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The Gram loss in place of LPIPS, all else as in `lpips_of_frames`: over the layers, the squared Frobenius norm of the difference of
    Gram matrices, each a mean over places (Johnson et al. 2016, arXiv 1603.08155, section 3.2). Features have unit length in every place,
    as in LPIPS: SqueezeNet's own are so large that a tenth of the loss would drown all others."""
    return _summed(_gram_distance, network, frames, target, dtype)


def _summed(distance: Distance, network: nn.Module, frames: torch.Tensor, target: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    device = frames.device.type
    if dtype is None:
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else frames.dtype
    with torch.autocast(device, enabled=False):
        total: torch.Tensor = _Fused.apply(frames, target.detach(), network, dtype, distance)
    return total


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, frames: torch.Tensor, target: torch.Tensor, network: nn.Module, dtype: torch.dtype, distance: Distance
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        pictures, truths = (x.transpose(1, 2).flatten(0, 1) for x in (frames, target))
        total = torch.zeros((), dtype=torch.promote_types(frames.dtype, torch.float32), device=frames.device)
        gradient = torch.empty_like(pictures) if wanted else None
        at_once = max(1, PIXELS_AT_ONCE // (frames.shape[3] * frames.shape[4]))
        for start in range(0, len(pictures), at_once):
            some = slice(start, start + at_once)
            leaf = pictures[some].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                part = distance(network, leaf, truths[some], dtype)
            if gradient is not None:
                gradient[some] = torch.autograd.grad(part, leaf)[0]
            total += part.detach()
        if gradient is not None:
            ctx.save_for_backward(gradient.unflatten(0, (frames.shape[0], -1)).transpose(1, 2))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None, None, None


def _distance(network: Any, pictures: torch.Tensor, truths: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """LPIPS, the sum over pictures [N, 3, H, W]."""
    wide = torch.promote_types(pictures.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=pictures.device)
    for lin, x, y in zip(network.lins, *_seen(network, pictures, truths, dtype), strict=True):
        # Features of nothing but zeros have no direction: unlike LPIPS's own square root, this has a gradient there, zero.
        difference = F.normalize(x.to(wide), dim=1, eps=_EPSILON) - F.normalize(y.to(wide), dim=1, eps=_EPSILON)
        total = total + (lin.model[-1].weight.to(wide) * difference.square()).sum(dim=1).mean(dim=(1, 2)).sum()
    return total


def _gram_distance(network: Any, pictures: torch.Tensor, truths: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The Gram loss, the sum over pictures [N, 3, H, W]."""
    wide = torch.promote_types(pictures.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=pictures.device)
    for x, y in zip(*_seen(network, pictures, truths, dtype), strict=True):
        total = total + (_gram(x.to(wide)) - _gram(y.to(wide))).square().sum()
    return total


def _gram(features: torch.Tensor) -> torch.Tensor:
    """Products of feature maps `[N, C, h, w]` of unit length with each other, means over places, `[N, C, C]`."""
    flat = F.normalize(features, dim=1, eps=_EPSILON).flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def _seen(network: Any, pictures: torch.Tensor, truths: torch.Tensor, dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The layers' features of pictures, and of truths without a graph."""
    wide = torch.promote_types(pictures.dtype, torch.float32)
    features, scaling = _features(network, pictures.device, dtype), network.scaling_layer

    def seen(x: torch.Tensor) -> list[torch.Tensor]:
        # Channels-last is what a GPU's half-precision convolutions take without turning their inputs around.
        order = torch.channels_last if x.is_cuda else torch.contiguous_format
        return list(features(scaling(x.to(wide)).to(dtype, memory_format=order)))

    with torch.no_grad():
        known = seen(truths)
    return seen(pictures), known


def _features(network: Any, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network below the distance, in a dtype; kept as long as the network and its weights stay as they are."""
    net: nn.Module = network.net
    if next(net.parameters()).dtype == dtype and device.type != "cuda":
        return net
    held, version = _cast.setdefault(network, {}), sum(weight._version for weight in net.parameters())
    if (device, dtype) not in held or held[device, dtype][0] != version:
        copied = copy.deepcopy(net).to(device, dtype)
        # Typed without its memory format, which it takes.
        held[device, dtype] = version, cast(Any, copied).to(memory_format=torch.channels_last) if device.type == "cuda" else copied
    return held[device, dtype][1]
