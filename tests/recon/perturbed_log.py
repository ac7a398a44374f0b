"""The tiny street as a log whose poses are a little off: smoothly over time, with no common part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation
from tiny_log import tiny_log

from splatmend.datasets.geometry import PoseTrack, pose
from splatmend.datasets.log import SceneLog


def faults(count: int, shift_m: float, turn_deg: float) -> np.ndarray:
    """`true_from_measured [count, 4, 4]`: a shift and a turn of that size whose direction goes once around."""
    angle = 2 * np.pi * np.arange(count) / count
    around = np.stack([np.cos(angle), np.sin(angle), np.sin(angle + 1.0)], axis=1) / np.sqrt(1.5)
    turns = Rotation.from_rotvec(np.radians(turn_deg) * around[:, ::-1]).as_matrix()
    return np.stack([pose(turn, shift_m * place) for turn, place in zip(turns, around)])


def with_camera_faults(frames: int, shift_m: float, turn_deg: float) -> SceneLog:
    """Pictures are the true ones; the poses that the log gives are not. Sweeps stay right."""
    log = tiny_log(frames)
    moved = []
    for frame, fault in zip(log.frames, faults(frames, shift_m, turn_deg)):
        place = frame.world_from_camera @ fault
        moved.append(replace(frame, world_from_camera_start=place, world_from_camera_end=place))
    return replace(log, frames=tuple(moved))


def with_actor_faults(frames: int, shift_m: float, turn_deg: float) -> SceneLog:
    """The boxes that the log gives are off; pictures and sweeps are right."""
    log = tiny_log(frames)
    (actor,) = log.actors
    track = PoseTrack(times_us=actor.track.times_us, world_from_body=actor.track.world_from_body @ faults(frames, shift_m, turn_deg))
    return replace(log, actors=(replace(actor, track=track),))
