from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tiny_log import CAMERA, EGO_FROM_CAMERA, ORIGIN_M, gaussians, true_scene

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, pose, project, yaw_pose
from splatmend.datasets.shot import Shot
from splatmend.recon.exposure import from_identity
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.nodes import RigidActor
from splatmend.recon.render import render
from splatmend.recon.scene import Scene


def _only_car(world_from_car: np.ndarray) -> Scene:
    """A car with colours that depend on the side it is seen from, in front of nothing."""
    scene = true_scene(2, degree=3)
    (car,) = scene.actors.values()
    track = replace(car.track, track=PoseTrack(times_us=np.array([0]), world_from_body=world_from_car[None]))
    nothing = scene.background.gaussians.select(torch.zeros(0, dtype=torch.long))
    return replace(scene.with_gaussians(nothing), actors={"car/1": RigidActor(gaussians=car.gaussians, track=track)}, sky=None)


def test_turning_actor_and_camera_together_keeps_the_picture() -> None:
    world_from_car = pose(np.eye(3), ORIGIN_M + np.array([5, 0.5, 1]))
    camera = pose(np.eye(3), ORIGIN_M) @ EGO_FROM_CAMERA
    turn = pose(np.eye(3), ORIGIN_M) @ yaw_pose(1.1, [1.0, 2, 3]) @ pose(np.eye(3), -ORIGIN_M)
    still = render(_only_car(world_from_car), Shot.still(CAMERA, camera, 0)).rgb
    turned = render(_only_car(turn @ world_from_car), Shot.still(CAMERA, turn @ camera, 0)).rgb
    moved_alone = render(_only_car(world_from_car @ yaw_pose(1.1, [0.0, 0, 0])), Shot.still(CAMERA, camera, 0)).rgb
    assert still is not None
    assert turned is not None
    assert moved_alone is not None
    assert float(still.max()) > 0.5
    torch.testing.assert_close(turned, still, atol=2e-4, rtol=0)
    assert float((moved_alone - still).abs().max()) > 0.1


def test_depth_of_one_gaussian_is_its_camera_z() -> None:
    scene = true_scene(2)
    one = gaussians(np.array([[7.0, 0.2, 1.4]]), np.ones((1, 3)), 0.3)
    out = render(replace(scene.with_gaussians(one), actors={}), scene.shots[0].shot)
    assert out.depth_m is not None
    drawn = out.opacity > 0.01
    assert 20 < int(drawn.sum()) < 3000
    torch.testing.assert_close(out.depth_m[drawn], torch.full((int(drawn.sum()),), 7.0), atol=1e-3, rtol=0)


def _depth_sum(means: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    scene = true_scene(2)
    rest = gaussians(means.detach().numpy(), np.full((len(means), 3), 0.5), 0.4)
    moved = Gaussians(
        means=means, quats_wxyz=rest.quats_wxyz, log_scales=rest.log_scales, opacity_logits=torch.tensor([0.3, 1.0, -0.5]), sh=rest.sh
    )
    out = render(replace(scene.with_gaussians(moved), actors={}), scene.shots[0].shot, ("depth",))
    assert out.depth_m is not None
    # Far from the rims, where a Gaussian is cut off at an alpha of 1/255 and no derivative exists.
    return (out.depth_m * weights * (out.opacity.detach() > 0.3)).sum()


def test_gradient_of_depth_with_respect_to_means_by_finite_differences() -> None:
    means = torch.tensor([[5.0, 0.1, 1.4], [6.0, -0.2, 1.6], [8.0, 0.0, 1.5]], requires_grad=True)
    weights = torch.zeros(48, 64)
    weights[20:28, 28:36] = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    _depth_sum(means, weights).backward()
    assert means.grad is not None
    step = 2e-3
    numeric = torch.zeros_like(means)
    with torch.no_grad():
        for i in range(3):
            for j in range(3):
                offset = torch.zeros_like(means)
                offset[i, j] = step
                numeric[i, j] = (_depth_sum(means + offset, weights) - _depth_sum(means - offset, weights)) / (2 * step)
    torch.testing.assert_close(means.grad, numeric, rtol=0.02, atol=0.02 * float(numeric.abs().max()))


def test_a_removed_actor_is_gone_and_a_moved_one_elsewhere() -> None:
    scene = true_scene(4)
    shot = scene.shots[2].shot
    with_car = render(scene, shot, ("rgb", "actors"))
    without = render(scene, shot, ("rgb", "actors"), without=("car/1",))
    assert float(with_car.extra["actors"].max()) > 0.8
    assert float(without.extra["actors"].max()) == 0.0
    columns = torch.arange(64.0)

    def middle(share: torch.Tensor) -> float:
        return float((share.sum(0) * columns).sum() / share.sum())

    def two_metres_right(actor_id: str, t_us: int) -> np.ndarray:
        return scene.actors[actor_id].track.world_from_actor(t_us) @ pose(np.eye(3), np.array([0.0, -2.0, 0]))

    moved = render(scene, shot, ("actors",), actor_poses=two_metres_right)
    assert middle(moved.extra["actors"]) > middle(with_car.extra["actors"]) + 5
    assert float(render(scene, shot, ("actors",), actor_poses=lambda _id, _t: None).extra["actors"].max()) == 0.0


def test_an_actor_is_not_drawn_outside_its_track() -> None:
    scene = true_scene(3)
    late = replace(scene.shots[2].shot, start_us=900_000, end_us=900_000)
    assert float(render(scene, late, ("actors",)).extra["actors"].max()) == 0.0


def test_sky_fills_what_gaussians_leave() -> None:
    scene = true_scene(2)
    nothing = scene.background.gaussians.select(torch.zeros(0, dtype=torch.long))
    out = render(replace(scene.with_gaussians(nothing), actors={}), scene.shots[0].shot)
    assert out.rgb is not None
    torch.testing.assert_close(out.rgb, torch.tensor([0.6, 0.7, 0.9]).expand(48, 64, 3))
    assert float(out.opacity.max()) == 0.0


def test_exposure_is_taken_from_the_table_or_given_or_left_out() -> None:
    scene = true_scene(2)
    deltas = torch.zeros(2, 3, 4)
    deltas[0, :, 3], deltas[1, :, 3] = 0.1, -0.1
    scene = replace(scene, exposure=scene.exposure.__class__(cameras=("front", "front"), times_us=(0, 100_000), deltas=deltas))
    shot = scene.shots[0].shot
    plain, auto = render(scene, shot, exposure=None).rgb, render(scene, shot).rgb
    given = render(scene, shot, exposure=from_identity(scene.exposure.centred[1])).rgb
    assert plain is not None
    torch.testing.assert_close(auto, plain + 0.1)
    torch.testing.assert_close(given, plain - 0.1)


def test_what_cannot_be_drawn_is_said() -> None:
    scene = true_scene(2)
    bent = replace(CAMERA, distortion_model="opencv", distortion=(0.1, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(UserError, match="distortion"):
        render(scene, replace(scene.shots[0].shot, camera=bent))
    with pytest.raises(UserError, match="no such actor"):
        render(scene, scene.shots[0].shot, without=("bus",))


ROLLING = replace(CAMERA, shutter="top_to_bottom", distortion_model="opencv", distortion=(-0.2, 0.05, 0.001, -0.002, 0.0))


def _rolling_shot(scene: Scene, ahead_m: float) -> Shot:
    """The first recorded pose, moved along the view from `-ahead_m / 2` to `ahead_m / 2` during a readout of 40 ms."""
    middle = scene.shots[0].shot
    start, end = (middle.world_from_camera @ pose(np.eye(3), np.array([0, 0, z])) for z in (-ahead_m / 2, ahead_m / 2))
    return Shot(
        camera=ROLLING,
        world_from_camera_start=start,
        world_from_camera_end=end,
        start_us=middle.mid_us - 20_000,
        end_us=middle.mid_us + 20_000,
    )


def test_depth_of_a_ray_scene_is_camera_z_at_the_time_of_the_row() -> None:
    scene = replace(true_scene(2), camera_model="ray")
    wall = gaussians(np.array([[7.0, 0.0, 1.5]]), np.ones((1, 3)), 1.5)
    wall = replace(wall, log_scales=torch.log(torch.tensor([[0.001, 3.0, 3.0]])), opacity_logits=torch.tensor([6.0]))
    out = render(replace(scene.with_gaussians(wall), actors={}), _rolling_shot(scene, 0.8))
    assert out.depth_m is not None
    drawn = out.opacity > 0.3
    row = ((torch.arange(CAMERA.height) + 0.5) / CAMERA.height)[:, None].expand(drawn.shape)
    assert int(drawn.sum()) > 500
    torch.testing.assert_close(out.depth_m[drawn], (7.0 + 0.4 - 0.8 * row)[drawn], atol=5e-3, rtol=0)


def test_a_ray_scene_sees_the_sky_of_each_row() -> None:
    scene = replace(true_scene(2), camera_model="ray")
    nothing = replace(scene.with_gaussians(scene.background.gaussians.select(torch.zeros(0, dtype=torch.long))), actors={})
    shot = _rolling_shot(scene, 0.0)
    turned = replace(shot, world_from_camera_end=shot.world_from_camera_start @ yaw_pose_of_camera(0.3))
    row = 40
    share = (row + 0.5) / CAMERA.height
    still = Shot.still(replace(ROLLING, shutter="global"), shot.world_from_camera_start @ yaw_pose_of_camera(0.3 * share), 0)
    rolled, reference = (render(nothing, s, ("rgb",), exposure=None).rgb for s in (turned, still))
    assert rolled is not None
    assert reference is not None
    torch.testing.assert_close(rolled[row], reference[row], atol=1e-4, rtol=0)


def yaw_pose_of_camera(angle_rad: float) -> np.ndarray:
    return pose(Rotation.from_rotvec([0, angle_rad, 0]).as_matrix(), np.zeros(3))


def test_an_actor_stands_where_the_row_sees_it() -> None:
    """A car that drives to the left at 20 m/s, seen in a row read 10 ms after the middle: 0.2 m further on."""
    scene = replace(true_scene(2), camera_model="ray", sky=None)
    nothing = scene.with_gaussians(scene.background.gaussians.select(torch.zeros(0, dtype=torch.long)))
    shot = _rolling_shot(scene, 0.0)
    low = ORIGIN_M + np.array([7.0, 0.5, 0.0])
    camera_frame = np.linalg.inv(shot.world_from_camera) @ np.append(low, 1.0)
    pixels, _inside = project(ROLLING, camera_frame[None, :3])
    seen_us = shot.start_us + round(float(pixels[0, 1]) / CAMERA.height * 40_000)
    assert seen_us - shot.mid_us > 4_000

    def driving(_id: str, t_us: int) -> np.ndarray:
        return pose(np.eye(3), low + np.array([0.0, 20e-6 * (t_us - shot.mid_us), 0.0]))

    rolled = render(nothing, shot, ("actors",), actor_poses=driving).extra["actors"]
    there = render(nothing, shot, ("actors",), actor_poses=lambda i, _t: driving(i, seen_us)).extra["actors"]
    middle = render(nothing, shot, ("actors",), actor_poses=lambda i, _t: driving(i, shot.mid_us)).extra["actors"]
    torch.testing.assert_close(rolled, there, atol=2e-2, rtol=0)
    assert float((middle - there).abs().max()) > 0.05
