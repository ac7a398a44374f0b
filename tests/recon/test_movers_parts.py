"""Ground, registration, paths and smooth poses on shapes whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from splatmend.datasets.geometry import inverse, pose, transform, yaw_pose
from splatmend.recon.movers.boxes import smoothed
from splatmend.recon.movers.clusters import Detection, Detections, cluster_labels
from splatmend.recon.movers.clusters import detection as kept_detection
from splatmend.recon.movers.ground import fit_ground
from splatmend.recon.movers.registration import Shape
from splatmend.recon.movers.stitching import stitched
from splatmend.recon.movers.tracking import Path, paths
from splatmend.recon.spool import Spool


def car_shell(seed: int = 0) -> np.ndarray:
    """Places on the rear and the left side of a car of 4 x 1.8 x 1.5 m."""
    random = np.random.default_rng(seed)
    rear = np.stack([np.full(150, -2.0), random.uniform(-0.9, 0.9, 150), random.uniform(0.3, 1.5, 150)], axis=1)
    side = np.stack([random.uniform(-2, 2, 250), np.full(250, 0.9), random.uniform(0.3, 1.2, 250)], axis=1)
    return np.concatenate([rear, side])


SPOOL = Spool()


def detection(turn: int, xyz: np.ndarray, emptied_share: float = 1.0, number: int = 0) -> Detection:
    return kept_detection(
        turn,
        number,
        np.arange(len(xyz)),
        xyz,
        time_us=turn * 100_000,
        origin_world_m=np.zeros(3),
        emptied_share=emptied_share,
        spool=SPOOL,
    )


def test_the_ground_goes_on_below_vehicles_and_bridges_and_follows_a_slope() -> None:
    random = np.random.default_rng(1)
    road = np.column_stack([random.uniform(0, 40, (6000, 2)), np.zeros(6000)])
    road[:, 2] = 0.06 * road[:, 0]
    covered = (np.abs(road[:, 0] - 20) < 3) & (np.abs(road[:, 1] - 20) < 2)
    roof = road[covered] + [0, 0, 3.0]
    reflection = np.array([[30.2, 10.2, -9.0], [30.4, 10.3, -9.0], [30.3, 10.4, -9.0]])
    ground = fit_ground(np.concatenate([road[~covered], roof, reflection]))
    places = np.array([[20.0, 20.0], [5.5, 30.5], [30.5, 10.5]])
    np.testing.assert_allclose(ground.height_m(places), 0.06 * places[:, 0], atol=0.3)


def test_clusters_are_told_apart_by_gaps() -> None:
    car = car_shell()
    label = cluster_labels(np.concatenate([car, car + np.array([0, 4.0, 0])]))
    assert label.max() == 1
    assert (label[: len(car)] == label[0]).all()
    assert (label[len(car) :] != label[0]).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_registration_finds_the_pose_of_other_returns_of_a_body(seed: int) -> None:
    world_from_body = yaw_pose(0.08, np.array([0.5, -0.3, 0.0]))
    found, left_m = Shape(car_shell()).registered(transform(world_from_body, car_shell(seed)), [np.eye(4)])
    off = inverse(world_from_body) @ found
    assert np.linalg.norm(off[:2, 3]) < 0.06
    assert abs(np.arctan2(off[1, 0], off[0, 0])) < 0.02
    assert left_m < 0.15


def test_a_path_follows_a_car_past_another_that_stands() -> None:
    found = []
    for turn in range(10):
        moving = car_shell(turn) + np.array([0.9 * turn, 0.0, 0.0])
        standing = car_shell(100 + turn) + np.array([4.0, 3.2, 0.0])
        found.append([detection(turn, standing, 0.0), detection(turn, moving, number=1)])
    (path,) = paths(Detections(found, SPOOL))
    assert [d.turn for d in path.detections] == list(range(10))
    steps = np.diff(path.world_from_body[:, :2, 3], axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to([0.9, 0.0], steps.shape), atol=0.1)


def test_a_broken_path_is_joined_in_one_frame_of_the_body() -> None:
    def part(turns: range, offset: np.ndarray) -> Path:
        places = [np.array([0.5 * turn, 0.0, 0.0]) for turn in turns]
        return Path(
            detections=tuple(detection(turn, car_shell(turn) + place) for turn, place in zip(turns, places)),
            world_from_body=np.stack([pose(np.eye(3), place + offset) for place in places]),
        )

    (whole,) = stitched([part(range(5), np.zeros(3)), part(range(6, 14), np.array([1.5, 0.2, 0.0]))])
    assert [d.turn for d in whole.detections] == [*range(5), *range(6, 14)]
    within = whole.world_from_body[:, :2, 3] - np.array([[0.5 * d.turn, 0.0] for d in whole.detections])
    assert np.ptp(within, axis=0).max() < 0.1


def test_paths_of_two_bodies_stay_two() -> None:
    def part(offset_m: float) -> Path:
        places = [np.array([0.5 * turn, offset_m, 0.0]) for turn in range(8)]
        found = tuple(detection(turn, car_shell(turn) + place) for turn, place in enumerate(places))
        return Path(detections=found, world_from_body=np.stack([pose(np.eye(3), place) for place in places]))

    assert len(stitched([part(0.0), part(4.0)])) == 2


def test_smoothing_keeps_a_curve_and_takes_noise_and_leaps_off() -> None:
    times_us = np.arange(30) * 100_000
    seconds = times_us * 1e-6
    true = np.stack([5 * seconds, 0.5 * seconds**2], axis=1)
    noisy = true + np.random.default_rng(4).normal(0, 0.08, true.shape)
    noisy[12] += [1.5, 0.0]
    off = np.linalg.norm(smoothed(times_us, noisy, 0.1 / 2.5) - true, axis=1)
    assert off.max() < 0.15
