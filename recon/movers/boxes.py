"""Actors from paths: one box and smooth poses for each path that can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import diags
from scipy.sparse.linalg import spsolve

from splatmend.datasets.geometry import PoseTrack, inverse, transform, yaw_pose
from splatmend.datasets.log import ActorTrack
from splatmend.recon.movers.ground import Ground
from splatmend.recon.movers.tracking import Path

FEWEST_STEPS = 6
SHORTEST_US = 400_000
LEAST_MOTION_M = 1.0
LEAST_EMPTIED = 0.3
"""Share of all returns of a path whose places were free at another time."""
WORST_WOBBLE_M = 0.2
"""Greatest root mean square distance of the registered places from the smooth path."""
LONGEST_M, WIDEST_M = 20.0, 3.4
SMALLEST_FACE_M = 1.2
"""What shows less than this, in length and in width, is a person or a part of something; neither is rigid."""
USUAL_SIZE_M = (4.3, 1.8)
"""Length and width of a vehicle of which only one face was seen; the rest is taken to lie behind it."""
_SEEN_LENGTH_M, _SEEN_WIDTH_M = 3.0, 1.3
_NOISE_M, _ACCELERATION_M_S2, _TURN_NOISE_RAD, _TURN_RAD_S2 = 0.1, 2.5, 0.05, 0.3
_CELL_M, _STEADY_SHARE = 0.2, 0.15
_PIECE_GAP_M, _PIECE_DRIFT_M = 1.0, 0.35


@dataclass(frozen=True, kw_only=True)
class Body:
    """A path that moves: smooth poses at `times_us [K]` whose x axis points ahead, its returns `[N, 3]` and where they were seen from
    `[N, 3]`, both in the body's frame (height above the ground), and the number `[N]` of the detection that each is of."""

    times_us: np.ndarray
    world_from_body: np.ndarray
    xyz_m: np.ndarray
    seen_from_m: np.ndarray
    step: np.ndarray

    @property
    def track(self) -> PoseTrack:
        return PoseTrack(times_us=self.times_us, world_from_body=self.world_from_body)

    def extent_m(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest `[3]` coordinates of the places where returns come again from step to step: what was taken along for a moment,
        a parked car that is passed closely, smears over the body's frame."""
        places, place = np.unique(np.floor(self.xyz_m / _CELL_M).astype(np.int64), axis=0, return_inverse=True)
        place = place.reshape(-1)
        times_seen = np.bincount(np.unique(np.stack([place, self.step]), axis=1)[0], minlength=len(places))
        # One return a place, so that the near ones do not count more.
        _, first = np.unique(place, return_index=True)
        steady = self.xyz_m[first[times_seen >= max(3, _STEADY_SHARE * len(self.times_us))]]
        if not len(steady):
            return np.zeros(3), np.zeros(3)
        low, high = np.quantile(steady, [0.005, 0.995], axis=0)
        return low, high


def actors_of(paths: Sequence[Path], ground: Ground) -> tuple[ActorTrack, ...]:
    """Tracks of class vehicle, the one with the most returns first."""
    found = [body for path in paths if (body := moving_body(path, ground)) is not None]
    found.sort(key=lambda body: -len(body.xyz_m))
    whole: list[Body] = []
    for body in found:
        for number, other in enumerate(whole):
            if (joined := _with_piece(other, body)) is not None:
                whole[number] = joined
                break
        else:
            whole.append(body)
    actors = [actor for number, body in enumerate(whole) if (actor := _boxed(body, f"mover-{number:02d}")) is not None]
    return tuple(actors)


def moving_body(path: Path, ground: Ground) -> Body | None:
    """The path smoothed and turned to its heading; None where it is short, does not get anywhere, or wobbles."""
    times_us = path.times_us
    if len(times_us) < FEWEST_STEPS or times_us[-1] - times_us[0] < SHORTEST_US:
        return None
    counts = [detection.count for detection in path.detections]
    if np.average([detection.emptied_share for detection in path.detections], weights=counts) < LEAST_EMPTIED:
        return None
    raw = path.world_from_body
    yaw = np.unwrap(np.arctan2(raw[:, 1, 0], raw[:, 0, 0]))
    places = smoothed(times_us, raw[:, :2, 3], _NOISE_M / _ACCELERATION_M_S2)
    if np.linalg.norm(np.ptp(places, axis=0)) < LEAST_MOTION_M:
        return None
    if np.sqrt(np.square(places - raw[:, :2, 3]).sum(axis=1).mean()) > WORST_WOBBLE_M:
        return None
    yaw = smoothed(times_us, yaw[:, None], _TURN_NOISE_RAD / _TURN_RAD_S2)[:, 0]
    steps = np.diff(places, axis=0)
    # The heading relative to the body's own frame is one angle: the mean over all steps, long ones counting more.
    along = np.exp(-0.5j * (yaw[1:] + yaw[:-1])) * (steps[:, 0] + 1j * steps[:, 1])
    heading = yaw + float(np.angle(along.sum()))
    height = smoothed(times_us, ground.height_m(places)[:, None], _NOISE_M / _ACCELERATION_M_S2)[:, 0]
    smooth = np.stack([yaw_pose(float(a), np.array([*xy, z])) for a, xy, z in zip(heading, places, height)])
    xyz = [transform(inverse(p), d.xyz_world_m) for p, d in zip(smooth, path.detections)]
    seen_from = [np.broadcast_to(transform(inverse(p), d.origin_world_m), (d.count, 3)) for p, d in zip(smooth, path.detections)]
    return Body(
        times_us=times_us,
        world_from_body=smooth,
        xyz_m=np.concatenate(xyz),
        seen_from_m=np.concatenate(seen_from),
        step=np.repeat(np.arange(len(xyz)), [len(part) for part in xyz]),
    )


def smoothed(times_us: np.ndarray, values: np.ndarray, noise_over_acceleration_s2: float) -> np.ndarray:
    """Values `[K, C]` with the least sum of squared changes and squared second derivatives, weighed by how noisy the values are and how
    fast the rate changes; what lies far off counts less."""
    seconds = (times_us - times_us[0]) * 1e-6
    before, after = np.diff(seconds)[:-1], np.diff(seconds)[1:]
    middle = 0.5 * (before + after)
    second = diags(
        [1 / (before * middle), -(1 / before + 1 / after) / middle, 1 / (after * middle)],
        [0, 1, 2],
        shape=(len(values) - 2, len(values)),
    )
    stiffness = noise_over_acceleration_s2**2 * (second.T @ second)
    weights = np.ones(len(values))
    smooth = values
    for _ in range(4):
        smooth = np.asarray(spsolve((diags(weights) + stiffness).tocsc(), weights[:, None] * values)).reshape(values.shape)
        off = np.linalg.norm(values - smooth, axis=1)
        weights = 1 / (1 + (off / max(2.5 * float(np.median(off)), 1e-6)) ** 2)
    return smooth


def _with_piece(body: Body, piece: Body) -> Body | None:
    """The body with a piece that rides along with it (returns of a lorry often do not hang together); None for another body."""
    times_us = piece.times_us[(piece.times_us >= body.times_us[0]) & (piece.times_us <= body.times_us[-1])]
    if len(times_us) < 0.8 * len(piece.times_us):
        return None
    within = inverse(body.track.at(times_us)) @ piece.track.at(times_us)
    if np.ptp(within[:, :2, 3], axis=0).max() > _PIECE_DRIFT_M * 2:
        return None
    place = within[len(within) // 2]
    xyz = transform(place, piece.xyz_m)
    low, high = body.extent_m()
    piece_low, piece_high = np.quantile(xyz, [0.02, 0.98], axis=0)
    if np.maximum(piece_low - high, low - piece_high)[:2].max() > _PIECE_GAP_M:
        return None
    reach = np.maximum(high, piece_high) - np.minimum(low, piece_low)
    if reach[0] > LONGEST_M or reach[1] > WIDEST_M:
        return None
    return Body(
        times_us=body.times_us,
        world_from_body=body.world_from_body,
        xyz_m=np.concatenate([body.xyz_m, xyz]),
        seen_from_m=np.concatenate([body.seen_from_m, transform(place, piece.seen_from_m)]),
        step=np.concatenate([body.step, np.searchsorted(body.times_us, piece.times_us)[piece.step]]),
    )


def _boxed(body: Body, actor_id: str) -> ActorTrack | None:
    """The body's box from the ground to its highest return, made whole where only one face was seen; None where it is no vehicle's."""
    low, high = body.extent_m()
    low[2] = 0.0
    if max(high[0] - low[0], high[1] - low[1]) < SMALLEST_FACE_M or high[0] - low[0] > LONGEST_M or high[1] - low[1] > WIDEST_M:
        return None
    seen_from = body.seen_from_m.mean(axis=0)
    for axis, (usual, seen) in enumerate(zip(USUAL_SIZE_M, (_SEEN_LENGTH_M, _SEEN_WIDTH_M))):
        if high[axis] - low[axis] >= seen:
            continue
        if seen_from[axis] < 0.5 * (low[axis] + high[axis]):
            high[axis] = low[axis] + usual
        else:
            low[axis] = high[axis] - usual
    centre = 0.5 * (low + high)
    world_from_box = body.world_from_body @ yaw_pose(0.0, centre)
    length, width, height = (high - low).tolist()
    return ActorTrack(
        actor_id=actor_id,
        actor_class="vehicle",
        size_m=(length, width, height),
        track=PoseTrack(times_us=body.times_us, world_from_body=world_from_box),
    )
