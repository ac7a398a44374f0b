"""Pixels of many places on a device, against the slow twin in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from wall_world import CAMERA, ORIGIN_M, camera_pose

from splatmend.datasets.log import Camera
from splatmend.datasets.point_projection import project_frame
from splatmend.datasets.shot import Shot
from splatmend.recon.point_pixels import point_pixels
from splatmend.recon.raster.api import Model

BIG = CAMERA.resized(640, 480)
OPENCV = replace(BIG, distortion_model="opencv", distortion=(-0.15, 0.03, 0.002, -0.001, 0.001))
FISHEYE = replace(BIG, distortion_model="opencv_fisheye", distortion=(0.05, -0.01, 0.002, -0.0005))


def _moving(camera: Camera) -> Shot:
    return Shot(
        camera=camera,
        world_from_camera_start=camera_pose(0.0),
        world_from_camera_end=camera_pose(0.5, x=0.7, yaw_deg=1.0),
        start_us=0,
        end_us=50_000,
    )


@pytest.mark.parametrize(
    ("camera", "model"),
    [
        (BIG, "ewa"),
        (replace(BIG, shutter="top_to_bottom"), "ewa"),
        (replace(BIG, shutter="top_to_bottom"), "ray"),
        (replace(OPENCV, shutter="bottom_to_top"), "ray"),
        (replace(OPENCV, shutter="left_to_right"), "ray"),
        (replace(FISHEYE, shutter="right_to_left"), "ray"),
        (OPENCV, "ray"),
        (FISHEYE, "ray"),
    ],
)
def test_pixels_are_those_of_the_slow_twin(camera: Camera, model: Model) -> None:
    shot = _moving(camera)
    random = np.random.default_rng(1)
    xyz = random.uniform([-3, -12, -9], [25, 12, 9], (40, 50, 3))
    pixels, z, inside = point_pixels(shot, model, torch.from_numpy(xyz).float(), ORIGIN_M)
    seen_as = shot if model == "ray" else Shot.still(camera, shot.world_from_camera, shot.mid_us)
    expected, expected_z, expected_inside = project_frame(camera, seen_as, (xyz + ORIGIN_M).reshape(-1, 3))
    expected_inside = expected_inside.reshape(40, 50)
    assert 300 < expected_inside.sum() < 1800
    assert (inside.numpy() != expected_inside).sum() <= 4  # on the border
    both = inside.numpy() & expected_inside
    far = both & (xyz[..., 0] > 3)
    # Rows are drawn from one pose each, so a place is off by the way of half a row at most.
    np.testing.assert_allclose(pixels.numpy()[far], expected.reshape(40, 50, 2)[far], atol=0.25 if model == "ray" else 0.01)
    np.testing.assert_allclose(z.numpy()[far], expected_z.reshape(40, 50)[far], atol=2e-3)


def test_what_is_no_place_lies_nowhere() -> None:
    xyz = torch.full((2, 2, 3), torch.nan)
    _, _, inside = point_pixels(_moving(replace(OPENCV, shutter="top_to_bottom")), "ray", xyz, ORIGIN_M)
    assert not inside.any()
