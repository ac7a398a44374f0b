"""From a log to a scene on disk."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from splatmend.datasets.artifact import Manifest, building, partial_folder, plain
from splatmend.datasets.checkpoint import load_checkpoint, save_checkpoint
from splatmend.datasets.errors import UserError
from splatmend.datasets.interruption import PutAway, interruptions_noted
from splatmend.datasets.launch import launched_rank
from splatmend.datasets.log import SceneLog
from splatmend.datasets.log_key import log_key
from splatmend.datasets.readers.registry import on_disk
from splatmend.recon.fit.astray import warn_of_worse
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.config_json import resolved
from splatmend.recon.fit.corrections import NotFiniteError
from splatmend.recon.fit.data import prepared_log, recorded_shots
from splatmend.recon.fit.heldout import held_out_rows, mean_row
from splatmend.recon.fit.movers import log_with_movers
from splatmend.recon.fit.processes import joined_processes
from splatmend.recon.fit.progress import FitBar
from splatmend.recon.fit.trainer import StepReport, Trainer
from splatmend.recon.scene import LOG_PATH_FACT, SUN_FACT, Scene
from splatmend.recon.scene_files import save_scene, scene_facts, write_scene

CHECKPOINT = "checkpoint.pt"
CURVE = "curve.jsonl"
OnProgress = Callable[[dict[str, Any]], None]
"""Called with each row of the loss curve (iteration, loss, psnr of that picture, gaussians, terms, mean_psnr of so many pictures)."""
_logger = logging.getLogger(__name__)


def fit(
    log: SceneLog,
    out: Path,
    config: FitConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Fit a scene to a log and write it as an artefact; returns its folder.

    Beside the scene's files it holds `curve.jsonl` (loss terms over iterations), `heldout.jsonl` (scores per held-out frame; their means
    are in the manifest's facts under `held_out`) and `snapshots/ITERATION/` (scenes, where asked for). `resume` goes on from the
    checkpoint in `OUT.partial`, if there is one; Ctrl-C and SIGTERM leave one after the iteration that is running. Without `on_progress`
    a bar is shown where standard error is a terminal.

    Processes that `torchrun` or `accelerate launch` started together fit one scene: all call this with the same arguments. Only the first
    one writes, shows rows and scores; the others return when the iterations are done, before the scene is there.

    Raises:
        UserError: where `out` exists, the log lacks what the settings name, a checkpoint does not fit, CUDA is asked for and missing, or
            another process has ended.
        KeyboardInterrupt: after Ctrl-C or SIGTERM.
    """
    out = Path(out)
    device = fit_device(config)
    prepared = log_with_movers(prepared_log(log, config.data, config.camera_model), config.movers)
    first = launched_rank() == 0
    for note in prepared.notes[len(log.notes) :] if first else ():
        _logger.warning("%s: %s", log.path, note)
    kept = tuple(actor for actor in prepared.actors if actor.actor_class not in config.actors.left_out)
    prepared = replace(prepared, actors=kept)
    shots = recorded_shots(prepared, config.data)
    manifest = Manifest(
        kind="scene",
        config=plain(resolved(config)),
        inputs={"log": log_key(log)},
    )
    checkpoint = partial_folder(out) / CHECKPOINT
    with building(out, manifest, overwrite=overwrite, resume=resume) if first else nullcontext(partial_folder(out)) as folder:
        with joined_processes(device) as processes:
            trainer = Trainer(prepared, shots, config, device, processes=processes)
            if resume and checkpoint.is_file():
                trainer.load_state_dict(load_checkpoint(checkpoint))
                _logger.info("%s: going on after iteration %d", out, trainer.iteration)
            trainer.align()
            started = time.monotonic()
            done_before = trainer.iteration
            run_iterations(trainer, folder, config.iterations, on_progress)
            if first:
                warn_of_worse(out, read_curve(folder / CURVE), CURVE)
            seconds, done_now = time.monotonic() - started, trainer.iteration - done_before
        if not first:
            return out
        scene = trainer.finished_scene()
        facts = {
            "iterations": config.iterations,
            "seconds_per_iteration": seconds / done_now if done_now else None,
            "device": str(device),
            "processes": processes.count,
            "notes": list(prepared.notes),
        }
        manifest.facts = write_scored(folder, scene, prepared, facts, config, device)
        # Only now, when all files stand, is the checkpoint of no more use.
        checkpoint.unlink(missing_ok=True)
    return out


def write_scored(
    folder: Path, scene: Scene, log: SceneLog, facts: Mapping[str, Any], config: FitConfig, device: torch.device
) -> dict[str, Any]:
    """Score a finished scene on the held-out frames of its prepared log and write its files and `heldout.jsonl` into a folder; returns the
    manifest's facts: the given ones, the scores and what the scene says of itself."""
    rows = list(held_out_rows(scene.to(device), log, backend=config.backend))
    with (folder / "heldout.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    sun = {} if log.sun_direction_world is None else {SUN_FACT: list(log.sun_direction_world)}
    place = {LOG_PATH_FACT: str(log.path.absolute())} if on_disk(log.path) else {}
    scene = replace(scene, facts={"held_out": mean_row(rows), **sun, **place, **facts})
    write_scene(folder, scene)
    return scene_facts(scene)


def run_iterations(trainer: Trainer, folder: Path, until: int, on_progress: OnProgress | None = None) -> None:
    """Let a trainer go on until so many of its iterations are done. The loss curve, snapshots and checkpoints lie in the folder, which
    `artifact.building` gave; the last checkpoint is that of the last iteration, so that nothing is lost where what comes after it fails.
    Of several processes all call this, the first one writes, and all stop where one is interrupted.

    Raises:
        UserError: where the fit has diverged.
        PutAway: after Ctrl-C or SIGTERM, with a checkpoint written.
    """
    config, processes, due = trainer.config, trainer.processes, trainer.scaling.due
    with ExitStack() as held:
        show = held.enter_context(_curve_rows(folder, trainer, on_progress)) if processes.first else _ignored
        interrupted = held.enter_context(interruptions_noted(patient=processes.count > 1))
        report: StepReport | None = None
        try:
            while trainer.iteration < until:
                before = trainer.iteration
                report = trainer.step()
                iteration = trainer.iteration
                last = iteration >= until
                saving = due(config.checkpoint_every, iteration) or last
                if due(config.log_every, iteration) or before == 0 or saving:
                    show(report.as_row(iteration, trainer.gaussian_count, processes) | trainer.recent.take())
                for wanted in config.snapshots_at:
                    if before < wanted <= iteration and processes.first:
                        _save_snapshot(trainer, folder, wanted)
                stopping = processes.any(interrupted())
                if stopping:
                    # Which refuses what no run should go on from.
                    report.as_row(iteration, trainer.gaussian_count, processes)
                if (saving or stopping) and processes.first:
                    trainer.check_finite()
                    save_checkpoint(folder / CHECKPOINT, trainer.state_dict())
                if stopping:
                    raise PutAway(folder / CHECKPOINT, f"iteration {iteration}")
        except NotFiniteError as fault:
            if report is not None:
                # Gradients of poses are looked at a step later: where a term of the loss is at fault, this names it. Of this process alone,
                # for the others need not have come to this place.
                report.as_row(trainer.iteration, trainer.gaussian_count)
            raise UserError(f"fit: {fault} at iteration {trainer.iteration}; lower the learning rates.") from fault


@contextmanager
def _curve_rows(folder: Path, trainer: Trainer, on_progress: OnProgress | None) -> Iterator[OnProgress]:
    """What takes the rows of the loss curve: the curve's file, and `on_progress` or a bar."""
    bar = FitBar(trainer.config.iterations) if on_progress is None else nullcontext(on_progress)
    _cut_curve(folder / CURVE, trainer.iteration)
    with bar as show, (folder / CURVE).open("a") as curve:

        def write(row: dict[str, Any]) -> None:
            curve.write(json.dumps(row) + "\n")
            curve.flush()
            show(row)

        yield write


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a loss curve; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.is_file() else []


def _ignored(row: dict[str, Any]) -> None:
    """What a process does with rows that the first one shows."""


def _save_snapshot(trainer: Trainer, folder: Path, wanted: int) -> None:
    """The scene after the step that brought an iteration."""
    scene = replace(trainer.finished_scene(), facts={"iterations": trainer.iteration})
    # A run that was interrupted after this iteration comes by here again.
    save_scene(folder / "snapshots" / f"{wanted:06d}", scene, plain(trainer.config), overwrite=True)


def _cut_curve(path: Path, iteration: int) -> None:
    """Drop the rows that an interrupted run wrote after its last checkpoint."""
    if path.is_file():
        path.write_text("".join(json.dumps(row) + "\n" for row in read_curve(path) if row["iteration"] <= iteration))


def fit_device(config: FitConfig) -> torch.device:
    """Where a fit runs; `UserError` where there is no such device, or the rasteriser that is asked for draws elsewhere."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("fit settings: device is cuda, but torch sees no CUDA device; choose cpu or auto.")
    wanted = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    drawn_on = {"gsplat": "cuda", "cpu": "cpu", None: wanted}[config.backend]
    if drawn_on != wanted:
        raise UserError(f"fit settings: backend {config.backend} draws on {drawn_on}, but the device is {wanted}; leave the backend out.")
    return torch.device(wanted)
