"""Bodies of many small Gaussians are as wide in a picture as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_log import gaussians

from splatmend.datasets.geometry import pose
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.insertion.sharp import sharp_logits
from splatmend.recon.raster.api import rasterize

CAMERA = Camera(name="front", width=96, height=72, focal_px=(80.0, 60.0), principal_px=(48.0, 36.0))
SIDE_M = 2.0


def wall(spacing_m: float) -> Gaussians:
    """A square across the x axis of its frame, evenly covered by flat Gaussians as an imported mesh is."""
    along = np.arange(-SIDE_M / 2 + spacing_m / 2, SIDE_M / 2, spacing_m)
    y, z = (grid.ravel() for grid in np.meshgrid(along, along))
    places = np.stack([np.zeros_like(y), y, z], axis=1)
    found = gaussians(places, np.full((len(y), 3), 0.5), 0.65 * spacing_m, 0)
    thin = torch.tensor([0.1, 1.0, 1.0]).log()
    return replace(found, log_scales=found.log_scales + thin, opacity_logits=torch.full((len(y),), 4.0))


def shot_of(turned_deg: float) -> Shot:
    """A camera at the origin that looks along x, turned a little aside."""
    aside = np.radians(turned_deg)
    forward = np.array([np.cos(aside), np.sin(aside), 0.0])
    right = np.array([np.sin(aside), -np.cos(aside), 0.0])
    return Shot.still(CAMERA, pose(np.stack([right, [0, 0, -1.0], forward], axis=1), np.zeros(3)), 0)


def drawn(body: Gaussians, world_from_body: np.ndarray, shot: Shot) -> np.ndarray:
    """Opacity of the body alone."""
    means = body.means.double().numpy() @ world_from_body[:3, :3].T + world_from_body[:3, 3]
    (fx, fy), (cx, cy) = CAMERA.focal_px, CAMERA.principal_px
    out = rasterize(
        torch.from_numpy(means).float(),
        body.quats_wxyz,
        body.scales,
        body.opacities,
        torch.zeros(len(means), 1),
        torch.from_numpy(np.linalg.inv(shot.world_from_camera)).float(),
        torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]).float(),
        CAMERA.width,
        CAMERA.height,
        model="ewa",
    )
    return out.opacity.numpy()


@pytest.mark.parametrize("turned_deg", [0.0, 15.0])
@pytest.mark.parametrize("distance_m", [8.0, 20.0])
def test_a_wall_of_small_gaussians_covers_what_it_covers(distance_m: float, turned_deg: float) -> None:
    at = np.eye(4)
    at[0, 3] = distance_m
    body, shot = wall(0.05), shot_of(turned_deg)
    plain = drawn(body, at, shot)
    sharp = drawn(replace(body, opacity_logits=sharp_logits(body, at, shot)), at, shot)
    # A plane across the middle line of sight; turned aside by an angle, its picture is 1 / cos as wide and as high in the middle.
    area = SIDE_M**2 * CAMERA.focal_px[0] * CAMERA.focal_px[1] / distance_m**2 / np.cos(np.radians(turned_deg)) ** 3
    wider, right = (float((picture > 0.5).sum()) / area for picture in (plain, sharp))
    assert wider > 1.08, "the test's own wall has no border"
    assert abs(right - 1) < 0.6 * (wider - 1)
    assert sharp.max() > 0.9, "it is as solid as before"


def test_what_is_large_in_the_picture_stays_as_it_is() -> None:
    at = np.eye(4)
    at[0, 3] = 2.0
    body = wall(0.5)
    assert float((torch.sigmoid(sharp_logits(body, at, shot_of(0.0))) - body.opacities).abs().max()) < 0.02
