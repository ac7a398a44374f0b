"""One block of diffusers' Wan autoencoder as a pure function of its input and its own part of the cache.

diffusers keeps one flat list of features per call and walks it with a counter that every causal convolution advances. Here each block
gets a list and a counter of its own, both fresh at every call, and hands the filled list back as a tuple. So a block can be run again
from the same arguments (for checkpointing), and nothing depends on how many slots the rest of the model uses.

A slot holds `None` (nothing yet), a tensor, or the string `"Rep"` (a temporal upsampler that has seen exactly one latent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d
from torch import nn

Slots: TypeAlias = tuple[torch.Tensor | str | None, ...]

CACHED_FRAMES = 2
"""Frames of its input that a causal convolution of three frames needs from the group before."""


@dataclass(frozen=True)
class NumericMode:
    """What must stay the same from group to group, because the cache is joined to the input: dtype and autocast."""

    dtype: torch.dtype
    autocast: torch.dtype | None

    @classmethod
    def of(cls, x: torch.Tensor) -> NumericMode:
        device = x.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return cls(x.dtype, autocast)


@dataclass(frozen=True)
class WanCache:
    """Cached features of every block of one decoder or encoder, and the numeric mode they were made in (None before the first)."""

    blocks: Mapping[str, Slots]
    mode: NumericMode | None = None

    def check_mode(self, x: torch.Tensor) -> NumericMode:
        """The numeric mode of `x`; `TypeError` where it is not the one this cache was made in."""
        mode = NumericMode.of(x)
        if self.mode is not None and mode != self.mode:
            raise TypeError(
                f"the cache was made from {self.mode.dtype} with autocast {self.mode.autocast}, but this group is {mode.dtype} "
                f"with autocast {mode.autocast}: keep dtype and autocast the same for all groups of a clip"
            )
        return mode

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All tensors, block after block in the order the blocks run in."""
        return tuple(slot for slots in self.blocks.values() for slot in slots if isinstance(slot, torch.Tensor))

    def with_tensors(self, tensors: Sequence[torch.Tensor]) -> WanCache:
        """The same cache with its tensors replaced; `ValueError` where the number differs."""
        if len(tensors) != len(self.tensors()):
            raise ValueError(f"the cache holds {len(self.tensors())} tensors, got {len(tensors)}")
        left = iter(tensors)
        blocks = {name: tuple(next(left) if isinstance(s, torch.Tensor) else s for s in slots) for name, slots in self.blocks.items()}
        return WanCache(blocks, self.mode)

    def for_last_use(self) -> WanCache:
        """The same cache, of which every block's part is gone once that block has asked for it: for the only holder of a cache, so that
        it and the next one are never in memory together."""
        return WanCache(_Once(self.blocks), self.mode)


class _Once(dict[str, Slots]):
    """Gives each block's slots once."""

    def get(self, name: str, default: Any = None) -> Any:
        return self.pop(name, default)


class ReferenceOperations:
    """The model's modules as they are, each a pure function of input and slots: for any device, and what others are checked against."""

    def forget_weights(self) -> None:
        """Forget whatever is held of the modules' weights in another layout; here nothing is."""

    def block(self, module: nn.Module, x: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, Slots]:
        """Run a module that takes `feat_cache` and `feat_idx`, or an attention block. `slots` is () before the first group."""
        if isinstance(module, WanAttentionBlock):
            return module(x), ()
        # Shortcut convolutions never use a slot, so the number of convolutions is an upper bound; the counter says how many were used.
        scratch: list[Any] = list(slots) if slots else [None] * sum(isinstance(m, WanCausalConv3d) for m in module.modules())
        used = [0]
        y = module(x, feat_cache=scratch, feat_idx=used)
        return y, tuple(scratch[: used[0]])

    def convolution(self, convolution: nn.Module, x: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, Slots]:
        """Run a bare causal convolution with kernel 3 in time. `slots` is () before the first group."""
        before = slots[0] if slots else None
        tail = x[:, :, -CACHED_FRAMES:].clone()
        if isinstance(before, torch.Tensor) and tail.shape[2] < CACHED_FRAMES:
            tail = torch.cat([before[:, :, -1:], tail], dim=2)
        return convolution(x, before), (tail,)

    def head(
        self, norm: nn.Module, nonlinearity: nn.Module, convolution: nn.Module, x: torch.Tensor, slots: Slots
    ) -> tuple[torch.Tensor, Slots]:
        """The output head: normalise, activate, convolve."""
        return self.convolution(convolution, nonlinearity(norm(x)), slots)
