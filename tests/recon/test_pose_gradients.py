"""The gradient of a picture with respect to the poses of camera and actor, against finite differences of moved poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_log import true_scene
from torch import Tensor

from splatmend.recon.fit.corrections import matrix
from splatmend.recon.placement import PoseTwists
from splatmend.recon.raster.api import Model
from splatmend.recon.render import RenderOutput, render
from splatmend.recon.scene import Scene

NUMBER = 5
STEPS = np.array([1e-3, 1e-3, 1e-3, 8e-3, 8e-3, 8e-3])


def _weights(scene: Scene) -> tuple[Tensor, Tensor]:
    """Fixed maps to weigh colours and depths with; depths count where there is something."""
    shot = scene.shots[NUMBER].shot
    camera = shot.camera
    with torch.no_grad():
        opacity = render(scene, shot, ()).opacity
    rows, columns = torch.meshgrid(torch.linspace(0, 3, camera.height), torch.linspace(0, 4, camera.width), indexing="ij")
    wave = torch.sin(rows[..., None] + columns[..., None] * torch.tensor([1.0, 0.6, -0.7]))
    return wave, wave[..., 0] * 0.05 * opacity**2


def _value(out: RenderOutput, weights: tuple[Tensor, Tensor]) -> Tensor:
    assert out.rgb is not None
    assert out.depth_m is not None
    return (out.rgb * weights[0]).sum() + (out.depth_m * weights[1]).sum()


def _differences(value_at: Callable[[np.ndarray], float]) -> np.ndarray:
    out = np.zeros(6)
    for number, step in enumerate(STEPS):
        ahead, behind = (value_at(matrix(sign * step * np.eye(6)[number])) for sign in (1, -1))
        out[number] = (ahead - behind) / (2 * step)
    return out


def _check(twist: Tensor, value_at: Callable[[np.ndarray], float]) -> None:
    """Not closer, for splats end at an alpha of 1/255, and that edge is in the differences alone."""
    expected = _differences(value_at)
    assert twist.grad is not None
    np.testing.assert_allclose(twist.grad[0].numpy(), expected, rtol=0.1, atol=0.04 * np.abs(expected).max())


@pytest.fixture(params=["ewa", "ray"])
def scene(request: pytest.FixtureRequest) -> Scene:
    model: Model = request.param
    return replace(true_scene(), camera_model=model, sky=None)


def test_of_the_camera(scene: Scene) -> None:
    shot, weights = scene.shots[NUMBER].shot, _weights(scene)
    twist = torch.zeros(1, 6, requires_grad=True)
    _value(render(scene, shot, twists=PoseTwists(values=twist, camera=True)), weights).backward()

    def value_at(moved: np.ndarray) -> float:
        with torch.no_grad():
            return float(_value(render(scene, shot.moved(moved)), weights).double())

    _check(twist, value_at)


def test_of_an_actor(scene: Scene) -> None:
    # Alone in the picture: where a body moves past others, the order in which they are drawn jumps, which no gradient tells.
    background = scene.background.gaussians
    scene = scene.with_gaussians(replace(background, opacity_logits=torch.full_like(background.opacity_logits, -20.0)))
    shot, weights = scene.shots[NUMBER].shot, _weights(scene)
    twist = torch.zeros(1, 6, requires_grad=True)
    _value(render(scene, shot, twists=PoseTwists(values=twist, actors=("car/1",))), weights).backward()
    (actor,) = scene.actors.values()

    def value_at(moved: np.ndarray) -> float:
        with torch.no_grad():
            out = render(scene, shot, actor_poses=lambda _, t_us: actor.track.world_from_actor(t_us) @ moved)
            return float(_value(out, weights).double())

    _check(twist, value_at)


def test_a_zero_twist_leaves_every_bit_as_it_is(scene: Scene) -> None:
    shot = scene.shots[NUMBER].shot
    twists = PoseTwists(values=torch.zeros(2, 6), actors=("car/1",), camera=True)
    with torch.no_grad():
        plain, nudged = render(scene, shot), render(scene, shot, twists=twists)
    assert plain.rgb is not None
    assert nudged.rgb is not None
    assert torch.equal(plain.rgb, nudged.rgb)
