"""Real Wan autoencoders at toy size, with random weights, in float64; and the way to this folder's shared parts (`decoder_parts`), for the
import mode in use adds no folder to the path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanUpsample

_HERE = str(Path(__file__).resolve().parent)
if _HERE not in sys.path:
    sys.path.insert(0, _HERE)

TinyWan = Callable[..., AutoencoderKLWan]


@pytest.fixture(scope="session")
def tiny_wan() -> TinyWan:
    """Builder: `tiny_wan("2.1" or "2.2", dtype=torch.float64, **config)` gives a fresh autoencoder with the same weights each time."""

    def build(layout: str = "2.1", dtype: torch.dtype = torch.float64, **config: object) -> AutoencoderKLWan:
        settings: dict[str, object] = {
            "base_dim": 8,
            "z_dim": 4,
            "dim_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "temperal_downsample": [True, True],
            "latents_mean": [0.1, -0.2, 0.3, 0.0],
            "latents_std": [1.5, 2.0, 0.5, 1.0],
        }
        if layout == "2.2":
            settings |= {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "decoder_base_dim": 8}
        torch.manual_seed(7)
        vae = AutoencoderKLWan(**{**settings, **config})
        # Default initialisation shrinks features from layer to layer; larger weights make every path count in the comparisons.
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.mul_(1.5)
        if dtype == torch.float64:
            # Wan's upsampling rounds to float32 on the way, forwards and backwards; nearest-neighbour copying needs no such detour,
            # and without it gradients can be compared to double precision and against finite differences.
            for module in vae.modules():
                if isinstance(module, WanUpsample):
                    module.__class__ = torch.nn.Upsample
        return vae.to(dtype).eval().requires_grad_(False)

    return build
