"""What to change where a device's memory is full, and what it would save: measured there, on a small piece of the clip."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch

from splatmend.enhance.decoder.wan import WanAdapter
from splatmend.enhance.decoder.wan_plan import Memory

TILE = 16
"""Height and width in latents of the piece: small enough to fit anywhere, and activations grow with the area."""
GROUPS = 5

_IN_CHUNKS: dict[Memory, str] = {"fast": "a third", "balanced": "four tenths", "small": "half"}
"""Peak in 2x2 chunks against that of whole frames: measured for Wan 2.1, `docs/benchmarks.md`."""

Walk = Callable[[WanAdapter, torch.Tensor], object]
"""`walk(adapter, z)` takes a squared loss's gradient for latents z [B, C, L, h, w]."""


class DecoderMemoryError(torch.OutOfMemoryError):
    """A device's memory was full while a clip's gradient was taken; the message is the advice."""


@dataclass(frozen=True)
class Settings:
    """How a gradient was taken, beside the adapter's memory."""

    truncation: int = 1
    block: int = 1
    spatial_chunks: tuple[int, int] = (1, 1)

    @property
    def whole_frames(self) -> bool:
        """Whether gradients are taken of whole frames. In chunks no other memory setting takes less, since the pass over whole frames
        decides, and from 2x2 on more chunks take no less either."""
        return self.spatial_chunks == (1, 1)

    def leaner(self, height: int, width: int, memory: Memory) -> str:
        """What to change of these for latents of `height` x `width`, which cannot be cut into more chunks than that."""
        steps = [text for text, there in (("truncation=1", self.truncation > 1), ("block=1", self.block > 1)) if there]
        down, across = self.spatial_chunks
        chunks = max(down, min(2, height)), max(across, min(2, width))
        if chunks != self.spatial_chunks:
            beside = " with block=1" if self.block > 1 else ""
            gain = f", which takes about {_IN_CHUNKS[memory]} of that" if self.whole_frames else f" in place of {(down, across)}"
            steps.append(f"spatial_chunks={chunks}{beside}{gain}")
        return "take " + ", or ".join(steps or ["smaller or fewer clips at a time"])


def advice(adapter: object, z: torch.Tensor, walk: Walk, settings: Settings = Settings()) -> str:
    """One sentence: what is full, and what the settings that keep less would need at the size of `z` [B, C, L, h, w].

    Figures only for CUDA devices, where no side features join and the pieces that are measured still fit: elsewhere the settings alone.
    `walk` must let `torch.OutOfMemoryError` through.
    """
    if not isinstance(adapter, WanAdapter):
        return "the memory is full; use spatial_chunks, or smaller or fewer clips at a time."
    height, width = (size * adapter.spatial_factor for size in z.shape[-2:])
    full = f"the memory is full at {z.shape[0]} x {height}x{width} with memory='{adapter.memory}'"
    rest = settings.leaner(z.shape[-2], z.shape[-1], adapter.memory)
    leaner = list(get_args(Memory))[get_args(Memory).index(adapter.memory) + 1 :] if settings.whole_frames else []
    needs: dict[Memory, float] = {}
    if z.is_cuda and not adapter.decoder.join:
        # Whatever else lies on the device may leave no room for a piece either.
        with contextlib.suppress(torch.OutOfMemoryError):
            needs = {memory: _gigabytes(adapter, memory, z, walk, settings) for memory in (adapter.memory, *leaner)}
    if not needs:
        lean = " or ".join(f"memory='{memory}'" for memory in leaner)
        return f"{full}; " + (f"take {lean}; " if lean else "") + f"{rest}."
    own = needs.pop(adapter.memory)
    others = "".join(f", memory='{memory}' about {gigabytes:.1f}" for memory, gigabytes in needs.items())
    return f"{full}, which needs about {own:.1f} GB{others}; {rest}."


def _gigabytes(adapter: WanAdapter, memory: Memory, z: torch.Tensor, walk: Walk, settings: Settings) -> float:
    """What a gradient at the size of `z` takes beside the weights, from the allocator's peak on a piece of it."""
    # Into as many chunks as the clip, so no side may hold fewer latents than chunks.
    tile = tuple(min(max(TILE, chunks), size) for chunks, size in zip(settings.spatial_chunks, z.shape[-2:], strict=True))
    piece = torch.zeros(1, z.shape[1], min(GROUPS, z.shape[2]), *tile, dtype=z.dtype, device=z.device)
    leaner = WanAdapter(adapter.vae, memory=memory, engine=adapter.decoder.engine)
    # Once without looking, since the first call makes the fast layers' weights.
    walk(leaner, piece)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(z.device)
    before = torch.cuda.memory_allocated(z.device)
    walk(leaner, piece)
    peak = torch.cuda.max_memory_allocated(z.device) - before
    return peak * z.shape[0] * (z.shape[-2] * z.shape[-1]) / (tile[0] * tile[1]) / 1e9
