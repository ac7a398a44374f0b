"""What makes two logs the same for work that goes on: calibrations, poses, times, boxes, and the files behind them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path

from splatmend.datasets.artifact import content_key
from splatmend.datasets.log import SceneLog

_END_BYTES = 32 * 1024


def log_key(log: SceneLog) -> str:
    """A short hash that changes when a pose, a calibration, a time, a box or a file does, and not when the log is copied or moved. Files
    count by name, size and content, of large ones both ends: reading all of them would take longer than it is worth. What the log is
    called, which may be by its folder, counts only where no file is behind it."""
    behind = [*(frame.file for frame in log.frames), *(sweep.file for sweep in log.sweeps), log.sfm_points_file]
    files = sorted({file for file in behind if file is not None})
    name = None if files else log.log_id
    digest = hashlib.sha256(content_key([log.source, name, log.metric, [asdict(camera) for camera in log.cameras.values()]]).encode())
    for frame in log.frames:
        digest.update(f"{frame.camera} {frame.start_us} {frame.end_us} {sorted(frame.masks)}\n".encode())
        digest.update(frame.world_from_camera_start.tobytes() + frame.world_from_camera_end.tobytes())
    for sweep in log.sweeps:
        digest.update(f"{sweep.sensor} {sweep.timestamp_us}\n".encode())
    for actor in log.actors:
        digest.update(f"{actor.actor_id} {actor.actor_class} {actor.size_m}\n".encode())
        digest.update(actor.track.times_us.tobytes() + actor.track.world_from_body.tobytes())
    for file in files:
        digest.update(_mark(file).encode())
    return digest.hexdigest()[:16]


def _mark(file: Path) -> str:
    try:
        with file.open("rb", buffering=0) as opened:
            size = os.fstat(opened.fileno()).st_size
            ends = opened.read(_END_BYTES)
            if size > _END_BYTES:
                opened.seek(max(size - _END_BYTES, _END_BYTES))
                ends += opened.read(_END_BYTES)
    except OSError:
        return f"{file.name} absent\n"  # it is named when it is read
    return f"{file.name} {size} {hashlib.sha256(ends).hexdigest()}\n"
