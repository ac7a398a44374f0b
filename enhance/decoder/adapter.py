"""What a causal video autoencoder must offer so that it can be driven one latent group at a time.

Shape letters: B batch, C channels, t frames (or latents) of one group, H W pixels, h w latent pixels.

A *group* is the smallest piece a causal autoencoder decodes or encodes on its own: one latent and the frames it stands for. Group 0
stands for one frame, every later group for `temporal_factor` frames. A *cache* is everything a group hands to the next one; only the
adapter that made a cache knows what is inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch

Cache: TypeAlias = Any
"""The state a group hands to the next. Opaque to everybody but its adapter, and never changed once it was handed out."""

SideFeatures: TypeAlias = Mapping[str, torch.Tensor]
"""Conditioning of one group: name of the decoder block it joins after -> features [B, C, t, H, W] at that block's resolution."""


@runtime_checkable
class DecoderAdapter(Protocol):
    """A causal video autoencoder as pure functions: caches come in as arguments and go out as results.

    `decode_group` and `encode_group` must be the only temporal coupling: given the cache, a group depends on nothing earlier. They
    must not change a cache they were given, so that the same cache can be used twice (for a recomputation, or for two branches).
    """

    latent_channels: int
    """Channels of a latent."""
    frame_channels: int
    """Channels of a frame (3 for colour)."""
    spatial_factor: int
    """Pixels per latent pixel along each side."""
    temporal_factor: int
    """Frames that every group but the first stands for."""

    def frames_of(self, group_index: int) -> int:
        """Number of frames that group `group_index` stands for."""
        ...

    def initial_decoder_cache(self) -> Cache:
        """The cache before the first group is decoded."""
        ...

    def initial_encoder_cache(self) -> Cache:
        """The cache before the first group is encoded."""
        ...

    def decode_group(self, z_group: torch.Tensor, cache: Cache, index: int, side: SideFeatures | None = None) -> tuple[torch.Tensor, Cache]:
        """Decode denormalised latents [B, C, 1, h, w] of group `index` to unclamped frames [B, 3, t, H, W], and the next cache."""
        ...

    def encode_group(
        self, x_group: torch.Tensor, cache: Cache, index: int, taps: Sequence[str] = ()
    ) -> tuple[torch.Tensor, Cache, dict[str, torch.Tensor]]:
        """Encode frames [B, 3, t, H, W] of group `index` to the posterior's mean [B, C, 1, h, w].

        Also returns the next cache and, for each encoder block named in `taps`, what that block gave out: [B, C', t', H', W'].
        """
        ...

    def cache_tensors(self, cache: Cache) -> tuple[torch.Tensor, ...]:
        """The differentiable tensors of a cache, in an order that depends on nothing but which slots are filled."""
        ...

    def replace_cache_tensors(self, cache: Cache, tensors: Sequence[torch.Tensor]) -> Cache:
        """The same cache with other tensors, given in the order of `cache_tensors`."""
        ...

    def detach_cache(self, cache: Cache) -> Cache:
        """The same cache, cut from every graph."""
        ...

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        """Latents [B, C, L, h, w] as the encoder gives them -> as a generative model sees them (zero mean, unit spread)."""
        ...

    def denormalise(self, z: torch.Tensor) -> torch.Tensor:
        """The inverse of `normalise`: what `decode_group` takes."""
        ...


@runtime_checkable
class SplitDecoderAdapter(DecoderAdapter, Protocol):
    """A decoder in two stages: a first one on latent-sized features that needs whole frames, and the rest.

    `decode_group` must equal `decode_rest(decode_first(...))`. Each stage has a cache of its own, of the adapter's kind, and takes the
    side features of its own blocks (`first_blocks` names those of the first stage).
    """

    first_blocks: tuple[str, ...]
    """Names of the blocks of the first stage."""

    def decode_first(self, z_group: torch.Tensor, cache: Cache, index: int, side: SideFeatures | None = None) -> tuple[torch.Tensor, Cache]:
        """Latents [B, C, 1, h, w] of group `index` to the first stage's features [B, C', 1, h, w], and its next cache."""
        ...

    def decode_rest(self, features: torch.Tensor, cache: Cache, index: int, side: SideFeatures | None = None) -> tuple[torch.Tensor, Cache]:
        """The first stage's features to unclamped frames [B, 3, t, H, W], and the second stage's next cache."""
        ...
