"""`TruncatedDecoder`: pixel losses on long clips, with memory that does not grow with the clip (ChopGrad, arXiv 2603.17812)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, NoReturn

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn

from splatmend.enhance.decoder.adapter import DecoderAdapter, SplitDecoderAdapter
from splatmend.enhance.decoder.advice import DecoderMemoryError, Settings, advice
from splatmend.enhance.decoder.backprop import TruncatedBackprop
from splatmend.enhance.decoder.checks import Side, check_gradient, check_latents, checked_params, checked_side, pair, whole
from splatmend.enhance.decoder.chunks import SpatialCrop, spatial_crops, whole_frame
from splatmend.enhance.decoder.engine import Engine
from splatmend.enhance.decoder.frame_loss import ClipLoss, FrameLoss
from splatmend.enhance.decoder.gradients import (
    FeatureGradients,
    GradientSums,
    HeldFeatures,
    LossAndGrad,
    Sums,
    accumulation_dtype,
    forget_autocast_weights,
    to_device,
    to_host,
)
from splatmend.enhance.decoder.groups import split_into_groups, valid_part
from splatmend.enhance.decoder.spans import passing_cost, span_of_share
from splatmend.enhance.decoder.stages import Stage, first_stage, second_stage, whole_decoder
from splatmend.enhance.decoder.wan import WanAdapter
from splatmend.enhance.decoder.wan_blocks import WanCache
from splatmend.enhance.decoder.wan_plan import Memory

DEFAULT_HALO = 4
"""Latent pixels of context around a spatial chunk; `docs/chopgrad.md` has the measurement it comes from."""


class EncodedGroup(NamedTuple):
    """One group as `encode_stream` yields it."""

    latent: torch.Tensor
    """Mean of the posterior [B, C, 1, h, w], not normalised."""
    taps: dict[str, torch.Tensor]
    """Encoder block name -> its output for this group [B, C', t', H', W']."""


class TruncatedDecoder:
    """Decodes and encodes group by group, and differentiates a pixel loss across at most `truncation` groups.

    Args:
        vae: diffusers' `AutoencoderKLWan`, or any `DecoderAdapter`.
        truncation: D, how many links between groups a gradient may cross. 0 treats each group's past as a constant; D at least the
            number of groups less one is exact. The method's authors use 1 and advise against more than 2.
        join: decoder block name -> module that joins side features after it (see `WanAdapter`).
        block: B, groups whose losses are pulled back together. 1 is Algorithm 1. More is faster and takes more memory, and is another
            gradient, in which each loss crosses D to D + B - 1 links (see `backprop`). Not with spatial chunks.
        spatial_chunks: chunks (down, across) whose gradients are computed one after the other. Not exact, see `loss_and_grad`.
        halo: latent pixels of context around each chunk.
        share: (i, n): of n processes that share a clip this is the i-th, which pulls back the losses of a span of groups (see `spans`).
            Loss and gradients that it returns are its share of sums over the processes, which are those of one process.
        memory: "fast" keeps all activations of D + 1 groups, "balanced" computes them again layer by layer in the backward pass,
            "small" block by block, the layers of a block once more; same gradients. `docs/chopgrad.md` has what each costs.
        engine: which layers run, see `Engine`.

    Raises `ValueError` for a negative truncation or halo, chunks or a block below 1, blocks beside chunks, a share out of range, an
    unknown memory or engine, or `join`, `memory` or `engine` beside a ready adapter, and `TypeError` for anything else than an autoencoder.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan | DecoderAdapter,
        truncation: int = 1,
        *,
        join: Mapping[str, nn.Module] | None = None,
        block: int = 1,
        spatial_chunks: tuple[int, int] = (1, 1),
        halo: int = DEFAULT_HALO,
        share: tuple[int, int] = (0, 1),
        memory: Memory | None = None,
        engine: Engine | None = None,
    ) -> None:
        if not whole(truncation, at_least=0):
            raise ValueError(f"truncation is a whole number of links between groups, 0 or more; got {truncation!r}")
        if not whole(*pair(spatial_chunks), at_least=1) or not whole(halo, at_least=0):
            raise ValueError(
                f"spatial_chunks are two whole numbers (down, across), each 1 or more, and halo is one, 0 or more; "
                f"got {spatial_chunks} and {halo}"
            )
        spatial_chunks = pair(spatial_chunks)
        if not whole(block, at_least=1) or (block > 1 and spatial_chunks != (1, 1)):
            raise ValueError(
                f"block is a whole number of groups, 1 or more, and 1 with spatial chunks; got {block} with spatial_chunks={spatial_chunks}"
            )
        if not whole(*pair(share), at_least=0) or not share[0] < share[1]:
            raise ValueError(f"share is (i, n), process i of n, so 0 <= i < n; got {share}")
        if isinstance(vae, AutoencoderKLWan):
            self.adapter: DecoderAdapter = WanAdapter(
                vae, join=join, memory="fast" if memory is None else memory, engine="auto" if engine is None else engine
            )
        elif not isinstance(vae, DecoderAdapter):
            raise TypeError(f"the decoder drives an AutoencoderKLWan or a DecoderAdapter, got {type(vae).__name__}")
        elif join is not None or memory is not None or engine is not None:
            raise ValueError("give `join`, `memory` and `engine` to the adapter itself")
        else:
            self.adapter = vae
        self.truncation = truncation
        self.block = block
        self.spatial_chunks = spatial_chunks
        self.halo = halo
        self.share = pair(share)

    def decode(self, z: torch.Tensor, *, side: Side | None = None, clamp: bool = False) -> torch.Tensor:
        """Frames [B, 3, T, H, W] of denormalised latents [B, C, L, h, w], T = 1 + (L - 1) * temporal_factor.

        What `vae.decode` gives before its clamp to [-1, 1], or after it with `clamp`. With gradients on this is the ordinary, exact,
        memory-hungry graph. Raises `ValueError` for a wrong rank or channel count.
        """
        check_latents(self.adapter, z)
        groups = (z[:, :, i : i + 1] for i in range(z.shape[2]))
        return torch.cat(list(self._decode_groups(groups, side, clamp)), dim=2)

    def decode_stream(self, z_groups: Iterable[torch.Tensor], *, side: Side | None = None, clamp: bool = False) -> Iterator[torch.Tensor]:
        """Yield the frames [B, 3, t, H, W] of each latent group [B, C, 1, h, w], without gradients and in constant memory."""
        return self._decode_groups(z_groups, side, clamp, grad=False)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Mean latents [B, C, L, h, w] of frames [B, 3, T, H, W], as `vae.encode(x).latent_dist.mode()`.

        Follows the ambient gradient mode. Raises `ValueError` for a wrong rank, channel count, or a T that is not 1 + k * temporal_factor.
        """
        if x.ndim != 5:
            raise ValueError(f"frames must be [batch, channels, time, height, width], got {x.ndim} dimensions: {tuple(x.shape)}")
        groups = self._encode_groups(split_into_groups(x, self.adapter.temporal_factor), ())
        return torch.cat([group.latent for group in groups], dim=2)

    def encode_stream(self, frame_groups: Iterable[torch.Tensor], *, taps: Sequence[str] = ()) -> Iterator[EncodedGroup]:
        """Yield latent and tapped features of each frame group (1 frame, then temporal_factor at a time; `regroup_frames` makes them).

        Without gradients and in constant memory.
        """
        return self._encode_groups(frame_groups, taps, grad=False)

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
        """The mean loss over a clip's valid frames and its truncated gradients.

        Args:
            z: denormalised latents [B, C, L, h, w]; they are treated as a constant, whatever graph they hang on.
            frame_loss: see `FrameLoss`. Called once per group, in order.
            side: conditioning per group. Called for a group each time it is walked: once, or with chunks several times, so it must give
                the same again. Tensors that require a gradient get one, cut at the tensor.
            params: parameters of decoder, LoRA layers or joins that get a gradient. All must require one.
            loss_scale: factor on all gradients, for mixed precision and gradient accumulation. Not on the returned loss.
            valid_frames: number of frames that count, where the clip was padded; later ones never reach `frame_loss`. Default: all.

        With `spatial_chunks`, the frames and the loss are those of the whole frame (one extra pass without gradients), and what is
        approximate is only the way back: the gradient at each core's pixels is pulled through a decode of that core's crop, which
        lacks whatever convolutions see beyond the halo. Blocks at the latents' resolution, and with them Wan's attention over the whole
        frame, run on whole frames in both directions where the adapter is a `SplitDecoderAdapter`. The gradient of all frames
        lies in host memory meanwhile, as large as the decoded clip. A halo as wide as the convolutions reach is exact.

        Raises `ValueError` for latents of a wrong rank, channel count or dtype, `valid_frames` out of range, a parameter without gradient,
        a loss that is no scalar or depends on nothing, side features that do not match the joins, or active dropout where a group is
        decoded more than once; `TypeError` for what is no tensor, function or mapping where one is due; `RuntimeError` in inference mode;
        `DecoderMemoryError` (a `torch.OutOfMemoryError`) where the device's memory is full, saying which setting takes less. Warns of
        parameters of the decoder that require a gradient and are not among `params`.
        """
        check_latents(self.adapter, z)
        check_gradient(self.adapter, frame_loss, loss_scale, repeats=self._repeats)
        chosen, conditions = checked_params(self.adapter, params), checked_side(side)
        # What was made under inference mode takes part in no graph; a copy does.
        z = z.detach().clone() if z.is_inference() else z.detach()
        try:
            return self._loss_and_grad(z, frame_loss, conditions, chosen, loss_scale, valid_frames)
        except torch.OutOfMemoryError as full:
            # Not raised from here: its traceback would hold on to the graphs.
            fault = str(full)
        self._complain_of_memory(z, fault)

    def _loss_and_grad(
        self,
        z: torch.Tensor,
        frame_loss: FrameLoss,
        side: Side | None = None,
        params: Sequence[torch.Tensor] = (),
        loss_scale: float = 1.0,
        valid_frames: int | None = None,
    ) -> LossAndGrad:
        """`loss_and_grad` without advice where the memory is full."""
        valid, groups = valid_part(z.shape[2], self.adapter.temporal_factor, valid_frames)
        sums = GradientSums(z, params)
        own = self._span(groups)
        loss = ClipLoss(frame_loss, self.adapter.temporal_factor, valid, loss_scale, params, own, whole=len(own) == groups)
        clip = _Clip(z, side, own, sums, list(params))
        if self.spatial_chunks == (1, 1):
            self._backprop_whole(clip, loss)
        else:
            self._backprop_chunks(clip, loss)
        return sums.result(loss.mean(torch.zeros((), device=z.device, dtype=accumulation_dtype(z.dtype))))

    @property
    def _repeats(self) -> bool:
        """Whether some group is decoded more than once."""
        small = isinstance(self.adapter, WanAdapter) and self.adapter.memory == "small"
        return small or self.spatial_chunks != (1, 1) or self.share[1] > 1

    def _span(self, groups: int) -> range:
        memory = self.adapter.memory if isinstance(self.adapter, WanAdapter) else "fast"
        return span_of_share(groups, self.share, block=self.block, passing=passing_cost(self.truncation, memory, self.block))

    def _complain_of_memory(self, z: torch.Tensor, fault: str) -> NoReturn:
        def walk(adapter: WanAdapter, piece: torch.Tensor) -> LossAndGrad:
            # The same part of the piece lies in halos as of the clip, so that chunks too grow with the area.
            part = max(small / size for small, size in zip(piece.shape[-2:], z.shape[-2:], strict=True))
            halo, chunks = math.ceil(self.halo * part), self.spatial_chunks
            leaner = TruncatedDecoder(adapter, self.truncation, block=self.block, spatial_chunks=chunks, halo=halo)
            return leaner._loss_and_grad(piece, lambda frames, span, previous: frames.square().sum())

        set_already = Settings(truncation=self.truncation, block=self.block, spatial_chunks=self.spatial_chunks)
        error = DecoderMemoryError(advice(self.adapter, z, walk, set_already))
        error.add_note(fault)
        raise error

    def _backprop_whole(self, clip: _Clip, loss: ClipLoss) -> None:
        def pull(index: int, frames: torch.Tensor) -> torch.Tensor | None:
            grad, direct = loss.pull(index, frames)
            clip.sums.add_params(direct)
            return grad

        self._walk(clip, whole_decoder(self.adapter), clip.latents(), whole_frame(*clip.z.shape[-2:]), clip.sums, pull)

    def _backprop_chunks(self, clip: _Clip, loss: ClipLoss) -> None:
        adapter = self.adapter
        height, width = clip.z.shape[-2:]
        spatial_crops(height, width, self.spatial_chunks, self.halo)  # before any work: chunks that do not fit are an error
        if not isinstance(adapter, SplitDecoderAdapter):
            frame_grads = self._frame_gradients(clip, loss, whole_decoder(adapter), clip.latents())
            self._walk_chunks(clip, whole_decoder(adapter), clip.latents(), clip.sums, frame_grads)
            return
        early, late = first_stage(adapter), second_stage(adapter)
        features = HeldFeatures(self._without_gradients(clip, early, clip.latents()), clip.z.device)
        frame_grads = self._frame_gradients(clip, loss, late, features)
        between = FeatureGradients(clip.sums, features)
        self._walk_chunks(clip, late, features, between, frame_grads)

        def pull(index: int, output: torch.Tensor) -> torch.Tensor | None:
            if index not in clip.own:
                return None
            gradient = between.take(index, index)
            return torch.zeros_like(output) if gradient is None else gradient

        self._walk(clip, early, clip.latents(), whole_frame(*clip.z.shape[-2:]), clip.sums, pull, between.take)

    def _frame_gradients(self, clip: _Clip, loss: ClipLoss, stage: Stage, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """The gradient of the loss with respect to each group's frames, of whole frames; in host memory, since it grows with the clip."""
        gradients: list[torch.Tensor | None] = []
        for index, frames in enumerate(self._without_gradients(clip, stage, inputs)):
            grad, direct = loss.pull(index, frames)
            clip.sums.add_params(direct)
            gradients.append(None if grad is None else to_host(grad))
        return gradients

    def _without_gradients(self, clip: _Clip, stage: Stage, inputs: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        last = [stage.initial_cache()]
        for index, group in enumerate(inputs):
            side = stage.side(clip.side(index) if clip.side is not None else None)
            yield stage.pass_by(group, last, index, side)

    def _walk_chunks(
        self, clip: _Clip, stage: Stage, inputs: Sequence[torch.Tensor], sums: Sums, frame_grads: Sequence[torch.Tensor | None]
    ) -> None:
        height, width = clip.z.shape[-2:]
        for crop in spatial_crops(height, width, self.spatial_chunks, self.halo):

            def pull(index: int, frames: torch.Tensor, crop: SpatialCrop = crop) -> torch.Tensor | None:
                held = frame_grads[index]
                if held is None:
                    return None
                cotangent = torch.zeros_like(frames)
                whole = to_device(held, frames.device)
                crop.core_of_crop(cotangent, self.adapter.spatial_factor).copy_(crop.inner(whole))
                return cotangent

            self._walk(clip, stage, inputs, crop, sums, pull)

    def _walk(
        self,
        clip: _Clip,
        stage: Stage,
        inputs: Sequence[torch.Tensor],
        crop: SpatialCrop,
        sums: Sums,
        pull: Callable[[int, torch.Tensor], torch.Tensor | None],
        pull_earlier: Callable[[int, int], torch.Tensor | None] | None = None,
    ) -> None:
        # A chunk's cache is not what fills the memory: the pass over whole frames takes more.
        lean = isinstance(self.adapter, WanAdapter) and self.adapter.memory == "small" and self.spatial_chunks == (1, 1)
        backprop = TruncatedBackprop(stage, self.truncation, clip.params, sums, crop, block=self.block, rebuild=lean)
        for index, group in enumerate(inputs):
            side = stage.side(clip.side(index) if clip.side is not None else None)
            if index < clip.own.start - self.truncation:
                within = None if side is None else {name: crop.outer(features.detach()) for name, features in side.items()}
                pull(index, backprop.skip(index, crop.outer(group), within))
                continue
            for name, features in (side or {}).items():
                if features.requires_grad:
                    clip.sums.open_side(index, name, features)
            cropped = None
            if side is not None:
                cropped = {name: crop.outer(features.detach()).requires_grad_(features.requires_grad) for name, features in side.items()}
            if isinstance(sums, FeatureGradients):
                sums.loss_index = index
            earlier = None if pull_earlier is None else partial(pull_earlier, index)
            backprop.step(index, crop.outer(group), cropped, partial(pull, index), last=index == clip.own.stop - 1, pull_earlier=earlier)

    def _decode_groups(self, z_groups: Iterable[torch.Tensor], side: Side | None, clamp: bool, grad: bool = True) -> Iterator[torch.Tensor]:
        cache = self.adapter.initial_decoder_cache()
        for index, z_group in enumerate(z_groups):
            # The gradient mode is set around the call only: a generator that holds it would change it for whoever consumes it.
            with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
                if isinstance(cache, WanCache) and not torch.is_grad_enabled():
                    cache = cache.for_last_use()
                frames, cache = self.adapter.decode_group(z_group, cache, index, side(index) if side is not None else None)
                frames = frames.clamp(-1, 1) if clamp else frames
            if not grad:
                forget_autocast_weights()
            yield frames

    def _encode_groups(self, frame_groups: Iterable[torch.Tensor], taps: Sequence[str], grad: bool = True) -> Iterator[EncodedGroup]:
        cache = self.adapter.initial_encoder_cache()
        for index, frames in enumerate(frame_groups):
            with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
                latent, cache, tapped = self.adapter.encode_group(frames, cache, index, taps)
            if not grad:
                forget_autocast_weights()
            yield EncodedGroup(latent, tapped)


class _Clip(NamedTuple):
    """What one call of `loss_and_grad` works on; the losses of the groups `own` are pulled back."""

    z: torch.Tensor
    side: Side | None
    own: range
    sums: GradientSums
    params: list[torch.Tensor]

    def latents(self) -> list[torch.Tensor]:
        """The latents [B, C, 1, h, w] of all groups that have to be walked."""
        return [self.z[:, :, i : i + 1] for i in range(self.own.stop if self.own else 0)]
