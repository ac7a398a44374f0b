"""The log that a scene was fitted to, found again for its recorded pictures and what references make of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.readers.registry import on_disk, open_log
from splatmend.pipelines.evaluation.same_shots import check_same_log
from splatmend.recon.references import References, references_of
from splatmend.recon.scene import LOG_PATH_FACT, Scene


def log_of_scene(path: Path, scene: Scene, given: Path | None = None) -> SceneLog:
    """The log of a scene in a folder: the given one, else that where the scene says it lay.

    Raises:
        UserError: where neither is there, or it is another log.
    """
    log = open_log(log_path_of_scene(path, scene.facts, "--log") if given is None else given)
    check_same_log(path, scene.log_id, log.path, log.log_id)
    return log


def log_path_of_scene(path: Path, facts: Mapping[str, Any], option: str) -> Path:
    """Where the log of a scene in a folder lies, by the scene's facts.

    Raises:
        UserError: where they do not say, or it is not there any more; the sentence names the option that gives it.
    """
    named = facts.get(LOG_PATH_FACT)
    if not isinstance(named, str):
        raise UserError(f"{path}: the scene does not say where its log lies; give {option} PATH.")
    if not on_disk(Path(named)):
        raise UserError(f"{path}: its log is no longer at {named}; give {option} PATH.")
    return Path(named)


def check_references(layers: int, log: Path | None) -> None:
    """`UserError` for numbers of layers that cannot be, and for a log that nobody reads."""
    if layers < 0:
        raise UserError(f"references: {layers} is no number of layers; give 0 or more.")
    if log is not None and not layers:
        raise UserError(f"{log}: a log is read for references only; give --references 2 as well, or leave --log out.")


def references_for(path: Path, scene: Scene, layers: int, log: Path | None = None) -> References | None:
    """So many layers of references of a scene in a folder, from its log; None for 0. `UserError` as `log_of_scene` has it."""
    return references_of(scene, log_of_scene(path, scene, log), layers) if layers else None
