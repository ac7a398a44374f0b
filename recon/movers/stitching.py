"""Paths of one body that were broken: its returns fell into two clusters for a while, or it was hidden."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splatmend.datasets.geometry import PoseTrack, inverse, transform
from splatmend.recon.movers.clusters import Detection
from splatmend.recon.movers.registration import TRUNCATE_M, Shape
from splatmend.recon.movers.tracking import SHORTEST_STEP_US, WORST_FIT_M, Path

LONGEST_GAP_US = 500_000
LARGEST_STEP_M = 0.8
_NEAR = 6  # detections of each path that are compared


def stitched(paths: Sequence[Path]) -> list[Path]:
    """The paths, those of one body joined: where one ends the other's shape fits it, at the place where its speed leads."""
    whole = sorted(paths, key=lambda path: -len(path.detections))
    starts_us, ends_us = (np.array([path.detections[end].time_us for path in whole], dtype=np.int64) for end in (0, -1))
    number = 0
    while number < len(whole):
        follows = _follow(starts_us, ends_us, number)
        for other in (number + 1 + np.flatnonzero(follows[number + 1 :])).tolist():
            if (both := _both(whole[number], whole[other])) is not None:
                whole[number] = both
                starts_us[number], ends_us[number] = both.detections[0].time_us, both.detections[-1].time_us
                del whole[other]
                starts_us, ends_us = np.delete(starts_us, other), np.delete(ends_us, other)
                break
        else:
            number += 1
    return whole


def _follow(starts_us: np.ndarray, ends_us: np.ndarray, number: int) -> np.ndarray:
    """Which paths `[P]` begin while the one of a number lasts, or soon after, and go on after its end; or the other way round."""
    start_us, end_us = starts_us[number], ends_us[number]
    after = (starts_us - end_us <= LONGEST_GAP_US) & (ends_us > end_us)
    before = (start_us - ends_us <= LONGEST_GAP_US) & (end_us > ends_us)
    return np.where(start_us <= starts_us, after, before)


def _both(a: Path, b: Path) -> Path | None:
    """Two of which one follows the other as one path, if they are one body's."""
    if min(len(a.detections), len(b.detections)) < 3:
        return None
    first, second = (a, b) if a.times_us[0] <= b.times_us[0] else (b, a)
    start_us, end_us = int(second.times_us[0]), int(first.times_us[-1])
    first_from_second = inverse(_pose_at(first, start_us)) @ second.world_from_body[0]
    points = transform(first_from_second, _shape_points(second, start_us))
    shape_points = _shape_points(first, min(start_us, end_us))
    if not _may_meet(shape_points, points):
        return None
    placed, left_m = Shape(shape_points).registered(points, [np.eye(4)])
    if left_m > WORST_FIT_M or np.linalg.norm(placed[:2, 3]) > LARGEST_STEP_M:
        return None
    second_from_first = inverse(inverse(placed) @ first_from_second)
    steps: dict[int, list[tuple[Detection, np.ndarray]]] = {}
    for path, body_from_first in ((first, np.eye(4)), (second, second_from_first)):
        for detection, world_from_body in zip(path.detections, path.world_from_body):
            steps.setdefault(detection.turn, []).append((detection, world_from_body @ body_from_first))
    for shared in steps.values():
        if len(shared) == 2 and np.linalg.norm(shared[0][1][:2, 3] - shared[1][1][:2, 3]) > LARGEST_STEP_M:
            return None
    in_order = [steps[turn] for turn in sorted(steps)]
    # Of two registrations in one sweep that of more returns is the surer.
    poses = [max(shared, key=lambda step: step[0].count)[1] for shared in in_order]
    both = Path(detections=tuple(_joined([d for d, _ in shared]) for shared in in_order), world_from_body=np.stack(poses))
    return both if (np.diff(both.times_us) >= SHORTEST_STEP_US).all() else None


def _pose_at(path: Path, at_us: int) -> np.ndarray:
    """Pose `[4, 4]` at a time after the path's beginning, or soon after its end; only the two poses around it are looked at."""
    after = int(np.clip(np.searchsorted(path.times_us, at_us, side="right"), 1, len(path.times_us) - 1))
    around = slice(after - 1, after + 1)
    return PoseTrack(times_us=path.times_us[around], world_from_body=path.world_from_body[around]).extended(LONGEST_GAP_US).at(at_us)


def _may_meet(shape_m: np.ndarray, points_m: np.ndarray) -> bool:
    """Whether any of the points can come near the shape at all. What is accepted turns them about the origin and moves them by no more than
    `LARGEST_STEP_M`, so that their distances from the axis change by no more than that; and where none is within `TRUNCATE_M` the fit is
    as bad as can be."""
    shape_r, points_r = (np.linalg.norm(xyz[:, :2], axis=1) for xyz in (shape_m, points_m))
    reach_m = LARGEST_STEP_M + TRUNCATE_M
    within = (points_r >= shape_r.min() - reach_m) & (points_r <= shape_r.max() + reach_m)
    within &= (points_m[:, 2] >= shape_m[:, 2].min() - TRUNCATE_M) & (points_m[:, 2] <= shape_m[:, 2].max() + TRUNCATE_M)
    return bool(within.any())


def _shape_points(path: Path, at_us: int) -> np.ndarray:
    nearest = np.argsort(np.abs(path.times_us - at_us), kind="stable")[:_NEAR]
    return np.concatenate([transform(inverse(path.world_from_body[i]), path.detections[i].xyz_world_m) for i in nearest])


def _joined(parts: Sequence[Detection]) -> Detection:
    if len(parts) == 1:
        return parts[0]
    counts = np.array([part.count for part in parts])
    rectangles = np.stack([part.rectangle_m for part in parts])
    return Detection(
        turn=parts[0].turn,
        number=parts[0].number,
        time_us=int(np.average([part.time_us for part in parts], weights=counts)),
        count=int(counts.sum()),
        rectangle_m=np.stack([rectangles[:, 0].min(axis=0), rectangles[:, 1].max(axis=0)]),
        origin_world_m=parts[0].origin_world_m,
        emptied_share=float(np.average([part.emptied_share for part in parts], weights=counts)),
        returns=tuple(kept for part in parts for kept in part.returns),
    )
