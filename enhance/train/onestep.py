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
from splatmend.enhance.attention import use_attention
from splatmend.enhance.causal_lora import add_causal_lora, fold_causal_lora
from splatmend.enhance.decoder import split_into_groups, surrogate
from splatmend.enhance.decoder.gradients import without_autocast
from splatmend.enhance.decoder.rivals import FirstLatent, FrameWise, PixelGradient
from splatmend.enhance.flow_loss import Motion
from splatmend.enhance.lora import add_lora, leave_casts_to_autocast
from splatmend.enhance.losses import LATENT_MSE, PixelLoss, latent_mse
from splatmend.enhance.model import Encoded, Enhancer, decode_at_once
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import Batch, DataConfig, TrainingClips, unit_inserted, unit_opacity, unit_range, unit_references
from splatmend.enhance.train.graphed import graphed
from splatmend.enhance.train.identity import WEIGHTS, weights_sample
from splatmend.enhance.train.latents import LatentCache, encoder_key
from splatmend.enhance.train.loop import CHECKPOINT, SAMPLES, TrainingLoop, TrainingPaused, make_accelerator
from splatmend.enhance.train.output import building_together
from splatmend.enhance.train.parallel import Processes, gathered_state, shard_weights, share_context, unsharded
from splatmend.enhance.train.pictures import write_strip
from splatmend.enhance.transformer import compile_blocks, hold_in

_OTHER_GRADIENTS = {"frame-wise": FrameWise, "first-latent": FirstLatent}


class OneStepObjective:
    """Adds the gradients of one batch to `.grad` of an enhancer's trained parameters.

    `processes`: how several of them share a clip; each then adds its part of the gradients, which are to be summed over the group.
    `latents`: where the latents of a frozen encoder are kept; used for batches with keys.
    """

    def __init__(
        self, config: OneStepTrainConfig, enhancer: Enhancer, *, processes: Processes | None = None, latents: LatentCache | None = None
    ) -> None:
        self.config, self.enhancer = config, enhancer
        self.processes, self.latents = processes, latents
        self.pixel_loss = PixelLoss(config.weights)
        self.latent_weight = config.losses.get(LATENT_MSE, 0.0)
        self.decoder_params = [
            p
            for module in (enhancer.vae.decoder, enhancer.vae.post_quant_conv, enhancer.joins)
            for p in module.parameters()
            if p.requires_grad
        ]
        self.decoder = enhancer.decoder(
            config.truncation or 0,
            memory=config.decoder_memory,
            block=config.decoder_block,
            spatial_chunks=config.spatial_chunks,
            halo=config.halo,
            share=(0, 1) if processes is None else processes.share,
        )
        self.gradient: PixelGradient = self.decoder
        if config.pixel_gradient != "truncated":
            self.gradient = _OTHER_GRADIENTS[config.pixel_gradient](self.decoder.adapter)

    def encode(self, clip: torch.Tensor) -> Encoded:
        """Encode a clip of a batch with gradients only where the encoder is trained."""
        if self.config.host_clips:
            groups = split_into_groups(clip, self.decoder.adapter.temporal_factor)
            return self.enhancer.encode_groups(unit_range(group, self.enhancer.device) for group in groups)
        with torch.set_grad_enabled(self.config.encoder == "full"):
            return self.enhancer.encode(clip)

    def fused(self, batch: Batch) -> Batch:
        """The batch with degraded clips that took what they could from their references."""
        if batch.references is None or self.enhancer.fusion is None:
            return batch
        device = self.enhancer.device
        with torch.set_grad_enabled(self.config.truncation is None and torch.is_grad_enabled()):
            # In groups where clips are long.
            spans = [slice(0, None)] if not self.config.host_clips else [slice(i, i + 4) for i in range(0, batch.degraded.shape[2], 4)]
            parts = [
                self.enhancer.fused(
                    unit_range(batch.degraded[:, :, span], device), unit_references(batch.references[:, :, span].to(device))
                )
                for span in spans
            ]
        return batch._replace(degraded=torch.cat(parts, dim=2), references=None)

    def encode_input(self, batch: Batch) -> Encoded:
        """Latents and skip features of the degraded clips; kept latents where there are no skips, whose features are too large to keep, and
        no references, with which a clip is no longer the one that its key names.
        Where the enhancer looks at opacity, with fresh noise in what is empty; where it harmonises, told what was put in."""
        if self.latents is None or not batch.keys or self.enhancer.spec.skips or self.enhancer.fusion is not None:
            encoded = self.encode(batch.degraded)
        else:
            encoded = Encoded(self._kept(batch.degraded, [key for key, _ in batch.keys]), ())
        if batch.opacity is not None and self.enhancer.looks_at_opacity:
            encoded = self.enhancer.emptied(encoded, unit_opacity(batch.opacity), self._shared_noise(encoded.latents))
        return encoded if batch.inserted is None else self.enhancer.told(encoded, unit_inserted(batch.inserted.to(encoded.latents.device)))

    def _shared_noise(self, latents: torch.Tensor) -> torch.Tensor:
        """Fresh unit noise in the shape of latents, the same for the processes that share a clip."""
        noise = torch.randn_like(latents)
        if self.processes is None or self.processes.share[1] == 1:
            return noise
        return self._summed(noise if self.processes.share[0] == 0 else torch.zeros_like(noise))

    def encode_target(self, batch: Batch) -> torch.Tensor:
        """Latents of the target clips, without gradients."""
        with torch.no_grad():
            if self.latents is None or not batch.keys:
                return self.encode(batch.target).latents
            return self._kept(batch.target, [key for _, key in batch.keys])

    def _kept(self, clips: torch.Tensor, keys: list[str]) -> torch.Tensor:
        assert self.latents is not None
        found = []
        for i, key in enumerate(keys):
            clip = clips[i : i + 1]
            found.append(self.latents.latents(key, lambda clip=clip: self.encode(clip).latents))  # type: ignore[misc]
        return torch.cat(found).to(self.enhancer.device, non_blocking=True)

    def predict(self, encoded: Encoded) -> torch.Tensor:
        """The enhanced latents, with the transformer's graph."""
        window = self.config.window or encoded.latents.shape[2]
        return self.enhancer.predict_windows(encoded.latents, window, self.config.overlap if self.config.window else 0)

    def add_gradients(self, batch: Batch, loss_scale: float = 1.0) -> dict[str, torch.Tensor]:
        """Gradients of `loss * loss_scale`; returns the loss and its parts (not scaled)."""
        batch = batch._replace(degraded=batch.target, references=None) if self.config.reconstruct else self.fused(batch)
        enhancer, x, target = self.enhancer, batch.degraded, batch.target
        encoded = self.encode_input(batch)
        z_in = encoded.latents
        # Before the transformer runs, so that no graph is alive meanwhile.
        z_target = self.encode_target(batch) if self.latent_weight > 0 else None
        z_out = z_in if self.config.reconstruct else self.predict(encoded)
        metrics: dict[str, torch.Tensor] = {}
        loss = torch.zeros((), device=z_out.device)
        if z_target is not None:
            part = latent_mse(z_out, z_target)
            metrics[LATENT_MSE] = part.detach()
            loss = loss + self.latent_weight * part
        if not self.pixel_loss:
            _backward(loss * loss_scale)
        elif self.config.truncation is None:
            z = enhancer.decoder_latents(z_in, z_out)
            sides = [enhancer.decoder_side(side) for side in encoded.side] if enhancer.spec.skips else None
            frames = enhancer.compose(x, decode_at_once(enhancer.adapter(memory=self.config.decoder_memory), z, sides))
            frames = enhancer.kept_inside(x, frames, None if batch.inserted is None else unit_inserted(batch.inserted))
            motion = None if batch.flow is None else Motion(batch.flow)
            loss = loss + self.pixel_loss(frames, target, motion) / x.shape[2]
            _backward(loss * loss_scale)
        else:
            loss = self._truncated(batch, encoded, z_out, loss, loss_scale)
        parts = self.pixel_loss.take_parts()
        seen = 1 if self.config.pixel_gradient == "first-latent" else x.shape[2]
        for name in self.pixel_loss.weights:
            # A process without a group of its own takes part in the sum all the same.
            metrics[name] = self._summed(parts.get(name, torch.zeros_like(loss))) / seen
        return {"loss": loss.detach()} | metrics

    def _summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Over the processes that share this clip."""
        return tensor if self.processes is None else self.processes.sum_over_context(tensor)

    def _truncated(self, batch: Batch, encoded: Encoded, z_out: torch.Tensor, latent_loss: torch.Tensor, loss_scale: float) -> torch.Tensor:
        enhancer, x, target, device = self.enhancer, batch.degraded, batch.target, z_out.device

        def shown(frames: torch.Tensor, span: slice) -> torch.Tensor:
            if enhancer.spec.output == "direct" and batch.inserted is None:
                return frames
            before = unit_range(x[:, :, span], device)
            inserted = None if batch.inserted is None else unit_inserted(batch.inserted[:, :, span].to(device))
            return enhancer.kept_inside(before, enhancer.compose(before, frames), inserted)

        def motion_of(span: slice, previous: torch.Tensor | None) -> Motion | None:
            if batch.flow is None or not self.pixel_loss.needs_flow:
                return None
            flow = batch.flow[:, :, span].to(device)
            if previous is None:
                return Motion(flow)
            last = slice(span.start - 1, span.start)
            return Motion(flow, shown(previous, last).float() - unit_range(target[:, :, last], device))

        def frame_loss(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
            return self.pixel_loss(shown(frames, span), unit_range(target[:, :, span], device), motion_of(span, previous))

        z = enhancer.decoder_latents(encoded.latents, z_out)
        side = enhancer.side_of(encoded)
        sides = [side(i) for i in range(z.shape[2])] if side is not None else []
        result = self.gradient.loss_and_grad(
            z, frame_loss, side=sides.__getitem__ if sides else None, params=self.decoder_params, loss_scale=loss_scale
        )
        grad_z = self._summed(result.grad_z)
        # The pixel loss's gradients arrive scaled; the latent loss is scaled here: each once.
        total = surrogate(z, grad_z) + latent_loss * loss_scale
        for features, gradients in zip(sides, result.grad_side, strict=False):
            for name, gradient in gradients.items():
                total = total + surrogate(features[name], gradient)
        if total.requires_grad:
            _backward(total)
        for parameter, gradient in zip(self.decoder_params, result.grad_params, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return latent_loss.detach() + self._summed(result.loss)


def _backward(total: torch.Tensor) -> None:
    with without_autocast(total.device):
        total.backward()


def choose_parameters(config: OneStepTrainConfig, enhancer: Enhancer) -> dict[str, nn.Parameter]:
    """Freeze the enhancer, attach LoRA where asked for, and return what is to be trained by name.

    What is trained is held in float32. With bf16 a frozen transformer is held in bf16, where it is not among what is saved.
    """
    enhancer.requires_grad_(False)
    if config.transformer == "full":
        enhancer.transformer.requires_grad_(True)
    elif config.in_bf16 and not _saves_transformer(config, enhancer):
        hold_in(enhancer.transformer, torch.bfloat16)
    if config.transformer == "lora" and config.transformer_lora is not None:
        add_lora(enhancer.transformer, config.transformer_lora)
        if config.in_bf16:
            leave_casts_to_autocast(enhancer.transformer)
    if config.decoder == "full":
        enhancer.vae.decoder.requires_grad_(True)
        enhancer.vae.post_quant_conv.requires_grad_(True)
    elif config.decoder == "lora" and config.decoder_lora is not None:
        add_causal_lora(enhancer.vae.decoder, config.decoder_lora.rank, int(config.decoder_lora.alpha))
    if config.encoder == "full":
        enhancer.vae.encoder.requires_grad_(True)
        enhancer.vae.quant_conv.requires_grad_(True)
    enhancer.joins.requires_grad_(config.skips)
    if enhancer.mask_input is not None:
        enhancer.mask_input.requires_grad_(config.skips)
    if enhancer.fusion is not None and config.truncation is None:
        enhancer.fusion.requires_grad_(True)
    trained = trained_parameters(enhancer)
    for parameter in trained.values():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return trained


def trained_parameters(enhancer: Enhancer) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name."""
    return {name: p for name, p in enhancer.named_parameters() if p.requires_grad}


def prepare_transformer(config: OneStepTrainConfig, enhancer: Enhancer, processes: Processes) -> None:
    """Set up an enhancer's transformer, on its device already, for training steps: kernels, checkpoints, several processes.

    Parameters are other objects afterwards where they are sharded. `UserError` where clip or heads do not divide by the processes.
    """
    transformer, adapter = enhancer.transformer, enhancer.adapter()
    dtype = torch.bfloat16 if config.in_bf16 else None
    use_attention(transformer, config.attention, enhancer.device, dtype or transformer.dtype)
    rows, columns = (size // adapter.spatial_factor for size in config.crop_px)
    latents = adapter.group_count(config.clip_frames)
    share_context(transformer, processes, (min(config.window or latents, latents), rows, columns))
    if config.transformer_checkpoint:
        transformer.enable_gradient_checkpointing()
    if config.compile:
        compile_blocks(transformer)
    if config.shard:
        shard_weights(transformer, processes, dtype)


def latent_cache(config: OneStepTrainConfig, data: DataConfig, enhancer: Enhancer) -> LatentCache | None:
    """Where the latents of training clips are kept, or None where they are not or the encoder is trained."""
    if not data.keeps_latents or config.encoder == "full":
        return None
    return LatentCache(encoder_key(enhancer.vae, "bf16" if config.in_bf16 else "fp32"), int(data.latents_gb * 1e9), data.latents_dir)


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
    config.check_crop(enhancer.size_multiple)
    if config.opacity_noise is not None:
        enhancer.spec = dataclasses.replace(enhancer.spec, opacity_noise=config.opacity_noise)
    if config.references is not None:
        enhancer.take_references(config.references, config.seed)
    accelerator = make_accelerator(config)
    processes = Processes(accelerator, config.context_parallel, shard=config.shard)
    torch.manual_seed(config.seed)
    clips = TrainingClips(
        data,
        clip_frames=config.clip_frames,
        crop_px=config.crop_px,
        batch=config.batch,
        seed=config.seed,
        opacity=enhancer.looks_at_opacity,
        flow=config.flow_warping > 0,
        references=enhancer.spec.references,
        inserted=enhancer.spec.harmonises,
    )
    began_as = {f"model.{name}": value for name, value in plain(enhancer.spec).items() if name != "provenance"}
    began_as[WEIGHTS] = weights_sample(enhancer)
    # Chosen on the host, so that a large frozen model travels in half precision.
    choose_parameters(config, enhancer)
    enhancer.to(accelerator.device).train()
    prepare_transformer(config, enhancer, processes)
    parameters = trained_parameters(enhancer)
    objective = OneStepObjective(config, enhancer, processes=processes, latents=latent_cache(config, data, enhancer))
    manifest = Manifest(kind=KIND, config={"train": plain(config), "data": plain(data)})
    try:
        with building_together(accelerator, out, manifest, overwrite=overwrite, resume=resume) as folder:
            loop = TrainingLoop(config, accelerator, parameters, folder, processes, data=clips.described(), model=began_as)
            loop.begin(resume=resume)
            first = loop.step * config.accumulation
            batches = clips.batches(first, processes.index, accelerator.device, on_host=config.host_clips)

            def add_gradients(batch: Batch, loss_scale: float) -> dict[str, torch.Tensor]:
                with accelerator.autocast():
                    return objective.add_gradients(batch, loss_scale)

            step = graphed(add_gradients, parameters.values(), config, accelerator.device)

            def micro_step(number: int, loss_scale: float) -> dict[str, torch.Tensor]:
                return step(next(batches), loss_scale)

            def sample(step: int) -> None:
                batch = clips.finish(clips.raw(0, 10_000), accelerator.device)
                with torch.no_grad(), accelerator.autocast():
                    opacity = None if batch.opacity is None else unit_opacity(batch.opacity[:1])
                    references = None if batch.references is None else unit_references(batch.references[:1])
                    inserted = None if batch.inserted is None else unit_inserted(batch.inserted[:1])
                    frames = enhancer(batch.degraded[:1], opacity=opacity, references=references, inserted=inserted)
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
            if config.shard:
                _unshard(config, enhancer, accelerator.is_main_process)
            if accelerator.is_main_process:
                _write(enhancer, config, data, loop, folder, save_dtype)
                (folder / CHECKPOINT).unlink(missing_ok=True)
    except TrainingPaused:
        return None
    return out


def _saves_transformer(config: OneStepTrainConfig, enhancer: Enhancer) -> bool:
    """Whether the written enhancer holds a transformer of its own."""
    if config.transformer == "lora" or enhancer.spec.lora is not None:
        return False
    return config.transformer == "full" or _is_small(enhancer)


def _is_small(enhancer: Enhancer) -> bool:
    """Whether it has no base model elsewhere."""
    return enhancer.spec.base.startswith("splatmend-")


def _unshard(config: OneStepTrainConfig, enhancer: Enhancer, keep: bool) -> None:
    """Put what is to be saved of a sharded transformer in its place, on the host of the main process (`keep`)."""
    state = gathered_state(enhancer.transformer, only="lora_" if config.transformer == "lora" else "", keep=keep)
    if keep:
        enhancer.transformer = unsharded(enhancer.transformer, state)


def _write(
    enhancer: Enhancer, config: OneStepTrainConfig, data: DataConfig, loop: TrainingLoop, folder: Path, dtype: torch.dtype | None
) -> None:
    if config.decoder == "lora":
        fold_causal_lora(enhancer.vae.decoder)
    own_transformer = _saves_transformer(config, enhancer)
    spec = with_provenance(
        enhancer.spec,
        {
            "steps": loop.step,
            "seconds": loop.seconds,
            "losses": dict(config.weights),
            "data": [p.parent.name for p in data.pairs] + [p.name for p in data.videos],
        },
    )
    # What an enhancer that was trained on advised says nothing about what it has become.
    spec = dataclasses.replace(spec, strength=1.0, lora=config.transformer_lora if config.transformer == "lora" else spec.lora)
    if config.window is not None or config.transformer == "full":
        window = config.window or 1 + (config.clip_frames - 1) // 4
        spec = dataclasses.replace(spec, window=window, overlap=min(config.overlap, window - 1))
    enhancer.spec = spec
    save_enhancer(
        enhancer,
        folder,
        dtype=dtype,
        own_vae=_is_small(enhancer) or config.decoder != "none" or config.encoder != "none",
        own_transformer=own_transformer,
    )
