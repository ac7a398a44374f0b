"""The training loop that both stages share: optimiser, averaging, full-state checkpoints, metrics, stopping.

Gradients are combined over processes after the step, since most of them do not come out of one backward pass (the truncated decoder
returns them); `accelerate` brings devices, processes and autocast.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.distributed.tensor import DTensor

from splatmend.datasets.artifact import plain
from splatmend.datasets.checkpoint import load_checkpoint, random_state, restore_random_state, save_checkpoint
from splatmend.datasets.errors import UserError
from splatmend.datasets.interruption import PutAway, interruptions_noted
from splatmend.enhance.train.config import LoopConfig
from splatmend.enhance.train.identity import differences
from splatmend.enhance.train.parallel import Processes, gradient_norm, local, sharded_like, whole
from splatmend.enhance.train.progress import TrainingBar

CHECKPOINT, CURVE, SAMPLES = "checkpoint.pt", "curve.jsonl", "samples"
# What may differ between a run and the one that resumes it.
_FREE = ("max_seconds", "pause_seconds", "checkpoint_every", "sample_every", "log_every", "device", "log")

MicroStep = Callable[[int, float], dict[str, torch.Tensor]]
"""`micro_step(number, loss_scale)` adds the gradients of one micro-step, times `loss_scale`, to `.grad` and returns metrics."""


class TrainingPaused(Exception):
    """The run reached `pause_seconds`; its checkpoint is in the `.partial` folder."""


def make_accelerator(config: LoopConfig) -> Accelerator:
    """An accelerator for the configured device; `UserError` where the device is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: CUDA is asked for, but PyTorch sees no CUDA device; use --device cpu.")
    # Every step has the same shapes, so the search for the fastest convolutions pays.
    torch.backends.cudnn.benchmark = True
    # One process may train twice at different precisions, which the state that accelerate keeps for all its accelerators forbids.
    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(cpu=config.device == "cpu", mixed_precision="bf16" if config.in_bf16 else "no")


class Average:
    """Exponential running average of parameters, with a short memory at first."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            [local(value) for value in self.values.values()], [local(parameters[name].detach()) for name in self.values], 1 - decay
        )

    @torch.no_grad()
    def put_into(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Write the average into the parameters; returns what was there."""
        before = {name: parameters[name].detach().clone() for name in self.values}
        for name, value in self.values.items():
            parameters[name].copy_(value)
        return before


class TrainingLoop:
    """Runs `micro_step` until the steps or the time are used up."""

    def __init__(
        self,
        config: LoopConfig,
        accelerator: Accelerator,
        parameters: Mapping[str, nn.Parameter],
        folder: Path,
        processes: Processes | None = None,
        *,
        data: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> None:
        """`processes`: how they share the work; None: each has its own clips and a whole model.

        `data`, `model`: what a checkpoint says of them (see `identity`), so that only the same ones go on from there.
        """
        if not parameters:
            raise UserError("training: nothing is to be trained; train the transformer, the decoder or the skips.")
        self.config, self.accelerator, self.folder = config, accelerator, folder
        self.processes = processes or Processes(accelerator)
        self.parameters = dict(parameters)
        self.optimizer = torch.optim.AdamW(
            _groups(self.parameters, config.weight_decay), lr=config.lr, betas=config.betas, fused=accelerator.device.type == "cuda"
        )
        self.average = None if config.ema is None else Average(self.parameters, config.ema)
        self.step = 0
        self.seconds = 0.0
        settings = {k: v for k, v in plain(config).items() if k not in _FREE}
        self._identity = {"sources": {}} | settings | plain(dict(data or {})) | plain(dict(model or {}))

    def begin(self, *, resume: bool) -> None:
        """Go on from the checkpoint in the folder where `resume` says so and there is one, else from nothing. Errors: those of `resume`."""
        if resume and (self.folder / CHECKPOINT).is_file():
            self.resume()
        elif self.accelerator.is_main_process:
            # Rows of a run that was killed before its first checkpoint.
            (self.folder / CURVE).unlink(missing_ok=True)

    def resume(self) -> None:
        """Go on from the checkpoint in the folder; `UserError` where it belongs to another training."""
        path = self.folder / CHECKPOINT
        state = load_checkpoint(path)
        if "identity" not in state:
            raise UserError(f"{path}: another version of splatmend wrote it; start anew with --overwrite in place of --resume.")
        other = differences(state["identity"], self._identity)
        if set(state["parameters"]) != set(self.parameters):
            other.append("other parameters are trained")
        if other:
            raise UserError(
                f"{path}: it belongs to another training ({'; '.join(other)}); resume with what it was begun with, or start anew with "
                "--overwrite in place of --resume."
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(sharded_like(state["parameters"][name], parameter))
            if self.average is not None:
                for name, value in self.average.values.items():
                    value.copy_(sharded_like(state["average"][name], value))
        order = [p for group in self.optimizer.param_groups for p in group["params"]]
        for number, moments in state["optimizer"]["state"].items():
            state["optimizer"]["state"][number] = {k: sharded_like(v, order[number]) for k, v in moments.items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        restore_random_state(state["random"][self.accelerator.process_index])
        if self.accelerator.is_main_process:
            self._cut_curve()

    def _cut_curve(self) -> None:
        """Drop the rows that an interrupted run wrote after its last checkpoint."""
        path = self.folder / CURVE
        if path.is_file():
            rows = [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= self.step]
            path.write_text("".join(line + "\n" for line in rows))

    def save(self) -> None:
        """Everything that `resume` needs; the position in the data is the step."""
        from accelerate.utils import gather_object

        states = gather_object([random_state()])
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {number: self._gathered(moments) for number, moments in optimizer["state"].items()}
        state = {
            "identity": self._identity,
            "step": self.step,
            "seconds": self.seconds,
            "parameters": self._gathered({name: p.detach() for name, p in self.parameters.items()}),
            "optimizer": optimizer,
            "average": None if self.average is None else self._gathered(self.average.values),
            "random": states,
        }
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder / CHECKPOINT, state)
        self.accelerator.wait_for_everyone()

    def _gathered(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Sharded tensors in one piece on the host of the main process; other values as they are."""
        held: dict[str, Any] = {}
        for name, value in tensors.items():
            if isinstance(value, DTensor):
                full = whole(value)
                held[name] = full.cpu() if self.accelerator.is_main_process else None
            else:
                held[name] = value
        return held

    def run(self, micro_step: MicroStep, sample: Callable[[int], None]) -> None:
        """Train; `sample(step)` writes pictures (on the main process; where processes share a model all of them make them).

        Raises `TrainingPaused` at `pause_seconds`, `KeyboardInterrupt` after Ctrl-C or SIGTERM, both with a checkpoint written, and
        `UserError` where the loss is no finite number.
        """
        shown = self.config.log and self.accelerator.is_main_process
        several = self.accelerator.num_processes > 1
        with (
            TrainingBar(self.config, self.step, self.seconds) if shown else nullcontext() as bar,
            interruptions_noted(patient=several) as interrupted,
        ):
            self._run(micro_step, sample, bar, interrupted)

    def _run(self, micro_step: MicroStep, sample: Callable[[int], None], bar: TrainingBar | None, interrupted: Callable[[], bool]) -> None:
        config, began, before = self.config, time.monotonic(), self.seconds
        gathered: dict[str, list[torch.Tensor]] = {}
        while self.step < config.steps and not self._time_is_up(config.max_seconds, self.seconds):
            rate = self._learning_rate()
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
            for micro in range(config.accumulation):
                for name, value in micro_step(self.step * config.accumulation + micro, 1.0 / config.accumulation).items():
                    gathered.setdefault(name, []).append(value.detach())
            gathered.setdefault("grad_norm", []).append(self._reduce_and_clip())
            self.optimizer.step()
            self.step += 1
            if self.average is not None:
                self.average.update(self.parameters, self.step)
            self.seconds = before + time.monotonic() - began
            if self.step % config.log_every == 0 or self.step == config.steps:
                self._log(gathered, rate, bar)
                gathered = {}
            if self.step % config.checkpoint_every == 0:
                self.save()
            if self.step % config.sample_every == 0:
                self._sample(sample)
            if self.step < config.steps and self._stops(interrupted):
                self.save()
                raise PutAway(self.folder / CHECKPOINT, f"step {self.step}")
            if self._time_is_up(config.pause_seconds, self.seconds - before) and self.step < config.steps:
                self.save()
                raise TrainingPaused
        if gathered:
            self._log(gathered, self.optimizer.param_groups[0]["lr"], bar)
        self._sample(sample)

    def _stops(self, interrupted: Callable[[], bool]) -> bool:
        """Whether any process was interrupted; several ask each other only where a row is written."""
        if self.accelerator.num_processes == 1:
            return interrupted()
        return self.step % self.config.log_every == 0 and self._agreed(float(interrupted())) > 0

    def finish(self) -> None:
        """Put the average in place of the weights and drop the checkpoint: the artefact is about to be written."""
        if self.average is not None:
            self.average.put_into(self.parameters)

    def _sample(self, sample: Callable[[int], None]) -> None:
        if not self.accelerator.is_main_process and self.processes.mesh is None:
            return
        before = None if self.average is None else self.average.put_into(self.parameters)
        sample(self.step)
        if before is not None:
            with torch.no_grad():
                for name, value in before.items():
                    self.parameters[name].copy_(value)

    def _learning_rate(self) -> float:
        config = self.config
        warm = min(1.0, (self.step + 1) / max(config.warmup_steps, 1))
        if config.schedule == "constant":
            return config.lr * warm
        progress = self.step / config.steps
        if config.max_seconds is not None:
            progress = max(progress, self._agreed(self.seconds) / config.max_seconds)
        return config.lr * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))

    def _time_is_up(self, limit: float | None, seconds: float) -> bool:
        return limit is not None and self._agreed(seconds) >= limit

    def _agreed(self, seconds: float) -> float:
        """The slowest process's clock, so that all processes decide alike."""
        if self.accelerator.num_processes == 1:
            return seconds
        clock = torch.tensor([seconds], device=self.accelerator.device)
        return float(self.accelerator.gather(clock).max())

    def _reduce_and_clip(self) -> torch.Tensor:
        parameters = list(self.parameters.values())
        gradients = []
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = gradient
            gradients.append(gradient)
        self.processes.combine_gradients(gradients)
        norm = gradient_norm(gradients)
        if self.config.grad_clip is not None:
            share = torch.clamp(self.config.grad_clip / (norm + 1e-6), max=1.0)
            torch._foreach_mul_([local(g) for g in gradients], share)
        return norm

    def _log(self, gathered: dict[str, list[torch.Tensor]], rate: float, bar: TrainingBar | None) -> None:
        means = {name: float(torch.stack([v.float() for v in values]).mean()) for name, values in gathered.items()}
        if not math.isfinite(means["loss"]):
            raise UserError(f"training: the loss is {means['loss']} at step {self.step}; give a lower --lr, or --precision fp32.")
        if not self.accelerator.is_main_process:
            return
        row: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds, 3), "lr": rate} | means
        with (self.folder / CURVE).open("a") as file:
            file.write(json.dumps(row) + "\n")
        if bar is not None:
            bar(self.step, self.seconds, means)


def _groups(parameters: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, gains and gates (one axis longer than 1 at most) do not."""
    decayed = [p for p in parameters.values() if sum(size > 1 for size in p.shape) > 1]
    others = [p for p in parameters.values() if sum(size > 1 for size in p.shape) <= 1]
    return [{"params": g, "weight_decay": d} for g, d in ((decayed, weight_decay), (others, 0.0)) if g]
