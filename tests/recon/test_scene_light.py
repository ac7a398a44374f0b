"""Light of a scene against what is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from splatmend.recon.light.colour import linear_from_srgb, srgb_from_linear
from splatmend.recon.light.scene_light import SceneLight, environment_directions, passed_by_air

ROWS = 32


def light(environment: torch.Tensor, to_sun: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> SceneLight:
    return SceneLight(to_sun_world=to_sun, sun=(1.0, 0.9, 0.8), environment=environment, environment_from_world=np.eye(3), made_by="a test")


def half_sphere() -> torch.Tensor:
    directions, _ = environment_directions(ROWS)
    return (directions[:, 2:] > 0).float().expand(-1, 3).reshape(ROWS, 2 * ROWS, 3).contiguous()


def test_solid_angles_add_up_to_the_sphere() -> None:
    directions, solid = environment_directions(ROWS)
    assert float(solid.sum()) == pytest.approx(4 * math.pi, rel=1e-5)
    assert torch.allclose((directions * solid[:, None]).sum(0), torch.zeros(3), atol=1e-4)


def test_a_bright_sky_lights_floors_fully_and_walls_by_half() -> None:
    up_side_down = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, -1]])
    assert light(half_sphere()).ambient(up_side_down)[:, 1].tolist() == pytest.approx([1.0, 0.5, 0.0], abs=2e-3)
    seen = light(half_sphere()).diffuse(up_side_down, sun_seen=torch.tensor([0.5, 1, 1]), sky_seen=torch.tensor([0.25, 1, 1]))
    assert seen[:, 2].tolist() == pytest.approx([0.5 * 0.8 + 0.25, 0.5, 0.0], abs=2e-3)


def test_mirrors_blur_with_roughness() -> None:
    low = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0.2], [1.0, 0, -0.2]]), dim=1)
    sharp, dull = (light(half_sphere()).mirrored(low, torch.full((2,), value))[:, 0] for value in (0.05, 1.0))
    assert sharp.tolist() == pytest.approx([1.0, 0.0], abs=0.02)
    assert 0.2 < dull[1] < dull[0] < 0.9


@pytest.mark.parametrize("rows", [16, 32])
def test_some_of_the_way_to_another_light_is_the_light_of_the_mixed_environment(rows: int) -> None:
    random = torch.Generator().manual_seed(0)
    here, ahead = (light(torch.rand(rows, 2 * rows, 3, generator=random)) for _ in range(2))
    mixed, fresh = here.towards(ahead, 0.3), light(torch.lerp(here.environment, ahead.environment, 0.3))
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=random), dim=1)
    roughness = torch.rand(40, generator=random)
    torch.testing.assert_close(mixed.ambient(directions), fresh.ambient(directions), atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed.environment_at(directions), fresh.environment_at(directions), atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed.mirrored(directions, roughness), fresh.mirrored(directions, roughness), atol=1e-5, rtol=0)
    assert float((mixed.ambient(directions) - here.ambient(directions)).abs().max()) > 1e-3


def test_moving_the_sun_turns_the_sky_with_it() -> None:
    directions, _ = environment_directions(ROWS)
    glow = torch.exp(8 * (directions @ torch.tensor([0.8, 0.0, 0.6]) - 1))[:, None].expand(-1, 3).reshape(ROWS, 2 * ROWS, 3)
    before = light(glow.contiguous(), (0.8, 0.0, 0.6))
    after = before.with_sun(90.0, before.sun_elevation_deg)
    assert after.to_sun_world == pytest.approx((0.0, 0.8, 0.6), abs=1e-6)
    assert after.sun == pytest.approx(before.sun)
    walls = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    assert torch.allclose(after.ambient(walls).flip(0), before.ambient(torch.tensor([[1.0, 0, 0], [0, -1.0, 0]])), atol=1e-3)
    low = before.with_sun(0.0, 10.0)
    assert low.sun_elevation_deg == pytest.approx(10.0)
    assert low.sun_azimuth_deg == pytest.approx(0.0, abs=1e-6)
    assert low.sun[2] / low.sun[0] < 0.7 * before.sun[2] / before.sun[0]
    assert passed_by_air(90.0) == pytest.approx(np.exp([-0.06, -0.13, -0.28]), rel=2e-3)


def test_colours_go_there_and_back() -> None:
    values = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(srgb_from_linear(linear_from_srgb(values)), values, atol=1e-6)
    assert linear_from_srgb(torch.full((1, 3), 0.5))[0, 0] == pytest.approx(0.21404, abs=1e-4)
