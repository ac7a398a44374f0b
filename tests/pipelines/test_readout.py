"""Lines that are read one after another: a point falls on the pixel whose line saw it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from splatmend.datasets.geometry import inverse, pose, transform, yaw_pose
from splatmend.datasets.log import Camera, LidarPoints, ShutterDirection
from splatmend.datasets.shot import Shot, readout_times_us
from splatmend.datasets.street import StreetConfig, build_street, street_log
from splatmend.pipelines.evaluation.lidar_depth import depth_errors_m
from splatmend.pipelines.evaluation.readout import as_drawn, project_by_line, surface_points

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recon"))
from tiny_log import tiny_log

CAMERA = Camera(name="FRONT", width=80, height=60, focal_px=(60.0, 60.0), principal_px=(40.0, 30.0), readout_us=50_000)
BENT = replace(CAMERA, distortion_model="opencv", distortion=(-0.2, 0.05, 0.001, -0.001, 0.0))


def passing(camera: Camera) -> Shot:
    """Half a metre to the side and a tenth of a radian about the axis during the readout."""
    return Shot(
        camera=camera,
        world_from_camera_start=pose(np.eye(3), np.zeros(3)),
        world_from_camera_end=yaw_pose(0.1, np.array([0.5, 0.0, 0.0])),
        start_us=0,
        end_us=50_000,
    )


@pytest.mark.parametrize("shutter", ["global", "top_to_bottom", "bottom_to_top", "left_to_right", "right_to_left"])
@pytest.mark.parametrize("camera", [CAMERA, BENT])
def test_projection_inverts_the_surface(camera: Camera, shutter: ShutterDirection) -> None:
    shot = passing(replace(camera, shutter=shutter))
    pixels = np.stack(np.meshgrid(np.arange(10, 70, 5), np.arange(10, 50, 5)), axis=-1).reshape(-1, 2) + 0.5
    depth_m = np.random.default_rng(0).uniform(8, 30, len(pixels))
    points = surface_points(shot, pixels, depth_m)
    found, z, inside = project_by_line(shot, points)
    assert inside.all()
    # The line is the one of the first guess, so that up to a few lines' motion is left.
    np.testing.assert_allclose(found, pixels, atol=0.4)
    np.testing.assert_allclose(z, depth_m, atol=0.01)
    still, _, _ = project_by_line(as_drawn("ewa", shot), points)
    assert (np.abs(still - pixels).max() > 1.0) == (shutter != "global")
    assert as_drawn("ray", shot) is shot


@pytest.mark.parametrize("model", ["ray", "ewa"])
def test_lidar_meets_the_line_that_saw_it(model: Literal["ewa", "ray"]) -> None:
    """The oracle draws row by row; taken for a still picture, its depth is wrong at edges of what passes by."""
    street = build_street(
        StreetConfig(
            seed=3,
            duration_s=0.4,
            width=160,
            height=120,
            cameras=("FRONT_LEFT",),
            supersample=1,
            lidar_beams=24,
            lidar_columns=256,
            moving_cars=0,
            readout_us=50_000,
            speed_m_s=25.0,
        )
    )
    shot = street.shot("FRONT_LEFT", 2)
    errors_m = depth_errors_m(street_log(street), as_drawn(model, shot), street.render(shot, supersample=1).depth_m)
    assert len(errors_m) > 300
    assert (np.mean(np.abs(errors_m) > 1.0) > 0.03) == (model == "ewa")


def test_lidar_on_a_moving_body_meets_the_line_that_saw_it() -> None:
    """The back of a car that drives ahead at 20 m/s, 45 ms after it was read; the camera stands and reads a picture in 20 ms."""
    log = tiny_log(4)
    frame, actor = log.frames[2], log.actors[0]
    camera = replace(log.cameras["front"], shutter="top_to_bottom", readout_us=20_000)
    shot = replace(Shot.of(frame, camera), end_us=frame.start_us + 20_000)
    along_m = actor.track.world_from_body[0, :3, 3] + np.outer(actor.track.times_us * 20e-6, [1.0, 0.0, 0.0])
    path = replace(actor.track, world_from_body=np.stack([pose(np.eye(3), place) for place in along_m]))
    back = np.stack(np.meshgrid([-1.0], np.linspace(-0.4, 0.4, 9), np.linspace(-0.3, 0.4, 7)), axis=-1).reshape(-1, 3)
    late_us = np.full(len(back), shot.mid_us + 45_000)
    xyz = transform(path.at(late_us), back)
    scan = LidarPoints(xyz_world_m=xyz, time_us=late_us, intensity=np.zeros(len(back), np.float32), origin_world_m=xyz)
    log = replace(log, actors=(replace(actor, track=path),), sweeps=(replace(log.sweeps[2], read_points=lambda: scan),))

    def depth_m(times_us: np.ndarray) -> np.ndarray:
        line_m = transform(inverse(shot.world_from_camera) @ path.at(times_us), np.array([-1.0, 0.0, 0.0]))[:, 2]
        return np.repeat(line_m[:, None], camera.width, axis=1)

    rows_us = readout_times_us(shot)
    errors_m = depth_errors_m(log, shot, depth_m(rows_us))
    assert len(errors_m) > 20
    np.testing.assert_allclose(errors_m, 0.0, atol=0.01)
    assert np.abs(depth_errors_m(log, shot, depth_m(np.full_like(rows_us, shot.mid_us)))).max() > 0.05
