"""From a path to a timed track of poses: on the ground, looking where it goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from splatmend.datasets.geometry import PoseTrack
from splatmend.recon.edits.courses import STEP_S, Motion2d, Surroundings, motion_of, presence_s, rigid_poses
from splatmend.recon.edits.ground import SceneGround
from splatmend.recon.edits.types import BodyPath, KeyCourse

FARTHEST_FROM_PATH = 200.0
"""Lengths from the recorded path beyond which a scene knows nothing worth driving on."""
_STATION = 1.0
_FAST = 100.0
_SMOOTH_HEIGHT, _SMOOTH_SLOPE = 2.0, 4.0


@dataclass(frozen=True, kw_only=True)
class MadeTrack:
    """A body's track, and sentences (without their subject) that a person should know of it."""

    track: PoseTrack
    notes: tuple[str, ...]


class NoTrack(Exception):
    """Why a path gives no track: what follows the id in a sentence."""


def make_track(path: BodyPath, size: tuple[float, float, float], around: Surroundings, ground: SceneGround) -> MadeTrack:
    """The poses of the middle of a body's box (`size` in scene units) along a path, every `STEP_S` seconds while it is there.

    Raises:
        NoTrack: where the body is never there during the log, or always far from all that the scene knows.
    """
    first, last = presence_s(path, around)
    start, end = around.span_s
    if first > last or last < start or first > end:
        raise NoTrack(f"is never there during the log, which lasts from {start:g} to {end:.4g} s; correct its times")
    count = int(np.ceil((last - first) / STEP_S - 1e-9)) + 1
    t_s = np.linspace(first, last, count)
    motion = motion_of(path, t_s, around)
    far = ground.distance_from_ego(motion.xy) / around.unit
    if (far > FARTHEST_FROM_PATH).all():
        raise NoTrack(
            f"stays {far.min():.0f} from the recorded path, and beyond {FARTHEST_FROM_PATH:g} the scene knows nothing; bring it nearer"
        )
    notes = _notes(path, motion, far, around)
    if path.on_ground:
        world_from_body, blind = _on_ground(motion, size, around, ground)
        if blind.any():
            share = f"from {t_s[blind].min():.3g} to {t_s[blind].max():.3g} s " if not blind.all() else ""
            notes.append(f"{share}is where the scene shows no ground; it is put on the plane of the recorded vehicle's wheels there")
    elif path.world is not None and path.world[0].world_from_actor is not None:
        world_from_body = rigid_poses(path.world, t_s)
    else:
        assert motion.z is not None
        world_from_body = _poses(motion, motion.z, np.zeros((count, 2)), size, around)
    times_us = around.microseconds(t_s)
    rising = np.concatenate([[True], np.diff(times_us) > 0])
    return MadeTrack(track=PoseTrack(times_us=times_us[rising], world_from_body=world_from_body[rising]), notes=tuple(notes))


def _notes(path: BodyPath, motion: Motion2d, far: np.ndarray, around: Surroundings) -> list[str]:
    out = []
    t_s = motion.t_s
    if len(t_s) > 1 and (fastest := float((np.hypot(*np.diff(motion.xy, axis=0).T) / np.diff(t_s)).max()) / around.unit) > _FAST:
        out.append(f"moves at up to {fastest:.0f} per second")
    start, end = around.span_s
    if path.world is not None and len(path.world) > 1 and (path.world[0].time_s < start - 1e-3 or path.world[-1].time_s > end + 1e-3):
        out.append(
            f"has times from {path.world[0].time_s:g} to {path.world[-1].time_s:g} s, but the log lasts from {start:g} to {end:.4g} s; "
            "what lies outside is not shown"
        )
    if t_s[0] > start + 0.1 or t_s[-1] < end - 0.1:
        out.append(f"is there from {t_s[0]:.3g} to {t_s[-1]:.3g} s of {end:.3g} s")
    if (away := far > FARTHEST_FROM_PATH).any():
        out.append(
            f"is farther than {FARTHEST_FROM_PATH:g} from the recorded path at {t_s[away][0]:.3g} s and at {away.sum() - 1} later moments"
        )
    course = path.course
    if isinstance(course, KeyCourse) and course.start_s > end:
        out.append(f"leaves its first pose at {course.start_s:g} s, after the log's end at {end:.4g} s, and so stands there")
    return out


def _on_ground(
    motion: Motion2d, size: tuple[float, float, float], around: Surroundings, ground: SceneGround
) -> tuple[np.ndarray, np.ndarray]:
    """Poses `[T, 4, 4]` on the ground, and at which of the times the scene does not show it."""
    # Stations along the way, for many poses are closer to each other than the ground can tell apart.
    steps = np.hypot(*np.diff(motion.xy, axis=0).T)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    spacing = _STATION * around.unit
    at = np.linspace(0.0, way[-1], int(way[-1] / spacing) + 2) if way[-1] > 0.2 * spacing else np.zeros(1)
    growing = np.concatenate([[True], np.diff(way) > 0])
    places = np.stack([np.interp(at, way[growing], motion.xy[growing, axis]) for axis in (0, 1)], axis=1)
    found = ground.planes(places, 0.6 * float(np.hypot(size[0], size[1])))
    z, slopes = found.z, found.slopes
    if len(at) > 2:
        step = at[1] - at[0]
        z = _smoothed(z, _SMOOTH_HEIGHT * around.unit / step)
        slopes = np.stack([_smoothed(slopes[:, axis], _SMOOTH_SLOPE * around.unit / step) for axis in (0, 1)], axis=1)
    height = np.interp(way, at, z)
    tilt = np.stack([np.interp(way, at, slopes[:, axis]) for axis in (0, 1)], axis=1)
    blind = np.interp(way, at, ~found.known) > 0.5
    return _poses(motion, height, tilt, size, around), blind


def _smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing that a straight rise survives, also at the ends."""
    count = min(len(values) - 1, int(np.ceil(3 * sigma)))
    before = 2 * values[0] - values[count:0:-1]
    after = 2 * values[-1] - values[-2 : -2 - count : -1]
    return gaussian_filter1d(np.concatenate([before, values, after]), sigma, mode="nearest")[count : count + len(values)]


def _poses(motion: Motion2d, z: np.ndarray, slopes: np.ndarray, size: tuple[float, float, float], around: Surroundings) -> np.ndarray:
    """World poses of a box that stands with its bottom at heights `z` on planes with `slopes` (dz/dx, dz/dy)."""
    up = np.concatenate([-slopes, np.ones((len(z), 1))], axis=1)
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    ahead = np.stack([np.cos(motion.yaw_rad), np.sin(motion.yaw_rad)], axis=1)
    forward = np.concatenate([ahead, (slopes * ahead).sum(axis=1, keepdims=True)], axis=1)
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    level_from_body = np.tile(np.eye(4), (len(z), 1, 1))
    level_from_body[:, :3, 0] = forward
    level_from_body[:, :3, 1] = np.cross(up, forward)
    level_from_body[:, :3, 2] = up
    level_from_body[:, :3, 3] = np.concatenate([motion.xy, z[:, None]], axis=1) + 0.5 * size[2] * up
    world_from_level = np.eye(4)
    world_from_level[:3, :3] = around.level_from_world.T
    return world_from_level @ level_from_body
