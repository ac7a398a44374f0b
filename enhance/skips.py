"""Skips: encoder features of the degraded clip that join the decoder, so that detail need not pass the bottleneck.

Features are tapped causally while the clip is encoded, one group at a time. A skip may join at any level whose tapped group has as
many frames as the decoder's group there, which holds for blocks mirrored around the bottleneck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Skip:
    """One skip: what encoder block `tap` gives out joins the decoder after block `join`."""

    tap: str
    join: str


class SkipJoin(nn.Module):
    """Adds a gated 1x3x3 convolution of decoder and encoder features to the decoder's features.

    The gate (one number per channel) starts at zero, so a fresh join changes nothing. Of the encoder's features the last `silent` channels
    count for nothing at first, however far the gate is open.
    """

    def __init__(self, decoder_channels: int, side_channels: int, silent: int = 0) -> None:
        super().__init__()
        self.fuse = nn.Conv3d(decoder_channels + side_channels, decoder_channels, (1, 3, 3), padding=(0, 1, 1))
        if silent:
            nn.init.zeros_(self.fuse.weight[:, -silent:])
        self.gate = nn.Parameter(torch.zeros(1, decoder_channels, 1, 1, 1))

    def forward(self, features: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        """`features [B, C, t, H, W]` of the decoder and `side [B, S, t, H, W]` -> `[B, C, t, H, W]`."""
        fused = F.silu(self.fuse(torch.cat([features, side.to(features.dtype)], dim=1)))
        return features + self.gate.to(features.dtype) * fused


def build_joins(vae: AutoencoderKLWan, skips: Sequence[Skip], extra: int = 0) -> dict[str, SkipJoin]:
    """Fresh joins: decoder block -> module, their channels found by one small pass through the autoencoder. `extra`: channels that come
    after every tap's own, and count for nothing at first.

    Raises `ValueError` for an unknown block, a join used twice, or a tap whose size does not match the decoder's at the join.
    """
    joins: dict[str, SkipJoin] = {}
    if not skips:
        return joins
    encoder_shapes, decoder_shapes = _block_shapes(vae)
    for skip in skips:
        if skip.tap not in encoder_shapes:
            raise ValueError(f"no encoder block named {skip.tap} to tap; there are {', '.join(encoder_shapes)}")
        if skip.join not in decoder_shapes:
            raise ValueError(f"no decoder block named {skip.join} to join after; there are {', '.join(decoder_shapes)}")
        if skip.join in joins:
            raise ValueError(f"two skips join after {skip.join}")
        side, features = encoder_shapes[skip.tap], decoder_shapes[skip.join]
        if side[2:] != features[2:]:
            raise ValueError(f"{skip.tap} gives {tuple(side[2:])} (frames, height, width), {skip.join} needs {tuple(features[2:])}")
        joins[skip.join] = SkipJoin(features[1], side[1] + extra, silent=extra)
    return joins


@torch.no_grad()
def _block_shapes(vae: AutoencoderKLWan) -> tuple[dict[str, torch.Size], dict[str, torch.Size]]:
    """Shapes `[B, C, t, H, W]` that encoder and decoder blocks give out for the second group of a tiny clip."""
    from splatmend.enhance.decoder import WanAdapter

    adapter = WanAdapter(vae)
    parameter = next(vae.parameters())
    size = 4 * adapter.spatial_factor
    clip = torch.zeros(1, adapter.frame_channels, 1 + adapter.temporal_factor, size, size, dtype=parameter.dtype, device=parameter.device)
    names = adapter.encoder.block_names()
    first, cache, _ = adapter.encode_group(clip[:, :, :1], adapter.initial_encoder_cache(), 0)
    second, _, tapped = adapter.encode_group(clip[:, :, 1:], cache, 1, names)
    shapes: dict[str, torch.Size] = {}
    spies = {name: _Spy(name, shapes) for name in adapter.decoder.block_names() if name != "conv_out"}
    spied = WanAdapter(vae, join=spies)
    nothing = dict.fromkeys(spies, first)
    _, cache = spied.decode_group(first, spied.initial_decoder_cache(), 0, nothing)
    spied.decode_group(second, cache, 1, nothing)
    return {name: features.shape for name, features in tapped.items()}, shapes


class _Spy(nn.Module):
    """A join that changes nothing and notes the shape it sees."""

    def __init__(self, name: str, shapes: dict[str, torch.Size]) -> None:
        super().__init__()
        self.name, self.shapes = name, shapes

    def forward(self, features: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        del side
        self.shapes[self.name] = features.shape
        return features
