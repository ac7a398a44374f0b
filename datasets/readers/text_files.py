"""The small text files of KITTI-like data sets: calibrations, pose rows, timestamps. Every fault is a `UserError` with file and line."""

from __future__ import annotations

from calendar import timegm
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import orthonormal, pose, rotation_fault


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without the empty ones at its end."""
    try:
        return path.read_text(encoding="utf-8").rstrip().splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror}); check that it is there.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is not a text file; copy or download it again.") from error


def read_calibration(path: Path) -> dict[str, np.ndarray]:
    """`key: number number ...` lines as float64 vectors; lines whose value is no list of numbers (dates) are left out."""
    values: dict[str, np.ndarray] = {}
    for line in read_lines(path):
        key, colon, text = line.partition(":")
        if not colon:
            continue
        try:
            values[key.strip()] = np.array([float(word) for word in text.split()])
        except ValueError:
            continue  # calib_time: 09-Jan-2012 13:57:47
    return values


def calibration_entry(path: Path, values: Mapping[str, np.ndarray], key: str, shape: tuple[int, ...]) -> np.ndarray:
    """One finite entry of a calibration file, reshaped; `UserError` where it is missing or has another length."""
    if key not in values:
        raise UserError(f"{path}: the calibration has no entry {key}; use the file that belongs to this recording.")
    entry = values[key]
    if entry.size != np.prod(shape) or not np.isfinite(entry).all():
        raise UserError(f"{path}: entry {key} should hold {np.prod(shape)} finite numbers; correct the calibration.")
    return entry.reshape(shape)


def read_rigid(path: Path) -> np.ndarray:
    """Pose `[4, 4]` of a calibration file with the entries R (9 numbers) and T (3 numbers)."""
    values = read_calibration(path)
    rigid = pose(calibration_entry(path, values, "R", (3, 3)), calibration_entry(path, values, "T", (3,)))
    if fault := rotation_fault(rigid):
        raise UserError(f"{path}: entry R has {fault}; correct the calibration.")
    return orthonormal(rigid)


def read_pose_rows(path: Path) -> np.ndarray:
    """Poses `[N, 4, 4]` from rows of 12 numbers (row-major 3x4). Rounding is mended, anything worse is a `UserError` with its line."""
    lines = read_lines(path)
    poses = np.zeros((len(lines), 4, 4))
    poses[:, 3, 3] = 1.0
    for number, line in enumerate(lines):
        try:
            row = np.array([float(word) for word in line.split()])
        except ValueError as error:
            raise UserError(f"{path}: line {number + 1} is not a row of numbers; correct the poses.") from error
        if row.size != 12:
            raise UserError(f"{path}: line {number + 1} has {row.size} numbers where a pose has 12; correct the poses.")
        poses[number, :3] = row.reshape(3, 4)
        if fault := rotation_fault(poses[number]):
            raise UserError(f"{path}: the pose in line {number + 1} has {fault}; correct the poses.")
    return orthonormal(poses)


def read_timestamps_us(path: Path) -> np.ndarray:
    """Times `[N]` int64 since 1970 (as if the clock were UTC) from lines like `2011-09-26 13:02:25.594360375`; nanoseconds are cut."""
    times = []
    for number, line in enumerate(read_lines(path)):
        whole, _, fraction = line.strip().partition(".")
        try:
            seconds = timegm(datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").timetuple())
            times.append(seconds * 1_000_000 + int((fraction + "000000")[:6]))
        except ValueError as error:
            raise UserError(f"{path}: line {number + 1} is not a time like 2011-09-26 13:02:25.594360375; correct it.") from error
    return _rising(path, np.array(times, dtype=np.int64))


def read_seconds_us(path: Path) -> np.ndarray:
    """Times `[N]` int64 in microseconds from lines of seconds."""
    times = []
    for number, line in enumerate(read_lines(path)):
        try:
            times.append(round(float(line) * 1e6))
        except (ValueError, OverflowError) as error:
            raise UserError(f"{path}: line {number + 1} is not a number of seconds; correct it.") from error
    return _rising(path, np.array(times, dtype=np.int64))


def _rising(path: Path, times_us: np.ndarray) -> np.ndarray:
    if (np.diff(times_us) <= 0).any():
        line = int(np.argmax(np.diff(times_us) <= 0)) + 2
        raise UserError(f"{path}: the time in line {line} is not later than the one before; correct the times.")
    return times_us
