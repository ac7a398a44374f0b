"""Poses that cannot be right: they do not fit the way before and after them.

The right poses of a track are its longest chain of poses each of which the one before leads to, at the speed and turn rate that the
track has thereabouts. The tolerance is what a hard manoeuvre does meanwhile and a slack for noise, so that only wrong poses are named, not
rough ones: those are what a fit's pose corrections are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import PoseTrack, inverse
from splatmend.datasets.log import ActorTrack, CameraFrame, LidarSweep, SceneLog

MOST = 0.25
"""Where more than this share of a track's poses would have to go, none is called wrong: then the track jumps as a whole."""
_AROUND = 4
"""Steps before and after a pose that say how fast it moves."""
_FARTHEST = 5
"""Poses that a chain goes past at most, less one."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What a pose may be off where another leads to."""

    slack_m: float
    slack_deg: float
    acceleration_m_s2: float
    turn_deg_s2: float


CAMERA = Tolerance(slack_m=0.5, slack_deg=4.0, acceleration_m_s2=12.0, turn_deg_s2=150.0)
ACTOR = Tolerance(slack_m=0.7, slack_deg=80.0, acceleration_m_s2=15.0, turn_deg_s2=300.0)
"""Boxes are drawn by people and networks, and those of people turn on the spot."""


_MOST_NAMED = 3
"""Actors with wrong boxes that notes name."""


def jumping(track: PoseTrack, tolerance: Tolerance) -> Bool[np.ndarray, "K"]:
    """Which poses of a track are wrong; none in a track of fewer than five."""
    count = len(track.times_us)
    if count < 5:
        return np.zeros(count, dtype=bool)
    length, before, strain = np.ones(count), np.full(count, -1), np.zeros(count)
    excess = _excess_of_links(track, tolerance)
    for here in range(1, count):
        for past in range(max(here - _FARTHEST, 0), here):
            off = excess[here - past - 1, past]
            if off <= 1 and (length[past] + 1, -strain[past] - off) > (length[here], -strain[here]):
                length[here], before[here], strain[here] = length[past] + 1, past, strain[past] + off
    wrong = np.ones(count, dtype=bool)
    at = int(np.lexsort((strain, -length))[0])
    while at >= 0:
        wrong[at] = False
        at = int(before[at])
    return wrong if wrong.sum() <= MOST * count else np.zeros(count, dtype=bool)


def _excess_of_links(track: PoseTrack, tolerance: Tolerance) -> Float[np.ndarray, "L K"]:
    """Row n, place k: how far pose k + n + 1 lies off where pose k leads to, in tolerances."""
    poses, seconds = track.world_from_body, (track.times_us - track.times_us[0]) * 1e-6
    step_s = float(np.median(np.diff(seconds)))
    speeds = np.diff(poses[:, :3, 3], axis=0) / np.diff(seconds)[:, None]
    turns = _turns(poses[:-1], poses[1:]) / np.diff(seconds)[:, None]
    out = np.full((min(_FARTHEST, len(poses) - 1), len(poses)), np.inf)
    for row in range(len(out)):
        first, then = slice(None, len(poses) - row - 1), slice(row + 1, None)
        passed_s = seconds[then] - seconds[first]
        middle = np.arange(len(passed_s)) + row // 2
        # Medians, so that wrong poses among the steps do not count.
        width = min(2 * _AROUND + 1, len(speeds))
        window = np.clip(middle - _AROUND, 0, len(speeds) - width)[:, None] + np.arange(width)
        speed, turn = np.median(speeds[window], axis=1), np.median(turns[window], axis=1)
        off_m = np.linalg.norm(poses[then, :3, 3] - poses[first, :3, 3] - speed * passed_s[:, None], axis=-1)
        off_deg = np.degrees(np.linalg.norm(_turns(poses[first], poses[then]) - turn * passed_s[:, None], axis=-1))
        change_s2 = 2 * step_s * passed_s
        out[row, : len(passed_s)] = np.maximum(
            off_m / (tolerance.slack_m + change_s2 * tolerance.acceleration_m_s2),
            off_deg / (tolerance.slack_deg + change_s2 * tolerance.turn_deg_s2),
        )
    return out


def _turns(first: Float[np.ndarray, "K 4 4"], then: Float[np.ndarray, "K 4 4"]) -> Float[np.ndarray, "K 3"]:
    """Rotation vectors from one pose to another, in the axes of the former."""
    return Rotation.from_matrix(np.swapaxes(first[:, :3, :3], -1, -2) @ then[:, :3, :3]).as_rotvec()


def _reach_us(sweep: LidarSweep, step_us: float) -> float:
    """How far from the middle of a sweep a wrong pose of the vehicle spoils it; poses are `step_us` apart. Where returns follow the path,
    those between a wrong pose and its right neighbours are off; else those of the turn that it belongs to."""
    return sweep.turn_us / 2 + step_us if sweep.follows_path else max(0.6 * step_us, sweep.turn_us / 2)


def without_jumps(log: SceneLog) -> SceneLog:
    """The log with wrong poses bridged by their neighbours', and a note for each track that had some.

    Frames with a bridged pose are marked (`CameraFrame.pose_bridged`): their pictures are no truth for it. Sweeps that a wrong pose of the
    vehicle reaches, whose points would stand elsewhere, are left out, and wrong boxes are dropped. Logs without a scale stay as they are:
    nothing says what is far for them.
    """
    if not log.metric:
        return log
    notes: list[str] = []
    frames: dict[tuple[str, int], CameraFrame] = {}
    for camera in log.cameras:
        mine = log.frames_of(camera)
        bridged = _bridged_frames(mine)
        if bridged:
            frames |= {(camera, frame.index): frame for frame in bridged}
            notes.append(_note(f"camera {camera}", "are bridged, their pictures are not fitted", [f.index for f in bridged], len(mine)))
    ego, lost = _smoothed(log.ego, CAMERA)
    sweeps = log.sweeps
    if len(lost):
        step_us = float(np.median(np.diff(log.ego.times_us)))
        sweeps = tuple(sweep for sweep in sweeps if np.abs(lost - sweep.middle_us).min() > _reach_us(sweep, step_us))
        if len(sweeps) < len(log.sweeps):
            notes.append(
                f"{len(log.sweeps) - len(sweeps)} of {len(log.sweeps)} sweeps were taken where the vehicle's pose jumps; they are left out."
            )
    smoothed = [(actor, *_smoothed(actor.track, ACTOR)) for actor in log.actors]
    actors = [replace(actor, track=track) for actor, track, _ in smoothed]
    notes += _notes_of_boxes([(actor, len(dropped)) for actor, _, dropped in smoothed if len(dropped)])
    if not notes:
        return log
    return replace(
        log,
        frames=tuple(frames.get((frame.camera, frame.index), frame) for frame in log.frames),
        sweeps=sweeps,
        actors=tuple(actors),
        ego=ego,
        notes=(*log.notes, *notes),
    )


def _smoothed(track: PoseTrack, tolerance: Tolerance) -> tuple[PoseTrack, Int[np.ndarray, "M"]]:
    """The track without its wrong poses, and their times."""
    wrong = jumping(track, tolerance)
    if not wrong.any():
        return track, track.times_us[wrong]
    return PoseTrack(times_us=track.times_us[~wrong], world_from_body=track.world_from_body[~wrong]), track.times_us[wrong]


def _bridged_frames(frames: Sequence[CameraFrame]) -> list[CameraFrame]:
    """Those of one camera whose poses are wrong, with poses between their neighbours'."""
    times_us = np.array([frame.mid_us for frame in frames], dtype=np.int64)
    if not frames or (np.diff(times_us) <= 0).any():
        return []
    track, lost = _smoothed(PoseTrack(times_us=times_us, world_from_body=np.stack([f.world_from_camera for f in frames])), CAMERA)
    wrong = set(lost.tolist())
    return [_moved(frame, track.at) for frame in frames if frame.mid_us in wrong]


def _moved(frame: CameraFrame, at: Callable[[int], np.ndarray]) -> CameraFrame:
    """The frame at another place in the middle of its exposure, moving during it as it did."""
    shift = at(frame.mid_us) @ inverse(frame.world_from_camera)
    return replace(
        frame,
        world_from_camera_start=shift @ frame.world_from_camera_start,
        world_from_camera_end=shift @ frame.world_from_camera_end,
        pose_bridged=True,
    )


def _notes_of_boxes(dropped: Sequence[tuple[ActorTrack, int]]) -> list[str]:
    """Of actors and how many of their boxes jump: a note each, or one of all where they are many."""
    if len(dropped) <= _MOST_NAMED:
        return [
            f"actor {actor.actor_id}: {count} of {len(actor.track.times_us)} boxes jump; they are left out." for actor, count in dropped
        ]
    count, boxes = sum(count for _, count in dropped), sum(len(actor.track.times_us) for actor, _ in dropped)
    worst = sorted(dropped, key=lambda one: -one[1])[:_MOST_NAMED]
    named = ", ".join(f"{actor.actor_id} ({jumps} of {len(actor.track.times_us)})" for actor, jumps in worst)
    return [f"{len(dropped)} actors: {count} of their {boxes} boxes jump, most of {named}; they are left out."]


def _note(what: str, then: str, indices: Sequence[int], count: int) -> str:
    shown = ", ".join(map(str, indices[:6])) + (", ..." if len(indices) > 6 else "")
    return f"{what}: {len(indices)} of {count} poses jump ({shown}); they {then}."
