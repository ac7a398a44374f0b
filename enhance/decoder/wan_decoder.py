"""The decoder of diffusers' `AutoencoderKLWan` (2.1 and 2.2 layouts), driven block by block.

Block names, in order: `conv_in`, `mid_block`, `up_blocks.0` ..., `conv_out` (which includes the normalisation and activation before
it). A *join* is a module called as `module(decoder_features, side_features)` on what the named block gave out; what it returns goes on
to the next block. After `conv_out` the features are the frames, in the 2.2 layout still packed into patches of 2x2 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify
from torch import nn

from splatmend.enhance.decoder import checkpoint
from splatmend.enhance.decoder.adapter import SideFeatures
from splatmend.enhance.decoder.engine import Engine, operations_for
from splatmend.enhance.decoder.wan_blocks import Slots, WanCache
from splatmend.enhance.decoder.wan_plan import Block, Memory, block_of, head_of

EARLY_BLOCKS = ("conv_in", "mid_block")
"""Blocks at the latents' resolution, before any upsampling."""


class WanDecoder:
    """Group-by-group decoding with the modules of `vae`, which stay where they are and are looked up at every call."""

    def __init__(
        self, vae: AutoencoderKLWan, join: Mapping[str, nn.Module] | None = None, memory: Memory = "fast", engine: Engine = "auto"
    ) -> None:
        # Type checkers do not see the sub-modules and the config that diffusers registers.
        self.vae: Any = vae
        if not isinstance(join, Mapping | None) or not all(isinstance(module, nn.Module) for module in (join or {}).values()):
            raise TypeError("join must give modules by the names of the decoder blocks that they come after")
        self.join = dict(join or {})
        self.memory = memory
        self.engine = engine
        unknown = sorted(set(self.join) - set(self.block_names()))
        if unknown:
            raise ValueError(f"no decoder block named {', '.join(unknown)} to join after; there are {', '.join(self.block_names())}")

    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks in the order they run in."""
        return (*EARLY_BLOCKS, *(f"up_blocks.{i}" for i in range(len(self.vae.decoder.up_blocks))), "conv_out")

    @property
    def early_channels(self) -> int:
        """Channels of what `first_stage` gives."""
        # Of a normalisation, which no adapter wraps, unlike convolutions.
        return int(self.vae.decoder.mid_block.resnets[0].norm1.gamma.numel())

    def group(self, z: torch.Tensor, cache: WanCache, first: bool, side: SideFeatures | None) -> tuple[torch.Tensor, WanCache]:
        """Decode latents [B, C, t, h, w] (t = 1 in the first group) to unclamped frames [B, 3, T, H, W], and the next cache."""
        self._check_side(side, self.join)
        mode = cache.check_mode(z)
        x, early = self._run(self._early(z, first), self.vae.post_quant_conv(z), cache, side)
        x, late = self._run(self._late(x, first), x, cache, side)
        return self._unpacked(x), WanCache(early | late, mode)

    def first_stage(self, z: torch.Tensor, cache: WanCache, first: bool, side: SideFeatures | None) -> tuple[torch.Tensor, WanCache]:
        """The blocks at the latents' resolution, the middle one's attention among them: features [B, C', t, h, w]."""
        self._check_side(side, set(self.join) & set(EARLY_BLOCKS))
        mode = cache.check_mode(z)
        x, filled = self._run(self._early(z, first), self.vae.post_quant_conv(z), cache, side)
        return x, WanCache(filled, mode)

    def second_stage(self, x: torch.Tensor, cache: WanCache, first: bool, side: SideFeatures | None) -> tuple[torch.Tensor, WanCache]:
        """The rest: upsampling, which sees a neighbourhood only."""
        self._check_side(side, set(self.join) - set(EARLY_BLOCKS))
        mode = cache.check_mode(x)
        x, filled = self._run(self._late(x, first), x, cache, side)
        return self._unpacked(x), WanCache(filled, mode)

    def _run(
        self, blocks: Iterable[Block], x: torch.Tensor, cache: WanCache, side: SideFeatures | None
    ) -> tuple[torch.Tensor, dict[str, Slots]]:
        filled: dict[str, Slots] = {}
        for block in blocks:
            x, slots = block.run(x, cache.blocks, self.memory)
            filled |= slots
            if block.name in self.join and side is not None:
                x = checkpoint.run(self.join[block.name], x, side[block.name], recompute=self.memory != "fast")
        return x, filled

    def _early(self, z: torch.Tensor, first: bool) -> Iterator[Block]:
        # The 1x1x1 convolution on the latents runs inside the group, before these blocks: outside, all groups would share one graph and
        # the second backward would fail.
        operations, decoder = operations_for(self.engine, z), self.vae.decoder
        for name, module in zip(EARLY_BLOCKS, (decoder.conv_in, decoder.mid_block), strict=True):
            yield block_of(operations, name, module, first)

    def _late(self, x: torch.Tensor, first: bool) -> Iterator[Block]:
        operations, decoder = operations_for(self.engine, x), self.vae.decoder
        for index, module in enumerate(decoder.up_blocks):
            yield block_of(operations, f"up_blocks.{index}", module, first)
        yield head_of(operations, "conv_out", decoder)

    def _unpacked(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.vae.config.patch_size is None else unpatchify(x, patch_size=self.vae.config.patch_size)

    def _check_side(self, side: SideFeatures | None, joined: Iterable[str]) -> None:
        given = set(side or {})
        if given != set(joined):
            raise ValueError(
                f"side features are given for {sorted(given) or 'no block'}, but modules join after {sorted(joined) or 'no block'}: "
                "give exactly one per join (a model trained with skips is another model without them)"
            )
