from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny_log import tiny_log

from splatmend.datasets.geometry import inverse, transform
from splatmend.datasets.log import ActorTrack, LidarPoints
from splatmend.recon.fit.timed_points import TimedPoints


def _scan(actor: ActorTrack, times_us: np.ndarray) -> LidarPoints:
    """A point of the actor's middle and one beside its box at each time."""
    places_m = np.array([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    xyz = transform(actor.track.at(times_us)[:, None], places_m).reshape(-1, 3)
    return LidarPoints(xyz_world_m=xyz, time_us=np.repeat(times_us, 2), intensity=np.zeros(len(xyz), np.float32), origin_world_m=xyz)


def test_points_are_told_apart_by_where_bodies_are_at_each_points_time() -> None:
    actor = tiny_log(6).actors[0]
    points = _scan(actor, np.arange(150_000, 250_001, 20_000))
    gone = replace(actor, actor_id="gone", track=replace(actor.track, times_us=actor.track.times_us + 10_000_000))
    (body,) = TimedPoints.of(points, [gone, actor]).bodies
    assert body.actor is actor
    assert body.rows.tolist() == [0, 2, 4, 6, 8, 10]
    np.testing.assert_allclose(body.xyz, 0.0, atol=1e-6)
    later = TimedPoints.of(points, [actor]).at(300_000)
    np.testing.assert_allclose(transform(inverse(actor.world_from_actor(300_000)), later[::2]), 0.0, atol=1e-6)
    assert not TimedPoints.of(_scan(actor, np.zeros(0, np.int64)), [actor]).bodies
