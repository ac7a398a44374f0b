"""Paths of one body that were broken: its returns fell into two clusters for a while, or it was hidden."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splatmend.datasets.geometry import PoseTrack, inverse, transform
from splatmend.recon.movers.clusters import Detection
from splatmend.recon.movers.registration import Shape
from splatmend.recon.movers.tracking import SHORTEST_STEP_US, WORST_FIT_M, Path

LONGEST_GAP_US = 500_000
LARGEST_STEP_M = 0.8
_NEAR = 6  # detections of each path that are compared


def stitched(paths: Sequence[Path]) -> list[Path]:
    """The paths, those of one body joined: where one ends the other's shape fits it, at the place where its speed leads."""
    whole = sorted(paths, key=lambda path: -len(path.detections))
    number = 0
    while number < len(whole):
        for other in range(number + 1, len(whole)):
            if (both := _both(whole[number], whole[other])) is not None:
                whole[number] = both
                del whole[other]
                break
        else:
            number += 1
    return whole


def _both(a: Path, b: Path) -> Path | None:
    if min(len(a.detections), len(b.detections)) < 3:
        return None
    first, second = (a, b) if a.times_us[0] <= b.times_us[0] else (b, a)
    if second.times_us[0] - first.times_us[-1] > LONGEST_GAP_US or second.times_us[-1] <= first.times_us[-1]:
        return None
    at_us = int(min(second.times_us[0], first.times_us[-1]))
    ahead = PoseTrack(times_us=first.times_us, world_from_body=first.world_from_body).extended(LONGEST_GAP_US)
    first_from_second = inverse(ahead.at(second.times_us[0])) @ second.world_from_body[0]
    points = _shape_points(second, int(second.times_us[0]))
    shape = Shape(_shape_points(first, at_us))
    placed, left_m = shape.registered(transform(first_from_second, points), [np.eye(4)])
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
    poses = [max(shared, key=lambda step: len(step[0].rows))[1] for shared in in_order]
    both = Path(detections=tuple(_joined([d for d, _ in shared]) for shared in in_order), world_from_body=np.stack(poses))
    return both if (np.diff(both.times_us) >= SHORTEST_STEP_US).all() else None


def _shape_points(path: Path, at_us: int) -> np.ndarray:
    nearest = np.argsort(np.abs(path.times_us - at_us), kind="stable")[:_NEAR]
    return np.concatenate([transform(inverse(path.world_from_body[i]), path.detections[i].xyz_world_m) for i in nearest])


def _joined(parts: Sequence[Detection]) -> Detection:
    if len(parts) == 1:
        return parts[0]
    counts = np.array([len(part.rows) for part in parts])
    return Detection(
        turn=parts[0].turn,
        number=parts[0].number,
        time_us=int(np.average([part.time_us for part in parts], weights=counts)),
        rows=np.concatenate([part.rows for part in parts]),
        xyz_world_m=np.concatenate([part.xyz_world_m for part in parts]),
        origin_world_m=parts[0].origin_world_m,
        emptied_share=float(np.average([part.emptied_share for part in parts], weights=counts)),
    )
