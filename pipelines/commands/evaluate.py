"""`splatmend evaluate`: scores of clips against the truth, or of a scene on and off its recorded path."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from splatmend.datasets.errors import UserError
from splatmend.pipelines.evaluation.scores import EvaluateConfig
from splatmend.pipelines.evaluation.viewpoints import ViewpointsConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score clips against the truth (with two clips of the same shots, raw and enhanced, the table shows the difference), or a scene along
    its recorded path, beside it, and from cameras that the fit left out."""

    clip_or_scene: Positional[Path]
    """Clip to score (a clip, a video file or a folder of images), or scene to render and score."""
    enhanced: Path | None = None
    """The same shots after enhancement: a second row."""
    also: tuple[Path, ...] = ()
    """More clips of the same shots: rows named as their folders."""
    truth: Path | None = None
    """A clip of the same shots (also a video file or a folder of images), the log that the scene was fitted to, or a folder that
    `splatmend street` wrote. A scene takes its log or street only, by default where it says that its log lies."""
    out: Path
    """Folder of the scores to write."""
    config: Annotated[EvaluateConfig, arg(name="")] = field(default_factory=EvaluateConfig)
    """What counts."""
    viewpoints: Annotated[ViewpointsConfig, arg(name="")] = field(default_factory=ViewpointsConfig)
    """Where a scene is judged."""
    model: str = "none"
    """Folder of an enhancer or "bundled", for rows of a scene's enhanced renders; none leaves them out."""
    references: bool = True
    """Give renders that are to be enhanced what fitted frames show of them, where the enhancer takes it."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace existing scores."""


def run(options: Options) -> int:
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.evaluation.scene_scores import is_scene

    refuse_existing(options.out, options.overwrite)
    if not options.clip_or_scene.exists():
        raise UserError(
            f"{options.clip_or_scene}: there is no such file or folder; give a scene that splatmend fit wrote, or a clip, a video file or "
            "a folder of images."
        )
    if is_scene(options.clip_or_scene):
        _run_scene(options)
    else:
        _run_clips(options)
    print(f"scores: {options.out / 'scores.json'}")
    return 0


def _run_clips(options: Options) -> None:
    from rich.console import Console

    from splatmend.datasets.clip import open_clip
    from splatmend.pipelines.evaluation.scene_table import how_to_provide
    from splatmend.pipelines.evaluation.scores import evaluate
    from splatmend.pipelines.evaluation.table import score_table
    from splatmend.pipelines.evaluation.truth import open_truth

    if options.clip_or_scene.name.endswith(".partial"):
        raise UserError(
            f"{options.clip_or_scene}: this is still being written; finish it with --resume, and give the folder that comes of it."
        )
    open_clip(options.clip_or_scene)
    if options.viewpoints.asks or options.model != "none":
        raise UserError(
            f"{options.clip_or_scene}: shift, height, yaw, camera, max-frames and model are for scenes; give a scene, or leave them out."
        )
    if options.truth is None:
        raise UserError(f"{options.clip_or_scene}: a clip is scored against a truth; give --truth PATH.")
    clips = {"raw": options.clip_or_scene}
    if options.enhanced is not None:
        clips["enhanced"] = options.enhanced
    for path in options.also:
        name = path.stem if path.is_file() else path.name
        if name in (*clips, "truth"):
            raise UserError(f"{path}: a row called {name} is there already; rename the folder.")
        clips[name] = path
    scores = evaluate(clips, open_truth(options.truth), options.out, options.config, device=options.device, overwrite=options.overwrite)
    Console().print(score_table(scores))
    print("".join(f"{line}\n" for line in how_to_provide(scores)), end="")


def _run_scene(options: Options) -> None:
    from rich.console import Console

    from splatmend.datasets.artifact import read_manifest
    from splatmend.datasets.progress import ConsoleBar
    from splatmend.datasets.readers.registry import open_log
    from splatmend.pipelines.evaluation.scene_scores import evaluate_scene
    from splatmend.pipelines.evaluation.scene_table import how_to_provide, not_measured, scene_tables
    from splatmend.pipelines.evaluation.truth import ClipTruth, StreetTruth, open_truth
    from splatmend.pipelines.scene_log import log_path_of_scene

    scene = options.clip_or_scene
    if options.enhanced is not None or options.also:
        raise UserError(f"{scene}: this is a scene, whose enhanced rows come from --model; leave --enhanced and --also out.")
    place = options.truth or log_path_of_scene(scene, read_manifest(scene, "scene").facts, "--truth")
    try:
        truth = open_truth(place)
    except UserError as fault:
        if options.truth is not None:
            raise
        raise UserError(f"{scene}: its log lay at {place}, where now is none ({fault}); give --truth PATH.") from fault
    if isinstance(truth, ClipTruth):
        raise UserError(f"{place}: a scene is held against its log or street, not a clip; give one of these.")
    enhance, facts, layers = _enhancing(options)
    with ConsoleBar("evaluate", 1) as bar:
        scores = evaluate_scene(
            scene,
            open_log(place),
            truth if isinstance(truth, StreetTruth) else None,
            options.out,
            options.viewpoints,
            options.config,
            enhance=enhance,
            references=layers,
            facts=facts,
            device=options.device,
            overwrite=options.overwrite,
            on_progress=bar.show,
        )
    for table in scene_tables(scores):
        Console().print(table)
    if not isinstance(truth, StreetTruth):
        print(f"{place}: this is no procedural street, so pictures beside the recorded path have scores only that need no true picture.")
    if absent := not_measured(scores):
        print(absent)
    print("".join(f"{line}\n" for line in how_to_provide(scores)), end="")
    print(f"strips: {options.out / 'strips'}")


def _enhancing(options: Options) -> tuple[Any, dict[str, Any], int]:
    """What enhances a clip into a folder, the enhancer's facts, and layers of references for it; (None, {}, 0) without a model."""
    if options.model == "none":
        return None, {}, 0
    from splatmend.pipelines.commands.enhancing import enhancing

    found = enhancing(options.model, options.device)
    return found.enhance, {"enhancer": found.facts}, found.references if options.references else 0
