"""Shadows and light on an inserted ball, against what geometry says."""

from __future__ import annotations

import math
from dataclasses import replace

import lit_world
import numpy as np
import pytest
import torch
from lit_world import GROUND_ALBEDO, RADIUS_M, SKY, SUN, TO_SUN

from splatmend.datasets.geometry import yaw_pose
from splatmend.recon.assets.asset import Material
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import from_rgb
from splatmend.recon.light.body_light import SUN_STEP, BodyLight, BodyShape
from splatmend.recon.light.colour import light_from_picture, picture_from_light
from splatmend.recon.light.occlusion import OcclusionMaps, cast, dome, far_axes, may_shade
from splatmend.recon.light.probe import light_at
from splatmend.recon.light.receivers import receivers
from splatmend.recon.light.relight import blurred_highlight, mirrored_surroundings, relit, sun_highlight
from splatmend.recon.light.scene_sun import RecordedBody, SceneSun
from splatmend.recon.render import render

EYE = torch.tensor([-6.0, -4.0, 1.6])
"""A camera on a car's roof."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def shape(sky_directions: int = 64) -> BodyShape:
    return BodyShape(lit_world.ball().gaussians, sky_directions=sky_directions, rows=96, bias_m=0.1, backend=None)


def standing(body: BodyShape) -> BodyLight:
    place = np.eye(4)
    place[2, 3] = RADIUS_M
    return BodyLight.of(body, place, lit_world.light(), lambda points: torch.ones(len(points)))


def test_a_ball_shades_what_lies_behind_it() -> None:
    maps = cast(lit_world.ball().gaussians, torch.tensor([[0.0, 0, 1]]), torch.zeros(3), 1.2, 96)
    along = torch.tensor([[0.0, 0, -2], [0.5, 0.5, -2], [1.0, 0, -2], [0, 0, 2], [0, 0, RADIUS_M], [3.0, 0, 0]])
    assert maps.open_to(along, 0.1)[:, 0].tolist() == pytest.approx([0, 0, 1, 1, 1, 1], abs=0.05)


def test_look_ups_are_those_of_four_pixels_one_by_one() -> None:
    random = np.random.default_rng(0)
    sources, rows, reach_m, bias_m, centre = dome(5), 6, 2.0, 0.3, np.array([40.0, -3.0, 1.0])
    opacity, depth_m = random.uniform(0, 1, (5, rows, rows)), random.uniform(-2, 2, (5, rows, rows))
    maps = OcclusionMaps(
        sources=sources,
        axes=far_axes(sources),
        centre=torch.from_numpy(centre).float(),
        reach_m=reach_m,
        opacity=torch.from_numpy(opacity).float(),
        depth_m=torch.from_numpy(depth_m).float(),
    )
    points = centre + random.uniform(-4, 4, (60, 3))
    expected = np.ones((60, 5))
    for source, axes in enumerate(maps.axes.double().numpy()):
        for number, (across, down, away) in enumerate((points - centre) @ axes.T):
            at = np.array([across / reach_m + 1, down / reach_m + 1]) * rows / 2 - 0.5
            corner = np.floor(at).astype(int)
            for column, row in corner + np.array([[0, 0], [1, 0], [0, 1], [1, 1]]):
                if 0 <= column < rows and 0 <= row < rows:
                    weight = (1 - abs(at[0] - column)) * (1 - abs(at[1] - row))
                    behind = np.clip((away - depth_m[source, row, column]) / bias_m - 1, 0, 1)
                    expected[number, source] -= weight * opacity[source, row, column] * behind
    found = maps.open_to(torch.from_numpy(points).float(), bias_m)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert 0.2 < float((found < 1).float().mean()) < 0.8


def test_what_may_shade_is_what_shades() -> None:
    """Bodies all around a place: one that takes sunlight from a point there is never left out, most others are."""
    random, to_sun, reach_m, far_m = np.random.default_rng(1), np.array(TO_SUN), 1.2, 3.0
    ask = torch.from_numpy(random.uniform(-far_m / 2, far_m / 2, (400, 3))).float()
    left_out = shading = 0
    for _ in range(150):
        size, box = np.array([2.0, 1.0, 1.0]), yaw_pose(random.uniform(-3, 3), random.uniform(-4, 4, 3))
        means = torch.from_numpy(random.uniform(-0.5, 0.5, (40, 3)) * size @ box[:3, :3].T + box[:3, 3]).float()
        body = Gaussians(
            means=means,
            quats_wxyz=torch.tensor([1.0, 0, 0, 0]).repeat(40, 1),
            log_scales=torch.full((40, 3), -2.5),
            opacity_logits=torch.full((40,), 3.0),
            sh=torch.zeros(40, 1, 3),
        )
        shades = bool((cast(body, torch.tensor([TO_SUN]), torch.zeros(3), reach_m, 32).open_to(ask, 0.1) < 1).any())
        may = bool(may_shade(size[None], box[None], to_sun, np.zeros(3), reach_m, far_m)[0])
        assert may or not shades
        left_out += not may
        shading += shades
    assert left_out > 50
    assert shading > 15


def test_what_the_sun_sees_of_a_body_is_kept_while_it_hardly_moves() -> None:
    body, sun = shape(), np.array(TO_SUN)
    kept = body.in_sun(sun)
    turned = yaw_pose(math.radians(0.02), np.zeros(3))[:3, :3] @ sun
    assert body.in_sun(turned) is kept
    # On the ground around it, the worst of what rounding the direction does is less than a pixel of its picture.
    x, y = torch.meshgrid(torch.linspace(-3, 3, 61), torch.linspace(-3, 3, 61), indexing="xy")
    ground = torch.stack([x.flatten(), y.flatten(), torch.full((61 * 61,), -RADIUS_M)], dim=1)
    off = [
        (body.in_sun(to_sun).maps.open_to(ground, 0.1) - body.seen_from(torch.from_numpy(to_sun)[None].float()).open_to(ground, 0.1)).abs()
        for to_sun in (sun, turned)
    ]
    assert max(float(one.mean()) for one in off) < 2e-3
    assert max(float(one.max()) for one in off) < 0.2
    again = body.in_sun(yaw_pose(2 * SUN_STEP, np.zeros(3))[:3, :3] @ sun)
    assert again is not kept
    torch.testing.assert_close(body.in_sun(sun).past_itself, kept.past_itself)


def test_the_dome_covers_the_sky_evenly() -> None:
    directions = dome(400)
    assert torch.allclose(directions.norm(dim=1), torch.ones(400), atol=1e-5)
    assert float(directions[:, 2].min()) > 0
    assert directions.mean(dim=0).tolist() == pytest.approx([0, 0, 0.5], abs=5e-3)


def test_the_shadow_falls_where_the_sun_throws_it() -> None:
    """The ball's centre lands at (-0.6, 0) on the ground; its shadow is an ellipse 1 / 0.8 as long as it is wide."""
    lit = standing(shape())
    landing = -RADIUS_M * TO_SUN[0] / TO_SUN[2]
    long = RADIUS_M / TO_SUN[2]
    points = torch.tensor([[landing, 0, 0], [landing - 0.9 * long, 0, 0], [landing - 1.15 * long, 0, 0], [landing, 1.15 * RADIUS_M, 0]])
    up = torch.tensor([[0.0, 0, 1]]).expand(4, 3)
    kept = lit.kept_beside(points, up, torch.tensor([0.0, 0, 7]), ground_m=0.3, pits_m=1.5)[:, 0]
    sunny = SUN * TO_SUN[2]
    assert kept[0] < SKY / (sunny + SKY)
    assert kept[1] <= SKY / (sunny + SKY) + 0.02
    assert kept[2] > 0.8
    assert kept[3] > 0.8
    # Deep in the shadow but out from under the ball the sky is left, less what the ball covers of it.
    assert kept[1] > 0.5 * SKY / (sunny + SKY)


def test_what_is_seen_through_the_ground_is_ground_and_what_lies_deeper_is_not() -> None:
    """Pits are in the shadow where the ground that hides them is, whatever their own walls look like."""
    body, random = shape(), torch.Generator().manual_seed(0)
    lit, up = standing(body), torch.tensor([[0.0, 0, 1]]).expand(200, 3)
    ground = torch.rand(200, 3, generator=random) * torch.tensor([3.0, 2.0, 0.0]) - torch.tensor([2.2, 1.0, 0.0])
    ground[:, 2] = RADIUS_M - body.half_height_m
    walls = torch.nn.functional.normalize(torch.randn(200, 3, generator=random), dim=1)
    expected = lit.kept_beside(ground, up, EYE, ground_m=0.3, pits_m=1.5)
    assert 0.1 < float((expected < 0.3).float().mean()) < 0.9
    for depth_m in (0.1, 0.5, 1.4):
        pits = EYE + (ground - EYE) * (1 + depth_m / (EYE[2] - ground[:, 2]))[:, None]
        torch.testing.assert_close(pits[:, 2], ground[:, 2] - depth_m)
        torch.testing.assert_close(lit.kept_beside(pits, walls, EYE, ground_m=0.3, pits_m=1.5), expected, atol=2e-3, rtol=0)
    # One deeper than that, one more than twice as far as the ground, and one that is looked up at: none is seen through the ground.
    for eye, depth_m in ((EYE, 1.55), (EYE * torch.tensor([1, 1, 0.5]), 0.9), (EYE * torch.tensor([1, 1, -1]), 0.9)):
        low = ground - depth_m * up
        own = lit.kept_beside(low, walls, low + up, ground_m=0.3, pits_m=0.01)
        assert torch.equal(lit.kept_beside(low, walls, eye, ground_m=0.3, pits_m=1.5), own)


def test_far_from_the_ball_nothing_is_taken_and_right_below_it_the_sky_is() -> None:
    lit = standing(shape())
    points = torch.tensor([[20.0, 20, 0], [0.0, 0, 0]])
    kept = lit.kept_beside(points, torch.tensor([[0.0, 0, 1]]).expand(2, 3), EYE, ground_m=0.3, pits_m=1.5)[:, 0]
    assert kept[0] == pytest.approx(1.0, abs=1e-3)
    assert kept[1] < 0.1


def test_a_wall_beside_a_ball_loses_the_light_that_a_sphere_covers() -> None:
    """A point at distance d from a sphere's centre that it faces loses (r / d)^2 of an even surrounding; of the upper half here half."""
    body = shape(1024)
    point, normal = torch.tensor([[1.6, 0.0, 0.0]]), torch.tensor([[-1.0, 0.0, 0.0]])
    left = body.sky_beside(point, normal, torch.ones(1024))
    assert float(left) == pytest.approx(1 - (RADIUS_M / 1.6) ** 2, abs=0.03)


def test_ground_that_looks_shaded_says_that_the_sun_is_kept_off_above_it() -> None:
    scene = lit_world.scene()
    track = np.stack([np.eye(4), np.eye(4)])
    track[1, 0, 3] = 8.0
    track[:, 2, 3] = RADIUS_M
    sun = SceneSun(scene.background.gaussians, track, RADIUS_M, 2.0, lit_world.light(), bias_m=0.5)
    geometry = sun.geometry_around(torch.zeros(3), 1.0, 32)
    on_ground = torch.tensor([[0.0, 0, 0], [3.8, 0, 0], [6.2, 0, 0], [8.0, 0, 0]])
    assert sun.open_at(on_ground, geometry).tolist() == pytest.approx([1, 1, 0, 0], abs=0.02)
    # Two metres up, rays land 1.5 metres nearer to the sunlit side.
    assert sun.open_at(on_ground + torch.tensor([0.0, 0, 2]), geometry).tolist() == pytest.approx([1, 1, 1, 0], abs=0.1)
    moved = lit_world.light().with_sun(10.0, 50.0)
    elsewhere = SceneSun(scene.background.gaussians, track, RADIUS_M, 2.0, moved, bias_m=0.5)
    geometry = elsewhere.geometry_around(torch.tensor([4.0, 0, 0]), 6.0, 64)
    assert elsewhere.open_at(on_ground, geometry).tolist() == pytest.approx([1, 1, 1, 1], abs=0.02), "what the old sun shaded tells nothing"


def test_a_shadow_that_a_vehicle_cast_does_not_shade_what_stands_in_its_place() -> None:
    """A box in the sun, whose shadow was recorded along with the ground, and one where something else keeps the sun off."""
    size_m, poses = (4.0, 2.0, 1.5), np.stack([np.eye(4)] * 3)
    poses[:, 2, 3] = size_m[2] / 2
    scene, to_sun = lit_world.scene(), np.array(TO_SUN)
    for x_m, seen in ((0.5, 1.0), (9.5, 0.0)):
        poses[:, 0, 3] = x_m
        means = scene.background.gaussians.means
        # A ray from the ground to the sun leaves the box's height so far ahead.
        ahead_m = size_m[2] * to_sun[0] / to_sun[2]
        shaded = (
            ((means[:, 0] - x_m) < size_m[0] / 2) & ((means[:, 0] - x_m) > -size_m[0] / 2 - ahead_m) & (means[:, 1].abs() < size_m[1] / 2)
        )
        dark = from_rgb(picture_from_light(torch.full((1, 3), GROUND_ALBEDO * SKY)))
        sh = torch.where(shaded[:, None, None], dark[:, None], scene.background.gaussians.sh)
        ground = replace(scene.background.gaussians, sh=sh)
        on_box = torch.tensor([[x_m, 0.0, 1.4], [x_m - 1.9, 0.5, 1.0], [x_m - 1.9, -0.5, 0.3]])
        found = []
        for shading in ((), (RecordedBody(size_m=size_m, scene_from_body=poses),)):
            sun = SceneSun(ground, poses, size_m[2] / 2, 4.0, lit_world.light(), bias_m=0.3, shading=shading)
            found.append(sun.open_at(on_box, sun.geometry_around(torch.tensor([x_m, 0, 0.7]), 3.0, 64)).tolist())
        assert found[0] == pytest.approx([0] * 3, abs=0.05), "the test's own shadow is not there"
        assert found[1] == pytest.approx([seen] * 3, abs=0.05)
        # Others may have been there for longer: it stood where it stood.
        far = RecordedBody(size_m=size_m, scene_from_body=np.repeat(_aside(500.0) @ poses, 40, axis=0))
        sun = SceneSun(ground, poses, size_m[2] / 2, 4.0, lit_world.light(), bias_m=0.3, shading=(*shading, far))
        assert sun.open_at(on_box, sun.geometry_around(torch.tensor([x_m, 0, 0.7]), 3.0, 64)).tolist() == pytest.approx(found[1], abs=0.01)
        # One that drives by, and is over this ground for a tenth of the time, did not make it look as it does.
        passing = np.repeat(poses, 10, axis=0)
        passing[:, 0, 3] = x_m + np.linspace(-30, 30, len(passing))
        sun = SceneSun(
            ground,
            poses,
            size_m[2] / 2,
            4.0,
            lit_world.light(),
            bias_m=0.3,
            shading=(RecordedBody(size_m=size_m, scene_from_body=passing),),
        )
        assert sun.open_at(on_box, sun.geometry_around(torch.tensor([x_m, 0, 0.7]), 3.0, 64)).tolist() == pytest.approx(found[0], abs=0.05)


def test_a_long_shadow_that_crosses_all_that_is_asked_for_is_known_as_one() -> None:
    track = np.stack([_up(0.5)] * 2)
    low = np.radians(10.0)
    light = replace(lit_world.light(), to_sun_world=(float(np.cos(low)), 0.0, float(np.sin(low))))
    truck = RecordedBody(size_m=(8.0, 30.0, 3.8), scene_from_body=_aside(12.0) @ np.stack([_up(1.9)] * 2))
    sun = SceneSun(lit_world.scene().background.gaussians, track, 0.5, 3.0, light, bias_m=0.3)
    assert float(sun._shaded_by((truck,), 32).float().mean()) > 0.9
    beyond = replace(truck, scene_from_body=_aside(80.0) @ truck.scene_from_body)
    assert not bool(sun._shaded_by((beyond,), 32).any())


def _aside(x_m: float) -> np.ndarray:
    return yaw_pose(0.0, np.array([x_m, 0.0, 0.0]))


def _up(z_m: float) -> np.ndarray:
    return yaw_pose(0.0, np.array([0.0, 0.0, z_m]))


def test_matt_white_shows_the_light_and_follows_the_sun() -> None:
    asset = lit_world.ball()
    assert asset.material is not None
    ones = torch.ones(len(asset.gaussians))
    lit = relit(
        asset.gaussians,
        asset.material,
        torch.eye(4),
        torch.tensor([0.0, 0, 50]),
        lit_world.light(),
        sun_seen=ones,
        sky_seen=ones,
    )
    linear = light_from_picture(lit.sh[:, 0] * 0.28209479 + 0.5)[:, 0]
    normals = asset.material.normals
    expected = SUN * (normals @ torch.tensor(TO_SUN)).clamp_min(0) + SKY * (1 + normals[:, 2]) / 2
    assert torch.allclose(linear, expected, atol=0.01)


@pytest.mark.parametrize("roughness", [0.3, 0.6])
def test_highlights_stand_where_the_mirrored_sun_does_and_move_with_it(roughness: float) -> None:
    asset = lit_world.ball(roughness=roughness, specular=0.04)
    assert asset.material is not None
    to_eye = torch.tensor([[0.0, -1.0, 0.0]]).expand(len(asset.gaussians), 3)
    ones, first = torch.ones(len(asset.gaussians)), lit_world.light()
    for light in (first, first.with_sun(-120.0, 30.0)):
        shown = sun_highlight(asset.material.normals, to_eye, asset.material, light, ones)[:, 0]
        brightest = asset.material.normals[shown.argmax()]
        half = torch.nn.functional.normalize(to_eye[0] + torch.tensor(light.to_sun_world), dim=0)
        assert float(brightest @ half) > math.cos(math.radians(12)), "the highlight is away from the halfway vector"
        assert float(sun_highlight(asset.material.normals, to_eye, asset.material, light, 0 * ones).max()) == 0


def test_highlights_on_doubtful_normals_are_pale_and_move_with_the_sun() -> None:
    """What is certain is bright in a small place, what is not is spread, and in all no more than white over the small place is."""
    asset = lit_world.ball(roughness=0.25, specular=0.04)
    assert asset.material is not None
    normals, ones = asset.material.normals, torch.ones(len(asset.gaussians))
    to_eye = torch.tensor([[0.0, -1.0, 0.0]]).expand(len(ones), 3)
    for light in (lit_world.light(), lit_world.light().with_sun(-120.0, 30.0)):
        half = torch.nn.functional.normalize(to_eye[0] + torch.tensor(light.to_sun_world), dim=0)
        sharp = sun_highlight(normals, to_eye, asset.material, light, ones)[:, 0]
        pale = blurred_highlight(normals, to_eye, asset.material, light, ones)[:, 0]
        assert sharp.max() > 1 > 10 * pale.max() > 0.1
        assert float(normals[pale.argmax()] @ half) > math.cos(math.radians(15)), "the highlight is away from the halfway vector"
        assert 0.3 < float(pale.sum() / sharp.clamp(max=1.0).sum()) < 1.5
        assert float(blurred_highlight(normals, to_eye, asset.material, light, 0 * ones).max()) == 0


def test_what_faces_the_same_way_is_lit_alike() -> None:
    """Single Gaussians of a panel that the light misses are no stains; across an edge nothing is smoothed."""
    grid = torch.stack(torch.meshgrid(torch.arange(-1, 1, 0.05), torch.arange(-1, 1, 0.05), indexing="ij"), dim=-1).reshape(-1, 2)
    top = torch.cat([grid, torch.ones(len(grid), 1)], dim=1)
    side = torch.stack([torch.ones(len(grid)), grid[:, 0], grid[:, 1]], dim=1)
    means = torch.cat([top, side])
    normals = torch.cat([torch.tensor([[0.0, 0, 1]]).expand(len(grid), 3), torch.tensor([[1.0, 0, 0]]).expand(len(grid), 3)])
    count = len(means)
    body = Gaussians(
        means=means,
        quats_wxyz=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        log_scales=torch.full((count, 3), math.log(0.03)),
        opacity_logits=torch.full((count,), 4.0),
        sh=from_rgb(torch.full((count, 3), 0.4))[:, None],
    )
    alike = BodyShape(body, normals, sky_directions=4, rows=32, bias_m=0.1, backend=None).alike
    assert alike is not None
    material = Material(
        albedo=torch.full((count, 3), 0.3),
        normals=normals,
        roughness=torch.ones(count),
        specular=torch.zeros(count, 3),
        lit_by=torch.ones(count, 3),
    )
    missed = torch.rand(count, generator=torch.Generator().manual_seed(0)) < 0.1
    sun_seen = torch.where(missed, 0.0, 1.0)
    light = lit_world.light(sky=0.05)
    shown = []
    for over in (None, alike):
        lit = relit(
            body, material, torch.eye(4), torch.tensor([-9.0, 0, 9]), light, sun_seen=sun_seen, sky_seen=torch.ones(count), alike=over
        )
        shown.append(lit.sh[:, 0, 0] * 0.28209479 + 0.5)
    tops, sides = slice(0, len(grid)), slice(len(grid), None)
    for panel in (tops, sides):
        assert float(shown[1][panel].std()) < 0.4 * float(shown[0][panel].std())
    near_edge = top[:, 0] > 0.9
    inner = (top[:, 0] < 0.5) & (top[:, 0] > -0.5)
    assert float(shown[1][tops][near_edge].mean()) == pytest.approx(float(shown[1][tops][inner].mean()), rel=0.05)


def test_a_smooth_mirror_shows_the_sky() -> None:
    asset = lit_world.ball(roughness=0.05, specular=1.0)
    assert asset.material is not None
    ones = torch.ones(len(asset.gaussians))
    normals = asset.material.normals
    shown = mirrored_surroundings(normals, normals, asset.material, lit_world.light(sun=0.0), ones)[:, 0]
    up = asset.material.normals[:, 2]
    assert shown[up > 0.3].mean() == pytest.approx(SKY, rel=0.05)
    assert shown[up < -0.3].max() < 0.02


def test_receivers_lie_on_the_surface_they_show() -> None:
    scene = lit_world.scene()
    shot = lit_world.from_above(x=1.0)
    drawn = render(scene, shot, ("depth",))
    assert drawn.depth_m is not None
    seen = receivers(shot, "ewa", drawn.depth_m, drawn.opacity, scene.origin_world_m)
    inner = seen.points[8:-8, 8:-8]
    assert seen.valid.all()
    assert float(inner[..., 2].abs().max()) < 0.02
    assert inner[..., 0].mean() == pytest.approx(1.0, abs=0.02)
    assert float(inner[-1, 0, 1]) < 0 < float(inner[0, 0, 1])
    assert float(seen.normals[8:-8, 8:-8, 2].min()) > 0.99


def test_a_probe_sees_the_scene_below_and_the_sky_above() -> None:
    scene, light = lit_world.scene(), lit_world.light()
    there = light_at(scene, light, lit_world.ORIGIN_M + np.array([0, 0, 0.5]), lit_world.T_US)
    sunny = GROUND_ALBEDO * (SKY + SUN * TO_SUN[2])
    straight = torch.tensor([[0.0, 0, 1], [0, 0, -1]])
    assert there.environment_at(straight)[:, 1].tolist() == pytest.approx([SKY, sunny], rel=0.05)
    assert float(there.ambient(straight[:1])[0, 0]) == pytest.approx(SKY, rel=0.03)


def test_colours_of_a_known_light_change_by_the_ratio_and_go_back() -> None:
    """A ball that was harvested in one light and drawn in it again is what it was, whatever its colours; in another it follows that."""
    asset = lit_world.ball()
    assert asset.material is not None
    normals, ones = asset.material.normals, torch.ones(len(asset.gaussians))
    light = lit_world.light()
    there = light.diffuse(normals)
    generator = torch.Generator().manual_seed(0)
    sh = torch.cat([asset.gaussians.sh, 0.2 * torch.randn(len(there), 3, 3, generator=generator)], dim=1)
    seen = replace(asset.gaussians, sh=sh)
    material = replace(asset.material, lit_by=there, specular=torch.zeros(len(there), 3))
    eye = torch.tensor([0.0, 0, 50])
    # Specular zero still shines at grazing angles, which are left out here.
    flat = (normals @ torch.tensor(TO_SUN) > 0.3) & (normals[:, 2] > 0.3)
    again = relit(seen, material, torch.eye(4), eye, light, sun_seen=ones, sky_seen=ones)
    assert torch.allclose(again.sh[flat], sh[flat], atol=0.02)
    darker = relit(seen, material, torch.eye(4), eye, lit_world.light(sky=SKY / 4, sun=SUN / 4), sun_seen=ones, sky_seen=ones)
    shown = light_from_picture(darker.sh[:, 0] * 0.28209479 + 0.5)[flat]
    assert torch.allclose(shown, light_from_picture(sh[:, 0] * 0.28209479 + 0.5)[flat] / 4, rtol=0.05)
    assert torch.allclose(darker.sh[flat, 1:], sh[flat, 1:] * 0.55, rtol=0.1)
