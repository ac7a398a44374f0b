"""Fits of logs whose poses are off: what is recovered, and what it brings to frames that were held out."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from perturbed_log import with_actor_faults, with_camera_faults
from scipy.spatial.transform import Rotation
from tiny_log import tiny_log

from splatmend.datasets.geometry import inverse
from splatmend.datasets.log import SceneLog
from splatmend.recon.fit import CorrectionConfig, DensifyConfig, FitConfig, InitConfig
from splatmend.recon.fit.data import recorded_shots
from splatmend.recon.fit.heldout import held_out_rows, mean_row
from splatmend.recon.fit.pose_refinement import PoseRefinement, StepTwists
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import HostCopy

OFF = CorrectionConfig(on=False)
# A picture is shown fewer times than in a real fit, so corrections take larger steps.
ON = CorrectionConfig(rate_deg=0.1, rate_m=0.03)
CONFIG = FitConfig(
    iterations=480,
    sh_degree=0,
    sky_rows=16,
    device="cpu",
    camera_poses=OFF,
    actor_poses=OFF,
    init=InitConfig(point_count=800, ray_count=100, actor_count=200),
    densify=DensifyConfig(cap=1200, actor_cap=250, start=10, every=20),
)
FRAMES = 12


def _fitted(log: SceneLog, config: FitConfig) -> tuple[Scene, dict[str, float]]:
    trainer = Trainer(log, recorded_shots(log, config.data), config, torch.device(config.device))
    for _ in range(config.iterations):
        trainer.step()
    scene = trainer.finished_scene()
    return scene, mean_row(list(held_out_rows(scene, log)))


def _spread(faults: np.ndarray) -> tuple[float, float]:
    """Mean size of shifts (m) and turns (degrees) after what all have in common, which a scene may as well take upon itself."""
    shifts, turns = faults[:, :3, 3], Rotation.from_matrix(faults[:, :3, :3]).as_rotvec(degrees=True)
    return tuple(float(np.linalg.norm(part - part.mean(axis=0), axis=1).mean()) for part in (shifts, turns))


@lru_cache(maxsize=2)
def _camera_fit(on: bool) -> tuple[Scene, dict[str, float]]:
    return _fitted(with_camera_faults(FRAMES, 0.05, 0.3), replace(CONFIG, iterations=640, camera_poses=ON if on else OFF))


def _camera_spread(scene: Scene) -> tuple[float, float]:
    true = np.stack([frame.world_from_camera for frame in tiny_log(FRAMES).frames])
    return _spread(inverse(true) @ np.stack([recorded.shot.world_from_camera for recorded in scene.shots]))


def test_cameras_go_back_to_where_they_were() -> None:
    (shift, turn), (shift_before, turn_before) = (_camera_spread(_camera_fit(on)[0]) for on in (True, False))
    # A turn of 0.3 degrees is a quarter of a pixel here.
    assert shift_before == pytest.approx(0.05, rel=0.1)
    assert turn_before == pytest.approx(0.3, rel=0.1)
    assert shift < 0.5 * shift_before
    assert turn < 0.6 * turn_before


def test_frames_that_were_held_out_gain_by_it() -> None:
    assert _camera_fit(True)[1]["psnr"] > _camera_fit(False)[1]["psnr"] + 1.0


def test_a_held_out_frame_takes_its_neighbours_correction() -> None:
    scene, _ = _camera_fit(True)
    before, own, after = (recorded.logged_from_camera for recorded in scene.shots[3:6])
    assert scene.shots[4].held_out
    np.testing.assert_allclose(own[:3, 3], (before[:3, 3] + after[:3, 3]) / 2, atol=1e-9)
    assert {recorded.logged_from_camera is None for recorded in _camera_fit(False)[0].shots} == {True}


def test_what_a_held_out_picture_shows_changes_no_pose() -> None:
    log = tiny_log(6)
    short = replace(CONFIG, iterations=12, camera_poses=replace(ON, start_share=0.0), actor_poses=replace(ON, start_share=0.0))
    black = tuple(replace(frame, read_image=lambda: np.zeros((48, 64, 3), np.uint8)) if frame.index == 4 else frame for frame in log.frames)
    scenes = [_fitted(given, short)[0] for given in (log, replace(log, frames=black))]
    for one, other in zip(*(scene.shots for scene in scenes)):
        np.testing.assert_array_equal(one.shot.world_from_camera, other.shot.world_from_camera)
    poses = [scene.actors["car/1"].track.track.world_from_body for scene in scenes]
    np.testing.assert_array_equal(*poses)


def test_gradients_may_wait_until_a_pose_that_they_move_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are applied at once or as late as can be, every picture is drawn with the same poses."""
    waits: list[int] = []
    value = HostCopy.value
    monkeypatch.setattr(HostCopy, "value", lambda copy: waits.append(1) or value(copy))
    log = tiny_log(6)
    config = replace(CONFIG, camera_poses=replace(ON, start_share=0.0), actor_poses=replace(ON, start_share=0.0))
    trainer = Trainer(log, recorded_shots(log, config.data), config, torch.device("cpu"))
    late, at_once = (PoseRefinement(trainer.scene, trainer.train_numbers, config, torch.device("cpu")) for _ in range(2))
    random = np.random.default_rng(0)
    first, second, *_ = trainer.train_numbers
    last = None
    for number in (first, second, second, first, second, first, first):
        gradients = torch.from_numpy(random.normal(size=(1, 2, 6))).float()
        shots, boxes = [], []
        for poses in (late, at_once):
            before = len(waits)
            drawn = poses.of(number)
            assert drawn.actor_poses is not None
            shots.append(drawn.shot.world_from_camera)
            boxes.append(drawn.actor_poses("car/1", drawn.shot.mid_us))
            if poses is late:
                assert (len(waits) > before) == (number == last)
            poses.step(drawn, 0.5, StepTwists(shown=(drawn.shown,), gradients=gradients))
            if poses is at_once:
                poses.state_dict()
        np.testing.assert_array_equal(*shots)
        np.testing.assert_array_equal(*boxes)
        last = number


def test_boxes_go_back_to_where_they_were() -> None:
    log = with_actor_faults(FRAMES, 0.15, 3.0)
    true = tiny_log(FRAMES).actors[0].track.world_from_body
    boxes = replace(ON, rate_deg=0.3, spread_deg=3.0, weight=2e-5)
    spreads, scores = {}, {}
    for on in (False, True):
        scene, scores[on] = _fitted(log, replace(CONFIG, iterations=240, actor_poses=boxes if on else OFF))
        spreads[on] = _spread(inverse(true) @ scene.actors["car/1"].track.track.world_from_body)
    assert spreads[True][0] < 0.6 * spreads[False][0]
    assert scores[True]["psnr"] > scores[False]["psnr"]


@pytest.mark.gpu
def test_poses_go_back_through_gsplat_as_well() -> None:
    settings = replace(CONFIG, device="cuda", iterations=480)
    logs = {"camera_poses": with_camera_faults(FRAMES, 0.05, 0.3), "actor_poses": with_actor_faults(FRAMES, 0.15, 3.0)}
    corrections = {"camera_poses": ON, "actor_poses": replace(ON, rate_deg=0.3, spread_deg=3.0, weight=2e-5)}
    for name, log in logs.items():
        (_, logged), (scene, corrected) = (_fitted(log, replace(settings, **{name: c})) for c in (OFF, corrections[name]))
        assert corrected["psnr"] > logged["psnr"], name
        if name == "camera_poses":
            assert _camera_spread(scene)[0] < 0.5 * 0.05
