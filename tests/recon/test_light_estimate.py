"""The sun of a scene is found from its shadows; a covered sky has none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from light_scenes import direction, lit_scene

from splatmend.datasets.errors import UserError
from splatmend.recon.light.colour import luminance
from splatmend.recon.light.estimate import EstimateConfig, estimate_light, estimated_light

_CONFIG = EstimateConfig(roofs_m=(0.0,), shots=4, width_px=160, samples_per_shot=900)


def _apart_deg(a: np.ndarray | tuple[float, float, float], b: np.ndarray | tuple[float, float, float]) -> float:
    return float(np.degrees(np.arccos(np.clip(np.dot(a, b), -1, 1))))


@pytest.mark.parametrize(("azimuth_deg", "elevation_deg"), [(140.0, 40.0), (-60.0, 25.0)])
def test_the_sun_is_found_from_the_shadows_of_boxes(azimuth_deg: float, elevation_deg: float) -> None:
    to_sun = direction(azimuth_deg, elevation_deg)
    found = estimated_light(lit_scene(to_sun, sun=3.0), _CONFIG)
    assert _apart_deg(found.light.to_sun_world, to_sun) < 5
    assert found.confidence > 0.5
    ambient = found.light.ambient(torch.tensor([[0.0, 0.0, 1.0]]))[0]
    ratio = luminance(torch.tensor(found.light.sun)) / luminance(ambient)
    assert 1.4 < float(ratio) < 6
    # The sky of the scene is blue, and what the sun adds as grey as what the sky gives: no sun is bluer than white.
    assert ambient[2] > ambient[0]
    assert found.light.sun[2] <= found.light.sun[0]


def test_a_turned_world_turns_the_sun_with_it() -> None:
    to_sun, up = direction(140.0, 40.0), np.array([0.0, -1.0, 0.0])
    from splatmend.recon.sky import rotation_to_z

    light = estimate_light(lit_scene(to_sun, sun=3.0, up=up), _CONFIG)
    assert _apart_deg(light.to_sun_world, rotation_to_z(up).T @ to_sun) < 5
    assert abs(light.sun_elevation_deg - 40) < 5


def test_a_covered_sky_has_no_sun() -> None:
    found = estimated_light(lit_scene(direction(140.0, 40.0), sun=0.0), _CONFIG)
    assert found.light.sun == (0.0, 0.0, 0.0)
    assert "covered" in found.light.made_by


def test_time_and_place_decide_where_a_scene_has_them() -> None:
    to_sun = direction(140.0, 40.0)
    scene = lit_scene(to_sun, sun=3.0)
    told = direction(135.0, 38.0)
    light = estimate_light(replace(scene, facts={"sun_direction_world": told.tolist()}), _CONFIG)
    assert light.made_by == "time and place"
    assert _apart_deg(light.to_sun_world, told) < 1e-3
    assert min(light.sun) > 0
    # The truth of procedural streets is not looked at.
    light = estimate_light(replace(scene, source="street", facts={"sun_direction_world": direction(-20, 60).tolist()}), _CONFIG)
    assert _apart_deg(light.to_sun_world, to_sun) < 5


def test_the_ground_has_the_albedo_of_a_street_under_the_estimated_light() -> None:
    scene = lit_scene(direction(140.0, 40.0), sun=3.0)
    light = estimate_light(scene, _CONFIG)
    lit = light.diffuse(torch.tensor([[0.0, 0.0, 1.0]]))[0]
    # Sunlit ground of the scene, which is 0.15 of (1 + 3 sin 40 degrees).
    albedo = 0.15 * (1 + 3 * np.sin(np.radians(40))) / lit.numpy()
    assert (albedo > 0.05).all()
    assert (albedo < 0.4).all()


def test_a_direction_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="no direction"):
        estimated_light(lit_scene(direction(0, 40), sun=1.0), _CONFIG, to_sun_world=(0.0, 0.0, 0.0))
