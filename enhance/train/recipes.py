"""Recipes: functions that return a training configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import load_autoencoder, load_enhancer
from splatmend.enhance.base import WAN21_1_3B
from splatmend.enhance.model import Enhancer, LoraInfo, OutputMode
from splatmend.enhance.small import silence_decoder, small_enhancer
from splatmend.enhance.train.config import AutoencoderTrainConfig, FusionTrainConfig, OneStepTrainConfig


def small_autoencoder() -> AutoencoderTrainConfig:
    """Stage one of the bundled model."""
    return AutoencoderTrainConfig(
        steps=20_000,
        lr=6e-4,
        warmup_steps=100,
        schedule="cosine",
        batch=4,
        cuda_graph=True,
        clip_frames=33,
        crop_px=(160, 160),
        losses={"l1": 2.0, "lpips_squeeze_views": 1.0},
        max_seconds=300.0,
    )


def small_onestep() -> OneStepTrainConfig:
    """Stage two of the bundled model: everything is trained but nothing has to pass the bottleneck that need not.

    No latent loss: with the encoder trained too, it would be lowest for latents that hold nothing. Clips are long, since causal layers
    see how far the start of the clip is and do as they like with frames beyond the length of training. A step at this size is bound by
    kernel launches (17,000 of them), which is why it is captured.
    """
    return OneStepTrainConfig(
        steps=20_000,
        lr=6e-4,
        warmup_steps=100,
        schedule="cosine",
        batch=2,
        ema=0.998,
        cuda_graph=True,
        clip_frames=65,
        window=5,
        crop_px=(160, 160),
        losses={"l1": 2.0, "ssim": 1.0, "lpips_squeeze_views": 1.0},
        truncation=None,
        output="residual",
        transformer="full",
        decoder="full",
        encoder="full",
        max_seconds=900.0,
    )


def fusion() -> FusionTrainConfig:
    """The fusion of references alone. It works frame by frame, so clips are short and many."""
    return FusionTrainConfig(
        steps=20_000,
        lr=5e-4,
        warmup_steps=100,
        schedule="cosine",
        batch=16,
        ema=0.998,
        cuda_graph=True,
        clip_frames=5,
        crop_px=(160, 160),
        max_seconds=300.0,
    )


def wan21_14b() -> OneStepTrainConfig:
    """Render enhancement as published: Wan 2.1 14B, full transformer, latent MSE + 100 LPIPS (VGG), 81 frames of 480x832, D = 1.

    Source: ChopGrad, arXiv 2603.17812, table of recipes. Full fine-tuning of 14 billion parameters needs more than one card
    (`context_parallel` and `shard`); on one card take `lora(wan21_14b())`.
    """
    return OneStepTrainConfig(
        steps=880,
        lr=1e-5,
        weight_decay=0.1,
        betas=(0.9, 0.99),
        warmup_steps=0,
        grad_clip=None,
        batch=1,
        ema=None,
        clip_frames=81,
        crop_px=(480, 832),
        losses={"latent_mse": 1.0, "lpips_vgg": 100.0},
        truncation=1,
        transformer="full",
        decoder="none",
        transformer_checkpoint=True,
        host_clips=True,
        checkpoint_every=100,
        sample_every=100,
        log_every=1,
    )


def wan21_1_3b() -> OneStepTrainConfig:
    """The same recipe for the 1.3B model, which one card of 80 GB trains in full."""
    return wan21_14b()


def lora(config: OneStepTrainConfig, *, rank: int = 128, alpha: float = 64, lr: float = 1e-4) -> OneStepTrainConfig:
    """A recipe with a transformer LoRA in place of the full transformer."""
    return dataclasses.replace(config, transformer="lora", transformer_lora=LoraInfo(rank=rank, alpha=alpha), lr=lr)


def starting_dtype(config: OneStepTrainConfig) -> torch.dtype:
    """What to load a base model in: bfloat16 where all of it stays frozen and training runs in that, else float32."""
    frozen = config.transformer != "full" and config.decoder == config.encoder == "none"
    return torch.bfloat16 if frozen and config.in_bf16 else torch.float32


def starting_enhancer(
    base: str | Path | None, *, output: OutputMode | None = None, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Enhancer:
    """What stage two starts from, on the CPU.

    None: a fresh small enhancer. A folder of stage one: a small enhancer around that autoencoder. Else whatever `load_enhancer` takes
    (an enhancer to train further, a Wan base model); its output mode stays unless `output` says otherwise.
    """
    if base is None:
        return small_enhancer(output=output or "residual", seed=seed)
    path = Path(base)
    if path.is_dir() and (path / "vae").is_dir() and not (path / "transformer").is_dir() and not (path / "enhancer.json").is_file():
        return small_enhancer(load_autoencoder(path), output=output or "residual", seed=seed)
    enhancer = load_enhancer(base, dtype=dtype)
    if enhancer.spec.lora is not None:
        raise UserError(f"{base}: this enhancer is a LoRA; start from its base model {enhancer.spec.base or WAN21_1_3B} instead.")
    if output is not None and output != enhancer.spec.output:
        if output == "residual":
            silence_decoder(enhancer.vae)
        enhancer.spec = dataclasses.replace(enhancer.spec, output=output)
    return enhancer
