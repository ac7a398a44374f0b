"""What a course says of a body at times: where in the level plane, heading where, and when it is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import PoseTrack
from splatmend.recon.edits.guide import Guide
from splatmend.recon.edits.types import BodyPath, EgoCourse, FollowCourse, KeyCourse, ParkedCourse, Profile, TimedPose

STEP_S = 0.05
"""Time between the poses of a track that is made of a path."""
_STANDING = 0.3
"""Lengths per second below which a motion says nothing of the heading."""
_TURN_BLUR = 0.5
"""Standard deviation, in lengths, of the smoothing of headings along the way."""
_MOST_STEPS = 200_000


@dataclass(frozen=True, kw_only=True)
class Motion2d:
    """At times `t_s [T]`: places `xy [T, 2]` in the level frame, below the middle of the body, headings `yaw_rad [T]`, and the heights of
    its bottom `z [T]` where the course has them."""

    t_s: np.ndarray
    xy: np.ndarray
    yaw_rad: np.ndarray
    z: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What courses count from: the ego's line, the log's first picture and last one (`start_us`, `end_us`), the level frame, scene units
    per unit of length, and the tracks that may be followed."""

    ego: Guide
    start_us: int
    end_us: int
    level_from_world: np.ndarray
    unit: float
    track_of: Callable[[str], tuple[PoseTrack, float]]
    """Of an actor by its id: its track and the height of its box."""

    def level(self, world_m: np.ndarray) -> np.ndarray:
        """World places `[..., 3]` in the level frame."""
        return np.asarray(world_m, dtype=np.float64) @ self.level_from_world.T

    def seconds(self, t_us: np.ndarray | int) -> np.ndarray:
        """Times as seconds after the log's first picture."""
        return (np.asarray(t_us, dtype=np.int64) - self.start_us) * 1e-6

    def microseconds(self, t_s: np.ndarray) -> np.ndarray:
        """The inverse of `seconds`."""
        return self.start_us + np.rint(np.asarray(t_s) * 1e6).astype(np.int64)

    @property
    def span_s(self) -> tuple[float, float]:
        """The log's own time."""
        return 0.0, (self.end_us - self.start_us) * 1e-6


def presence_s(path: BodyPath, around: Surroundings) -> tuple[float, float]:
    """From when to when a path has its body there, cut to the log; the second is not later than the first where it never is."""
    first, last = around.span_s
    if path.world is not None and len(path.world) > 1:
        first, last = max(first, path.world[0].time_s), min(last, path.world[-1].time_s)
    if path.follow is not None:
        track, _ = around.track_of(path.follow.actor)
        margin = 0.06  # as `ActorTrack.is_labelled`
        own = around.seconds(np.array([track.start_us, track.end_us])) + path.follow.delay_s
        first, last = max(first, float(own[0]) - margin), min(last, float(own[1]) + margin)
    if path.from_s is not None:
        first = max(first, path.from_s)
    if path.until_s is not None:
        last = min(last, path.until_s)
    return first, last


def motion_of(path: BodyPath, t_s: np.ndarray, around: Surroundings) -> Motion2d:
    """Where a path has its body at times that rise evenly."""
    course = path.course
    if isinstance(course, EgoCourse):
        xy, heading = _beside_ego(course, t_s, around)
    elif isinstance(course, FollowCourse):
        return _following(course, t_s, around)
    elif isinstance(course, KeyCourse):
        return _through_keys(course, t_s, around)
    elif isinstance(course, ParkedCourse):
        return _parked(course, t_s, around)
    else:
        return _timed(course, t_s, around)
    return Motion2d(t_s=t_s, xy=xy, yaw_rad=yaw_from_motion(t_s, xy, heading, around.unit))


def yaw_from_motion(t_s: np.ndarray, xy: np.ndarray, fallback_rad: np.ndarray, unit: float) -> np.ndarray:
    """Headings `[T]` of a body that looks where it goes. A standing one keeps its heading; one that never moves has the fallback's."""
    if len(t_s) < 2:
        return fallback_rad.copy()
    velocity = np.gradient(xy, t_s, axis=0)
    speed = np.hypot(*velocity.T)
    moving = speed > _STANDING * unit
    if not moving.any():
        return fallback_rad.copy()
    yaw = np.interp(t_s, t_s[moving], np.unwrap(np.arctan2(velocity[moving, 1], velocity[moving, 0])))
    # Held from the last moment of motion, not turned towards the next one, while it stands.
    last = np.maximum.accumulate(np.where(moving, np.arange(len(t_s)), -1))
    yaw = np.where(last >= 0, yaw[np.maximum(last, 0)], yaw)
    # Smoothed along the way, not over time: a body does not turn before it drives on.
    way = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
    at = np.linspace(0.0, way[-1], int(min(10 * way[-1] / unit, _MOST_STEPS)) + 2)
    growing = np.concatenate([[True], np.diff(way) > 0])
    smooth = gaussian_filter1d(np.interp(at, way[growing], yaw[growing]), _TURN_BLUR * unit / (at[1] - at[0]), mode="nearest")
    return np.interp(way, at, smooth)


def _way(speed: Profile, t_s: np.ndarray, from_s: float) -> np.ndarray:
    """The integral of a speed from a time on, at times."""
    low, high = min(t_s[0], from_s), max(t_s[-1], from_s)
    fine = np.union1d(np.linspace(low, high, max(int((high - low) / 0.02), 1) + 1), [from_s, *np.clip(speed.times_s, low, high)])
    values = speed.at(fine)
    way = np.concatenate([[0.0], np.cumsum(0.5 * (values[1:] + values[:-1]) * np.diff(fine))])
    return np.interp(t_s, fine, way) - np.interp(from_s, fine, way)


def _beside_ego(course: EgoCourse, t_s: np.ndarray, around: Surroundings) -> tuple[np.ndarray, np.ndarray]:
    begin = around.ego.recorded_s(np.array([around.start_us]))[0]
    if course.speed is None:
        s = around.ego.recorded_s(around.microseconds(t_s)) + course.ahead * around.unit
    else:
        sign = 1.0 if course.direction == "with" else -1.0
        s = begin + around.unit * (course.ahead + sign * _way(course.speed, t_s, 0.0))
    xy, heading = around.ego.at(s, around.unit * course.left.smoothly_at(t_s))
    return xy, heading + (np.pi if course.direction == "against" else 0.0)


def _following(course: FollowCourse, t_s: np.ndarray, around: Surroundings) -> Motion2d:
    track, height = around.track_of(course.actor)
    level = around.level(track.world_from_body[:, :3, 3])
    axes = around.level(np.swapaxes(track.world_from_body[:, :3, :2], 1, 2))  # forward and left, as rows
    yaw = np.arctan2(axes[:, 0, 1], axes[:, 0, 0])
    guide = Guide.through(track.times_us, level[:, :2], yaw, around.unit)
    times_us = around.microseconds(t_s - course.delay_s)
    s = guide.recorded_s(times_us)
    if not course.ahead and course.left == Profile():
        # Exactly its places, and where it stands its own heading.
        poses = track.at(times_us)
        xy, facing = around.level(poses[:, :3, 3])[:, :2], around.level(poses[:, :3, 0])
        fallback = np.unwrap(np.arctan2(facing[:, 1], facing[:, 0]))
        z = around.level(poses[:, :3, 3])[:, 2] - 0.5 * height
        return Motion2d(t_s=t_s, xy=xy, yaw_rad=fallback, z=z)
    along = s + course.ahead * around.unit
    xy, heading = guide.at(along, around.unit * course.left.smoothly_at(t_s))
    z = np.interp(along, np.maximum.accumulate(guide.s_at), level[:, 2]) - 0.5 * height
    return Motion2d(t_s=t_s, xy=xy, yaw_rad=yaw_from_motion(t_s, xy, np.unwrap(heading), around.unit), z=z)


def _through_keys(course: KeyCourse, t_s: np.ndarray, around: Surroundings) -> Motion2d:
    places = np.stack([_level_place(key.at, around) for key in course.poses])
    xy = places[:, :2]
    chord = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
    tangents = np.gradient(xy, chord, axis=0, edge_order=2 if len(chord) > 2 else 1)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-9)
    for index, key in enumerate(course.poses):
        if key.yaw_deg is not None:
            tangents[index] = _level_heading(key.yaw_deg, around)
    curve = CubicHermiteSpline(chord, xy, tangents)
    fine = np.linspace(0.0, chord[-1], 200 * (len(chord) - 1) + 1)
    line = curve(fine)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    way = np.clip(around.unit * _way(course.speed, t_s, course.start_s), 0.0, length[-1])
    way = np.where(t_s < course.start_s, 0.0, way)
    parameter = np.interp(way, length, fine)
    direction = curve(parameter, 1)
    fallback = np.unwrap(np.arctan2(direction[:, 1], direction[:, 0]))
    z = np.interp(parameter, chord, places[:, 2])
    # The curve's own direction is exact, also where the body stands at its ends.
    return Motion2d(t_s=t_s, xy=curve(parameter), yaw_rad=fallback, z=z)


def _parked(course: ParkedCourse, t_s: np.ndarray, around: Surroundings) -> Motion2d:
    if course.at is not None:
        place = _level_place(course.at, around)
        direction = _level_heading(course.yaw_deg, around)
        xy, z, yaw = place[:2], float(place[2]), float(np.arctan2(direction[1], direction[0]))
    else:
        assert course.ahead is not None
        begin = around.ego.recorded_s(np.array([around.start_us]))
        found, heading = around.ego.at(begin + course.ahead * around.unit, around.unit * course.left)
        xy, z, yaw = found[0], 0.0, float(heading[0]) + np.radians(course.yaw_deg)
    count = len(t_s)
    return Motion2d(t_s=t_s, xy=np.tile(xy, (count, 1)), yaw_rad=np.full(count, yaw), z=np.full(count, z))


def _timed(course: tuple[TimedPose, ...], t_s: np.ndarray, around: Surroundings) -> Motion2d:
    times = np.array([one.time_s for one in course])
    poses = [np.asarray(one.world_from_actor, dtype=np.float64) for one in course if one.world_from_actor is not None]
    if poses:
        places = around.level(np.stack(poses)[:, :3, 3])
        forward = around.level(np.stack(poses)[:, :3, 0])
    else:
        places = np.stack([_level_place(one.at, around) for one in course if one.at is not None])
        forward = np.stack([_level_heading(one.yaw_deg or 0.0, around) for one in course])
    given = poses or course[0].yaw_deg is not None
    yaws = np.unwrap(np.arctan2(forward[:, 1], forward[:, 0]))
    at = np.clip(t_s, times[0], times[-1])
    if len(course) == 1:
        xyz, yaw = np.tile(places[0], (len(t_s), 1)), np.full(len(t_s), yaws[0])
    else:
        xyz, yaw = PchipInterpolator(times, places)(at), PchipInterpolator(times, yaws)(at)
    if not given:
        yaw = yaw_from_motion(t_s, xyz[:, :2], np.full(len(t_s), yaws[0]), around.unit)
    return Motion2d(t_s=t_s, xy=xyz[:, :2], yaw_rad=yaw, z=xyz[:, 2])


def rigid_poses(course: tuple[TimedPose, ...], t_s: np.ndarray) -> np.ndarray:
    """Poses `[T, 4, 4]` of a course that gives whole poses: places as for all courses, rotations by slerp."""
    times = np.array([one.time_s for one in course])
    poses = np.stack([np.asarray(one.world_from_actor, dtype=np.float64) for one in course])
    at = np.clip(t_s, times[0], times[-1])
    track = PoseTrack(times_us=np.rint((times - times[0]) * 1e6).astype(np.int64), world_from_body=poses)
    out = track.at(np.rint((at - times[0]) * 1e6).astype(np.int64))
    if len(course) > 1:
        out[:, :3, 3] = PchipInterpolator(times, poses[:, :3, 3])(at)
    return out


def _level_place(at: tuple[float, ...], around: Surroundings) -> np.ndarray:
    return around.level(np.array([*at, 0.0][:3]))


def _level_heading(yaw_deg: float, around: Surroundings) -> np.ndarray:
    """The direction in the level plane of a heading that counts from the world's x axis laid into it."""
    x_axis = around.level(np.array([1.0, 0.0, 0.0]))[:2]
    base = np.arctan2(x_axis[1], x_axis[0])
    return Rotation.from_euler("z", base + np.radians(yaw_deg)).as_matrix()[:2, 0]
