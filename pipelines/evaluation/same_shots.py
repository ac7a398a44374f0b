"""Whether clips, scenes and what they are held against are of one log and show the same shots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from splatmend.datasets.clip import Clip, ClipFrame
from splatmend.datasets.errors import UserError
from splatmend.datasets.log_for_cameras import same_calibration
from splatmend.datasets.shot import Shot

_POSE_TOLERANCE = 1e-3


def check_same_shots(frames: Sequence[ClipFrame], of: str, other: Clip) -> None:
    """Refuses another clip whose frames are not those of `of` (what the sentence calls them); a frame without a camera, as a plain
    video has, is taken as it is.

    Raises `UserError` that names the first difference.
    """
    if len(frames) != len(other):
        raise UserError(f"{other.path}: it has {len(other)} frames and {of} {len(frames)}; give clips of the same shots.")
    for index, (a, b) in enumerate(zip(frames, other.frames)):
        if a.shot is None or b.shot is None:
            continue
        if fault := _shot_difference(a.shot, b.shot) or _edit_difference(a, b):
            raise UserError(f"{other.path}: frame {index} {fault} in {of}; give clips of the same shots.")


def check_same_log(path: Path, log_id: str | None, truth_path: Path, truth_id: str | None) -> None:
    """Refuses a truth of another log than that of a clip or scene. Where either does not name its log, nothing is known and nothing said.

    Raises `UserError` that names both.
    """
    if log_id and truth_id and log_id != truth_id:
        raise UserError(
            f"{truth_path}: this is the log {truth_id}, but {path} is of the log {log_id}; give that one (most logs are called as their "
            "folders are)."
        )


def same_pose(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two poses `[4, 4]` agree to a millimetre and a thousandth of a radian."""
    return bool(np.allclose(a, b, rtol=0.0, atol=_POSE_TOLERANCE))


def _shot_difference(a: Shot, b: Shot) -> str | None:
    """How shot b differs from a, as words between "frame 3" and "in ..."."""
    if a.camera.name != b.camera.name:
        return f"is of camera {b.camera.name}, but of {a.camera.name}"
    if not same_calibration(a.camera, b.camera):
        return f"of camera {b.camera.name} has another calibration or size than"
    if (a.start_us, a.end_us) != (b.start_us, b.end_us):
        return f"is exposed from {b.start_us} to {b.end_us} us, but from {a.start_us} to {a.end_us} us"
    for end in ("start", "end"):
        one, two = getattr(a, f"world_from_camera_{end}"), getattr(b, f"world_from_camera_{end}")
        if not same_pose(one, two):
            apart = float(np.linalg.norm(two[:3, 3] - one[:3, 3]))
            cosine = (np.trace(one[:3, :3].T @ two[:3, :3]) - 1.0) / 2.0
            turned = float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
            return f"has a pose that lies {apart:.3g} units of length and {turned:.3g} degrees from the one"
    return None


def _edit_difference(a: ClipFrame, b: ClipFrame) -> str | None:
    return None if a.edits == b.edits else "leaves out or moves other actors than"
