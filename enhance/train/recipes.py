"""Recipes: functions that return a training configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import load_autoencoder, load_enhancer
from splatmend.enhance.base import WAN21_1_3B
from splatmend.enhance.harmoniser import as_harmoniser, small_harmoniser
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


def harmonise_reconstruct() -> OneStepTrainConfig:
    """Stage one of the small harmoniser, from nothing: all of it learns where light and shadow belong, by squared error + 0.1 LPIPS.

    Whole frames rather than crops, since a shadow follows from what lies far from it.
    """
    return OneStepTrainConfig(
        steps=20_000,
        lr=6e-4,
        warmup_steps=100,
        schedule="cosine",
        batch=4,
        ema=0.998,
        cuda_graph=True,
        clip_frames=17,
        crop_px=(192, 320),
        losses={"mse": 1.0, "lpips_squeeze": 0.1},
        truncation=1,
        output="residual",
        harmonises=True,
        transformer="full",
        decoder="full",
        encoder="full",
        max_seconds=270.0,
    )


def harmonise() -> OneStepTrainConfig:
    """Stage two of the small harmoniser, from stage one: LPIPS + 0.1 Gram, and squared error, without which colours drift."""
    return dataclasses.replace(
        harmonise_reconstruct(),
        lr=2e-4,
        output=None,
        losses={"mse": 10.0, "lpips_squeeze": 1.0, "gram_squeeze": 0.1},
        max_seconds=180.0,
    )


def harmonise_14b_reconstruct() -> OneStepTrainConfig:
    """Stage one of harmonising with a Wan model: skips and a LoRA of the decoder learn to give back what goes in, past the bottleneck.

    Source: ChopGrad, arXiv 2603.17812, section 4.4: squared error + 0.1 LPIPS, through the decoder's own parameters with D = 1.
    """
    return dataclasses.replace(
        wan21_14b(),
        lr=1e-4,
        losses={"mse": 1.0, "lpips_vgg": 0.1},
        harmonises=True,
        reconstruct=True,
        transformer="none",
        decoder="lora",
        decoder_lora=LoraInfo(rank=32, alpha=32, targets=()),
    )


def harmonise_14b() -> OneStepTrainConfig:
    """Stage two, from stage one: LoRA of transformer and decoder, LPIPS + 0.1 Gram, D = 1."""
    losses = {"lpips_vgg": 1.0, "gram_vgg": 0.1}
    return lora(dataclasses.replace(harmonise_14b_reconstruct(), losses=losses, reconstruct=False))


def starting_dtype(config: OneStepTrainConfig) -> torch.dtype:
    """What to load a base model in: bfloat16 where all of it stays frozen and training runs in that, else float32."""
    frozen = config.transformer != "full" and config.decoder == config.encoder == "none"
    return torch.bfloat16 if frozen and config.in_bf16 else torch.float32


def starting_enhancer(
    base: str | Path | None,
    *,
    output: OutputMode | None = None,
    harmonises: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Enhancer:
    """What stage two starts from, on the CPU; `harmonises`: told what was put in.

    None: a fresh small enhancer. A folder of stage one: a small enhancer around that autoencoder. Else whatever `load_enhancer` takes
    (an enhancer to train further, a Wan base model); its output mode stays unless `output` says otherwise.
    """
    if base is None and harmonises:
        return small_harmoniser(seed=seed)
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
    if harmonises and not enhancer.spec.harmonises:
        if enhancer.spec.skips:
            raise UserError(f"{base}: its skips know nothing of masks; start from a Wan model, from a harmoniser, or from nothing.")
        enhancer = as_harmoniser(enhancer, seed=seed)
    return enhancer
