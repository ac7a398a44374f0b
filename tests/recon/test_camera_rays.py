"""Rays that are made on a device, against those of numpy in double precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_log import true_scene

from splatmend.datasets.geometry import inverse, pose, yaw_pose
from splatmend.datasets.shot import Shot
from splatmend.recon.raster.camera_rays import PixelLines, RayCamera, depth_rays, pixel_rays, ray_directions

LENSES: dict[str, dict[str, Any]] = {
    "pinhole": {},
    "opencv": {"distortion_model": "opencv", "distortion": (-0.2, 0.05, 0.002, -0.001, 0.0)},
    "fisheye": {"distortion_model": "opencv_fisheye", "distortion": (0.02, -0.004, 0.001, 0.0)},
}


def _shot(lens: str, shutter: str) -> Shot:
    shot = true_scene(2).shots[0].shot
    moved = shot.world_from_camera @ pose(yaw_pose(0.1, (0.0, 0.0, 0.0))[:3, :3], np.array([0.4, 0.1, -0.2]))
    return replace(
        shot,
        camera=replace(shot.camera, shutter=shutter, **LENSES[lens]),
        world_from_camera_end=moved,
        start_us=shot.mid_us - 15_000,
        end_us=shot.mid_us + 15_000,
    )


@pytest.mark.parametrize("shutter", ["global", "top_to_bottom", "bottom_to_top", "left_to_right", "right_to_left"])
@pytest.mark.parametrize("lens", LENSES)
def test_rays_on_a_device_are_those_of_the_camera(lens: str, shutter: str) -> None:
    shot = _shot(lens, shutter)
    camera = RayCamera.of(shot)
    assert camera.rolls == (shutter != "global")
    expected = pixel_rays(camera, np.eye(4)).directions
    np.testing.assert_allclose(ray_directions(camera, torch.device("cpu")).numpy(), expected, atol=2e-6)
    view = inverse(shot.world_from_camera)
    rays = pixel_rays(camera, view)
    lines = PixelLines.of(camera, torch.device("cpu"))
    view_from_line = torch.from_numpy((view @ lines.world_from_line)[:, :3]).float()
    starts, slopes = depth_rays(lines.lens, view_from_line, sideways=lines.sideways)
    np.testing.assert_allclose(torch.broadcast_to(starts, slopes.shape).numpy(), rays.origins[..., 2], atol=2e-6)
    np.testing.assert_allclose(slopes.numpy(), rays.directions[..., 2], atol=2e-6)
