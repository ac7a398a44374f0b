"""The encoder of diffusers' `AutoencoderKLWan` (2.1 and 2.2 layouts), driven block by block.

Block names, in order: `conv_in`, `down_blocks.0` ..., `mid_block`, `conv_out`. A *tap* is the name of a block whose output is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, patchify

from splatmend.enhance.decoder.engine import Engine, operations_for
from splatmend.enhance.decoder.wan_blocks import Slots, WanCache
from splatmend.enhance.decoder.wan_plan import block_of, head_of


class WanEncoder:
    """Group-by-group encoding with the modules of `vae`, which stay where they are and are looked up at every call."""

    def __init__(self, vae: AutoencoderKLWan, engine: Engine = "auto") -> None:
        # Type checkers do not see the sub-modules and the config that diffusers registers.
        self.vae: Any = vae
        self.engine = engine

    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks in the order they run in."""
        return ("conv_in", *(f"down_blocks.{i}" for i in range(len(self.vae.encoder.down_blocks))), "mid_block", "conv_out")

    def group(self, frames: torch.Tensor, cache: WanCache, taps: Sequence[str]) -> tuple[torch.Tensor, WanCache, dict[str, torch.Tensor]]:
        """Encode one group of frames [B, 3, t, H, W] to its moments [B, 2C, 1, h, w], the next cache and the tapped features."""
        mode = cache.check_mode(frames)
        x, filled, tapped = self._through_blocks(frames, cache, taps, stop_after_taps=False)
        x, slots = head_of(operations_for(self.engine, frames), "conv_out", self.vae.encoder).run(x, cache.blocks, "fast")
        filled |= slots
        if "conv_out" in taps:
            tapped["conv_out"] = x
        return self.vae.quant_conv(x), WanCache(filled, mode), tapped

    def frame_features(self, frames: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        """Features of frames [B, 3, T, H, W] each encoded alone, as if it were the only frame of a clip: [B, C', T, H', W'].

        Blocks after the last tap are not run. Used where a skip must carry nothing over from earlier frames.
        """
        batch, channels, count, height, width = frames.shape
        alone = frames.transpose(1, 2).reshape(batch * count, channels, 1, height, width)
        _, _, tapped = self._through_blocks(alone, WanCache({}), taps, stop_after_taps=True)
        return {name: x.reshape(batch, count, *x.shape[1:2], *x.shape[3:]).transpose(1, 2) for name, x in tapped.items()}

    def _through_blocks(
        self, frames: torch.Tensor, cache: WanCache, taps: Sequence[str], stop_after_taps: bool
    ) -> tuple[torch.Tensor, dict[str, Slots], dict[str, torch.Tensor]]:
        names = self.block_names()
        reachable = names[:-1] if stop_after_taps else names
        unknown = sorted(set(taps) - set(reachable))
        if unknown:
            raise ValueError(f"no encoder block named {', '.join(unknown)} to tap; there are {', '.join(reachable)}")
        if self.vae.config.patch_size is not None:
            frames = patchify(frames, patch_size=self.vae.config.patch_size)
        filled: dict[str, Slots] = {}
        tapped: dict[str, torch.Tensor] = {}
        encoder = self.vae.encoder
        x = frames
        operations = operations_for(self.engine, frames)
        for name, block in zip(names[:-1], (encoder.conv_in, *encoder.down_blocks, encoder.mid_block), strict=True):
            x, slots = block_of(operations, name, block, first_group=not cache.blocks).run(x, cache.blocks, "fast")
            filled |= slots
            if name in taps:
                tapped[name] = x
            if stop_after_taps and len(tapped) == len(set(taps)):
                break
        return x, filled, tapped
