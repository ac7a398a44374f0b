"""How local a decoder is in time, and what truncation by D therefore costs: influence, gradient error, seconds and memory.

The measures are those of ChopGrad (arXiv 2603.17812, the sections on influence decay and truncation error): influence of latent j on
the frames of group i against i - j, gradient error and cosine against D at the decoder's input and at the transformer's parameters.

Shape letters: L latents (groups) of a clip, D truncation distance.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from splatmend.datasets.artifact import Manifest, building, plain, write_json
from splatmend.datasets.clip import Clip
from splatmend.datasets.errors import UserError
from splatmend.enhance.decoder import Memory, TruncatedDecoder
from splatmend.enhance.decoder.rivals import ExactCheckpointing, PixelGradient
from splatmend.enhance.kept_bytes import KeptBytes
from splatmend.enhance.locality_subject import Model, Subject, flat_parameter_gradient, load_model, make_subject, read_sample
from splatmend.enhance.losses import PIXEL_TERMS, check_losses, check_networks

KIND, FORMAT_VERSION = "locality", 1
RESULT = "locality.json"
PARAMETER_LIMIT = 20_000_000
"""Of a larger model's gradient every n-th number is compared."""


@dataclass(frozen=True, kw_only=True)
class LocalityConfig:
    """What is measured, and on how much of each clip."""

    frames: int = 21
    """Frames taken from the start of each clip: 1 + 4k for Wan, four latents (13) or more."""
    crop: tuple[int, int] | None = None
    """Height and width in pixels of a crop around the centre."""
    max_width: int | None = None
    """Frames wider than this many pixels are reduced to it."""
    truncations: tuple[int, ...] = (0, 1, 2, 3)
    """Truncation distances D."""
    losses: tuple[str, ...] = ("l1", "mse")
    """Pixel losses whose gradients are compared; the first one is timed."""
    draws: int = 4
    """Random directions per group and clip that influence is averaged over."""
    latent_noise: float = 0.3
    """Without an enhancer: noise on the latents, in spreads of each channel, which makes the error that is differentiated."""
    repeats: int = 3
    """Runs that the median time is taken over."""
    memory: Memory = "fast"
    """What the decoder keeps (fast, balanced, small): the same numbers, other times and bytes."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the model; in bf16 rounding alone costs some cosine."""
    seed: int = 0
    """Of noise, artefacts and directions."""

    def __post_init__(self) -> None:
        if self.crop is not None and self.max_width is not None:
            raise UserError("crop: it is given together with max-width; give one of them.")
        if not self.truncations or min(self.truncations) < 0 or len(set(self.truncations)) < len(self.truncations):
            raise UserError(f"truncations: {self.truncations} must be one or more different numbers, 0 or larger; change them.")
        for name in ("draws", "repeats"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is too few; give 1 or more.")
        if not self.latent_noise > 0:
            raise UserError(f"latent-noise: {self.latent_noise} leaves no error to differentiate; give a number above 0.")
        if min((*(self.crop or ()), self.max_width or 1)) < 1:
            raise UserError("crop, max-width: sizes must be 1 pixel or more; change them.")
        if self.memory not in get_args(Memory):
            raise UserError(f"memory: {self.memory} is none of {', '.join(get_args(Memory))}; change it.")
        unknown = [name for name in self.losses if name not in PIXEL_TERMS]
        if unknown or not self.losses:
            raise UserError(f"losses: {', '.join(unknown) or 'none'} cannot be measured; choose from {', '.join(PIXEL_TERMS)}.")
        check_losses(dict.fromkeys(self.losses, 1.0))
        check_networks(dict.fromkeys(self.losses, 1.0))


class Decay(NamedTuple):
    """`c * exp(-alpha * distance)` fitted to influence over distances of one group and more."""

    c: float
    alpha: float
    r2: float
    """Share of the logarithm's variance that the fit explains."""


class Agreement(NamedTuple):
    """A truncated gradient beside the exact one: cosine, error and length, the last two in lengths of the exact one."""

    cosine: float
    error: float
    length: float

    @classmethod
    def of(cls, gradient: torch.Tensor, exact: torch.Tensor) -> Agreement:
        """Of two tensors of one shape; a cosine of 0 where one of them is zero."""
        a, b = gradient.double().flatten(), exact.double().flatten()
        a_norm, b_norm = float(a.norm()), float(b.norm())
        if b_norm == 0.0:
            raise UserError("the exact gradient is zero: the model's frames do not depend on its latents; give a trained one.")
        return cls(float(a @ b) / (a_norm * b_norm) if a_norm else 0.0, float((a - b).norm()) / b_norm, a_norm / b_norm)


def measure_locality(
    path: str, clips: Sequence[Clip], out: Path, config: LocalityConfig, *, device: torch.device, overwrite: bool = False
) -> dict[str, Any]:
    """Measure the model at `path` (see `load_model`) on clips and write `locality.json` and plots to the folder `out`; returns the numbers.

    `UserError` for a model, clips or an output that cannot be used.
    """
    from splatmend.enhance.locality_plots import write_plots

    if not clips:
        raise UserError("clips: none is given; give at least one.")
    model = load_model(path, device, torch.float32 if config.precision == "fp32" else torch.bfloat16)
    factor = model.adapter("fast").temporal_factor
    if config.frames < 1 + 3 * factor or (config.frames - 1) % factor:
        raise UserError(f"frames: {config.frames} is not 1 + {factor} k with k of 3 or more; give for instance {1 + 5 * factor}.")
    samples = [read_sample(clip, config.frames, config.crop, config.max_width, model.size_multiple) for clip in clips]
    parameters = [p.requires_grad_() for p in model.trained_parameters()]
    manifest = Manifest(kind=KIND, config={"model": path} | plain(config), inputs={f"clip {i}": s.key for i, s in enumerate(samples)})
    with building(out, manifest, overwrite=overwrite) as folder:
        matrices, comparison = [], _Comparison(config, parameters)
        cost: list[dict[str, Any]] = []
        for index, sample in enumerate(samples):
            # Each clip has numbers of its own, so that adding one leaves the others' as they are.
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + index)
            subject = make_subject(model, sample, config.latent_noise, generator)
            matrices.append(influence(subject, config.draws, config.memory, generator))
            comparison.add(subject)
            cost = cost or measure_cost(subject, config)
        matrix = np.mean(matrices, axis=0)
        decay = fit_decay(matrix)
        result = {
            "format_version": FORMAT_VERSION,
            "model": path,
            "clips": [
                {"name": s.name, "frames": s.frames.shape[2], "height": s.frames.shape[3], "width": s.frames.shape[4]} for s in samples
            ],
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "influence": {"of_latent_on_group": matrix, "by_distance": by_distance(matrix), "decay": decay and decay._asdict()},
            "latents": comparison.latents(),
            "parameters": comparison.parameters(),
            "cost": cost,
        }
        result = plain(result)
        write_json(folder / RESULT, result)
        write_plots(result, folder)
        manifest.facts = {"clips": len(samples), "decay": result["influence"]["decay"]}
    return result


def influence(subject: Subject, draws: int, memory: Memory, generator: torch.Generator) -> np.ndarray:
    """`[L, L]`: row i, column j is the mean norm of `v^T dx_i/dz_j` over random directions v of length 1 in group i's frames.

    Its square is on average the squared Frobenius norm of the Jacobian over the number of pixels. Zero above the diagonal.
    """
    adapter = subject.model.adapter(memory)
    z, count = subject.z.detach(), subject.z.shape[2]
    leaves = [z[:, :, i : i + 1].clone().requires_grad_() for i in range(count)]
    matrix = np.zeros((count, count))
    cache = adapter.initial_decoder_cache()
    for i in range(count):
        with torch.enable_grad():
            frames, cache = adapter.decode_group(leaves[i], cache, i, subject.side(i) if subject.side else None)
        for _ in range(draws):
            direction = torch.randn(frames.shape, generator=generator)
            direction[1:] = 0.0  # the enhancer's input, where it is decoded beside its output
            direction /= direction.norm()
            grads = torch.autograd.grad(frames, leaves[: i + 1], direction.to(frames), retain_graph=True, allow_unused=True)
            matrix[i, : i + 1] += [0.0 if grad is None else float(grad.double().norm()) for grad in grads]
    return matrix / draws


def by_distance(matrix: np.ndarray) -> list[dict[str, float]]:
    """Mean, smallest and largest influence over all pairs of one distance i - j.

    The first group is left out as source and as target: it stands for one frame where the others stand for several, and its influence
    is of another size.
    """
    rows, steady = [], matrix[1:, 1:]
    for distance in range(len(steady)):
        values = np.diagonal(steady, -distance)
        rows.append({"distance": distance, "mean": float(values.mean()), "min": float(values.min()), "max": float(values.max())})
    return rows


def fit_decay(matrix: np.ndarray) -> Decay | None:
    """Least squares on the logarithm of the mean influence per distance, from 1 on: what truncation may leave out.

    Distances without any influence are left out; None where fewer than two are left.
    """
    means = [(row["distance"], row["mean"]) for row in by_distance(matrix)[1:] if row["mean"] > 0]
    if len(means) < 2:
        return None
    distances, logs = np.array([d for d, _ in means], dtype=float), np.log([m for _, m in means])
    slope, intercept = np.polyfit(distances, logs, 1)
    residual, spread = logs - (slope * distances + intercept), logs - logs.mean()
    r2 = 1.0 - float(residual @ residual) / float(spread @ spread) if spread @ spread > 0 else 1.0
    return Decay(c=math.exp(float(intercept)), alpha=-float(slope), r2=r2)


class _Comparison:
    """Gathers truncated and exact gradients over clips."""

    def __init__(self, config: LocalityConfig, parameters: Sequence[torch.Tensor]) -> None:
        self._config, self._parameters = config, parameters
        self._keys = [(loss, truncation) for loss in config.losses for truncation in config.truncations]
        self._latents: dict[tuple[str, int], list[Agreement]] = {key: [] for key in self._keys}
        self._per_clip: dict[tuple[str, int], list[Agreement]] = {key: [] for key in self._keys}
        self._sums: dict[tuple[str, int | None], torch.Tensor] = {}

    def add(self, subject: Subject) -> None:
        """Compare on one more clip."""
        adapter = subject.model.adapter(self._config.memory)
        for loss in self._config.losses:
            exact_z = self._gradient(ExactCheckpointing(adapter), subject, loss)
            exact_parameters = self._at_parameters(subject, exact_z, (loss, None))
            for truncation in self._config.truncations:
                grad_z = self._gradient(TruncatedDecoder(adapter, truncation), subject, loss)
                self._latents[loss, truncation].append(Agreement.of(grad_z, exact_z))
                at_parameters = self._at_parameters(subject, grad_z, (loss, truncation))
                if at_parameters is not None and exact_parameters is not None:
                    self._per_clip[loss, truncation].append(Agreement.of(at_parameters, exact_parameters))

    def _gradient(self, way: PixelGradient, subject: Subject, loss: str) -> torch.Tensor:
        return way.loss_and_grad(subject.z, subject.frame_loss(loss), side=subject.side).grad_z

    def _at_parameters(self, subject: Subject, grad_z: torch.Tensor, key: tuple[str, int | None]) -> torch.Tensor | None:
        if not self._parameters:
            return None
        gradient = flat_parameter_gradient(subject.z, self._parameters, grad_z, PARAMETER_LIMIT)
        self._sums[key] = gradient if key not in self._sums else self._sums[key] + gradient
        return gradient

    def latents(self) -> list[dict[str, Any]]:
        """One row per loss and D: agreement at the decoder's input, mean over clips and per clip."""
        return [_row(key, self._latents[key]) for key in self._keys]

    def parameters(self) -> list[dict[str, Any]]:
        """The same at the transformer's parameters, and the agreement of the gradients' means over all clips."""
        if not self._parameters:
            return []
        return [
            _row(key, self._per_clip[key]) | {"of_mean": Agreement.of(self._sums[key], self._sums[key[0], None])._asdict()}
            for key in self._keys
        ]


def _row(key: tuple[str, int], found: Sequence[Agreement]) -> dict[str, Any]:
    mean = {name: statistics.fmean(getattr(a, name) for a in found) for name in Agreement._fields}
    return {"loss": key[0], "truncation": key[1], "mean": mean, "per_clip": [a._asdict() for a in found]}


def measure_cost(subject: Subject, config: LocalityConfig) -> list[dict[str, Any]]:
    """Median seconds and peak bytes of the first loss's gradient for each D.

    `bytes_of` says what was counted: the CUDA allocator's peak, or on a CPU the bytes that autograd kept.
    """
    adapter, loss = subject.model.adapter(config.memory), subject.frame_loss(config.losses[0])
    cuda, z = subject.z.is_cuda, subject.z.detach()

    def run(truncation: int) -> float:
        start = time.perf_counter()
        TruncatedDecoder(adapter, truncation).loss_and_grad(z, loss, side=subject.side)
        if cuda:
            torch.cuda.synchronize(z.device)
        return time.perf_counter() - start

    rows = []
    for truncation in config.truncations:
        run(truncation)
        if cuda:
            torch.cuda.reset_peak_memory_stats(z.device)
        seconds = statistics.median(run(truncation) for _ in range(config.repeats))
        if cuda:
            peak, of = torch.cuda.max_memory_allocated(z.device), "CUDA allocator"
        else:
            peak, of = _kept(subject.model, lambda truncation=truncation: run(truncation)), "kept by autograd"
        rows.append({"truncation": truncation, "seconds": seconds, "peak_bytes": peak, "bytes_of": of})
    return rows


def _kept(model: Model, run: Any) -> int:
    module = model.vae if model.enhancer is None else model.enhancer
    with KeptBytes(module.parameters()) as kept:
        run()
    return kept.peak
