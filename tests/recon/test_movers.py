"""What moves on a street whose labels are hidden, against these labels; and what a fit makes of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import ActorTrack, LidarPoints, LidarSweep, SceneLog
from splatmend.datasets.street import StreetConfig, build_street, street_log
from splatmend.recon.fit.data import FrameSource
from splatmend.recon.fit.lidar_targets import nearest_sweeps
from splatmend.recon.fit.movers import log_with_movers
from splatmend.recon.movers.apply import TRANSIENT, with_movers
from splatmend.recon.movers.find import Movers, find_movers, in_boxes
from splatmend.recon.movers.picture import movers_picture

STREET = StreetConfig(seed=5, duration_s=2.0, width=96, height=64, cameras=("FRONT",), lidar_beams=48, lidar_columns=512, supersample=1)


@pytest.fixture(scope="module")
def log() -> SceneLog:
    """A street with its turns in memory."""
    made = street_log(build_street(STREET))

    def kept(points: LidarPoints):  # type: ignore[no-untyped-def]
        return lambda: points

    return replace(made, sweeps=tuple(replace(sweep, read_points=kept(sweep.read_points())) for sweep in made.sweeps))


@pytest.fixture(scope="module")
def movers(log: SceneLog) -> Movers:
    return find_movers(log.sweeps)


def _moves(actor: ActorTrack) -> bool:
    return float(np.linalg.norm(np.ptp(actor.track.world_from_body[:, :3, 3], axis=0))) > 1.0


def _returns(log: SceneLog, actor: ActorTrack) -> float:
    counts = [in_boxes([actor], points.xyz_world_m, points.time_us, 0.1).sum() for sweep in log.sweeps for points in [sweep.read_points()]]
    return float(np.mean(counts))


def _every_fifth(sweep: LidarSweep) -> LidarPoints:
    points = sweep.read_points()
    parts = (points.xyz_world_m, points.time_us, points.intensity, points.origin_world_m)
    xyz, times_us, intensity, origin = (part[::5] for part in parts)
    return LidarPoints(xyz_world_m=xyz, time_us=times_us, intensity=intensity, origin_world_m=origin)


def _centre_error_m(found: ActorTrack, true: ActorTrack) -> float:
    times = found.track.times_us
    return float(np.linalg.norm(found.track.at(times)[:, :2, 3] - true.track.at(times)[:, :2, 3], axis=1).mean())


def test_vehicles_that_move_are_found_where_they_are(log: SceneLog, movers: Movers) -> None:
    true = [actor for actor in log.actors if _moves(actor)]
    visible = [actor for actor in true if _returns(log, actor) >= 30]
    assert len(visible) >= 3
    for actor in visible:
        found = min(movers.actors, key=lambda one: _centre_error_m(one, actor))
        assert _centre_error_m(found, actor) < 0.5
        assert found.actor_class == "vehicle"
        assert len(found.track.times_us) >= 0.7 * len(log.sweeps)
        ahead = (found.track.world_from_body[:, :3, 0] * actor.track.at(found.track.times_us)[:, :3, 0]).sum(axis=1)
        assert np.degrees(np.arccos(np.clip(ahead, -1, 1))).max() < 6
        np.testing.assert_allclose(found.size_m, actor.size_m, atol=0.8)


def test_nothing_that_stands_is_found(log: SceneLog, movers: Movers) -> None:
    true = [actor for actor in log.actors if _moves(actor)]
    for found in movers.actors:
        assert min(_centre_error_m(found, actor) for actor in true) < 0.5
    returns = sum(len(sweep.read_points().xyz_world_m) for sweep in log.sweeps)
    assert movers.transient_count < 0.002 * returns


def test_a_street_without_traffic_has_no_movers() -> None:
    still = street_log(build_street(replace(STREET, moving_cars=0, duration_s=0.8)))
    assert find_movers(still.sweeps).actors == ()


def test_a_second_scanner_and_the_order_of_sweeps_change_nothing(log: SceneLog) -> None:
    def centres(movers: Movers) -> np.ndarray:
        return np.concatenate([actor.track.world_from_body[:, :3, 3] for actor in movers.actors])

    few = log.sweeps[:9]
    sparse = [replace(sweep, sensor="SIDE", read_points=partial(_every_fifth, sweep)) for sweep in few]
    assert len(centres(find_movers(few))) >= 6
    np.testing.assert_array_equal(centres(find_movers([*few[::-1], *sparse])), centres(find_movers(few)))


def test_fewer_than_three_sweeps_tell_nothing(log: SceneLog) -> None:
    assert find_movers(log.sweeps[:2]) == Movers(actors=(), transient={})


def test_transient_things_leave_sweeps_and_pictures_but_no_others(log: SceneLog) -> None:
    frame = log.frames[3]
    (index,) = nearest_sweeps(log.sweeps, frame.mid_us)
    sweep = log.sweeps[index]
    points = sweep.read_points()
    car = next(actor for actor in log.actors if actor.actor_id == "car-01")
    thing = points.xyz_world_m[in_boxes([car], points.xyz_world_m, points.time_us)]
    marked = with_movers(log, Movers(actors=(), transient={(sweep.sensor, sweep.timestamp_us): (thing,)}))
    assert [one.index for one in marked.frames if TRANSIENT in one.masks] == [3, 4]  # the turn lies between the two
    (index,) = nearest_sweeps(marked.sweeps, frame.mid_us)
    left = marked.sweeps[index]
    rest = left.read_points()
    assert 0 <= len(points.xyz_world_m) - len(thing) - len(rest.xyz_world_m) < 0.2 * len(thing)
    assert not in_boxes([car], rest.xyz_world_m, rest.time_us).any()

    sample, plain = (FrameSource(one, device=torch.device("cpu"), cache_mib=64)[3] for one in (marked, log))
    assert plain.valid is None
    assert sample.valid is not None
    hidden = ~sample.valid.numpy()
    assert hidden[marked.frames[3].masks[TRANSIENT]()].all()
    assert 0.005 < hidden.mean() < 0.2
    assert not hidden.reshape(-1)[sample.pixels.numpy()].any()


def test_a_fit_takes_labels_sweeps_or_neither(log: SceneLog) -> None:
    assert log_with_movers(log, "labels") is log
    assert log_with_movers(log, "auto") is log
    assert log_with_movers(log, "off").actors == ()
    blind = replace(log, actors=(), sweeps=())
    assert log_with_movers(blind, "auto") is blind
    with pytest.raises(UserError, match="no sweeps in metres"):
        log_with_movers(blind, "lidar")
    with pytest.raises(UserError, match="no sweeps in metres"):
        log_with_movers(replace(log, metric=False), "lidar")


def test_a_log_without_labels_gets_its_actors_from_sweeps(log: SceneLog) -> None:
    made = log_with_movers(replace(log, actors=(), sweeps=log.sweeps[:9]), "auto")
    assert {actor.actor_class for actor in made.actors} == {"vehicle"}
    labelled = log_with_movers(replace(log, sweeps=log.sweeps[:9]), "lidar")
    assert {actor.actor_id for actor in labelled.actors} == {actor.actor_id for actor in made.actors}


def test_the_picture_shows_boxes_and_refuses_frames_that_are_not_there(log: SceneLog, movers: Movers) -> None:
    picture = movers_picture(log, movers, frame=5)
    recorded = log.frames[5].read_image()
    changed = (picture != recorded).any(axis=2)
    assert 0 < changed.mean() < 0.5
    assert movers_picture(log, movers).shape == (4 * STREET.height, STREET.width, 3)
    with pytest.raises(UserError, match="no frame 99"):
        movers_picture(log, movers, frame=99)
    with pytest.raises(UserError, match="no camera REAR"):
        movers_picture(log, movers, camera="REAR")
