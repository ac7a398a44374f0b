"""Stage one for the small model: train the autoencoder on clean clips, through the whole clip at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from splatmend.datasets.artifact import Manifest, plain
from splatmend.enhance.artifact import AUTOENCODER_KIND, save_model
from splatmend.enhance.decoder import WanAdapter
from splatmend.enhance.losses import PixelLoss
from splatmend.enhance.model import decode_at_once
from splatmend.enhance.small import small_vae
from splatmend.enhance.train.config import AutoencoderTrainConfig
from splatmend.enhance.train.data import Batch, DataConfig, TrainingClips
from splatmend.enhance.train.graphed import graphed
from splatmend.enhance.train.identity import WEIGHTS, weights_sample
from splatmend.enhance.train.loop import CHECKPOINT, SAMPLES, TrainingLoop, TrainingPaused, make_accelerator
from splatmend.enhance.train.output import building_together
from splatmend.enhance.train.pictures import write_strip

STATISTICS_BATCHES = 8


def train_autoencoder(
    config: AutoencoderTrainConfig,
    data: DataConfig,
    out: Path,
    *,
    vae: AutoencoderKLWan | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path | None:
    """Train `vae` (None: a fresh small one) and write it to `out` (kind "autoencoder"): `vae/`, `curve.jsonl`, `samples/`.

    Latent mean and deviation over the training data go into the autoencoder's config. Returns `out`, or None where `pause_seconds`
    ended the run (call again with `resume`). `UserError` for data, devices, outputs and checkpoints that cannot be used.
    """
    pixel_loss = PixelLoss(config.losses)
    accelerator = make_accelerator(config)
    torch.manual_seed(config.seed)
    model = vae if vae is not None else small_vae()
    began_as = {WEIGHTS: weights_sample(model)}
    model.to(accelerator.device).train()
    config.check_crop(WanAdapter(model).spatial_factor)
    # It looks at targets alone, for which no artefacts need be made: a clip of 17 frames takes 0.2 s of a core with them, 5 ms without.
    data = dataclasses.replace(data, clean_share=1.0)
    clips = TrainingClips(data, clip_frames=config.clip_frames, crop_px=config.crop_px, batch=config.batch, seed=config.seed)
    parameters = dict(model.requires_grad_(True).named_parameters())
    manifest = Manifest(kind=AUTOENCODER_KIND, config={"train": plain(config), "data": plain(data)})
    try:
        with building_together(accelerator, out, manifest, overwrite=overwrite, resume=resume) as folder:
            loop = TrainingLoop(config, accelerator, parameters, folder, data=clips.described(), model=began_as)
            loop.begin(resume=resume)
            batches = clips.batches(loop.step * config.accumulation, accelerator.process_index, accelerator.device)

            def add_gradients(batch: Batch, loss_scale: float) -> dict[str, torch.Tensor]:
                target = batch.target
                with accelerator.autocast():
                    frames = _round_trip(model, target)
                    loss = pixel_loss(frames, target) / target.shape[2]
                (loss * loss_scale).backward()
                return {"loss": loss.detach()} | {name: part / target.shape[2] for name, part in pixel_loss.take_parts().items()}

            step = graphed(add_gradients, parameters.values(), config, accelerator.device)

            def micro_step(number: int, loss_scale: float) -> dict[str, torch.Tensor]:
                return step(next(batches), loss_scale)

            def sample(step: int) -> None:
                target = clips.finish(clips.raw(0, 10_000), accelerator.device).target[:1]
                with torch.no_grad(), accelerator.autocast():
                    frames = _round_trip(model, target)
                write_strip(folder / SAMPLES / f"{step:06d}.png", (frames[0], target[0]))

            loop.run(micro_step, sample)
            loop.finish()
            batches.close()
            _store_latent_statistics(model, clips, accelerator.device)
            manifest.facts = {"steps": loop.step, "seconds": loop.seconds, "parameters": sum(p.numel() for p in model.parameters())}
            if accelerator.is_main_process:
                save_model(model, folder / "vae", None)
                (folder / CHECKPOINT).unlink(missing_ok=True)
    except TrainingPaused:
        return None
    return out


def _round_trip(vae: AutoencoderKLWan, clip: torch.Tensor) -> torch.Tensor:
    """Encode and decode `[B, 3, T, H, W]` with the full temporal gradient: the first frame, then all others as one chunk."""
    adapter = WanAdapter(vae)
    head, cache, _ = adapter.encoder.group(clip[:, :, :1], adapter.initial_encoder_cache(), ())
    means = [head]
    if clip.shape[2] > 1:
        means.append(adapter.encoder.group(clip[:, :, 1:], cache, ())[0])
    z = torch.cat(means, dim=2)[:, : adapter.latent_channels]
    return decode_at_once(adapter, z, None)


@torch.no_grad()
def _store_latent_statistics(vae: AutoencoderKLWan, clips: TrainingClips, device: torch.device) -> None:
    """Mean and deviation of each latent channel over some batches, into the autoencoder's config, as Wan has them."""
    adapter = WanAdapter(vae)
    latents = []
    for number in range(STATISTICS_BATCHES):
        target = clips.finish(clips.raw(number, 20_000), device).target
        head, cache, _ = adapter.encoder.group(target[:, :, :1], adapter.initial_encoder_cache(), ())
        rest = adapter.encoder.group(target[:, :, 1:], cache, ())[0] if target.shape[2] > 1 else head[:, :, :0]
        z = torch.cat([head, rest], dim=2)[:, : adapter.latent_channels]
        latents.append(z.transpose(0, 1).flatten(1).double())
    values = torch.cat(latents, dim=1)
    vae.register_to_config(latents_mean=values.mean(dim=1).tolist(), latents_std=values.std(dim=1).clamp_min(1e-4).tolist())
