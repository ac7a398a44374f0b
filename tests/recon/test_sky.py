from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_log import true_scene

from splatmend.recon.sky import SkyMap, ray_directions, rotation_to_z


def _map(up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> SkyMap:
    logits = torch.randn(16, 32, 3, generator=torch.Generator().manual_seed(0))
    return SkyMap.uniform((0.5, 0.5, 0.5), up, 16).with_logits(logits)


def test_the_first_row_is_the_zenith_and_column_zero_begins_behind() -> None:
    sky = _map()
    angle = np.pi * (1 / 32 - 1)  # centre of column 0
    elevation = np.pi / 2 - np.pi / 32  # centre of row 0
    direction = [np.cos(elevation) * np.cos(angle), np.cos(elevation) * np.sin(angle), np.sin(elevation)]
    seen = sky.colours(torch.tensor([[direction]], dtype=torch.float32))[0, 0]
    torch.testing.assert_close(seen, sky.logits[0, 0].sigmoid(), atol=2e-4, rtol=0)


def test_the_seam_behind_is_not_seen() -> None:
    angles = np.pi + np.array([-1e-4, 1e-4])
    directions = torch.tensor(np.stack([np.cos(angles), np.sin(angles), np.full(2, 0.3)], axis=1)[None], dtype=torch.float32)
    left, right = _map().colours(directions)[0]
    torch.testing.assert_close(left, right, atol=1e-3, rtol=0)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (0.3, -0.2, 0.9)])
def test_up_is_up_in_every_world(up: tuple[float, float, float]) -> None:
    rotation = rotation_to_z(np.array(up))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(rotation @ up / np.linalg.norm(up), [0, 0, 1], atol=1e-12)


def test_every_seen_texel_gets_a_gradient() -> None:
    sky = _map()
    logits = sky.logits.clone().requires_grad_(True)
    sky.with_logits(logits).colours(torch.tensor([[[1.0, 0.0, 0.01]]])).sum().backward()
    assert logits.grad is not None
    assert 2 <= int((logits.grad.abs().sum(-1) > 0).sum()) <= 4


def test_rays_go_through_pixel_centres() -> None:
    shot = true_scene(2).shots[0].shot
    directions = ray_directions(shot)
    assert directions.shape == (48, 64, 3)
    # Camera z is the vehicle's x; the pixel (10, 5) has its centre at (10.5, 5.5).
    torch.testing.assert_close(directions[5, 10], torch.tensor([1.0, -(10.5 - 32) / 48, -(5.5 - 24) / 48]))
