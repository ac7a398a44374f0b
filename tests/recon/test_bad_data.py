"""Logs with faults that are found in real ones: a fit goes on without them, or says why it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_fit import SMALL
from tiny_log import tiny_log, true_scene

from splatmend.datasets.geometry import PoseTrack, yaw_pose
from splatmend.datasets.log import SceneLog
from splatmend.recon.fit import DataConfig, FitConfig
from splatmend.recon.fit.data import prepared_log, recorded_shots
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.render import render

CONFIG = replace(SMALL, iterations=80, snapshots_at=())
TRUTH = true_scene(20)


def fitted_error(log: SceneLog, config: FitConfig) -> float:
    """Mean squared error from the true poses of the held-out frames; every term is finite on the way."""
    prepared = prepared_log(log, config.data)
    trainer = Trainer(prepared, recorded_shots(prepared, config.data), config, torch.device("cpu"))
    for iteration in range(config.iterations):
        trainer.step().as_row(iteration, trainer.gaussian_count)
    scene = trainer.finished_scene()
    errors = []
    for index in (4, 12):
        shot = TRUTH.shots[index].shot
        with torch.no_grad():
            seen, true = (render(some, shot, ("rgb",), exposure=None).rgb for some in (scene, TRUTH))
        assert seen is not None
        assert true is not None
        errors.append(float((seen - true).square().mean()))
    return float(np.mean(errors))


def with_wrong_poses(log: SceneLog) -> SceneLog:
    """A tenth of the vehicle's poses, and with them the pictures' and the sweeps' points, metres and tens of degrees off."""
    faults = {6: yaw_pose(0.3, np.array([3.0, -2.0, 0.5])), 15: yaw_pose(-0.5, np.array([-2.0, 2.0, 0.0]))}
    frames, sweeps, ego = list(log.frames), list(log.sweeps), log.ego.world_from_body.copy()
    for index, fault in faults.items():
        place = ego[index].copy()
        ego[index] = place @ fault
        moved = ego[index] @ np.linalg.inv(place)
        frame, sweep = frames[index], sweeps[index]
        points = sweep.read_points()
        away = replace(points, xyz_world_m=points.xyz_world_m @ moved[:3, :3].T + moved[:3, 3])
        frames[index] = replace(
            frame,
            world_from_camera_start=moved @ frame.world_from_camera_start,
            world_from_camera_end=moved @ frame.world_from_camera_end,
        )
        sweeps[index] = replace(sweep, read_points=lambda away=away: away)
    ego_track = PoseTrack(times_us=log.ego.times_us, world_from_body=ego)
    return replace(log, frames=tuple(frames), sweeps=tuple(sweeps), ego=ego_track)


def test_a_tenth_of_wrong_poses_costs_little() -> None:
    right = fitted_error(tiny_log(20), CONFIG)
    wrong = with_wrong_poses(tiny_log(20))
    bridged = fitted_error(wrong, CONFIG)
    taken_as_given = fitted_error(wrong, replace(CONFIG, data=DataConfig(bridge_jumps=False)))
    assert bridged < 1.3 * right
    assert taken_as_given > 1.3 * bridged


def test_boxes_that_jump_do_not_take_the_car_along() -> None:
    log = tiny_log(20)
    (actor,) = log.actors
    poses = actor.track.world_from_body.copy()
    poses[[5, 14]] = poses[[5, 14]] @ yaw_pose(2.5, np.array([-4.0, 3.0, 0.0]))
    jumping = replace(log, actors=(replace(actor, track=PoseTrack(times_us=actor.track.times_us, world_from_body=poses)),))
    prepared = prepared_log(jumping, CONFIG.data)
    np.testing.assert_allclose(prepared.actors[0].world_from_actor(500_000)[:3, 3], actor.world_from_actor(500_000)[:3, 3], atol=0.1)
    assert fitted_error(jumping, CONFIG) < 1.15 * fitted_error(log, CONFIG)


def test_sweeps_out_of_order_give_the_same_targets_and_a_gap_in_a_camera_fits() -> None:
    log = tiny_log(20)
    shuffled = replace(log, sweeps=(*log.sweeps[10:], *log.sweeps[:10]))
    short = replace(CONFIG, iterations=6)
    assert fitted_error(shuffled, short) == pytest.approx(fitted_error(log, short), rel=0.2)
    gap = replace(log, frames=tuple(frame for frame in log.frames if not 6 <= frame.index < 11))
    assert np.isfinite(fitted_error(gap, short))


def test_a_log_of_two_frames_is_fitted_or_refused_in_a_sentence() -> None:
    log = tiny_log(2)
    config = replace(CONFIG, iterations=6, data=DataConfig(holdout_every=0))
    trainer = Trainer(log, recorded_shots(log, config.data), config, torch.device("cpu"))
    for iteration in range(6):
        row = trainer.step().as_row(iteration, trainer.gaussian_count)
    assert np.isfinite(row["loss"])


@pytest.mark.parametrize("together", [3, 12])
def test_photos_that_share_a_place_are_fitted(together: int) -> None:
    """Brackets of three photos from each place, and all photos from one: in a log without a scale, steps between photos say how long
    lengths are."""
    log = tiny_log(12, metric=False)
    frames = tuple(
        replace(
            frame,
            world_from_camera_start=log.frames[number - number % together].world_from_camera_start,
            world_from_camera_end=log.frames[number - number % together].world_from_camera_end,
        )
        for number, frame in enumerate(log.frames)
    )
    given = replace(log, frames=frames)
    config = replace(CONFIG, iterations=12)
    trainer = Trainer(given, recorded_shots(given, config.data), config, torch.device("cpu"))
    assert trainer.scene.unit == pytest.approx(1.0 if together == 12 else 3 * np.hypot(0.25, 0.02))
    for iteration in range(config.iterations):
        trainer.step().as_row(iteration, trainer.gaussian_count)
    assert all(np.isfinite(shot.shot.world_from_camera).all() for shot in trainer.finished_scene().shots)
