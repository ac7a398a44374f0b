"""Scores of clips, frame by frame against one truth, streamed: memory does not grow with the length of a clip.

The folder (artefact kind "scores") holds `scores.json`: the metrics with their direction and, where a network or a second frame is
missing, the reason; per row ("raw", "enhanced", ...) the mean, how many frames it is over, and every frame. A row called "truth" holds what
the true frames themselves score where that is not trivial (the warping error). `truth.mp4` shows the true frames, for people; of a
street with `frames="held_out"` only those that scores depend on are drawn, and the others are grey.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from splatmend.datasets.artifact import Manifest, building, read_json, read_manifest, write_json
from splatmend.datasets.clip import Clip, ClipFrame, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.video import VideoWriter, can_write_video
from splatmend.pipelines.clip_sets import members
from splatmend.pipelines.device import torch_device
from splatmend.pipelines.evaluation.flow import Flow
from splatmend.pipelines.evaluation.metrics import REGISTRY, FrameView, Metric
from splatmend.pipelines.evaluation.same_shots import check_same_shots
from splatmend.pipelines.evaluation.truth import TrueFrame, Truth

FrameChoice = Literal["all", "held_out"]
SCORES = "scores.json"
TRUTH_VIDEO = "truth.mp4"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which frames count, and by which metrics."""

    frames: FrameChoice = "all"
    """all: every frame the truth knows; held_out: those that the clip's camera list marks as held out of the fit."""
    metrics: tuple[str, ...] = ()
    """Names of metrics; none means all."""
    detector: Path | None = None
    """For NTA-IoU of a scene's renders: a detector, as a folder that transformers loads or a TorchScript file."""
    detector_classes: tuple[str, ...] = ()
    """Which of its classes are vehicles: names, or numbers for a TorchScript file; none means names that say so, or all numbers."""
    lane_model: Path | None = None
    """For NTL-IoU of a scene's renders: a lane model, as a TorchScript file."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in REGISTRY.names]
        if unknown:
            raise UserError(f"metrics: {unknown[0]} is not known; choose among {', '.join(REGISTRY.names)}.")

    def chosen(self) -> list[Metric]:
        """The metrics for clips in the order of the registry; `UserError` where one is named that looks at a scene, or a network is given
        for one."""
        for name, given in (("detector", self.detector), ("lane-model", self.lane_model)):
            if given is not None:
                raise UserError(f"{name}: it judges the renders of a scene; give a scene instead of a clip, or leave it out.")
        suited = [metric for metric in REGISTRY.metrics.values() if metric.suits_clips]
        strange = set(self.metrics) - {metric.name for metric in suited}
        if strange:
            raise UserError(f"metrics: {sorted(strange)[0]} is measured on a scene; give a scene instead of a clip, or leave it out.")
        return [metric for metric in suited if not self.metrics or metric.name in self.metrics]


@dataclass(kw_only=True)
class Row:
    """One clip's scores as they come: an entry per frame, metrics by name (absent or None where not defined)."""

    name: str
    frames: list[dict[str, Any]] = field(default_factory=list)

    def summary(self, metrics: Sequence[Metric]) -> dict[str, dict[str, Any]]:
        """Means over the frames that have a value, and how many those are."""
        means, counts = {}, {}
        for metric in metrics:
            values = [frame[metric.name] for frame in self.frames if frame.get(metric.name) is not None]
            counts[metric.name] = len(values)
            means[metric.name] = sum(values) / len(values) if values else None
        return {"mean": means, "count": counts}


def evaluate(
    clips: Mapping[str, Path], truth: Truth, out: Path, config: EvaluateConfig, *, device: str = "auto", overwrite: bool = False
) -> dict[str, Any]:
    """Score clips that show the same shots against a truth and write the folder `out`; returns what `scores.json` holds.

    Args:
        clips: row names ("raw", "enhanced") and clips (or sets of clips) with the same number of frames.
        truth: a clip, a log or a procedural street, see `splatmend.pipelines.evaluation.truth`.
        device: where the networks and structure scores run; "auto" takes CUDA where it is.

    Raises `UserError` where the clips show different shots, no frame counts, the truth is of another log or does not fit, or there is no
    such device.
    """
    where = torch.device(torch_device(device))
    parts = _parts(clips)
    for part in parts:
        for clip in part.values():
            truth.check_log(clip)
    manifest = Manifest(kind="scores", config={"evaluate": config, "clips": dict(clips), "truth": truth.describe()})
    with building(out, manifest, overwrite=overwrite) as partial:
        # The truth's video serves the report alone: a machine that cannot write one still scores.
        writer = VideoWriter(partial / TRUTH_VIDEO, next(iter(parts[0].values())).rate_hz) if can_write_video() else nullcontext()
        with writer as video:
            scores = _score(parts, truth, config, where, video)
        write_json(partial / SCORES, scores)
        manifest.facts = {"frames": scores["count"], "means": {name: row["mean"] for name, row in scores["rows"].items()}}
    return scores


def read_scores(folder: Path) -> dict[str, Any]:
    """What `scores.json` of a scores folder holds; `UserError` where the folder is none."""
    read_manifest(folder, "scores")
    return read_json(Path(folder) / SCORES)


def _parts(clips: Mapping[str, Path]) -> list[dict[str, Clip]]:
    """The clips that belong together, row by name: one part for single clips, one per member for sets."""
    if not clips:
        raise ValueError("no clip to score")
    paths = {name: members(path) for name, path in clips.items()}
    first = next(iter(clips.values()))
    if len({len(found) for found in paths.values()}) > 1:
        raise UserError(f"{first}: the sets hold different numbers of clips; give sets of the same shots.")
    parts = [{name: open_clip(path) for name, path in zip(paths, row)} for row in zip(*paths.values())]
    for part in parts:
        one, *others = part.values()
        for other in others:
            check_same_shots(one.frames, str(one.path), other)
    return parts


@dataclass(kw_only=True)
class _Tally:
    """Rows as they grow over the parts."""

    config: EvaluateConfig
    device: torch.device
    metrics: Sequence[Metric]
    rows: dict[str, Row]
    floor: Row = field(default_factory=lambda: Row(name="truth"))
    flow: str | None = None
    marked: bool = False

    @property
    def needs_flow(self) -> bool:
        return any("flow" in metric.needs for metric in self.metrics)

    def add(self, part: Mapping[str, Clip], truth: Truth, video: VideoWriter | None, number: int) -> None:
        """Score one part's frames."""
        cameras = next(iter(part.values())).frames
        before: dict[str, tuple[TrueFrame, dict[str, torch.Tensor]]] = {}
        for index, (pictures, true) in enumerate(zip(lockstep(part), truth.frames(cameras, self._needed(cameras)))):
            # A frame that the truth does not know or draw is grey, so that the video stays in step with the clips.
            if video is not None:
                video.write(np.full_like(next(iter(pictures.values())), 128) if true is None else true.rgb)
            counts = _counts(cameras[index], self.config.frames)
            self.marked |= counts
            camera = _camera_name(cameras[index])
            if true is None:
                before.pop(camera, None)
                continue
            views = {name: picture_tensor(_fitting(picture, true, part[name]), true, self.device) for name, picture in pictures.items()}
            views["truth"] = picture_tensor(true.rgb, None, self.device)
            if counts:
                last_true, last_views = before.get(camera, (None, {}))
                flow = true.flow_from(last_true) if self.needs_flow and last_true is not None else None
                where = {"clip": number, "frame": index, "camera": camera}
                self._score_frame(where, views, last_views, flow, usable_tensor(true, self.device))
            if self.needs_flow:
                before[camera] = (true, views)

    def _needed(self, cameras: Sequence[ClipFrame]) -> list[bool]:
        """Which true frames scores depend on: those that count and, for flow, the one before each of its camera."""
        counts = [_counts(frame, self.config.frames) for frame in cameras]
        needed = list(counts)
        last: dict[str, int] = {}
        for index, frame in enumerate(cameras):
            camera = _camera_name(frame)
            if self.needs_flow and counts[index] and camera in last:
                needed[last[camera]] = True
            last[camera] = index
        return needed

    def _score_frame(
        self,
        where: Mapping[str, Any],
        views: Mapping[str, torch.Tensor],
        last_views: Mapping[str, torch.Tensor],
        flow: Flow | None,
        usable: torch.Tensor | None,
    ) -> None:
        self.flow = flow.source if flow is not None else self.flow
        for name, row in self.rows.items():
            view = FrameView(picture=views[name], truth=views["truth"], usable=usable, previous_picture=last_views.get(name), flow=flow)
            row.frames.append({**where, **{metric.name: metric.function(view) for metric in self.metrics}})
        if flow is not None:
            view = FrameView(picture=views["truth"], truth=views["truth"], previous_picture=last_views["truth"], flow=flow)
            moving = {metric.name: metric.function(view) for metric in self.metrics if "flow" in metric.needs}
            self.floor.frames.append({**where, **moving})


def _score(
    parts: Sequence[Mapping[str, Clip]], truth: Truth, config: EvaluateConfig, device: torch.device, video: VideoWriter | None
) -> dict[str, Any]:
    metrics = config.chosen()
    missing = {metric.name: metric.missing() for metric in metrics}
    usable = [metric for metric in metrics if missing[metric.name] is None]
    tally = _Tally(config=config, device=device, metrics=usable, rows={name: Row(name=name) for name in parts[0]})
    for number, part in enumerate(parts):
        tally.add(part, truth, video, number)
    rows, floor = tally.rows, tally.floor
    scored = len(next(iter(rows.values())).frames)
    if scored == 0:
        what = "none is marked as held out" if config.frames == "held_out" and not tally.marked else "the truth knows none of them"
        raise UserError(
            f"{next(iter(parts[0].values())).path}: there is no frame to score ({what}); choose other --frames or another truth."
        )
    summaries: dict[str, dict[str, Any]] = {name: {**row.summary(metrics), "per_frame": row.frames} for name, row in rows.items()}
    if floor.frames:
        summaries["truth"] = {**floor.summary(metrics), "per_frame": floor.frames}
    described = {}
    for metric in metrics:
        reason = missing[metric.name]
        if reason is None and all(row["count"][metric.name] == 0 for name, row in summaries.items() if name != "truth"):
            reason = metric.undefined
        described[metric.name] = {
            "label": metric.label,
            "direction": metric.direction,
            "decimals": metric.decimals,
            "missing": reason,
            "provide": metric.provide if missing[metric.name] is not None else "",
        }
    return {
        "truth": truth.describe(),
        "frames": config.frames,
        "count": scored,
        "flow": tally.flow,
        "metrics": described,
        "rows": summaries,
    }


def _counts(frame: ClipFrame, choice: FrameChoice) -> bool:
    return choice == "all" or bool(frame.extra.get("held_out", False))


def _camera_name(frame: ClipFrame) -> str:
    return "" if frame.shot is None else frame.shot.camera.name


def lockstep(clips: Mapping[str, Clip]) -> Iterator[dict[str, np.ndarray]]:
    """Frame after frame of clips of one length, by their names."""
    for pictures in zip(*(clip.iter_rgb() for clip in clips.values())):
        yield dict(zip(clips, pictures))


def _fitting(picture: np.ndarray, true: TrueFrame, clip: Clip) -> np.ndarray:
    if picture.shape != true.rgb.shape:
        raise UserError(
            f"{clip.path}: its pictures have {picture.shape[1]}x{picture.shape[0]} pixels and the truth's {true.rgb.shape[1]}x"
            f"{true.rgb.shape[0]}; render the clip at the truth's size."
        )
    return picture


def picture_tensor(picture: np.ndarray, true: TrueFrame | None, device: torch.device) -> torch.Tensor:
    """`[H, W, 3]` float32 in [0, 1]; where the recording is not valid the picture takes the truth's value."""
    if true is not None and true.valid is not None:
        picture = np.where(true.valid[..., None], picture, true.rgb)
    return torch.from_numpy(np.ascontiguousarray(picture)).to(device).float() / 255.0


def usable_tensor(true: TrueFrame | None, device: torch.device) -> torch.Tensor | None:
    """Bool `[H, W]` of the pixels where the recording is valid; None for all."""
    return None if true is None or true.valid is None else torch.from_numpy(true.valid).to(device)
