"""The door: choice of backend, refusals, backgrounds, gradients that are asked for and those that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from raster_scenes import random_scene

from splatmend.datasets.log import Camera
from splatmend.recon.raster import rasterize
from splatmend.recon.raster.camera_rays import RayCamera
from splatmend.recon.raster.gsplat_backend import without_camera_axis

RAY_CAMERA = RayCamera(
    camera=Camera(name="small", width=8, height=8, focal_px=(8.0, 8.0), principal_px=(4.0, 4.0)),
    world_from_first=np.eye(4),
    world_from_last=np.eye(4),
)


def arguments(**changes: Any) -> dict[str, Any]:
    scene = random_scene(10)
    names = ("means", "quats_wxyz", "scales", "opacities", "channels", "camera_from_world", "intrinsics", "width", "height")
    return {name: getattr(scene, name) for name in names} | changes


def test_cpu_tensors_are_drawn_by_the_cpu_kernels() -> None:
    output = rasterize(**arguments())
    assert (output.stats.model, output.stats.backend) == ("ewa", "cpu")
    assert output.stats.intersections >= output.visible.sum()
    assert output.channels.shape == (37, 45, 4)
    assert output.opacity.shape == (37, 45)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "mesh"}, "'mesh' on backend 'cpu'; available: 'ewa' on 'cpu'"),
        ({"ray_camera": RAY_CAMERA}, "needs the splat model 'ray', not 'ewa'"),
        ({"ray_camera": RAY_CAMERA, "model": "ray"}, "has 8 x 8 pixels, the picture 45 x 37"),
        ({"backend": "opengl"}, "'ewa' on backend 'opengl'"),
        ({"backend": "gsplat"}, "means must be float32 on cuda"),
        ({"quats_wxyz": torch.zeros(9, 4)}, r"quats_wxyz must be \[10, 4\], not \[9, 4\]"),
        ({"channels": torch.zeros(10, 0)}, "channels must be"),
        ({"channels": torch.zeros(10)}, "channels must be"),
        ({"opacities": torch.zeros(10, dtype=torch.float64)}, "opacities must be float32 on cpu, not torch.float64"),
        ({"background": torch.zeros(3)}, r"background must be \[4\]"),
        ({"near_m": 0.0}, "0 < near_m < far_m"),
        ({"width": 0}, "must have pixels"),
    ],
)
def test_refuses_what_it_cannot_draw(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rasterize(**arguments(**changes))


def test_background_shows_where_light_is_left_and_takes_a_gradient() -> None:
    plain = rasterize(**arguments())
    background = torch.tensor([0.1, 0.2, 0.3, 0.4], requires_grad=True)
    output = rasterize(**arguments(background=background))
    torch.testing.assert_close(output.channels, plain.channels + (1 - plain.opacity)[..., None] * background)
    output.channels.sum().backward()
    torch.testing.assert_close(background.grad, (1 - plain.opacity).sum().expand(4))


def test_near_and_far_plane_bound_the_camera_z() -> None:
    given = arguments()
    view = given["camera_from_world"]
    z = given["means"] @ view[2, :3] + view[2, 3]
    near, far = z.sort().values[[2, 7]].tolist()
    inside = rasterize(**arguments()).visible & (z > near + 1e-4) & (z < far - 1e-4)
    assert torch.equal(rasterize(**arguments(near_m=near + 1e-4, far_m=far - 1e-4)).visible, inside)


def test_only_the_gradients_asked_for_are_computed() -> None:
    given = arguments()
    given["channels"].requires_grad_()
    output = rasterize(**given)
    assert not output.means2d.requires_grad
    output.channels.sum().backward()
    assert given["channels"].grad.abs().sum() > 0
    assert given["means"].grad is None


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_broken_gaussians_are_not_drawn(model: str) -> None:
    given = arguments(model=model)
    for name, row, value in (
        ("means", 0, float("nan")),
        ("scales", 1, float("inf")),
        ("quats_wxyz", 2, 0.0),
        ("opacities", 3, float("nan")),
    ):
        given[name] = given[name].clone()
        given[name][row] = value
    output = rasterize(**given)
    assert not output.visible[:4].any()
    assert output.channels.isfinite().all()


def test_gradient_of_projected_means_leaves_the_camera_axis_behind() -> None:
    leaf = torch.ones(1, 3, 2, requires_grad=True)
    drawn_from = leaf * 2.0
    flat = without_camera_axis(drawn_from)
    (drawn_from**2).sum().backward()
    torch.testing.assert_close(flat, torch.full((3, 2), 2.0))
    torch.testing.assert_close(flat.grad, torch.full((3, 2), 4.0))
