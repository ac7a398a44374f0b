"""Lines that are read one after another: a point falls on the pixel whose line saw it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from splatmend.datasets.geometry import pose, yaw_pose
from splatmend.datasets.log import Camera, ShutterDirection
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import StreetConfig, build_street, street_log
from splatmend.pipelines.evaluation.lidar_depth import depth_errors_m
from splatmend.pipelines.evaluation.readout import as_drawn, project_by_line, surface_points

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
