"""Settings of the two training stages, and of the training of the fusion alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from splatmend.datasets.errors import UserError
from splatmend.enhance.attention import Attention
from splatmend.enhance.decoder import Memory
from splatmend.enhance.decoder.truncated import DEFAULT_HALO
from splatmend.enhance.losses import FLOW_WARPING, LATENT_MSE, check_losses
from splatmend.enhance.model import MAX_REFERENCES, LoraInfo, OutputMode

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What every training loop needs."""

    steps: int
    """Optimiser steps."""
    lr: float
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    warmup_steps: int = 50
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: down to a twentieth of `lr` at the end (the last step, or `max_seconds` where that comes first)."""
    grad_clip: float | None = 1.0
    """Largest norm of the whole gradient; None: unlimited."""
    batch: int = 1
    """Clips per process and micro-step."""
    accumulation: int = 1
    """Micro-steps per optimiser step."""
    precision: Precision = "auto"
    """bf16: autocast, weights of what is trained in float32. auto: bf16 on a CUDA device, else fp32, since CPUs are slow in bf16."""
    cuda_graph: bool = False
    """Capture a step's kernels once and replay them on CUDA devices: for small models, bound by kernel launches."""
    ema: float | None = 0.999
    """Decay of the running average of the weights, which is what is saved; None: save the weights themselves."""
    clip_frames: int = 17
    crop_px: tuple[int, int] = (160, 160)
    """Height and width of training crops."""
    losses: Mapping[str, float] = field(default_factory=dict)
    max_seconds: float | None = None
    """Finish after this much training time, all runs of the same training together."""
    pause_seconds: float | None = None
    """Stop this run after so many seconds with a checkpoint, to be resumed."""
    checkpoint_every: int = 500
    sample_every: int = 500
    log_every: int = 20
    seed: int = 0
    device: str = "auto"
    """auto (CUDA where there is one), cpu or cuda."""
    log: bool = True
    """Show progress on the console."""

    @property
    def in_bf16(self) -> bool:
        """Whether steps run in bf16 on this machine."""
        if self.precision == "auto":
            return self.device != "cpu" and torch.cuda.is_available()
        return self.precision == "bf16"

    def __post_init__(self) -> None:
        self._check_numbers()
        for name in ("steps", "batch", "accumulation", "checkpoint_every", "sample_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"training: {name} is {getattr(self, name)}; give 1 or more.")
        if self.cuda_graph and self.accumulation > 1:
            raise UserError(
                f"training: cuda_graph makes a step of one micro-step, but accumulation is {self.accumulation}; set one of them back."
            )
        if self.clip_frames < 1 or (self.clip_frames - 1) % 4:
            raise UserError(f"training: clip_frames is {self.clip_frames}, but clips have 1 + 4k frames; give for instance 17 or 81.")
        if self.ema is not None and not 0.0 <= self.ema < 1.0:
            raise UserError(f"training: ema is {self.ema}; give a decay from 0 up to, not including, 1.")
        check_losses(self.losses)

    def _check_numbers(self) -> None:
        """`UserError` for the first number out of its range; comparisons with nan are false."""
        for name, fine, wanted in (
            ("lr", 0 < self.lr <= 1, "a rate above 0 and up to 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "two decays from 0 up to, not including, 1"),
            ("warmup_steps", self.warmup_steps >= 0, "0 or more"),
            ("grad_clip", self.grad_clip is None or 0 < self.grad_clip < math.inf, "a norm above 0, or None"),
            ("crop_px", min(self.crop_px) >= 1, "height and width in pixels"),
            ("max_seconds", self.max_seconds is None or 0 < self.max_seconds < math.inf, "seconds above 0, or None"),
            ("pause_seconds", self.pause_seconds is None or 0 <= self.pause_seconds < math.inf, "0 seconds or more, or None"),
            ("seed", 0 <= self.seed < 1 << 63, "0 or more, below 2^63"),
            ("device", self.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
        ):
            if not fine:
                raise UserError(f"training: {name} is {getattr(self, name)}; give {wanted}.")

    def check_crop(self, multiple: int) -> None:
        """`UserError` unless crops divide by what the model's latents (and its patches of them) make of pixels."""
        if any(size % multiple for size in self.crop_px):
            rows, columns = (-(-size // multiple) * multiple for size in self.crop_px)
            raise UserError(
                f"training: crop_px is {self.crop_px}, but this model needs multiples of {multiple}; give for instance {rows} {columns}."
            )


@dataclass(frozen=True, kw_only=True)
class AutoencoderTrainConfig(LoopConfig):
    """Train the small autoencoder on clean clips, through the whole clip at once."""

    losses: Mapping[str, float] = field(default_factory=lambda: {"l1": 1.0, "lpips_squeeze": 1.0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.losses.get(LATENT_MSE):
            raise UserError("training: latent_mse has no meaning for the autoencoder; take it out of the losses.")


@dataclass(frozen=True, kw_only=True)
class FlickerConfig(LoopConfig):
    """Settings of trainings that may have a loss on flicker."""

    flow_warping: float = 0.0
    """Weight of the loss on flicker: what changes of the error from frame to frame along the target's motion (see
    `splatmend.enhance.flow_loss`); 0 leaves it out. Flows are estimated where batches are prepared."""

    @property
    def weights(self) -> Mapping[str, float]:
        """All losses with their weights."""
        return dict(self.losses) | ({FLOW_WARPING: self.flow_warping} if self.flow_warping else {})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.flow_warping < math.inf:
            raise UserError(f"training: flow_warping is {self.flow_warping}; give a weight, 0 or more.")


@dataclass(frozen=True, kw_only=True)
class FusionTrainConfig(FlickerConfig):
    """Train what fuses references alone, on the fused frames themselves: no encoder, transformer or decoder is run."""

    losses: Mapping[str, float] = field(default_factory=lambda: {"l1": 2.0, "ssim": 1.0, "lpips_squeeze_views": 1.0})
    references: int | None = None
    """Layers of warped recorded frames to take from; None: those of the enhancer that it is for."""
    fresh: bool = False
    """Begin with an untrained fusion, though the enhancer has one: what has learnt to leave layers where they lie hardly unlearns it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.losses.get(LATENT_MSE):
            raise UserError("training: latent_mse has no meaning for the fusion of references; take it out of the losses.")
        if self.references is not None and not 1 <= self.references <= MAX_REFERENCES:
            raise UserError(f"training: references is {self.references}; give 1 to {MAX_REFERENCES} layers.")


@dataclass(frozen=True, kw_only=True)
class OneStepTrainConfig(FlickerConfig):
    """Train the one-step enhancer through the truncated decoder."""

    losses: Mapping[str, float] = field(default_factory=lambda: {"latent_mse": 1.0, "lpips_vgg": 100.0})
    truncation: int | None = 1
    """D: links between groups that the pixel loss's gradient may cross. None: the exact gradient with the whole clip in memory, for
    small models."""
    pixel_gradient: Literal["truncated", "frame-wise", "first-latent"] = "truncated"
    """What the pixel loss sees: the clip, through the truncated decoder; or, as others do, every latent decoded alone as a
    still picture, or the first frame alone (`splatmend.enhance.decoder.rivals`). With the latter two `truncation` says nothing."""
    output: OutputMode | None = None
    """Output mode of a fresh small enhancer; None: that of the enhancer that is trained on."""
    transformer: Literal["full", "lora", "none"] = "full"
    transformer_lora: LoraInfo | None = None
    decoder: Literal["none", "full", "lora"] = "none"
    decoder_lora: LoraInfo | None = None
    """Rank, alpha and targets of the LoRA on the decoder's causal convolutions."""
    encoder: Literal["none", "full"] = "none"
    """full: the encoder is trained too, through its skips and latents; for small models."""
    skips: bool = True
    """Train the skips, where there are any."""
    opacity_noise: float | None = None
    """Share of noise, 0 to 1, that latents get where the degraded clip has no opacity (0: none); None: that of the enhancer that is trained
    on. What was trained with it needs renders with their opacity."""
    references: int | None = None
    """Layers of warped recorded frames to take from (0: none); None: those of the enhancer that is trained on. Their fusion is trained with
    the exact gradient (`truncation` None), and stays as it is with a truncated one: `train_fusion` trains it for any model."""
    harmonises: bool = False
    """Train a model that is told what was put into a clip: a base that is not yet told gets the input for it, and skips."""
    reconstruct: bool = False
    """Leave the transformer out and show targets as they are: skips and decoder learn to give back what goes in."""
    window: int | None = None
    """Latents the transformer sees at once; None: the clip's. Longer clips are seen in overlapping windows, as in streaming."""
    overlap: int = 2
    decoder_memory: Memory = "fast"
    """What the decoder keeps for its backward pass: fast (everything), balanced, small (least, and slowest)."""
    decoder_block: int = 1
    """Groups whose pixel losses are pulled back together: faster, in more memory, and another gradient than D alone gives."""
    transformer_checkpoint: bool = False
    """Keep the input of every transformer block only, and compute its insides again in the backward pass."""
    attention: Attention = "auto"
    """The kernel of the transformer's attention; auto: cudnn where the device has it and it agrees, else PyTorch's choice."""
    compile: bool = False
    """Compile the transformer's blocks. Pays in long trainings; the first step takes minutes."""
    host_clips: bool = False
    """Clips stay in host memory as bytes and come to the device group by group: for long clips of large frames."""
    spatial_chunks: tuple[int, int] = (1, 1)
    """Chunks (down, across) whose decoder gradients are computed one after the other. Saves memory and is not exact."""
    halo: int = DEFAULT_HALO
    """Latent pixels of context around a spatial chunk."""
    context_parallel: int = 1
    """Processes that share one clip: its tokens in the transformer, its groups in the decoder."""
    shard: bool = False
    """Shard transformer weights, gradients and optimiser state over all processes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap < 0 or (self.window is not None and not self.overlap < self.window):
            raise UserError(
                f"training: a window of {self.window} latents with an overlap of {self.overlap} leaves no stride; give a window of 1 or "
                "more and a smaller overlap."
            )
        if self.host_clips and (self.cuda_graph or self.truncation is None or self.encoder == "full"):
            raise UserError(
                "training: host_clips brings a clip to the device in groups, but cuda_graph, truncation None and encoder full need it "
                "whole; set one of them back."
            )
        if min(self.spatial_chunks) < 1 or self.halo < 0:
            raise UserError(f"training: spatial_chunks {self.spatial_chunks} and halo {self.halo} must be 1 and 0 or more; change them.")
        if self.truncation is None and self.spatial_chunks != (1, 1):
            raise UserError("training: spatial_chunks belong to the truncated gradient; give a truncation or leave them out.")
        if self.decoder_block < 1 or (self.decoder_block > 1 and self.spatial_chunks != (1, 1)):
            raise UserError(f"training: decoder_block is {self.decoder_block}; give a number of groups, 1 with spatial_chunks.")
        not_known = {
            "truncation": self.truncation is None,
            "decoder_block": self.decoder_block > 1,
            "spatial_chunks": self.spatial_chunks != (1, 1),
            "context_parallel": self.context_parallel > 1,
        }
        if self.pixel_gradient != "truncated" and any(not_known.values()):
            name = next(name for name, set_so in not_known.items() if set_so)
            raise UserError(
                f"training: with pixel_gradient {self.pixel_gradient} there is no {name} of {getattr(self, name)}; set it to "
                f"{'0 or more' if name == 'truncation' else 'its default'}."
            )
        if self.pixel_gradient == "first-latent" and self.flow_warping:
            raise UserError("training: pixel_gradient first-latent sees one frame, in which nothing flickers; set flow_warping to 0.")
        if self.context_parallel < 1:
            raise UserError(f"training: context_parallel is {self.context_parallel}; give the number of processes per clip, 1 or more.")
        if self.context_parallel > 1 and (self.truncation is None or self.encoder == "full" or self.cuda_graph):
            raise UserError(
                "training: context_parallel shares the truncated decoder and a frozen encoder; give a truncation and leave out encoder "
                "full and cuda_graph."
            )
        if self.context_parallel > 1 and self.transformer == "full" and self.in_bf16 and not self.shard:
            raise UserError("training: context_parallel with the full transformer in bf16 needs sharded weights; set shard as well.")
        if self.shard and (self.cuda_graph or self.transformer == "none"):
            raise UserError("training: shard is for a trained transformer without cuda_graph; set one of them back.")
        if self.reconstruct and (self.transformer != "none" or self.output in ("residual", "difference") or LATENT_MSE in self.losses):
            raise UserError(
                "training: reconstruct leaves the transformer out and compares decoded frames; give transformer none and output direct, "
                "and leave latent_mse out of the losses."
            )
        if self.transformer == "lora" and self.transformer_lora is None:
            raise UserError("training: transformer is lora, but transformer_lora is not given; give rank and alpha.")
        if self.decoder == "lora" and self.decoder_lora is None:
            raise UserError("training: decoder is lora, but decoder_lora is not given; give rank and alpha.")
        for lora in (self.transformer_lora, self.decoder_lora):
            if lora is not None and not (lora.rank >= 1 and 0 < lora.alpha < math.inf):
                raise UserError(
                    f"training: a LoRA has rank {lora.rank} and alpha {lora.alpha}; give a rank of 1 or more and an alpha above 0."
                )
        if self.opacity_noise is not None and not 0.0 <= self.opacity_noise <= 1.0:
            raise UserError(f"training: opacity_noise is {self.opacity_noise}; give a share from 0 to 1.")
        if self.references is not None and not 0 <= self.references <= MAX_REFERENCES:
            raise UserError(f"training: references is {self.references}; give 0 to {MAX_REFERENCES} layers.")
        if self.truncation is not None and self.truncation < 0:
            raise UserError(f"training: truncation is {self.truncation}; give 0 or more, or None for the exact gradient.")
