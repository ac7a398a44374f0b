"""Whether the pictures, masks and sweeps of a log can be read: everything that opening it leaves for later."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import CameraFrame, SceneLog

FAR_OUT_M = 1_000.0
"""No scanner of a car reaches farther."""
OnProgress = Callable[[int, int], None]


def check_content(log: SceneLog, on_progress: OnProgress = lambda done, total: None) -> tuple[str, ...]:
    """Read everything once, nothing is kept; notes about returns of LiDAR that are not to be trusted. `on_progress(done, total)` counts
    pictures and sweeps.

    Raises:
        UserError: where a picture, a mask, a sweep or the file of sparse points cannot be read; it names the first, and how many there are.
    """
    total = len(log.frames) + len(log.sweeps)
    done = 0
    faults = []
    for frame in log.frames:
        if (fault := _frame_fault(frame)) is not None:
            faults.append(fault)
        on_progress(done := done + 1, total)
    _refuse(log, faults, f"{len(log.frames)} pictures")
    returns = dropped = far = blank = 0
    for sweep in log.sweeps:
        try:
            points = sweep.read_points()
        except UserError as fault:
            faults.append(str(fault))
        else:
            reach_m = np.linalg.norm(points.xyz_world_m - points.origin_world_m, axis=1)
            finite = np.isfinite(reach_m)
            blank += len(reach_m) == 0
            returns += len(reach_m) + points.dropped
            dropped += points.dropped + int((~finite).sum())
            far += int((reach_m[finite] > FAR_OUT_M).sum())
        on_progress(done := done + 1, total)
    _refuse(log, faults, f"{len(log.sweeps)} sweeps")
    if log.read_sfm_points is not None and log.sfm_points_file is not None:
        log.read_sfm_points()
    notes = []
    if blank:
        notes.append(f"{blank} of {len(log.sweeps)} LiDAR sweeps hold no return.")
    if dropped:
        notes.append(f"{dropped} of {returns} LiDAR returns hold a value that is not finite, and are left out.")
    if far and log.metric:
        notes.append(f"{far} of {returns} LiDAR returns lie more than {FAR_OUT_M:g} m from the scanner.")
    return tuple(notes)


def _frame_fault(frame: CameraFrame) -> str | None:
    try:
        frame.read_image()
        for read_mask in frame.masks.values():
            read_mask()
    except UserError as fault:
        return str(fault)
    return None


def _refuse(log: SceneLog, faults: list[str], of: str) -> None:
    if len(faults) == 1:
        raise UserError(faults[0])
    if faults:
        raise UserError(f"{log.path}: {len(faults)} of {of} cannot be used, the first of them {faults[0]}")
