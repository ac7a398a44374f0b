"""Scores of a scene off the recorded path.

The folder (artefact kind "scene_scores") holds `scores.json` (the metrics with their direction and, where nothing could be measured, the
reason; per row the path, means and how many frames they are over), `per_frame.jsonl` (a line per row and frame), and `strips/*.png`. A path
is a row, and one more ("..., enhanced") where an enhancer is given.

Metrics that need a truth have one at every shot of a procedural street, and on the recorded frames of other logs. Of the recorded path only
held-out frames count for them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from splatmend.datasets.artifact import MANIFEST, Manifest, building, read_manifest, write_json
from splatmend.datasets.clip import Clip, ClipFrame, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.shot import Shot
from splatmend.pipelines.device import torch_device
from splatmend.pipelines.evaluation.coverage import TrainingViews
from splatmend.pipelines.evaluation.detectors import Detector, LaneModel, open_detector, open_lane_model
from splatmend.pipelines.evaluation.distributions import FrameSet
from splatmend.pipelines.evaluation.flow import estimated_flow
from splatmend.pipelines.evaluation.lidar_depth import depth_errors_m
from splatmend.pipelines.evaluation.metrics import FEW_VIEWS, REGISTRY, SEE_THROUGH, Distribution, FrameView, Metric, SceneView
from splatmend.pipelines.evaluation.novel_agents import AgentView, LaneView, expected_boxes_px
from splatmend.pipelines.evaluation.readout import as_drawn
from splatmend.pipelines.evaluation.same_shots import check_same_log
from splatmend.pipelines.evaluation.scores import SCORES, EvaluateConfig, Row, lockstep, picture_tensor, usable_tensor
from splatmend.pipelines.evaluation.strips import Strip, unseen_overlay
from splatmend.pipelines.evaluation.truth import LogTruth, StreetTruth, TrueFrame
from splatmend.pipelines.evaluation.viewpoints import Viewpoint, ViewpointsConfig, viewpoints
from splatmend.recon.references import References, references_of
from splatmend.recon.render_clip import render_clip
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import load_scene

PER_FRAME = "per_frame.jsonl"
Enhance = Callable[[Clip, Path], Path]


def is_scene(path: Path) -> bool:
    """Whether the folder is a scene; `UserError` where its manifest cannot be read."""
    return (Path(path) / MANIFEST).is_file() and read_manifest(path).kind == "scene"


@dataclass(frozen=True, kw_only=True)
class Judges:
    """What pictures are held against: the log, the oracle of a street (None for other logs), and which metrics."""

    log: SceneLog
    street: StreetTruth | None
    metrics: Sequence[Metric]
    distributions: Sequence[Distribution]
    detector: Detector | None = None
    lane_model: LaneModel | None = None

    def missing(self, entry: Metric | Distribution) -> str | None:
        """Why an entry cannot judge anything here, or None."""
        if isinstance(entry, Metric) and "detector" in entry.needs and self.detector is None:
            return "no detector"
        if isinstance(entry, Metric) and "lane_model" in entry.needs and self.lane_model is None:
            return "no lane model"
        return entry.missing()

    @property
    def entries(self) -> list[Metric | Distribution]:
        """All of the registry's entries that judge."""
        return [*self.metrics, *self.distributions]

    def truth_of(self, viewpoint: Viewpoint, frames: Sequence[ClipFrame]) -> Iterator[TrueFrame | None]:
        if self.street is not None:
            return self.street.frames(frames)
        return LogTruth(log=self.log).frames(frames) if viewpoint.recorded else repeat(None, len(frames))

    def describe(self) -> dict[str, Any]:
        return self.street.describe() if self.street is not None else LogTruth(log=self.log).describe()


def evaluate_scene(
    path: Path,
    log: SceneLog,
    street: StreetTruth | None,
    out: Path,
    where: ViewpointsConfig,
    config: EvaluateConfig,
    *,
    enhance: Enhance | None = None,
    references: int = 0,
    facts: Mapping[str, Any] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Render a scene on and off its recorded path, judge the pictures and write the folder `out`; returns what `scores.json` holds.

    Args:
        log: what the scene was fitted to.
        street: its oracle, where it is a procedural street.
        enhance: makes an enhanced clip of a clip in a folder; None leaves the enhanced rows out.
        references: layers of fitted frames that the enhancer finds beside each render; held-out frames never serve.
        facts: about the enhancer, for the manifest.
        on_progress: called with the number of pictures done (training views, then frames that are judged) and of all.

    Raises `UserError` where the log is another one, or a path asks for what the scene does not have.
    """
    if config.frames != "all":
        raise UserError("frames: of a scene's recorded path only held-out frames count anyway; leave --frames out.")
    scene = load_scene(path, device=torch_device(device))
    _check_log(path, scene, log)
    named = config.metrics
    judges = Judges(
        log=log,
        street=street,
        metrics=[metric for metric in REGISTRY.metrics.values() if not named or metric.name in named],
        distributions=[entry for entry in REGISTRY.distributions.values() if not named or entry.name in named],
        detector=None if config.detector is None else open_detector(config.detector, config.detector_classes, scene.device),
        lane_model=None if config.lane_model is None else open_lane_model(config.lane_model, scene.device),
    )
    plan = viewpoints(scene, log, where)
    manifest = Manifest(
        kind="scene_scores",
        config={"viewpoints": where, "evaluate": config, "references": references, "scene": path, "truth": judges.describe()},
        facts=facts or {},
    )
    training = sum(recorded.role == "train" for recorded in scene.shots)
    tick = _Ticks(total=training + sum(len(viewpoint.trajectory) for viewpoint in plan), on_progress=on_progress)
    with building(out, manifest, overwrite=overwrite) as partial:
        evaluation = _Evaluation(
            scene=scene,
            judges=judges,
            views=TrainingViews.of(scene, on_view=tick),
            tick=tick,
            references=references_of(scene, log, references),
        )
        with (partial / PER_FRAME).open("w") as lines:
            for viewpoint in plan:
                for row in evaluation.judge(viewpoint, partial, enhance):
                    lines.writelines(json.dumps({"row": row.name} | frame) + "\n" for frame in row.frames)
        scores = evaluation.scores()
        write_json(partial / SCORES, scores)
    return scores


def _check_log(path: Path, scene: Scene, log: SceneLog) -> None:
    check_same_log(path, scene.log_id, log.path, log.log_id)
    times_us = {(frame.camera, frame.start_us) for frame in log.frames}
    if any((recorded.shot.camera.name, recorded.shot.start_us) not in times_us for recorded in scene.shots):
        raise UserError(f"{log.path}: it lacks frames of the recorded path of {path}; give the log that the scene was fitted to.")


@dataclass(kw_only=True)
class _Ticks:
    """Counts pictures and tells whoever wants to know."""

    total: int
    on_progress: Callable[[int, int], None] | None
    done: int = 0

    def __call__(self) -> None:
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(self.done, self.total)


@dataclass(kw_only=True)
class _Evaluation:
    """What is known after each path."""

    scene: Scene
    judges: Judges
    views: TrainingViews
    tick: Callable[[], None]
    references: References | None = None
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str | None] = field(default_factory=dict)
    sets: dict[str, FrameSet] = field(default_factory=dict)
    truth_counts: bool = False
    flow: str | None = None

    def __post_init__(self) -> None:
        for entry in self.judges.entries:
            self.missing[entry.name] = self.judges.missing(entry)

    def judge(self, viewpoint: Viewpoint, folder: Path, enhance: Enhance | None) -> list[Row]:
        """Render, enhance and score one path; its clips are removed again, for they are as long as the log."""
        work = folder / "clips"
        clips = {"raw": open_clip(render_clip(self.scene, viewpoint.trajectory, work / "raw", depth=True, references=self.references))}
        if enhance is not None:
            clips["enhanced"] = open_clip(enhance(clips["raw"], work / "enhanced"))
        off_camera = viewpoint.trajectory.shots[0].camera.name not in self.scene.cameras
        if viewpoint.recorded and not off_camera:
            self._gather_real_frames(clips["raw"])
        names = {kind: viewpoint.name if kind == "raw" else f"{viewpoint.name}, {kind}" for kind in clips}
        rows = self._score_frames(viewpoint, clips, names, folder / "strips" / f"{viewpoint.file_stem}.png")
        for kind, row in rows.items():
            summary = row.summary(self.judges.metrics)
            for entry in self.judges.distributions:
                comparable = entry.name in self.sets and not off_camera
                value = _distance(self.sets[entry.name], clips[kind]) if comparable else None
                summary["mean"][entry.name], summary["count"][entry.name] = value, 0 if value is None else len(clips[kind])
            path = {"camera": viewpoint.trajectory.shots[0].camera.name, "changes": viewpoint.changes, "recorded": viewpoint.recorded}
            self.rows[row.name] = {"path": path, "clip": kind, "frames": len(clips[kind]), **summary}
        shutil.rmtree(work)
        return list(rows.values())

    def scores(self) -> dict[str, Any]:
        described = {}
        for entry in self.judges.entries:
            reason = self.missing[entry.name]
            if reason is None and all(row["count"][entry.name] == 0 for row in self.rows.values()):
                untrue = isinstance(entry, Metric) and entry.suits_clips and not self.truth_counts
                reason = "no true picture (of recorded frames those that were held out have one)" if untrue else entry.undefined
            described[entry.name] = {
                "label": entry.label,
                "direction": entry.direction,
                "decimals": entry.decimals,
                "group": _group(entry),
                "missing": reason,
                "provide": entry.provide if self.missing[entry.name] is not None else "",
            }
        return {
            "truth": self.judges.describe(),
            "unit_of_length": "metre" if self.scene.metric else "median camera step",
            "see_through_below_opacity": SEE_THROUGH,
            "few_views": FEW_VIEWS,
            "flow": self.flow,
            "metrics": described,
            "rows": self.rows,
        }

    def _gather_real_frames(self, clip: Clip) -> None:
        """The recorded frames of the camera whose paths are judged, for what compares sets of frames."""
        usable = [entry for entry in self.judges.distributions if self.missing[entry.name] is None]
        self.sets = {entry.name: entry.start(self.scene.device) for entry in usable}
        if self.sets:
            for true in LogTruth(log=self.judges.log).frames(clip.frames):
                for gathered in self.sets.values():
                    if true is not None:
                        gathered.add_real(true.rgb)

    def _score_frames(self, viewpoint: Viewpoint, clips: Mapping[str, Clip], names: Mapping[str, str], strip_path: Path) -> dict[str, Row]:
        """Score the clips of one path frame by frame, raw and enhanced side by side, and draw its strip."""
        usable = [metric for metric in self.judges.metrics if self.missing[metric.name] is None]
        rows = {kind: Row(name=name) for kind, name in names.items()}
        strip = Strip(len(clips["raw"]))
        frames = clips["raw"].frames
        looks_for_agents, looks_for_lanes = (any(need in metric.needs for metric in usable) for need in ("detector", "lane_model"))
        before: _Before | None = None
        for index, (pictures, true) in enumerate(zip(lockstep(clips), self.judges.truth_of(viewpoint, frames))):
            scene_view = self._scene_view(clips["raw"], index)
            for kind, picture in pictures.items():
                strip.add(index, names[kind], picture)
            if true is not None:
                strip.add(index, "truth", true.rgb)
            strip.add(
                index,
                f"seen by no training view (red), by fewer than {FEW_VIEWS} (yellow)",
                unseen_overlay(pictures["raw"], scene_view.views),
            )
            counts = bool(frames[index].extra["held_out"]) or not frames[index].extra["recorded"]
            flow = true.flow_from(before.true) if true is not None and before is not None and before.true is not None else None
            self.truth_counts |= counts and true is not None
            self.flow = self.flow if flow is None else flow.source
            own_flow = estimated_flow(before.pictures["raw"], pictures["raw"]) if before is not None else None
            shot = self._as_logged(frames[index])
            expected = expected_boxes_px(self.judges.log, shot) if looks_for_agents else None
            lines = self.judges.street.lane_lines(shot) if looks_for_lanes and self.judges.street is not None else None
            for kind, row in rows.items():
                view = FrameView(
                    picture=picture_tensor(pictures[kind], true, self.scene.device),
                    truth=picture_tensor(true.rgb, None, self.scene.device) if true is not None and counts else None,
                    usable=usable_tensor(true, self.scene.device),
                    previous_picture=None if before is None else picture_tensor(before.pictures[kind], before.true, self.scene.device),
                    flow=flow,
                    own_flow=own_flow,
                    scene=scene_view if kind == "raw" else None,
                    agents=self._agents(expected, pictures[kind]),
                    lanes=self._lanes(lines, pictures[kind]),
                )
                row.frames.append({"frame": index, **_measured(view, usable)})
            before = _Before(pictures=pictures, true=true)
            self.tick()
        strip.write(strip_path)
        return rows

    def _as_logged(self, frame: ClipFrame) -> Shot:
        """A frame's shot where the log has it, as the scene's model draws it."""
        logged = frame.logged_shot
        assert logged is not None
        return as_drawn(self.scene.camera_model, logged)

    def _agents(self, expected_px: np.ndarray | None, picture: np.ndarray) -> AgentView | None:
        if expected_px is None or self.judges.detector is None:
            return None
        # Where nothing is to be seen nothing is judged, so nothing need be looked for.
        found_px = self.judges.detector(picture) if len(expected_px) else np.zeros((0, 4))
        return AgentView(expected_px=expected_px, found_px=found_px)

    def _lanes(self, expected: np.ndarray | None, picture: np.ndarray) -> LaneView | None:
        if expected is None or self.judges.lane_model is None:
            return None
        return LaneView(expected=expected, found=self.judges.lane_model(picture))

    def _scene_view(self, clip: Clip, index: int) -> SceneView:
        shot = clip.frames[index].shot
        depth_m, opacity = clip.read_channel("depth", index), clip.read_channel("opacity", index)
        assert shot is not None
        assert depth_m is not None
        assert opacity is not None
        return SceneView(
            opacity=opacity,
            views=self.views.counts(shot, depth_m, opacity),
            depth_error_m=depth_errors_m(self.judges.log, self._as_logged(clip.frames[index]), depth_m),
        )


@dataclass(frozen=True, kw_only=True)
class _Before:
    """The frame before: its pictures `[H, W, 3]` uint8 and the true one."""

    pictures: Mapping[str, np.ndarray]
    true: TrueFrame | None


def _measured(view: FrameView, metrics: Sequence[Metric]) -> dict[str, float | None]:
    """What can be measured on a frame, by name."""
    return {metric.name: metric.function(view) for metric in metrics if view.truth is not None or not metric.suits_clips}


def _distance(frame_set: FrameSet, clip: Clip) -> float | None:
    for rgb in clip.iter_rgb():
        frame_set.add(rgb)
    return frame_set.value()


def _group(entry: Metric | Distribution) -> str:
    """What the entry judges: pictures by their truth, clips without one, or the scene."""
    if isinstance(entry, Distribution) or {"own_flow", "detector", "lane_model"} & set(entry.needs):
        return "clip"
    return "scene" if "scene" in entry.needs else "truth"
