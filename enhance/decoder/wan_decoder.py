"""The decoder of diffusers' `AutoencoderKLWan` (2.1 and 2.2 layouts), driven block by block.

Block names, in order: `conv_in`, `mid_block`, `up_blocks.0` ..., `conv_out` (which includes the normalisation and activation before
it). A *join* is a module called as `module(decoder_features, side_features)` on what the named block gave out; what it returns goes on
to the next block. After `conv_out` the features are the frames, in the 2.2 layout still packed into patches of 2x2 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify
from torch import nn

from splatmend.enhance.decoder import checkpoint
from splatmend.enhance.decoder.adapter import SideFeatures
from splatmend.enhance.decoder.wan_blocks import Slots, WanCache, run_block, run_convolution, run_head


class WanDecoder:
    """Group-by-group decoding with the modules of `vae`, which stay where they are and are looked up at every call."""

    def __init__(self, vae: AutoencoderKLWan, join: Mapping[str, nn.Module] | None = None, recompute: bool = False) -> None:
        # Type checkers do not see the sub-modules and the config that diffusers registers.
        self.vae: Any = vae
        self.join = dict(join or {})
        self.recompute = recompute
        unknown = sorted(set(self.join) - set(self.block_names()))
        if unknown:
            raise ValueError(f"no decoder block named {', '.join(unknown)} to join after; there are {', '.join(self.block_names())}")

    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks in the order they run in."""
        return ("conv_in", "mid_block", *(f"up_blocks.{i}" for i in range(len(self.vae.decoder.up_blocks))), "conv_out")

    def group(self, z: torch.Tensor, cache: WanCache, first: bool, side: SideFeatures | None) -> tuple[torch.Tensor, WanCache]:
        """Decode latents [B, C, t, h, w] (t = 1 in the first group) to unclamped frames [B, 3, T, H, W], and the next cache."""
        mode = cache.check_mode(z)
        self._check_side(side)
        decoder = self.vae.decoder
        filled: dict[str, Slots] = {}

        def finish(name: str, result: tuple[torch.Tensor, Slots]) -> torch.Tensor:
            features, filled[name] = result
            if name not in self.join or side is None:
                return features
            return checkpoint.run(self.join[name], features, side[name], recompute=self.recompute)

        def slots(name: str) -> Slots:
            return cache.blocks.get(name, ())

        # The 1x1x1 convolution runs inside the group: outside, all groups would share one graph and the second backward would fail.
        x = self.vae.post_quant_conv(z)
        x = finish("conv_in", run_convolution(decoder.conv_in, x, slots("conv_in")))
        x = finish("mid_block", checkpoint.run(run_block, decoder.mid_block, x, slots("mid_block"), recompute=self.recompute))
        for index, block in enumerate(decoder.up_blocks):
            name = f"up_blocks.{index}"
            x = finish(name, checkpoint.run(run_block, block, x, slots(name), recompute=self.recompute, first_chunk=first))
        head = (decoder.norm_out, decoder.nonlinearity, decoder.conv_out)
        x = finish("conv_out", checkpoint.run(run_head, *head, x, slots("conv_out"), recompute=self.recompute))
        if self.vae.config.patch_size is not None:
            x = unpatchify(x, patch_size=self.vae.config.patch_size)
        return x, WanCache(filled, mode)

    def _check_side(self, side: SideFeatures | None) -> None:
        given = set(side or {})
        if given != set(self.join):
            raise ValueError(
                f"side features are given for {sorted(given) or 'no block'}, but modules join after {sorted(self.join) or 'no block'}: "
                "give exactly one per join (a model trained with skips is another model without them)"
            )
