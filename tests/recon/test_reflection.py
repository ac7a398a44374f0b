"""Mirrored Gaussians, seen from a mirrored place, look mirrored: shapes, turns and colours that depend on the direction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_log import CAMERA, EGO_FROM_CAMERA, ORIGIN_M, true_scene

from splatmend.datasets.geometry import yaw_pose
from splatmend.datasets.shot import Shot
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.raster.api import Model
from splatmend.recon.reflection import mirrored
from splatmend.recon.render import render


def crooked(count: int) -> Gaussians:
    """Long Gaussians turned every way, with harmonics of degree 3, some metres ahead."""
    random = torch.Generator().manual_seed(4)
    return Gaussians(
        means=torch.rand(count, 3, generator=random) * torch.tensor([6.0, 5.0, 3.0]) + torch.tensor([3.0, -2.5, 0.0]),
        quats_wxyz=torch.randn(count, 4, generator=random),
        log_scales=torch.randn(count, 3, generator=random) * 0.6 - 1.6,
        opacity_logits=torch.randn(count, generator=random),
        sh=0.5 * torch.randn(count, 16, 3, generator=random),
    )


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_the_mirrored_picture_is_that_of_mirrored_gaussians(model: Model) -> None:
    gaussians = crooked(60)
    scene = replace(true_scene(2), actors={}, sky=None, camera_model=model)
    mirror, flip = np.diag([1.0, -1, 1, 1]), np.diag([-1.0, 1, 1, 1])
    pose = yaw_pose(0.2, np.array([0.3, 0.7, 0.1])) @ EGO_FROM_CAMERA
    pictures = []
    for held, seen_from in ((gaussians, pose), (mirrored(gaussians), mirror @ pose @ flip)):
        world_from_camera = seen_from.copy()
        world_from_camera[:3, 3] += ORIGIN_M
        picture = render(scene.with_gaussians(held), Shot.still(CAMERA, world_from_camera, 0), ("rgb", "depth"), exposure=None)
        assert picture.rgb is not None
        pictures.append(picture.rgb)
    assert float((pictures[0] - pictures[0].flip(1)).abs().max()) > 0.3
    torch.testing.assert_close(pictures[1].flip(1), pictures[0], atol=2e-4, rtol=0)


def test_twice_is_once_around() -> None:
    gaussians = crooked(5)
    again = mirrored(mirrored(gaussians))
    for name in ("means", "quats_wxyz", "log_scales", "opacity_logits", "sh"):
        assert torch.equal(getattr(again, name), getattr(gaussians, name))


def test_gradients_go_through() -> None:
    means = crooked(3).means.requires_grad_(True)
    mirrored(replace(crooked(3), means=means)).means[:, 1].sum().backward()
    assert means.grad is not None
    assert torch.equal(means.grad, torch.tensor([0.0, -1, 0]).repeat(3, 1))
