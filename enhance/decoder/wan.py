"""`WanAdapter`: diffusers' `AutoencoderKLWan` as pure functions of a group and a cache. The model is driven, never copied.

Checked against diffusers 0.42.1. Tiling and slicing of the model are not used, and offload hooks on the whole model do not fire,
since its decoder and encoder are called directly: move the model to its device first.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn

from splatmend.enhance.decoder.adapter import SideFeatures
from splatmend.enhance.decoder.engine import Engine
from splatmend.enhance.decoder.groups import group_count
from splatmend.enhance.decoder.wan_blocks import WanCache
from splatmend.enhance.decoder.wan_decoder import EARLY_BLOCKS, WanDecoder
from splatmend.enhance.decoder.wan_encoder import WanEncoder
from splatmend.enhance.decoder.wan_plan import Memory


class WanAdapter:
    """A `DecoderAdapter` over `AutoencoderKLWan` 2.1 and 2.2 (residual blocks, patched frames), of any size.

    `join` maps a decoder block (`conv_in`, `mid_block`, `up_blocks.i`, `conv_out`) to a module called as
    `module(decoder_features, side_features)` after it; every group then needs side features for exactly those blocks. `memory` says
    what is kept for the backward pass (see `Memory`), `engine` which layers run (see `Engine`).

    Raises `ValueError` for a join after a block that does not exist, and `TypeError` for one that is no module.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        *,
        join: Mapping[str, nn.Module] | None = None,
        memory: Memory = "fast",
        engine: Engine = "auto",
    ) -> None:
        if memory not in get_args(Memory) or engine not in get_args(Engine):
            raise ValueError(
                f"memory must be one of {', '.join(get_args(Memory))} and engine one of {', '.join(get_args(Engine))}; "
                f"got {memory} and {engine}"
            )
        self.decoder = WanDecoder(vae, join, memory, engine)
        self.encoder = WanEncoder(vae, engine)
        # Type checkers do not see the config that diffusers registers.
        self.vae: Any = vae
        config = self.decoder.vae.config
        # From the layers themselves: the config's `scale_factor_*` are free text that small models often leave at their defaults.
        self.latent_channels: int = config.z_dim
        self.frame_channels: int = config.in_channels // (config.patch_size or 1) ** 2
        self.spatial_factor: int = 2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1)
        self.temporal_factor: int = 2 ** sum(bool(flag) for flag in config.temperal_downsample)

    first_blocks = EARLY_BLOCKS

    @property
    def memory(self) -> Memory:
        """What is kept for the backward pass."""
        return self.decoder.memory

    def frames_of(self, group_index: int) -> int:
        """Number of frames that group `group_index` stands for: 1, then `temporal_factor`."""
        return 1 if group_index == 0 else self.temporal_factor

    def initial_decoder_cache(self) -> WanCache:
        """The cache before the first group is decoded."""
        return WanCache({})

    def initial_encoder_cache(self) -> WanCache:
        """The cache before the first group is encoded."""
        return WanCache({})

    def decode_group(
        self, z_group: torch.Tensor, cache: WanCache, index: int, side: SideFeatures | None = None
    ) -> tuple[torch.Tensor, WanCache]:
        """Decode denormalised latents [B, C, t, h, w] to unclamped frames [B, 3, t * temporal_factor, H, W], and the next cache.

        Group 0 must hold exactly one latent; a later call may hold several, which gives the same frames to rounding.
        Raises `ValueError` for a wrong rank, channel or latent count, nothing at all, another dtype than the weights', or side features
        that do not match the joins, and `TypeError` where dtype or autocast are not those of the cache.
        """
        self._check_group(z_group, "a latent group", self.latent_channels, cache, index)
        return self.decoder.group(z_group, cache, index == 0, side)

    def decode_first(
        self, z_group: torch.Tensor, cache: WanCache, index: int, side: SideFeatures | None = None
    ) -> tuple[torch.Tensor, WanCache]:
        """The blocks at the latents' resolution: features [B, C', 1, h, w], and their next cache. Raises as `decode_group` does."""
        self._check_group(z_group, "a latent group", self.latent_channels, cache, index)
        return self.decoder.first_stage(z_group, cache, index == 0, side)

    def decode_rest(
        self, features: torch.Tensor, cache: WanCache, index: int, side: SideFeatures | None = None
    ) -> tuple[torch.Tensor, WanCache]:
        """The upsampling blocks: features of `decode_first` to unclamped frames [B, 3, t, H, W], and their next cache. Raises as
        `decode_group` does."""
        self._check_group(features, "the features", self.decoder.early_channels, cache, index)
        return self.decoder.second_stage(features, cache, index == 0, side)

    def encode_group(
        self, x_group: torch.Tensor, cache: WanCache, index: int, taps: Sequence[str] = ()
    ) -> tuple[torch.Tensor, WanCache, dict[str, torch.Tensor]]:
        """Encode frames [B, 3, t, H, W] (t = `frames_of(index)`) to the posterior's mean [B, C, 1, h, w], the next cache and taps.

        `taps` are names of encoder blocks (`conv_in`, `down_blocks.i`, `mid_block`, `conv_out`).
        Raises `ValueError` for a wrong rank, channel or frame count, nothing at all, another dtype than the weights', a side that is no
        multiple of `spatial_factor`, or an unknown tap, and `TypeError` where dtype or autocast are not those of the cache.
        """
        self.check_frames(x_group)
        if x_group.shape[2] != self.frames_of(index):
            raise ValueError(f"group {index} must hold {self.frames_of(index)} frames, got {x_group.shape[2]}")
        if cache.mode is None:
            self.check_dtype(x_group, "frames")
        moments, cache, tapped = self.encoder.group(x_group, cache, taps)
        return moments[:, : self.latent_channels], cache, tapped

    def frame_features(self, x: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        """Features of encoder blocks for frames [B, 3, T, H, W], each frame encoded alone: block name -> [B, C', T, H', W']."""
        self.check_frames(x)
        self.check_dtype(x, "frames")
        return self.encoder.frame_features(x, taps)

    def cache_tensors(self, cache: WanCache) -> tuple[torch.Tensor, ...]:
        """All tensors of a cache, block after block in the order the blocks run in."""
        return cache.tensors()

    def replace_cache_tensors(self, cache: WanCache, tensors: Sequence[torch.Tensor]) -> WanCache:
        """The same cache with other tensors, given in the order of `cache_tensors`."""
        return cache.with_tensors(tensors)

    def detach_cache(self, cache: WanCache) -> WanCache:
        """The same cache, cut from every graph."""
        return cache.with_tensors([tensor.detach() for tensor in cache.tensors()])

    def group_count(self, frames: int) -> int:
        """Number of latents a clip of `frames` frames encodes to; `ValueError` where it does not fill its last group."""
        return group_count(frames, self.temporal_factor)

    def denormalise(self, z: torch.Tensor) -> torch.Tensor:
        """Latents as a transformer sees them [B, C, T, h, w] -> as the decoder takes them: `z * std + mean`, in float32 or wider."""
        mean, std = self._statistics(z)
        return z.to(mean.dtype) * std + mean

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        """Latents as the encoder gives them [B, C, T, h, w] -> as a transformer sees them: `(z - mean) / std`, in float32 or wider."""
        mean, std = self._statistics(z)
        return (z.to(mean.dtype) - mean) / std

    def _statistics(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = self.vae.config.latents_mean, self.vae.config.latents_std
        if len(mean) != self.latent_channels or len(std) != self.latent_channels:
            raise ValueError(
                f"the autoencoder's config has latent statistics of {len(mean)} and {len(std)} channels, but its latents have "
                f"{self.latent_channels}: set `latents_mean` and `latents_std`"
            )
        dtype = torch.promote_types(z.dtype, torch.float32)
        return _per_channel(tuple(mean), dtype, z.device), _per_channel(tuple(std), dtype, z.device)

    def _check_group(self, x: torch.Tensor, what: str, channels: int, cache: WanCache, index: int) -> None:
        """Of latents, or of what the first stage makes of them: it has one frame for each."""
        self._check(x, what, channels)
        if cache.mode is None:  # later groups must be as the cache is
            self.check_dtype(x, "latents")
        if index == 0 and x.shape[2] != 1:
            raise ValueError(f"the first group must hold exactly one latent, got {x.shape[2]}")

    def check_dtype(self, x: torch.Tensor, what: Literal["latents", "frames"]) -> None:
        """`ValueError` unless `x` has the dtype of the weights, or autocast casts it."""
        beside = self.vae.post_quant_conv if what == "latents" else self.vae.quant_conv
        weights = next(beside.parameters()).dtype
        if x.device.type == "meta":
            raise ValueError(f"the {what} are on the meta device, which holds no numbers; put them and the autoencoder on another")
        # Autocast leaves double precision as it is.
        if x.dtype == weights or (torch.is_autocast_enabled(x.device.type) and x.dtype in _AUTOCAST):
            return
        why = " (`denormalise` computes in float32)" if what == "latents" else ""
        raise ValueError(f"the {what} are {x.dtype} and the autoencoder's weights {weights}; cast the {what}{why}, or use autocast")

    def check_frames(self, x: torch.Tensor) -> None:
        """`ValueError` for frames [B, 3, T, H, W] of a wrong rank or channel count, none, or a side that is no multiple of
        `spatial_factor`."""
        self._check(x, "a group of frames", self.frame_channels)
        if x.shape[3] % self.spatial_factor or x.shape[4] % self.spatial_factor:
            raise ValueError(f"frames of {x.shape[3]}x{x.shape[4]} pixels do not divide into latent pixels of {self.spatial_factor}")

    @staticmethod
    def _check(x: torch.Tensor, what: str, channels: int) -> None:
        if x.ndim != 5:
            raise ValueError(f"{what} must be [batch, channels, time, height, width], got {x.ndim} dimensions: {tuple(x.shape)}")
        if x.shape[1] != channels:
            raise ValueError(f"{what} must have {channels} channels, got {x.shape[1]}")
        if not x.numel():
            raise ValueError(f"{what} is empty: {tuple(x.shape)}")


_AUTOCAST = (torch.float16, torch.bfloat16, torch.float32)


@functools.lru_cache(maxsize=16)
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """One number per channel [1, C, 1, 1, 1]. Kept, since a copy from the host would make every step wait."""
    # Kept tensors are used in graphs later, whatever mode the first caller is in.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1, 1)
