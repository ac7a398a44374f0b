"""Short clips around held-out poses, for photo sets: a video model wants motion, and photos taken one by one have none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.shot import Shot
from splatmend.recon.scene import RecordedShot, Scene

ClipPlan = tuple[list[Shot], list[dict[str, Any]]]


def shots_around_held_out(scene: Scene, frames: int, camera: str | None = None) -> Iterator[ClipPlan]:
    """For each held-out shot: `frames` shots from the neighbouring pose before it, through it, to the neighbouring pose after it.

    The middle shot is the recorded one, marked `held_out`. At an end of the path, where a neighbour is missing, the other side is mirrored.

    Raises `UserError` where `frames` is no odd number of at least 3, or nothing is held out.
    """
    if frames < 3 or frames % 2 == 0:
        raise UserError(f"around_held_out: {frames} frames have no middle one; give an odd number of at least 3.")
    found = False
    for name in (camera,) if camera is not None else scene.cameras:
        recorded = scene.shots_of(name)
        for index, middle in enumerate(recorded):
            if middle.held_out:
                found = True
                yield _through(recorded, index, frames)
    if not found:
        raise UserError("around_held_out: the scene holds no frame back; fit it with data.holdout_every.")


def _through(recorded: tuple[RecordedShot, ...], index: int, frames: int) -> ClipPlan:
    middle = recorded[index].shot
    half = frames // 2
    sides = {step: recorded[index + step].shot for step in (-1, 1) if 0 <= index + step < len(recorded)}
    if not sides:
        raise UserError("around_held_out: a camera with one frame only has no path; give more frames.")
    shots: list[Shot] = []
    for step in range(-half, half + 1):
        side = sides.get(-1 if step < 0 else 1)
        mirrored = side is None
        towards = sides[1 if step < 0 else -1] if side is None else side
        shots.append(middle if step == 0 else _between(middle, towards, abs(step) / half, mirrored))
    extra: list[dict[str, Any]] = [
        {"camera": middle.camera.name, "recorded": step == half, "held_out": step == half} for step in range(frames)
    ]
    extra[half] |= recorded[index].correction_entry
    return shots, extra


def _between(middle: Shot, other: Shot, share: float, mirrored: bool) -> Shot:
    """The shot at a share of the way to another one (or of the same way in the other direction), at the middle one's time."""
    steps = 1_000_000
    reach = PoseTrack(times_us=np.array([0, steps]), world_from_body=np.stack([middle.world_from_camera, other.world_from_camera]))
    if mirrored:
        # One pose more, as far behind the middle one as the neighbour is before it.
        reach = reach.extended(steps)
        return Shot.still(middle.camera, reach.at(round(-share * steps)), middle.mid_us)
    return Shot.still(middle.camera, reach.at(round(share * steps)), middle.mid_us)
