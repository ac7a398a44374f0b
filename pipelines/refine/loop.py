"""From a scene and its log to a better scene: round after round of extra views, farther from the recorded path each time."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from splatmend.datasets.artifact import MANIFEST, Manifest, building, content_key, partial_folder, plain, read_json, read_manifest
from splatmend.datasets.checkpoint import load_checkpoint
from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.log_key import log_key
from splatmend.pipelines.evaluation.same_shots import check_same_log
from splatmend.pipelines.refine.config import RefineConfig
from splatmend.pipelines.refine.rounds import Enhance, extra_views, is_whole, make_round, read_round
from splatmend.recon.fit.astray import warn_of_worse
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.config_json import fit_config_from_json
from splatmend.recon.fit.continuing import ContinuedTrainer, continued_config
from splatmend.recon.fit.data import prepared_log
from splatmend.recon.fit.extra_views import ExtraView
from splatmend.recon.fit.fit import CHECKPOINT, CURVE, OnProgress, fit_device, read_curve, run_iterations, write_scored
from splatmend.recon.fit.movers import log_with_movers
from splatmend.recon.references import References, references_of
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import load_scene

ROUNDS = "rounds"
_logger = logging.getLogger(__name__)


def refine(
    scene_path: Path,
    log: SceneLog,
    out: Path,
    config: RefineConfig,
    enhance: Enhance,
    *,
    enhancer: Mapping[str, Any] | None = None,
    references: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Refine a scene with enhanced renders beside its path, and write it as an artefact of its own; returns its folder.

    It holds what a fitted scene does (`curve.jsonl` of these iterations, `heldout.jsonl`), in the manifest's configuration the settings of
    the fit and of this, in its facts `rounds` (shift, paths, extra views and their mean weight) and `held_out_before`. `resume` goes on
    from the checkpoint in `OUT.partial`, if there is one, to the same scene as without the interruption.

    Args:
        log: what the scene was fitted to.
        enhance: see `rounds.Enhance`.
        enhancer: facts about it, for the manifest; a run is resumed with the same ones only.
        references: layers of them that it takes from a clip; renders have none where `config` leaves them out.
        on_progress: called with rows of the loss curve; without it a bar is shown where standard error is a terminal.

    Raises:
        UserError: where the scene was not fitted, the log is another one, `out` exists, or a checkpoint does not fit.
        KeyboardInterrupt: after Ctrl-C or SIGTERM.
    """
    out = Path(out)
    manifest_before = read_manifest(scene_path, "scene")
    fitted = _fit_config(scene_path, manifest_before)
    scene = load_scene(scene_path)
    check_same_log(scene_path, scene.log_id, log.path, log.log_id)
    if manifest_before.inputs.get("log") != log_key(log):
        raise UserError(f"{log.path}: it has changed since {scene_path} was fitted to it, or is another log; give that one, or fit again.")
    total = config.iterations * len(config.shifts)
    going_on = replace(continued_config(fitted, config.how, total), device=device, backend=None)
    prepared = log_with_movers(prepared_log(log, going_on.data, going_on.camera_model), going_on.movers)
    where = fit_device(going_on)
    scene_key = content_key([read_json(Path(scene_path) / MANIFEST)])
    settings_key = content_key([replace(config, keep_clips=False), dict(enhancer or {}), scene_key])
    manifest = Manifest(
        kind="scene", config={"fit": plain(fitted), "refine": plain(config)}, inputs={"log": log_key(log), "scene": scene_key}
    )
    checkpoint = partial_folder(out) / CHECKPOINT
    lookup = partial(references_of, log=log, layers=references if config.references else 0)
    with building(out, manifest, overwrite=overwrite, resume=resume) as folder:
        trainer = ContinuedTrainer(prepared, scene, going_on, config.how, where, settings_key)
        if resume and checkpoint.is_file():
            trainer.load_state_dict(load_checkpoint(checkpoint))
            _logger.info("%s: going on after iteration %d of %d", out, trainer.iteration, total)
        started, done_before = time.monotonic(), trainer.iteration
        for number in range(trainer.iteration // config.iterations, len(config.shifts)):
            _run_round(trainer, folder, number, config, enhance, on_progress, lookup)
        warn_of_worse(out, read_curve(folder / CURVE), CURVE)
        seconds, done_now = time.monotonic() - started, trainer.iteration - done_before
        rounds = [read_round(folder / ROUNDS / f"{number:02d}") for number in range(len(config.shifts))]
        facts = {
            "held_out_before": scene.facts.get("held_out"),
            "rounds": rounds,
            "enhancer": enhancer,
            "iterations": total,
            "seconds_per_iteration": seconds / done_now if done_now else None,
            "device": str(where),
            "notes": list(log.notes),
        }
        manifest.facts = write_scored(folder, trainer.finished_scene(), prepared, facts, going_on, where)
        if not config.keep_clips:
            shutil.rmtree(folder / ROUNDS)
        checkpoint.unlink(missing_ok=True)
    return out


def _run_round(
    trainer: ContinuedTrainer,
    folder: Path,
    number: int,
    config: RefineConfig,
    enhance: Enhance,
    on_progress: OnProgress | None,
    lookup: Callable[[Scene], References | None],
) -> None:
    """One round: its extra views, made of the scene as it is when the round begins, then its iterations."""
    here = folder / ROUNDS / f"{number:02d}"
    if trainer.iteration == number * config.iterations and not is_whole(here):
        scene = trainer.finished_scene().to(trainer.device)
        make_round(scene, here, config.shifts[number], config, enhance, lookup(scene))
    trainer.show_also(_views_of(folder, number, config))
    run_iterations(trainer, folder, (number + 1) * config.iterations, on_progress)


def _views_of(folder: Path, number: int, config: RefineConfig) -> list[ExtraView]:
    first = 0 if config.earlier_views == "kept" else number
    return [view for earlier in range(first, number + 1) for view in extra_views(folder / ROUNDS / f"{earlier:02d}")]


def _fit_config(path: Path, manifest: Manifest) -> FitConfig:
    """The settings that a scene was fitted with; of a refined scene, those of the fit before."""
    try:
        return fit_config_from_json(manifest.config.get("fit", manifest.config))
    except (TypeError, ValueError) as fault:
        raise UserError(f"{path}: it does not say how it was fitted ({fault}); give a scene that splatmend fit wrote.") from None
