"""What is in a log, in numbers, and printed as a table. `lidar_overlay` shows the same log as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from splatmend.datasets.log import Camera, SceneLog
from splatmend.datasets.overlay import lidar_overlay

__all__ = ["CameraSummary", "LidarSummary", "LogSummary", "lidar_overlay", "print_summary", "summarise"]

_SWEEPS_COUNTED = 5  # sweeps read to state points per sweep


@dataclass(frozen=True, kw_only=True)
class CameraSummary:
    """One camera: its calibration, how many frames it has and how many it takes per second (0 for a single frame)."""

    camera: Camera
    frames: int
    rate_hz: float


@dataclass(frozen=True, kw_only=True)
class LidarSummary:
    """One LiDAR: sweeps, sweeps per second, and the median of the points in a few of them."""

    sensor: str
    sweeps: int
    rate_hz: float
    points_per_sweep: int


@dataclass(frozen=True, kw_only=True)
class LogSummary:
    """A log in numbers. `path_length` is in metres if `metric`, else in the log's own unit; `actors` counts tracks per class."""

    log_id: str
    source: str
    cameras: tuple[CameraSummary, ...]
    lidars: tuple[LidarSummary, ...]
    frames: int
    duration_s: float
    path_length: float
    metric: bool
    actors: Mapping[str, int]
    has_sparse_points: bool
    notes: tuple[str, ...]


def summarise(log: SceneLog) -> LogSummary:
    """Count what a log holds. Reads a few sweeps, no pictures."""
    start_us, end_us = log.frames[0].start_us, max(frame.end_us for frame in log.frames)
    return LogSummary(
        log_id=log.log_id,
        source=log.source,
        cameras=tuple(
            CameraSummary(camera=camera, frames=len(frames), rate_hz=_rate_hz([frame.mid_us for frame in frames]))
            for camera, frames in ((camera, log.frames_of(name)) for name, camera in log.cameras.items())
        ),
        lidars=_lidars(log),
        frames=len(log.frames),
        duration_s=(end_us - start_us) * 1e-6,
        path_length=float(np.linalg.norm(np.diff(log.ego.world_from_body[:, :3, 3], axis=0), axis=1).sum()),
        metric=log.metric,
        actors=dict(sorted(Counter(actor.actor_class for actor in log.actors).items())),
        has_sparse_points=log.read_sfm_points is not None,
        notes=log.notes,
    )


def print_summary(summary: LogSummary, console: Console) -> None:
    """Print a summary for a person."""
    unit = "m" if summary.metric else "units (no metric scale)"
    console.print(f"[bold]{summary.log_id}[/bold]  {summary.source}")
    console.print(
        f"{summary.frames} frames in {summary.duration_s:.2f} s, path {summary.path_length:.2f} {unit}"
        + (", sparse points" if summary.has_sparse_points else "")
    )
    # Two tables, so that 80 columns hold every number in one piece.
    cameras, lenses = _whole_words("camera", "size", "frames", "Hz", "focal px", "principal px"), _whole_words("camera", "shutter")
    lenses.add_column("distortion", overflow="fold")
    for item in summary.cameras:
        camera = item.camera
        shutter = camera.shutter if camera.shutter == "global" else f"{camera.shutter} {camera.readout_us / 1000:.1f} ms"
        cameras.add_row(
            camera.name,
            f"{camera.width}x{camera.height}",
            str(item.frames),
            f"{item.rate_hz:.1f}",
            f"{camera.focal_px[0]:.1f} {camera.focal_px[1]:.1f}",
            f"{camera.principal_px[0]:.1f} {camera.principal_px[1]:.1f}",
        )
        lenses.add_row(camera.name, shutter, " ".join([camera.distortion_model, *(f"{value:.4g}" for value in camera.distortion)]))
    console.print(cameras)
    if any(item.camera.distortion or item.camera.shutter != "global" for item in summary.cameras):
        console.print(lenses)
    if summary.lidars:
        lidars = Table("LiDAR", "sweeps", "Hz", "points per sweep")
        for lidar in summary.lidars:
            lidars.add_row(lidar.sensor, str(lidar.sweeps), f"{lidar.rate_hz:.1f}", str(lidar.points_per_sweep))
        console.print(lidars)
    if summary.actors:
        console.print("actors: " + ", ".join(f"{count} {name}" for name, count in summary.actors.items()))
    for note in summary.notes:
        console.print(f"[yellow]note:[/yellow] {note}", highlight=False)


def _whole_words(*names: str) -> Table:
    """A table whose columns are as wide as what stands in them."""
    table = Table()
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _lidars(log: SceneLog) -> tuple[LidarSummary, ...]:
    found = []
    for sensor in dict.fromkeys(sweep.sensor for sweep in log.sweeps):
        sweeps = [sweep for sweep in log.sweeps if sweep.sensor == sensor]
        counted = [sweeps[i] for i in np.unique(np.linspace(0, len(sweeps) - 1, _SWEEPS_COUNTED).astype(int))]
        found.append(
            LidarSummary(
                sensor=sensor,
                sweeps=len(sweeps),
                rate_hz=_rate_hz([sweep.timestamp_us for sweep in sweeps]),
                points_per_sweep=int(np.median([len(sweep.read_points().xyz_world_m) for sweep in counted])),
            )
        )
    return tuple(found)


def _rate_hz(times_us: Sequence[int]) -> float:
    """One over the median step; 0 where there is none."""
    step_us = float(np.median(np.diff(np.sort(np.asarray(times_us, dtype=np.float64))))) if len(times_us) > 1 else 0.0
    return 1e6 / step_us if step_us > 0 else 0.0
