"""The small configuration: Wan's architecture, under 16 MB in bfloat16, seconds on two CPU cores.

Frames are folded 2x2 into channels before the first convolution (as in Wan 2.2), which spares the whole full-resolution level, then
halved twice in space and time: x8 in space, x4 in time. With the residual output only the change has to pass, and two skips bring
the degraded clip's features around the bottleneck: at half resolution (all frames) and at quarter resolution.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from splatmend.enhance.model import Enhancer, EnhancerSpec, OutputMode
from splatmend.enhance.skips import Skip

SMALL_BASE = "splatmend-small"
LATENT_CHANNELS = 16
CAPTION_TOKENS, CAPTION_CHANNELS = 1, 64
SMALL_SKIPS = (Skip(tap="down_blocks.0", join="up_blocks.1"), Skip(tap="down_blocks.2", join="up_blocks.0"))


def small_vae(base_dim: int = 48) -> AutoencoderKLWan:
    """A fresh small autoencoder: x8 in space (x2 of it by folding pixels), x4 in time."""
    return AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )


def small_transformer(heads: int = 5, layers: int = 5, ffn_dim: int = 448) -> WanTransformer3DModel:
    """A fresh small transformer, 32 channels a head. Its output projection starts at zero: `z_out = z_in`."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=CAPTION_CHANNELS,
        freq_dim=64,
        ffn_dim=ffn_dim,
        num_layers=layers,
    )
    start_at_identity(transformer)
    return transformer


def start_at_identity(transformer: WanTransformer3DModel) -> None:
    """Zero the output projection in place, so that the predicted change is zero."""
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)


def silence_decoder(vae: AutoencoderKLWan) -> None:
    """Zero the decoder's last convolution in place: with the residual output the model then starts as the identity."""
    for parameter in vae.decoder.conv_out.parameters():
        torch.nn.init.zeros_(parameter)


def open_gates(enhancer: Enhancer) -> None:
    """Let the skips through from the first step on, in place.

    Gates at zero behind a last convolution at zero would leave neither a gradient to start with: 500 steps then change next to
    nothing. With that convolution at zero the model is the identity however far the gates are open.
    """
    for join in enhancer.join_modules().values():
        torch.nn.init.ones_(join.gate)


def small_enhancer(
    vae: AutoencoderKLWan | None = None,
    transformer: WanTransformer3DModel | None = None,
    *,
    output: OutputMode = "residual",
    skips: tuple[Skip, ...] = SMALL_SKIPS,
    harmonises: bool = False,
    seed: int = 0,
) -> Enhancer:
    """A small enhancer that starts as the identity where its output mode allows it.

    `vae`: a trained autoencoder; `transformer`: any Wan transformer over its latents; None: fresh ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = vae if vae is not None else small_vae()
        if output == "residual":
            silence_decoder(vae)
        caption = torch.zeros(1, CAPTION_TOKENS, CAPTION_CHANNELS)
        spec = EnhancerSpec(base=SMALL_BASE, output=output, skips=skips, window=5, overlap=2, harmonises=harmonises)
        enhancer = Enhancer(vae, transformer if transformer is not None else small_transformer(), caption, spec)
        if output == "residual":
            open_gates(enhancer)
        return enhancer
