"""Train the fusion of references alone, for any enhancer.

What it gives is what the video model sees, and all of the output at strength 0, so it is compared with the target itself: no encoder,
transformer or decoder is run, nor even read where the enhancer is a folder. Everything but the fusion is written as it was, byte by byte.
"""

from __future__ import annotations

from pathlib import Path

import torch

from splatmend.datasets.artifact import Manifest, plain
from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import KIND, copy_with_fusion, folder_key, load_fusion
from splatmend.enhance.decoder.gradients import without_autocast
from splatmend.enhance.flow_loss import Motion
from splatmend.enhance.fusion import ReferenceFusion, fresh_fusion
from splatmend.enhance.losses import PixelLoss
from splatmend.enhance.train.config import FusionTrainConfig
from splatmend.enhance.train.data import Batch, DataConfig, TrainingClips, unit_references
from splatmend.enhance.train.graphed import graphed
from splatmend.enhance.train.identity import BASE, WEIGHTS, weights_sample
from splatmend.enhance.train.loop import CHECKPOINT, SAMPLES, TrainingLoop, TrainingPaused, make_accelerator
from splatmend.enhance.train.output import building_together
from splatmend.enhance.train.pictures import write_strip

SIZE_MULTIPLE = 4


class FusionObjective:
    """Adds the gradients of one batch to `.grad` of a fusion's parameters."""

    def __init__(self, config: FusionTrainConfig, fusion: ReferenceFusion) -> None:
        self.fusion, self.pixel_loss = fusion, PixelLoss(config.weights)

    def add_gradients(self, batch: Batch, loss_scale: float = 1.0) -> dict[str, torch.Tensor]:
        """Gradients of `loss * loss_scale`; returns the loss and its parts (not scaled)."""
        frames = fused(self.fusion, batch)
        motion = None if batch.flow is None else Motion(batch.flow)
        count = batch.target.shape[2]
        loss = self.pixel_loss(frames, batch.target, motion) / count
        with without_autocast(frames.device):
            (loss * loss_scale).backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()} | {name: part / count for name, part in self.pixel_loss.take_parts().items()}


def fused(fusion: ReferenceFusion, batch: Batch) -> torch.Tensor:
    """The degraded clips of a batch, mended with their references."""
    assert batch.references is not None
    frames: torch.Tensor = fusion(batch.degraded, unit_references(batch.references))
    return frames


def train_fusion(
    config: FusionTrainConfig, data: DataConfig, base: str | Path, out: Path, *, resume: bool = False, overwrite: bool = False
) -> Path | None:
    """Train the fusion of the enhancer `base` (whatever `load_enhancer` takes), a fresh one where it has none of so many layers or that is
    asked for, and write the enhancer with it to `out`, with `curve.jsonl` and `samples/`.

    Returns `out`, or None where `pause_seconds` ended the run (call again with `resume`). `UserError` for enhancers, data, devices, outputs
    and checkpoints that cannot be used.
    """
    config.check_crop(SIZE_MULTIPLE)
    held = load_fusion(base)
    layers = config.references or (held.layers if held else 0)
    if not layers:
        raise UserError(f"{base}: it takes no references yet; say how many layers with --references.")
    accelerator = make_accelerator(config)
    torch.manual_seed(config.seed)
    goes_on = held is not None and held.layers == layers and not config.fresh
    fusion = held if held is not None and goes_on else fresh_fusion(layers, config.seed)
    began_as = {"model.references": layers, BASE: folder_key(base), WEIGHTS: weights_sample(fusion)}
    fusion.to(accelerator.device).train()
    clips = TrainingClips(
        data,
        clip_frames=config.clip_frames,
        crop_px=config.crop_px,
        batch=config.batch,
        seed=config.seed,
        flow=config.flow_warping > 0,
        references=layers,
    )
    parameters = dict(fusion.named_parameters())
    objective = FusionObjective(config, fusion)
    manifest = Manifest(kind=KIND, config={"train": plain(config), "data": plain(data)})
    try:
        with building_together(accelerator, out, manifest, overwrite=overwrite, resume=resume) as folder:
            loop = TrainingLoop(config, accelerator, parameters, folder, data=clips.described(), model=began_as)
            loop.begin(resume=resume)
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
                    frames = fused(fusion, batch)
                if accelerator.is_main_process:
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
                history = {
                    "steps": loop.step,
                    "seconds": loop.seconds,
                    "losses": dict(config.weights),
                    "data": [path.parent.name for path in data.pairs],
                }
                copy_with_fusion(base, folder, fusion, {"fusion": history})
                (folder / CHECKPOINT).unlink(missing_ok=True)
    except TrainingPaused:
        return None
    return out
