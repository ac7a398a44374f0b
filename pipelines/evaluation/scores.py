"""Scores of clips, frame by frame against one truth, streamed: memory does not grow with the length of a clip.

The folder (artefact kind "scores") holds `scores.json`: the metrics with their direction and, where a network or a second frame is
missing, the reason; per row ("raw", "enhanced", ...) the mean, how many frames it is over, and every frame. A row called "truth" holds what
the true frames themselves score where that is not trivial (the warping error). `truth.mp4` shows the true frames, for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from splatmend.datasets.artifact import Manifest, building, read_json, read_manifest, write_json
from splatmend.datasets.clip import Clip, ClipFrame, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.video import VideoWriter
from splatmend.pipelines.evaluation.metrics import REGISTRY, FrameView, Metric
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

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in REGISTRY.metrics]
        if unknown:
            raise UserError(f"metrics: {unknown[0]} is not known; choose among {', '.join(REGISTRY.metrics)}.")

    def chosen(self) -> list[Metric]:
        """The metrics in the order of the registry."""
        return [metric for metric in REGISTRY.metrics.values() if not self.metrics or metric.name in self.metrics]


@dataclass(kw_only=True)
class _Row:
    """One clip's scores as they come."""

    name: str
    frames: list[dict[str, Any]] = field(default_factory=list)

    def summary(self, metrics: Sequence[Metric]) -> dict[str, Any]:
        means, counts = {}, {}
        for metric in metrics:
            values = [frame[metric.name] for frame in self.frames if frame.get(metric.name) is not None]
            counts[metric.name] = len(values)
            means[metric.name] = sum(values) / len(values) if values else None
        return {"mean": means, "count": counts, "per_frame": self.frames}


def evaluate(
    clips: Mapping[str, Path], truth: Truth, out: Path, config: EvaluateConfig, *, device: str = "auto", overwrite: bool = False
) -> dict[str, Any]:
    """Score clips that show the same shots against a truth and write the folder `out`; returns what `scores.json` holds.

    Args:
        clips: row names ("raw", "enhanced") and clips with the same number of frames.
        truth: a clip, a log or a procedural street, see `splatmend.pipelines.evaluation.truth`.
        device: where the networks and structure scores run; "auto" takes CUDA where it is.

    Raises `UserError` where the clips differ in length or size, no frame counts, or the truth does not fit.
    """
    opened = {name: open_clip(path) for name, path in clips.items()}
    if not opened:
        raise ValueError("no clip to score")
    lengths = {name: len(clip) for name, clip in opened.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{next(iter(clips.values()))}: the clips differ in length ({lengths}); give clips of the same shots.")
    manifest = Manifest(kind="scores", config={"evaluate": config, "clips": dict(clips), "truth": truth.describe()})
    with building(out, manifest, overwrite=overwrite) as partial:
        with VideoWriter(partial / TRUTH_VIDEO, next(iter(opened.values())).rate_hz) as video:
            scores = _score(opened, truth, config, _device(device), video)
        write_json(partial / SCORES, scores)
        manifest.facts = {"frames": scores["count"], "means": {name: row["mean"] for name, row in scores["rows"].items()}}
    return scores


def read_scores(folder: Path) -> dict[str, Any]:
    """What `scores.json` of a scores folder holds; `UserError` where the folder is none."""
    read_manifest(folder, "scores")
    return read_json(Path(folder) / SCORES)


def _score(clips: Mapping[str, Clip], truth: Truth, config: EvaluateConfig, device: torch.device, video: VideoWriter) -> dict[str, Any]:
    metrics = config.chosen()
    missing = {metric.name: metric.missing() for metric in metrics}
    usable = [metric for metric in metrics if missing[metric.name] is None]
    needs_flow = any("flow" in metric.needs for metric in usable)
    cameras = next(iter(clips.values())).frames
    counts = [_counts(frame, config.frames) for frame in cameras]
    rows = {name: _Row(name=name) for name in clips}
    floor = _Row(name="truth")
    flow_source = None
    before: dict[str, tuple[TrueFrame, dict[str, torch.Tensor]]] = {}
    for index, (pictures, true) in enumerate(zip(_lockstep(clips), truth.frames(cameras))):
        # A frame that the truth does not know is grey, so that the video stays in step with the clips.
        video.write(np.full_like(next(iter(pictures.values())), 128) if true is None else true.rgb)
        if true is None:
            continue
        camera = "" if cameras[index].shot is None else cameras[index].shot.camera.name
        views = {name: _tensor(_fitting(picture, true, clips[name]), true, device) for name, picture in pictures.items()}
        target = _tensor(true.rgb, None, device)
        if counts[index]:
            last_true, last_views = before.get(camera, (None, {}))
            flow = true.flow_from(last_true) if needs_flow and last_true is not None else None
            flow_source = flow.source if flow is not None else flow_source
            for name, picture in views.items():
                view = FrameView(picture=picture, truth=target, previous_picture=last_views.get(name), flow=flow)
                rows[name].frames.append(_frame_row(index, camera, usable, view))
            if flow is not None:
                view = FrameView(picture=target, truth=target, previous_picture=last_views["truth"], flow=flow)
                floor.frames.append(_frame_row(index, camera, [metric for metric in usable if "flow" in metric.needs], view))
        if needs_flow:
            before[camera] = (true, views | {"truth": target})
    scored = len(next(iter(rows.values())).frames)
    if scored == 0:
        what = "none is marked as held out" if config.frames == "held_out" and not any(counts) else "the truth knows none of them"
        raise UserError(f"{next(iter(clips.values())).path}: there is no frame to score ({what}); choose other --frames or another truth.")
    summaries = {name: row.summary(metrics) for name, row in rows.items()}
    if floor.frames:
        summaries["truth"] = floor.summary(metrics)
    described = {}
    for metric in metrics:
        reason = missing[metric.name]
        if reason is None and all(row["count"][metric.name] == 0 for name, row in summaries.items() if name != "truth"):
            reason = metric.undefined
        described[metric.name] = {"label": metric.label, "direction": metric.direction, "decimals": metric.decimals, "missing": reason}
    return {
        "truth": truth.describe(),
        "frames": config.frames,
        "count": scored,
        "flow": flow_source,
        "metrics": described,
        "rows": summaries,
    }


def _counts(frame: ClipFrame, choice: FrameChoice) -> bool:
    return choice == "all" or bool(frame.extra.get("held_out", False))


def _lockstep(clips: Mapping[str, Clip]) -> Iterator[dict[str, np.ndarray]]:
    for pictures in zip(*(clip.iter_rgb() for clip in clips.values())):
        yield dict(zip(clips, pictures))


def _fitting(picture: np.ndarray, true: TrueFrame, clip: Clip) -> np.ndarray:
    if picture.shape != true.rgb.shape:
        raise UserError(
            f"{clip.path}: its pictures have {picture.shape[1]}x{picture.shape[0]} pixels and the truth's {true.rgb.shape[1]}x"
            f"{true.rgb.shape[0]}; render the clip at the truth's size."
        )
    return picture


def _tensor(picture: np.ndarray, true: TrueFrame | None, device: torch.device) -> torch.Tensor:
    """`[H, W, 3]` float32 in [0, 1]; where the truth saw nothing (outside the lens after undistortion) the picture takes the truth's value."""
    if true is not None and true.valid is not None:
        picture = np.where(true.valid[..., None], picture, true.rgb)
    return torch.from_numpy(np.ascontiguousarray(picture)).to(device).float() / 255.0


def _frame_row(index: int, camera: str, metrics: Sequence[Metric], view: FrameView) -> dict[str, Any]:
    return {"frame": index, "camera": camera} | {metric.name: metric.function(view) for metric in metrics}


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
