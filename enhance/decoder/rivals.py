"""Other ways to a gradient of a pixel loss with respect to a clip's latents, behind the same call as `TruncatedDecoder.loss_and_grad`.

They are what one would do without truncation, or what others do, so that both can be run side by side. The first two give the exact
gradient of the same loss; the others give the exact gradient of *another* loss, one that sees fewer frames or other frames. As in the
truncated decoder, a group's loss sees the last frame before it as a constant, and a loss's own graph is gone before the decoder is
differentiated.

Shape letters: B batch, C channels, L latents (groups), t frames of one group, H W pixels, h w latent pixels.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from splatmend.enhance.decoder.adapter import Cache, DecoderAdapter
from splatmend.enhance.decoder.checks import Side, check_gradient, check_latents, checked_params, checked_side, whole
from splatmend.enhance.decoder.chunks import whole_frame
from splatmend.enhance.decoder.engine import Engine
from splatmend.enhance.decoder.frame_loss import ClipLoss, FrameLoss
from splatmend.enhance.decoder.gradients import GradientSums, LossAndGrad, forget_autocast_weights, without_autocast
from splatmend.enhance.decoder.groups import frame_span, valid_part
from splatmend.enhance.decoder.truncated import TruncatedDecoder
from splatmend.enhance.decoder.wan_plan import Memory


class PixelGradient(Protocol):
    """Whatever turns a pixel loss into gradients of latents; `TruncatedDecoder` and everything in this module."""

    def loss_and_grad(
        self,
        z: torch.Tensor,
        frame_loss: FrameLoss,
        *,
        side: Side | None = None,
        params: Iterable[torch.Tensor] = (),
        loss_scale: float = 1.0,
        valid_frames: int | None = None,
    ) -> LossAndGrad:
        """Loss and gradients for denormalised latents [B, C, L, h, w]; arguments as in `TruncatedDecoder.loss_and_grad`."""
        ...


@dataclass(frozen=True)
class _Group:
    """The leaves of one group: its latent [B, C, 1, h, w] and its side features."""

    index: int
    latent: torch.Tensor
    side: dict[str, torch.Tensor] | None

    def trained_side(self) -> list[str]:
        return [name for name, tensor in (self.side or {}).items() if tensor.requires_grad]

    def leaves(self) -> list[torch.Tensor]:
        return [self.latent, *((self.side or {})[name] for name in self.trained_side())]


class _Clip:
    """One call: latents, loss and where gradients are gathered. `valid_frames`: how many count, of which `groups` groups hold some."""

    def __init__(
        self,
        adapter: DecoderAdapter,
        z: torch.Tensor,
        frame_loss: FrameLoss,
        side: Side | None,
        params: Iterable[torch.Tensor],
        loss_scale: float,
        valid_frames: int | None,
    ) -> None:
        self._adapter, self._side, self._frame_loss, self._loss_scale = adapter, side, frame_loss, loss_scale
        self.z, self.params = z.detach(), list(params)
        self.valid_frames, self.groups = valid_part(z.shape[2], adapter.temporal_factor, valid_frames)
        self.sums = GradientSums(z, self.params)
        self._whole = whole_frame(z.shape[3], z.shape[4])

    def span(self, index: int) -> slice:
        return frame_span(index, self._adapter.temporal_factor)

    def open(self, index: int, *, constant: bool = False) -> _Group:
        """Fresh leaves of one group; `constant`: no gradient will reach its side features."""
        side = None
        if self._side is not None:
            side = {name: value.detach().requires_grad_(value.requires_grad and not constant) for name, value in self._side(index).items()}
            for name, value in side.items():
                if value.requires_grad:
                    self.sums.open_side(index, name, value)
        return _Group(index, self.z[:, :, index : index + 1].clone().requires_grad_(), side)

    def loss(self, groups: range, before: torch.Tensor | None = None) -> _PartLoss:
        """The mean loss over the valid frames of some groups; `before`: the last frame [B, 3, 1, H, W] before them, if any."""
        return _PartLoss(self, groups, before)

    def clip_loss(self, frame_loss: FrameLoss, groups: range, share: float) -> ClipLoss:
        scale = self._loss_scale / share
        return ClipLoss(frame_loss, self._adapter.temporal_factor, self.valid_frames, scale, self.params, groups, whole=True)

    def frame_loss_after(self, before: torch.Tensor | None) -> FrameLoss:
        """The user's loss, with `before` as the previous frame of the first group it is called for."""
        if before is None:
            return self._frame_loss
        return lambda frames, span, previous: self._frame_loss(frames, span, before if previous is None else previous)

    def pull_back(
        self,
        groups: Sequence[_Group],
        outputs: Sequence[torch.Tensor],
        cotangents: Sequence[torch.Tensor | None],
        links: Sequence[torch.Tensor] = (),
    ) -> tuple[torch.Tensor | None, ...]:
        """Pull `cotangents` of `outputs` back to the groups' leaves and the parameters; returns the gradients of `links`."""
        pairs = [(out, grad) for out, grad in zip(outputs, cotangents, strict=True) if grad is not None and out.requires_grad]
        leaves = [leaf for group in groups for leaf in group.leaves()]
        inputs = [*leaves, *links, *self.params]
        with without_autocast(self.z.device):
            grads = iter(torch.autograd.grad([out for out, _ in pairs], inputs, [grad for _, grad in pairs], allow_unused=True))
        for group in groups:
            latent, *rest = (next(grads) for _ in group.leaves())
            if latent is not None:
                self.sums.add_latent(group.index, latent, self._whole)
            for name, grad in zip(group.trained_side(), rest, strict=True):
                if grad is not None:
                    self.sums.add_side(group.index, name, grad, self._whole)
        linked = tuple(next(grads) for _ in links)
        self.sums.add_params(list(grads))
        return linked


class _PartLoss:
    """The loss of some groups as a mean over their own frames, though `ClipLoss` divides by the clip's."""

    def __init__(self, clip: _Clip, groups: range, before: torch.Tensor | None) -> None:
        seen = min(clip.span(groups[-1]).stop, clip.valid_frames) - clip.span(groups[0]).start
        self._clip, self._share = clip, seen / clip.valid_frames
        self._loss = clip.clip_loss(clip.frame_loss_after(before), groups, self._share)

    def pull(self, index: int, frames: torch.Tensor) -> torch.Tensor:
        """Gradient with respect to the frames [B, 3, t, H, W] of a group; what reaches parameters past the frames is gathered."""
        grad, direct = self._loss.pull(index, frames)
        assert grad is not None
        self._clip.sums.add_params(direct)
        return grad

    def mean(self) -> torch.Tensor:
        return self._loss.mean(torch.zeros((), device=self._clip.z.device)) / self._share


class _Rival(ABC):
    """Checks and bookkeeping; `_differentiate` adds to the clip's gradient sums and returns the loss.

    `memory` and `engine` as for `TruncatedDecoder`, not to be given beside a ready adapter.
    """

    def __init__(self, vae: AutoencoderKLWan | DecoderAdapter, *, memory: Memory | None = None, engine: Engine | None = None) -> None:
        self.adapter = TruncatedDecoder(vae, memory=memory, engine=engine).adapter

    def loss_and_grad(
        self,
        z: torch.Tensor,
        frame_loss: FrameLoss,
        *,
        side: Side | None = None,
        params: Iterable[torch.Tensor] = (),
        loss_scale: float = 1.0,
        valid_frames: int | None = None,
    ) -> LossAndGrad:
        """See `TruncatedDecoder.loss_and_grad`, whose errors these are, but for a full memory's."""
        check_latents(self.adapter, z)
        check_gradient(self.adapter, frame_loss, loss_scale, repeats=False)
        given = checked_params(self.adapter, params)
        clip = _Clip(self.adapter, z, frame_loss, checked_side(side), given, loss_scale, valid_frames)
        return clip.sums.result(self._differentiate(clip))

    @abstractmethod
    def _differentiate(self, clip: _Clip) -> torch.Tensor: ...

    def _as_one_graph(self, clip: _Clip, loss: _PartLoss, groups: range, cache: Cache) -> None:
        """Decode some groups after a constant cache with gradients across all links between them, and differentiate at once."""
        opened, frames, cotangents = [], [], []
        for index in groups:
            group = clip.open(index)
            with torch.enable_grad():
                decoded, cache = self.adapter.decode_group(group.latent, cache, index, group.side)
            cotangents.append(loss.pull(index, decoded))
            opened.append(group)
            frames.append(decoded)
        clip.pull_back(opened, frames, cotangents)

    def _without_gradient(self, clip: _Clip, index: int, cache: Cache) -> tuple[torch.Tensor, Cache]:
        group = clip.open(index, constant=True)
        with torch.no_grad():
            decoded = self.adapter.decode_group(group.latent, cache, index, group.side)
        forget_autocast_weights()
        return decoded


class FullBackprop(_Rival):
    """Ordinary backpropagation: one graph over all groups. Exact; memory grows with the clip by a group's activations."""

    def _differentiate(self, clip: _Clip) -> torch.Tensor:
        groups = range(clip.groups)
        loss = clip.loss(groups)
        self._as_one_graph(clip, loss, groups, self.adapter.initial_decoder_cache())
        return loss.mean()


class ExactCheckpointing(_Rival):
    """Exact without truncation: decode without gradients, keep every group's cache, then walk the groups from last to first.

    Each group is decoded once more with gradients, and the gradient of its incoming cache, summed over *all* later losses, is the next
    one's cotangent. One group's activations are kept, and the caches and pixel gradients of the whole clip: memory still grows with
    the clip, though only by a cache per group (Wan 2.1, 480x832, bf16: 1.9 GB). Time: two forward passes and one backward pass per
    group, about that of D = 1 with everything kept. `side` is asked twice per group.
    """

    def _differentiate(self, clip: _Clip) -> torch.Tensor:
        loss = clip.loss(range(clip.groups))
        caches: list[Cache] = [self.adapter.initial_decoder_cache()]
        pulled = []
        for index in range(clip.groups):
            frames, cache = self._without_gradient(clip, index, caches[-1])
            pulled.append(loss.pull(index, frames))
            if index + 1 < clip.groups:
                caches.append(cache)
        del frames, cache
        later: Sequence[torch.Tensor | None] | None = None
        for index in reversed(range(clip.groups)):
            later = self._through(clip, index, caches.pop(), pulled.pop(), later)
        return loss.mean()

    def _through(
        self, clip: _Clip, index: int, cache: Cache, pulled: torch.Tensor, later: Sequence[torch.Tensor | None] | None
    ) -> Sequence[torch.Tensor | None]:
        """Pull the gradients of one group's frames and, except in the last group, of its outgoing cache back to its incoming cache."""
        group = clip.open(index)
        links = tuple(t.detach().requires_grad_() for t in self.adapter.cache_tensors(cache))
        with torch.enable_grad():
            linked = self.adapter.replace_cache_tensors(cache, links)
            frames, cache_out = self.adapter.decode_group(group.latent, linked, index, group.side)
        outgoing = () if later is None else self.adapter.cache_tensors(cache_out)
        return clip.pull_back([group], [frames, *outgoing], [pulled, *(later or ())], links)


class FrameWise(_Rival):
    """Each latent decoded alone, as if it were the first of a clip: no cache, no coupling in time, one frame per latent.

    That is how image autoencoders and one-step restorers that work frame by frame are trained. On a video autoencoder a latent stands
    for `t` frames (Wan: 4), and the decoder of a first latent gives one, so that frame is shown to the loss `t` times: a still
    picture for all frames of its group. The loss keeps its spans and weights, but sees other frames than the decoder
    would show: latents after the first were encoded to be decoded with a past. Losses on motion see none within a group. Of side
    features with several frames the group's last one is used.
    """

    def _differentiate(self, clip: _Clip) -> torch.Tensor:
        loss = clip.loss(range(clip.groups))
        for index in range(clip.groups):
            group = clip.open(index)
            side = None if group.side is None else {name: value[:, :, -1:] for name, value in group.side.items()}
            with torch.enable_grad():
                frame, _ = self.adapter.decode_group(group.latent, self.adapter.initial_decoder_cache(), 0, side)
                frames = frame.repeat(1, 1, self.adapter.frames_of(index), 1, 1)
            del frame
            clip.pull_back([group], [frames], [loss.pull(index, frames)])
        return loss.mean()


class FirstLatent(_Rival):
    """Only the first latent is decoded, and only the clip's first frame is seen: exact for that frame's loss, zero elsewhere."""

    def _differentiate(self, clip: _Clip) -> torch.Tensor:
        loss = clip.loss(range(1))
        self._as_one_graph(clip, loss, range(1), self.adapter.initial_decoder_cache())
        return loss.mean()


class RandomWindow(_Rival):
    """A random window of `latents` groups: everything before it is decoded without gradients, everything after it not at all.

    Exact for the mean loss of the window's frames as a function of the window's latents; latents outside get zero. The window is drawn
    anew at every call (any start equally likely) from a generator seeded with `seed`. Memory is that of the window, time grows with the
    prefix. A clip that is not longer than the window is taken whole.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan | DecoderAdapter,
        latents: int = 2,
        seed: int = 0,
        *,
        memory: Memory | None = None,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(vae, memory=memory, engine=engine)
        if not whole(latents, at_least=1):
            raise ValueError(f"a window holds a whole number of latents, 1 or more; got {latents!r}")
        self.latents = latents
        self._random = random.Random(seed)

    def _differentiate(self, clip: _Clip) -> torch.Tensor:
        length = min(self.latents, clip.groups)
        start = self._random.randint(0, clip.groups - length)
        cache: Cache = self.adapter.initial_decoder_cache()
        before: torch.Tensor | None = None
        for index in range(start):
            frames, cache = self._without_gradient(clip, index, cache)
            before = frames[:, :, -1:].clone()
        loss = clip.loss(range(start, start + length), before)
        self._as_one_graph(clip, loss, range(start, start + length), cache)
        return loss.mean()


RIVALS: dict[str, Callable[[AutoencoderKLWan], PixelGradient]] = {
    "full": FullBackprop,
    "checkpointing": ExactCheckpointing,
    "frame-wise": FrameWise,
    "first-latent": FirstLatent,
    "random-window": RandomWindow,
    "literal": partial(TruncatedDecoder, truncation=1, memory="fast", engine="reference"),
    "D=0": partial(TruncatedDecoder, truncation=0),
    "D=1": partial(TruncatedDecoder, truncation=1),
    "D=2": partial(TruncatedDecoder, truncation=2),
}
"""Name -> what makes it from a frozen autoencoder, with default settings. "literal" is Algorithm 1 of arXiv 2603.17812 with D = 1, every
activation kept and the model's own layers."""
