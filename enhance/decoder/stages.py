"""One stage of a decoder, seen as a decoder of its own by the walk that backpropagates through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from splatmend.enhance.decoder.adapter import Cache, DecoderAdapter, SideFeatures, SplitDecoderAdapter
from splatmend.enhance.decoder.gradients import forget_autocast_weights
from splatmend.enhance.decoder.wan_blocks import WanCache

DecodeStage: TypeAlias = Callable[[torch.Tensor, Cache, int, SideFeatures | None], tuple[torch.Tensor, Cache]]


class Stage:
    """A function of features and cache, one group at a time, and what handles its caches."""

    def __init__(self, adapter: DecoderAdapter, decode: DecodeStage, takes: Callable[[str], bool]) -> None:
        """`takes` says which blocks' side features belong to this stage."""
        self._adapter = adapter
        self.decode = decode
        self.takes = takes

    def for_last_use(self, cache: Cache) -> Cache:
        """The same cache for a pass without gradients, which lets go of each tensor as it is replaced. Whoever asks must not hold on to
        the one given."""
        return cache.for_last_use() if isinstance(cache, WanCache) else cache

    def pass_by(self, features: torch.Tensor, last: list[Cache], index: int, side: SideFeatures | None) -> torch.Tensor:
        """`decode` without gradients. The only cache in `last` goes in, is let go, and the next one takes its place."""
        with torch.no_grad():
            output, cache = self.decode(features, self.for_last_use(last.pop()), index, side)
        last.append(cache)
        forget_autocast_weights()
        return output

    def initial_cache(self) -> Cache:
        """The cache before the first group."""
        return self._adapter.initial_decoder_cache()

    def cache_tensors(self, cache: Cache) -> tuple[torch.Tensor, ...]:
        """See `DecoderAdapter.cache_tensors`."""
        return self._adapter.cache_tensors(cache)

    def replace_cache_tensors(self, cache: Cache, tensors: Sequence[torch.Tensor]) -> Cache:
        """See `DecoderAdapter.replace_cache_tensors`."""
        return self._adapter.replace_cache_tensors(cache, tensors)

    def detach_cache(self, cache: Cache) -> Cache:
        """See `DecoderAdapter.detach_cache`."""
        return self._adapter.detach_cache(cache)

    def side(self, side: SideFeatures | None) -> SideFeatures | None:
        """The part of a group's side features that belongs to this stage."""
        return None if side is None else {name: features for name, features in side.items() if self.takes(name)}


def whole_decoder(adapter: DecoderAdapter) -> Stage:
    """All of it as one stage."""
    return Stage(adapter, adapter.decode_group, lambda name: True)


def first_stage(adapter: SplitDecoderAdapter) -> Stage:
    """Latents to features, on whole frames."""
    return Stage(adapter, adapter.decode_first, lambda name: name in adapter.first_blocks)


def second_stage(adapter: SplitDecoderAdapter) -> Stage:
    """Features to frames."""
    return Stage(adapter, adapter.decode_rest, lambda name: name not in adapter.first_blocks)
