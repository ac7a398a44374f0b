"""What a report shows of a log: a strip of pictures per camera, its points in a picture, a few facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splatmend.datasets.overlay import lidar_overlay
from splatmend.datasets.readers.registry import open_log

STRIP_PICTURES = 6
STRIP_CAMERAS = 5


@dataclass(frozen=True, kw_only=True)
class LogPictures:
    """Pictures `[H, W, 3]` uint8 by camera, the overlay (None without points), facts and notes in words."""

    strips: Mapping[str, list[np.ndarray]]
    overlay: np.ndarray | None
    facts: tuple[str, ...]
    notes: tuple[str, ...]


def log_pictures(path: Path) -> LogPictures:
    """The pictures of a log; `UserError` where the path is none."""
    log = open_log(path)
    strips = {}
    for name in list(log.cameras)[:STRIP_CAMERAS]:
        frames = log.frames_of(name)
        which = sorted({round(i) for i in np.linspace(0, len(frames) - 1, min(STRIP_PICTURES, len(frames)))})
        strips[name] = [frames[i].read_image() for i in which]
    seconds = (log.frames[-1].end_us - log.frames[0].start_us) * 1e-6
    facts = [log.log_id, f"{len(log.cameras)} camera{'s' if len(log.cameras) > 1 else ''}", f"{len(log.frames)} frames"]
    if log.metric:
        facts.append(f"{seconds:.1f} s")
    if log.sweeps:
        facts.append(f"{len(log.sweeps)} LiDAR sweeps")
    if log.actors:
        facts.append(f"{len(log.actors)} labelled actors")
    return LogPictures(
        strips=strips,
        overlay=lidar_overlay(log) if log.sweeps or log.read_sfm_points is not None else None,
        facts=tuple(facts),
        notes=log.notes,
    )
