"""Stage two: train the one-step enhancer with latent and pixel losses, the latter through the truncated decoder.

One micro-step: encode input and target; the transformer predicts z_out; the truncated decoder returns the gradients of the pixel loss
with respect to z_out, to the skips' features and to the decoder's parameters; the latent loss's gradient is added; one backward pass
carries the sum through the transformer (and the encoder, where it is trained).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from splatmend.datasets.artifact import Manifest, plain
from splatmend.enhance.artifact import KIND, save_enhancer, with_provenance
from splatmend.enhance.causal_lora import add_causal_lora, fold_causal_lora
from splatmend.enhance.decoder import surrogate
from splatmend.enhance.lora import add_lora
from splatmend.enhance.losses import LATENT_MSE, PixelLoss, latent_mse
from splatmend.enhance.model import Encoded, Enhancer, decode_at_once
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import Batch, DataConfig, TrainingClips
from splatmend.enhance.train.graphed import graphed
from splatmend.enhance.train.loop import CHECKPOINT, SAMPLES, TrainingLoop, TrainingPaused, make_accelerator
from splatmend.enhance.train.output import building_together
from splatmend.enhance.train.pictures import write_strip


class OneStepObjective:
    """Adds the gradients of one batch to `.grad` of an enhancer's trained parameters."""

    def __init__(self, config: OneStepTrainConfig, enhancer: Enhancer) -> None:
        self.config, self.enhancer = config, enhancer
        self.pixel_loss = PixelLoss(config.losses)
        self.latent_weight = config.losses.get(LATENT_MSE, 0.0)
        self.decoder_params = [
            p
            for module in (enhancer.vae.decoder, enhancer.vae.post_quant_conv, enhancer.joins)
            for p in module.parameters()
            if p.requires_grad
        ]

    def encode(self, clip: torch.Tensor) -> Encoded:
        """Encode with gradients only where the encoder is trained."""
        with torch.set_grad_enabled(self.config.encoder == "full"):
            return self.enhancer.encode(clip)

    def add_gradients(self, batch: Batch, loss_scale: float = 1.0) -> dict[str, torch.Tensor]:
        """Gradients of `loss * loss_scale`; returns the loss and its parts (not scaled)."""
        enhancer, x, target = self.enhancer, batch.degraded, batch.target
        encoded = self.encode(x)
        z_in = encoded.latents
        z_out = enhancer.predict_windows(z_in, self.config.window or z_in.shape[2], self.config.overlap if self.config.window else 0)
        metrics: dict[str, torch.Tensor] = {}
        loss = torch.zeros((), device=x.device)
        if self.latent_weight > 0:
            with torch.no_grad():
                z_target = enhancer.encode(target).latents
            part = latent_mse(z_out, z_target)
            metrics[LATENT_MSE] = part.detach()
            loss = loss + self.latent_weight * part
        if not self.pixel_loss:
            (loss * loss_scale).backward()
        elif self.config.truncation is None:
            z = enhancer.decoder_latents(z_in, z_out)
            sides = [enhancer.decoder_side(side) for side in encoded.side] if enhancer.spec.skips else None
            frames = enhancer.compose(x, decode_at_once(enhancer.adapter(memory=self.config.decoder_memory), z, sides))
            loss = loss + self.pixel_loss(frames, target) / x.shape[2]
            (loss * loss_scale).backward()
        else:
            loss = self._truncated(batch, encoded, z_out, loss, loss_scale)
        return {"loss": loss.detach()} | metrics | {name: value / x.shape[2] for name, value in self.pixel_loss.take_parts().items()}

    def _truncated(self, batch: Batch, encoded: Encoded, z_out: torch.Tensor, latent_loss: torch.Tensor, loss_scale: float) -> torch.Tensor:
        enhancer, x, target = self.enhancer, batch.degraded, batch.target

        def frame_loss(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
            del previous
            return self.pixel_loss(enhancer.compose(x[:, :, span], frames), target[:, :, span])

        z = enhancer.decoder_latents(encoded.latents, z_out)
        side = enhancer.side_of(encoded)
        sides = [side(i) for i in range(z.shape[2])] if side is not None else []
        decoder = enhancer.decoder(self.config.truncation or 0, memory=self.config.decoder_memory)
        result = decoder.loss_and_grad(
            z, frame_loss, side=sides.__getitem__ if sides else None, params=self.decoder_params, loss_scale=loss_scale
        )
        # The pixel loss's gradients arrive scaled; the latent loss is scaled here: each once.
        total = surrogate(z, result.grad_z) + latent_loss * loss_scale
        for features, gradients in zip(sides, result.grad_side, strict=False):
            for name, gradient in gradients.items():
                total = total + surrogate(features[name], gradient)
        if total.requires_grad:
            total.backward()
        for parameter, gradient in zip(self.decoder_params, result.grad_params, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return latent_loss.detach() + result.loss


def choose_parameters(config: OneStepTrainConfig, enhancer: Enhancer) -> dict[str, nn.Parameter]:
    """Freeze the enhancer, attach LoRA where asked for, and return what is to be trained by name."""
    enhancer.requires_grad_(False)
    if config.transformer == "full":
        enhancer.transformer.requires_grad_(True)
    elif config.transformer == "lora" and config.transformer_lora is not None:
        add_lora(enhancer.transformer, config.transformer_lora)
    if config.decoder == "full":
        enhancer.vae.decoder.requires_grad_(True)
        enhancer.vae.post_quant_conv.requires_grad_(True)
    elif config.decoder == "lora" and config.decoder_lora is not None:
        add_causal_lora(enhancer.vae.decoder, config.decoder_lora.rank, int(config.decoder_lora.alpha))
    if config.encoder == "full":
        enhancer.vae.encoder.requires_grad_(True)
        enhancer.vae.quant_conv.requires_grad_(True)
    enhancer.joins.requires_grad_(config.skips)
    return {name: p for name, p in enhancer.named_parameters() if p.requires_grad}


def train_onestep(
    config: OneStepTrainConfig,
    data: DataConfig,
    enhancer: Enhancer,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    save_dtype: torch.dtype | None = None,
) -> Path | None:
    """Train an enhancer (see `starting_enhancer`) and write it to `out`: an enhancer folder with `curve.jsonl` and `samples/`.

    `save_dtype`: dtype of the written weights; None keeps theirs. Returns `out`, or None where `pause_seconds` ended the run (call
    again with `resume`). `UserError` for data, devices, outputs and checkpoints that cannot be used.
    """
    accelerator = make_accelerator(config)
    torch.manual_seed(config.seed)
    clips = TrainingClips(data, clip_frames=config.clip_frames, crop_px=config.crop_px, batch=config.batch, seed=config.seed)
    enhancer.to(accelerator.device).train()
    parameters = choose_parameters(config, enhancer)
    if config.transformer_checkpoint:
        enhancer.transformer.enable_gradient_checkpointing()
    objective = OneStepObjective(config, enhancer)
    manifest = Manifest(kind=KIND, config={"train": plain(config), "data": plain(data)})
    try:
        with building_together(accelerator, out, manifest, overwrite=overwrite, resume=resume) as folder:
            loop = TrainingLoop(config, accelerator, parameters, folder)
            if resume and (folder / CHECKPOINT).is_file():
                loop.resume()
            batches = clips.batches(loop.step * config.accumulation, accelerator.process_index, accelerator.device)

            def add_gradients(batch: Batch, loss_scale: float) -> dict[str, torch.Tensor]:
                with accelerator.autocast():
                    return objective.add_gradients(batch, loss_scale)

            step = graphed(add_gradients, parameters.values(), config, accelerator.device)

            def micro_step(number: int, loss_scale: float) -> dict[str, torch.Tensor]:
                return step(next(batches), loss_scale)

            def sample(step: int) -> None:
                batch = clips.finish(clips.raw(0, 10_000), accelerator.device)
                with torch.no_grad(), accelerator.autocast():
                    frames = enhancer(batch.degraded[:1])
                write_strip(folder / SAMPLES / f"{step:06d}.png", (batch.degraded[0], frames[0], batch.target[0]))

            loop.run(micro_step, sample)
            loop.finish()
            batches.close()
            manifest.facts = {
                "steps": loop.step,
                "seconds": loop.seconds,
                "trained_parameters": sum(p.numel() for p in parameters.values()),
            }
            if accelerator.is_main_process:
                _write(enhancer, config, data, loop, folder, save_dtype)
                (folder / CHECKPOINT).unlink(missing_ok=True)
    except TrainingPaused:
        return None
    return out


def _write(
    enhancer: Enhancer, config: OneStepTrainConfig, data: DataConfig, loop: TrainingLoop, folder: Path, dtype: torch.dtype | None
) -> None:
    if config.decoder == "lora":
        fold_causal_lora(enhancer.vae.decoder)
    small = enhancer.spec.base.startswith("splatmend-")
    spec = with_provenance(
        enhancer.spec,
        {
            "steps": loop.step,
            "seconds": loop.seconds,
            "losses": dict(config.losses),
            "data": [p.parent.name for p in data.pairs] + [p.name for p in data.videos],
        },
    )
    spec = dataclasses.replace(spec, lora=config.transformer_lora if config.transformer == "lora" else spec.lora)
    if config.window is not None or config.transformer == "full":
        window = config.window or 1 + (config.clip_frames - 1) // 4
        spec = dataclasses.replace(spec, window=window, overlap=min(config.overlap, window - 1))
    enhancer.spec = spec
    save_enhancer(
        enhancer,
        folder,
        dtype=dtype,
        own_vae=small or config.decoder != "none" or config.encoder != "none",
        own_transformer=spec.lora is None and (small or config.transformer == "full"),
    )
