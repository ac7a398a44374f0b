"""What callers of a gradient may give, told before any work is done."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import TypeAlias

import torch
from torch import nn

from splatmend.enhance.decoder.adapter import DecoderAdapter, SideFeatures
from splatmend.enhance.decoder.wan import WanAdapter

Side: TypeAlias = Callable[[int], SideFeatures]
"""`side(i)`: the conditioning of group i, block name -> features [B, C, t, H, W]."""


def whole(*numbers: object, at_least: int) -> bool:
    """Whether all are whole numbers that are not smaller."""
    return all(isinstance(number, Integral) and int(number) >= at_least for number in numbers)


def pair(numbers: object) -> tuple[int, int]:
    """Two numbers; what is no pair is none that fits."""
    if not isinstance(numbers, Sequence) or len(numbers) != 2:
        return -1, -1
    return numbers[0], numbers[1]


def check_latents(adapter: DecoderAdapter, z: torch.Tensor) -> None:
    """`TypeError` for what is no tensor, `ValueError` for latents of a wrong rank, channel count or dtype, or none at all."""
    if not isinstance(z, torch.Tensor):
        raise TypeError(f"latents must be a tensor [batch, channels, groups, height, width], got {type(z).__name__}")
    if z.ndim != 5:
        raise ValueError(f"latents must be [batch, channels, groups, height, width], got {z.ndim} dimensions: {tuple(z.shape)}")
    if z.shape[1] != adapter.latent_channels:
        raise ValueError(f"the decoder takes latents of {adapter.latent_channels} channels, got {z.shape[1]}")
    if z.shape[2] < 1:
        raise ValueError("the clip holds no latent")
    if not z.numel():
        raise ValueError(f"the latents are empty: {tuple(z.shape)}")
    if isinstance(adapter, WanAdapter):
        adapter.check_dtype(z, "latents")


def check_gradient(adapter: DecoderAdapter, frame_loss: object, loss_scale: object, *, repeats: bool) -> None:
    """What else a gradient needs, before it is taken.

    Args:
        repeats: whether a group is decoded more than once with what is kept of its first pass: then the decoder must not draw lots.

    Raises `RuntimeError` under inference mode, `TypeError` for a loss that cannot be called, and `ValueError` for a scale that is no finite
    number, or dropout that would be drawn anew.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("inference mode forbids gradients; call this outside `torch.inference_mode()`")
    if not callable(frame_loss):
        raise TypeError(f"frame_loss must be a function of frames, span and previous frame, got {type(frame_loss).__name__}")
    if not isinstance(loss_scale, Real | torch.Tensor) or not math.isfinite(loss_scale):
        raise ValueError(f"loss_scale must be a finite number, got {loss_scale}")
    if isinstance(adapter, WanAdapter) and repeats and drops(adapter.decoder.vae.decoder):
        raise ValueError(
            "the decoder's dropout is active, and with memory='small', spatial chunks or shares a group is decoded more than once, "
            "each time with other units dropped; call `vae.decoder.eval()`, or take memory='balanced' on whole frames in one process"
        )


def checked_params(adapter: DecoderAdapter, params: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Parameters as a list. `TypeError` for a bare tensor, whose rows would be taken, and for what is none.

    Warns where the decoder has others that require a gradient: layers keep much more for them, though nobody gets it.
    """
    if isinstance(params, torch.Tensor):
        raise TypeError("params must be several tensors, got one: give [parameter]")
    given = list(params)
    for one in given:
        if not isinstance(one, torch.Tensor):
            raise TypeError(f"params must be tensors, got {type(one).__name__}")
    if isinstance(adapter, WanAdapter):
        asked = {id(one) for one in given}
        if any(one.requires_grad and id(one) not in asked for one in adapter.decoder.vae.decoder.parameters()):
            warnings.warn(
                "parameters of the decoder require a gradient that `params` does not ask for, which takes several times the memory; "
                "freeze them with `vae.requires_grad_(False)`",
                stacklevel=4,
            )
    return given


def checked_side(side: Side | None) -> Side | None:
    """The same conditioning; `TypeError` where it, or what it gives, is none, `ValueError` for features of a wrong rank."""
    if side is None:
        return None
    if not callable(side):
        raise TypeError(f"side must be a function of a group's number, got {type(side).__name__}")

    def checked(index: int) -> SideFeatures:
        found = side(index)
        if not isinstance(found, Mapping) or not all(isinstance(features, torch.Tensor) for features in found.values()):
            raise TypeError(f"side({index}) must give tensors by the names of decoder blocks, got {type(found).__name__}")
        for name, features in found.items():
            if features.ndim != 5:
                raise ValueError(
                    f"side features must be [batch, channels, time, height, width]; for {name} they have {features.ndim} dimensions"
                )
        return found

    return checked


def drops(model: nn.Module) -> bool:
    """Whether a model leaves out units by lot in its present mode."""
    return any(isinstance(module, nn.Dropout) and module.training and module.p > 0 for module in model.modules())
