"""The stages that recipes are made of. Each joins one library function to folders; heavy modules are imported when a stage runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from splatmend.datasets.clip import Encoding
from splatmend.datasets.street.config import StreetConfig
from splatmend.pipelines.device import torch_device
from splatmend.pipelines.stage import StageContext
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.trajectory import TrajectoryConfig


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """What to render."""

    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    """The camera's path."""
    around_held_out: int = 0
    """Instead of the path: a clip of this many frames through the pose of every held-out frame, which stands in its middle."""
    references: int = 2
    """Layers of recorded frames, warped into the view, beside every frame; 0 writes none."""
    encoding: Encoding = "png"
    """How frames are stored."""


@dataclass(frozen=True, kw_only=True)
class EnhanceConfig:
    """How to enhance a clip."""

    strength: float | None = None
    """0 leaves the clip as it is (but for references), 1 takes all of the enhancer's change; None: as the enhancer advises."""
    encoding: Encoding = "png"
    """How frames are stored."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report, by the names of stages: `clips` and `scores` map what is shown to the stage that made it."""

    title: str
    clips: Mapping[str, str]
    scores: Mapping[str, str]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report shows."""

    title: str
    sections: tuple[Section, ...] = ()


def make_street(config: StreetConfig, inputs: Mapping[str, Path], out: Path, context: StageContext) -> None:
    """A procedural street as a log folder, with a bar of its frames where standard error is a terminal."""
    import shutil

    from splatmend.datasets.artifact import naming_full_disk, partial_folder
    from splatmend.datasets.progress import ConsoleBar
    from splatmend.datasets.street import build_street, write_street

    partial = partial_folder(out)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with naming_full_disk(out):
            with ConsoleBar("street", config.frame_count) as bar:
                write_street(build_street(config), partial, bar.show)
            if out.exists():
                shutil.rmtree(out)
            partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def fit_scene(config: FitConfig, inputs: Mapping[str, Path], out: Path, context: StageContext) -> None:
    """A log becomes a scene; an interrupted fit goes on from its checkpoint."""
    from splatmend.pipelines.log_notes import open_log_with_notes
    from splatmend.recon.fit.fit import fit

    log = open_log_with_notes(inputs["log"])
    fit(log, out, replace(config, device=torch_device(context.device)), resume=context.resume, overwrite=True)


def render_scene(config: RenderConfig, inputs: Mapping[str, Path], out: Path, context: StageContext) -> None:
    """A scene becomes a clip, or with `around_held_out` a set of clips; `log` is what it was fitted to, for references."""
    from splatmend.datasets.readers.registry import open_log
    from splatmend.pipelines.clip_sets import building_set
    from splatmend.pipelines.held_out import shots_around_held_out
    from splatmend.recon.references import references_of
    from splatmend.recon.render_clip import render_clip
    from splatmend.recon.scene_files import load_scene
    from splatmend.recon.trajectory import build_trajectory

    scene = load_scene(inputs["scene"], device=torch_device(context.device))
    references = references_of(scene, open_log(inputs["log"]), config.references) if config.references else None
    if not config.around_held_out:
        trajectory = build_trajectory(scene, config.trajectory)
        render_clip(scene, trajectory, out, encoding=config.encoding, references=references, overwrite=True)
        return
    with building_set(out, {"render": config}) as partial:
        for number, (shots, extra) in enumerate(shots_around_held_out(scene, config.around_held_out, config.trajectory.camera)):
            folder = partial / f"{number:03d}"
            render_clip(scene, shots, folder, encoding=config.encoding, extra=extra, references=references)


def enhance(config: EnhanceConfig, inputs: Mapping[str, Path], out: Path, context: StageContext) -> dict[str, Any]:
    """A clip, or every clip of a set, goes through an enhancer; the facts say which."""
    from splatmend.datasets.clip import open_clip
    from splatmend.enhance.artifact import load_enhancer
    from splatmend.enhance.stream import enhance_clip
    from splatmend.enhance.transformer import inference_dtype
    from splatmend.pipelines.clip_sets import building_set, is_set, members
    from splatmend.pipelines.enhancer_facts import enhancer_facts

    device = torch_device(context.device)
    enhancer = load_enhancer(inputs["enhancer"], device=device, dtype=inference_dtype(device))
    facts = {"enhancer": enhancer_facts(inputs["enhancer"], enhancer.spec)}
    if not is_set(inputs["clip"]):
        enhance_clip(enhancer, open_clip(inputs["clip"]), out, strength=config.strength, encoding=config.encoding, overwrite=True)
        return facts
    with building_set(out, {"enhance": config}) as partial:
        for clip in members(inputs["clip"]):
            enhance_clip(enhancer, open_clip(clip), partial / clip.name, strength=config.strength, encoding=config.encoding)
    return facts


def score(config: Any, inputs: Mapping[str, Path], out: Path, context: StageContext) -> None:
    """Clips against the truth; inputs are one per row, and `log` (recorded frames) or `truth` (whatever it is)."""
    from splatmend.datasets.readers.registry import open_log
    from splatmend.pipelines.evaluation.scores import evaluate
    from splatmend.pipelines.evaluation.truth import LogTruth, open_truth

    clips = {name: path for name, path in inputs.items() if name not in ("truth", "log")}
    truth = LogTruth(log=open_log(inputs["log"])) if "log" in inputs else open_truth(inputs["truth"])
    evaluate(clips, truth, out, config, device=context.device, overwrite=True)


def report(config: ReportConfig, inputs: Mapping[str, Path], out: Path, context: StageContext) -> None:
    """The page about a run; inputs are `log`, `scene`, and every stage that a section names."""
    from splatmend.datasets.artifact import plain
    from splatmend.pipelines.records import done_records_behind
    from splatmend.pipelines.report.build import ReportInputs, build_report
    from splatmend.pipelines.report.from_run import comparison

    made = ReportInputs(
        title=config.title,
        comparisons=[comparison(out.parent, plain(section)) for section in config.sections],
        scene=inputs["scene"],
        log=inputs["log"],
        records=done_records_behind(out.parent, out.name),
    )
    build_report(made, out, overwrite=True)
