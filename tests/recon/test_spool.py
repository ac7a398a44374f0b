"""What movers keep in a file comes back as it was, and what is held in memory does not grow with the number of sweeps."""

from __future__ import annotations

import tracemalloc
from functools import partial

import numpy as np

from splatmend.datasets.log import LidarPoints, LidarSweep
from splatmend.recon.movers.clusters import Detections, clusters
from splatmend.recon.movers.ground import GroundReturns
from splatmend.recon.movers.obstacles import read_turns
from splatmend.recon.movers.visibility import MOST_TURNS, WINDOW_US, emptied_returns, held_against
from splatmend.recon.spool import Recent, Spool


def sweep_points(number: int) -> LidarPoints:
    """A road and three boxes beside it, seen from a vehicle that passes."""
    random = np.random.default_rng(number)
    road = np.column_stack([random.uniform(-20, 20, (6_000, 2)), np.zeros(6_000)])
    along = random.uniform(-3, 3, 3_000) + random.integers(-1, 2, 3_000) * 12.0
    wall = np.column_stack([along, np.full(3_000, 6.0), random.uniform(0.5, 4, 3_000)])
    origin = np.array([0.2 * number, 0.0, 1.7])
    xyz = np.concatenate([road, wall]) + np.array([origin[0], 0, 0])
    return LidarPoints(
        xyz_world_m=xyz,
        time_us=np.full(len(xyz), number * 100_000),
        intensity=np.zeros(len(xyz), np.float32),
        origin_world_m=np.broadcast_to(origin, xyz.shape),
    )


def sweeps(count: int) -> list[LidarSweep]:
    return [LidarSweep(sensor="top", timestamp_us=n * 100_000, read_points=partial(sweep_points, n)) for n in range(count)]


def test_arrays_come_back_with_their_types_and_shapes() -> None:
    spool = Spool()
    first = (np.arange(6.0).reshape(2, 3), np.array([True, False]), np.zeros((0, 3)))
    second = (np.arange(5, dtype=np.int32)[::2],)
    kept = [spool.keep(*first), spool.keep(*second)]
    for arrays, again in zip((first, second), (one.load() for one in kept), strict=True):
        for array, same in zip(arrays, again, strict=True):
            assert same.dtype == array.dtype
            np.testing.assert_array_equal(same, array)


def test_only_the_last_few_are_held_and_others_are_made_again() -> None:
    made: list[int] = []
    recent = Recent(lambda number: made.append(number) or number, 2)  # type: ignore[func-returns-value]
    assert [recent(n) for n in (0, 1, 0, 2, 0, 1)] == [0, 1, 0, 2, 0, 1]
    assert made == [0, 1, 2, 1]


def test_detections_are_the_same_whenever_they_are_read() -> None:
    spool = Spool()
    turns, _ = read_turns(sweeps(24), spool)
    found = Detections(clusters(turns, emptied_returns(turns, spool), spool), spool)
    numbers = range(len(found.outlines(0).count))
    assert numbers
    before = [found.one(0, number) for number in numbers]
    for turn in range(len(found)):
        assert len(found.outlines(turn).count)
    for number, one in zip(numbers, before, strict=True):
        other = found.one(0, number)
        assert (one.turn, one.number, one.time_us, one.emptied_share) == (other.turn, other.number, other.time_us, other.emptied_share)
        np.testing.assert_array_equal(one.rows, other.rows)
        xyz = turns[0].read().xyz_world_m[one.rows]
        np.testing.assert_array_equal(one.xyz_world_m, xyz)
        np.testing.assert_array_equal(one.rectangle_m, [xyz[:, :2].min(axis=0), xyz[:, :2].max(axis=0)])
        assert one.count == len(xyz)


def test_a_sweep_is_held_against_those_around_it_evenly() -> None:
    times_us = np.arange(1_000) * 100_000.0
    chosen = held_against(times_us, 500, 700_000)
    away = np.abs(times_us[chosen] - times_us[500])
    assert len(chosen) == MOST_TURNS
    assert away.max() <= WINDOW_US
    assert away.min() >= 700_000
    assert abs(np.mean(chosen) - 500) < 1
    assert held_against(times_us[:4], 1) == [0, 2, 3]


def test_the_ground_of_many_sweeps_is_the_quantile_of_all_their_returns() -> None:
    random = np.random.default_rng(3)
    heights = random.normal(0.0, 0.05, 40_000)
    returns = GroundReturns()
    for part in np.array_split(heights, 40):
        xyz = np.column_stack([random.uniform(0, 2, (len(part), 2)), part])
        returns.add(xyz + np.array([5e6, 7e6, 300.0]))
    ground = returns.ground()
    assert ground is not None
    expected = np.quantile(heights, 0.05) + 300
    np.testing.assert_allclose(ground.height_m(np.array([[5e6 + 0.5, 7e6 + 0.5], [5e6 + 1.5, 7e6 + 0.5]])), expected, atol=0.02)


def test_memory_does_not_grow_with_the_sweeps() -> None:
    def peak_mib(count: int) -> float:
        tracemalloc.start()
        spool = Spool()
        turns, _ = read_turns(sweeps(count), spool)
        found = Detections(clusters(turns, emptied_returns(turns, spool), spool), spool)
        assert len(found) == count
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        return peak

    peak_mib(3)
    # A sweep's returns are 0.5 MiB, so what held all of them would grow by 40.
    assert peak_mib(120) - peak_mib(40) < 8
