"""Detections of one body joined over time.

A path begins at the detection with the most emptied returns that is still free and grows forward and backward, sweep by sweep, by the
detection that the body's shape so far (its last detections, laid on one another) fits best, near where its speed leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import median_filter

from splatmend.datasets.geometry import inverse, pose, transform
from splatmend.recon.movers.clusters import Detection, Detections, Outlines
from splatmend.recon.movers.registration import Shape

SEED_SHARE = 0.25
"""Of a detection's returns that must be emptied for a path to begin there."""
SEED_RETURNS = 12
WORST_FIT_M = 0.22
"""Mean distance from the shape above which a detection is not of the body."""
FASTEST_M_S = 30.0
GATE_M = 1.2
"""How far from where it is expected a body of known speed may be."""
MOST_MISSED = 3
SHORTEST_STEP_US = 20_000
STEADY_M_S = 3.0
"""A step whose velocity differs by more from those around it is a leap to another body."""
_REMEMBERED = 6
Step = tuple[Detection, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Path:
    """One body: its detections in the order of their times and its pose `[K, 4, 4]` (world_from_body) at each. The body's frame has the
    world's axes at the detection where the path began."""

    detections: tuple[Detection, ...]
    world_from_body: np.ndarray

    @cached_property
    def times_us(self) -> np.ndarray:
        return np.array([detection.time_us for detection in self.detections], dtype=np.int64)


def paths(found: Detections) -> list[Path]:
    """Paths through the detections of successive sweeps; no detection is in two of them. A path that leaps is cut to its longest steady
    part, and what is cut off is free for others."""
    taken, seeds = [], []
    for turn in range(len(found)):
        outlines = found.outlines(turn)
        taken.append(np.zeros(len(outlines.count), dtype=bool))
        emptied = outlines.emptied_share * outlines.count
        seeds += [(-float(emptied[number]), turn, int(number)) for number in np.flatnonzero(is_seed(outlines))]
    seeds.sort(key=lambda seed: seed[0])
    out = []
    for _, turn, number in seeds:
        if taken[turn][number]:
            continue
        taken[turn][number] = True
        seed = found.one(turn, number)
        steps = [(seed, pose(np.eye(3), np.array([*seed.centre_xy_m, 0.0])))]
        steps += _grown(steps, found, range(turn + 1, len(found)), taken)
        steps = steps[::-1]
        steps += _grown(steps, found, range(turn - 1, -1, -1), taken)
        steps = steps[::-1]
        kept = _steady_part(steps)
        for detection, _ in [*steps[: kept.start], *steps[kept.stop :]]:
            taken[detection.turn][detection.number] = False
        out.append(Path(detections=tuple(d for d, _ in steps[kept]), world_from_body=np.stack([p for _, p in steps[kept]])))
    return out


def is_seed(outlines: Outlines) -> np.ndarray:
    """Which detections `[C]` of a sweep are emptied enough to be of something that moves."""
    return (outlines.emptied_share >= SEED_SHARE) & (outlines.emptied_share * outlines.count >= SEED_RETURNS)


def _grown(steps: Sequence[Step], found: Detections, turns: Iterable[int], taken: Sequence[np.ndarray]) -> list[Step]:
    """What follows the last of the steps in the given sweeps, nearest in time first."""
    recent = list(steps[-_REMEMBERED:])
    shapes = [_in_body(step) for step in recent]
    grown: list[Step] = []
    missed = 0
    for turn in turns:
        best = _best(recent, shapes, found, turn, taken[turn])
        if best is None:
            missed += 1
            if missed > MOST_MISSED:
                break
            continue
        missed = 0
        taken[turn][best[0].number] = True
        grown.append(best)
        recent = [*recent, best][-_REMEMBERED:]
        shapes = [*shapes, _in_body(best)][-_REMEMBERED:]
    return grown


def _steady_part(steps: Sequence[Step]) -> slice:
    """The longest run of steps whose velocities stay near those around them."""
    if len(steps) < 3:
        return slice(0, len(steps))
    places = np.stack([p[:2, 3] for _, p in steps])
    velocity = np.diff(places, axis=0) / np.diff([d.time_us for d, _ in steps])[:, None] * 1e6
    usual = median_filter(velocity, size=(7, 1), mode="nearest")
    is_leap = np.linalg.norm(velocity - usual, axis=1) > STEADY_M_S
    around = median_filter(velocity, size=(3, 1), mode="nearest")
    # From one body to another there may be no leap, but another speed before and after.
    is_leap[2:-1] |= np.linalg.norm(around[3:] - around[:-3], axis=1) > STEADY_M_S
    leaps = np.flatnonzero(is_leap)
    ends = np.concatenate([[-1], leaps, [len(velocity)]])
    longest = int(np.argmax(np.diff(ends)))
    return slice(int(ends[longest]) + 1, int(ends[longest + 1]) + 1)


def _in_body(step: Step) -> np.ndarray:
    """A detection's returns `[N, 3]` in the body's frame."""
    detection, world_from_body = step
    return transform(inverse(world_from_body), detection.xyz_world_m)


def _best(recent: Sequence[Step], xyz_body_m: Sequence[np.ndarray], found: Detections, turn: int, taken: np.ndarray) -> Step | None:
    """The sweep's free detection, and the body's pose in it, that fits the last known steps and their returns best; None if none does."""
    last, world_from_last = recent[-1]
    velocity = _velocity_m_us(recent)
    outlines = found.outlines(turn)
    elapsed_us = outlines.time_us - last.time_us
    # Where a turn ends and the next begins, a body is seen twice within moments: no speed can be had from that.
    possible = ~taken & ((elapsed_us if turn > last.turn else -elapsed_us) >= SHORTEST_STEP_US)
    still_xy = world_from_last[:2, 3]
    if velocity is not None:
        moved_xy = still_xy + velocity * elapsed_us[:, None]
        gate_m = GATE_M + 3e-6 * np.abs(elapsed_us)
    else:
        moved_xy = np.broadcast_to(still_xy, (len(elapsed_us), 2))
        gate_m = FASTEST_M_S * 1e-6 * np.abs(elapsed_us) + 0.5
    expected_low, expected_high = (last.rectangle_m[end] + moved_xy - still_xy for end in (0, 1))
    apart = np.maximum(outlines.rectangle_m[:, 0] - expected_high, expected_low - outlines.rectangle_m[:, 1])
    near = np.flatnonzero(possible & (apart.max(axis=1) <= gate_m))
    if not near.size:
        return None
    shape = Shape(np.concatenate(xyz_body_m))
    fits = []
    for number in near.tolist():
        candidate = found.one(turn, number)
        moved = world_from_last.copy()
        moved[:2, 3] = moved_xy[number]
        guesses = [moved] if velocity is not None else [moved, *_edge_guesses(world_from_last, last, candidate)]
        world_from_body, left_m = shape.registered(candidate.xyz_world_m, guesses)
        step_m = float(np.linalg.norm(world_from_body[:2, 3] - moved[:2, 3]))
        if left_m <= WORST_FIT_M and step_m <= gate_m[number]:
            # A scrap fits anywhere: of two that fit, the larger.
            fits.append((left_m - 0.05 * np.log(candidate.count), candidate, world_from_body))
    if not fits:
        return None
    _, candidate, world_from_body = min(fits, key=lambda fit: fit[0])
    return candidate, world_from_body


def _velocity_m_us(known: Sequence[Step]) -> np.ndarray | None:
    """Mean velocity `[2]` over the last few steps, once there are three."""
    if len(known) < 3:
        return None
    recent = known[-4:]
    return (recent[-1][1][:2, 3] - recent[0][1][:2, 3]) / (recent[-1][0].time_us - recent[0][0].time_us)


def _edge_guesses(world_from_last: np.ndarray, last: Detection, candidate: Detection) -> list[np.ndarray]:
    """Poses that bring the middles or a corner of the two detections' rectangles together."""
    (last_low, last_high), (low, high) = last.rectangle_m, candidate.rectangle_m
    shifts = [candidate.centre_xy_m - last.centre_xy_m, low - last_low, high - last_high]
    out = []
    for shift in shifts:
        guess = world_from_last.copy()
        guess[:2, 3] += shift
        out.append(guess)
    return out
