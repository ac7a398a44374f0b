"""Actors of scenes become assets: what is kept, which side is believed, normals, and materials without the light that was on them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from asset_shapes import blobs, car_surface, matt
from lit_world import ORIGIN_M, light, scene

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, pose, yaw_pose
from splatmend.datasets.log import ActorTrack, Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.assets.asset import Asset, Material
from splatmend.recon.assets.completion import halves
from splatmend.recon.assets.harvest import harvest_actor
from splatmend.recon.assets.shape_normals import shape_normals
from splatmend.recon.assets.sightings import SEEN_FROM
from splatmend.recon.assets.turning import turned
from splatmend.recon.gaussians import Gaussians, concatenate
from splatmend.recon.light.colour import light_from_picture, picture_from_light
from splatmend.recon.light.probe import light_at
from splatmend.recon.light.relight import relit
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.nodes import RigidActor
from splatmend.recon.scene import RecordedShot, Scene

CAMERA = Camera(name="front", width=96, height=72, focal_px=(80.0, 80.0), principal_px=(48.0, 36.0))
STEP_US = 100_000
PAINT = (0.5, 0.1, 0.08)


def angles_deg(found: torch.Tensor, true: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos((found.double().numpy() * true).sum(1).clip(-1, 1)))


def looking_at(eye_m: np.ndarray, target_m: np.ndarray) -> np.ndarray:
    forward = (target_m - eye_m) / np.linalg.norm(target_m - eye_m)
    right = np.cross(forward, [0.0, 0, 1])
    right /= np.linalg.norm(right)
    return pose(np.stack([right, np.cross(forward, right), forward], axis=1), eye_m)


def around(azimuths_deg: tuple[float, ...], car: np.ndarray) -> tuple[RecordedShot, ...]:
    """Shots of a car from 8 m away at a height of 2 m, one after the other."""
    shots = []
    for i, angle in enumerate(np.radians(azimuths_deg)):
        eye = car + np.array([8 * np.cos(angle), 8 * np.sin(angle), 2.0])
        shots.append(RecordedShot(shot=Shot.still(CAMERA, looking_at(eye, car), i * STEP_US), frame_index=i, role="train"))
    return tuple(shots)


@cache
def light_there(centre_m: tuple[float, float, float]) -> SceneLight:
    """The sun, and around a place the sky and the ground as the flat world shows them."""
    return light_at(scene(), light(), np.array(centre_m), 0)


@cache
def lit_car(sides: str) -> tuple[Scene, np.ndarray]:
    """The flat world with a matt car on it in its light, seen from its left ("left") or from all around ("all"), and its true normals.

    A darker roof line along the left tells one side from the other.
    """
    xyz, normals, size = car_surface(900)
    albedo = np.tile(PAINT, (len(xyz), 1))
    albedo[np.abs(xyz[:, 2]) < 0.1] *= 0.5
    gaussians = blobs(xyz, np.full_like(xyz, 0.5), 0.09)
    place = ORIGIN_M + np.array([0.0, 0, size[2] / 2])
    at = yaw_pose(0.0, place)
    centre = torch.from_numpy(at).float()
    centre[:3, 3] = torch.tensor([0.0, 0, size[2] / 2])
    eye = torch.tensor([0.0, 8.0, 2.0])
    ones = torch.ones(len(xyz))
    seen = relit(
        gaussians,
        replace(matt(normals, albedo), specular=torch.zeros(len(xyz), 3), roughness=ones),
        centre,
        eye,
        light_there(tuple(place.tolist())),
        sun_seen=ones,
        sky_seen=ones,
    )
    track = ActorTrack(
        actor_id="car",
        actor_class="vehicle",
        size_m=size,
        track=PoseTrack(times_us=np.array([0, 10 * STEP_US]), world_from_body=np.stack([at] * 2)),
    )
    angles = (35.0, 65.0, 90.0, 115.0, 145.0) if sides == "left" else tuple(np.arange(0.0, 360.0, 40.0))
    return replace(scene(), actors={"car": RigidActor(gaussians=seen, track=track)}, shots=around(angles, place)), normals


def test_normals_of_a_ball_and_of_a_car() -> None:
    index = np.arange(1000) + 0.5
    up, turn = 1 - 2 * index / 1000, index * np.pi * (1 + 5**0.5)
    ball = np.stack([np.sqrt(1 - up**2) * np.cos(turn), np.sqrt(1 - up**2) * np.sin(turn), up], axis=1)
    noise = np.random.default_rng(0).normal(0, 0.01, ball.shape)
    off = angles_deg(shape_normals(blobs(0.8 * ball + noise, np.full_like(ball, 0.5), 0.05), (1.6, 1.6, 1.6)), ball)
    assert np.median(off) < 4
    assert off.max() < 30
    xyz, normals, size = car_surface(2500)
    noise = np.random.default_rng(0).normal(0, 0.01, xyz.shape)
    off = angles_deg(shape_normals(blobs(xyz + noise, np.full_like(xyz, 0.5), 0.05), size), normals)
    assert np.median(off) < 12
    assert (off > 90).mean() < 0.09  # wheel arches and underside: the box says nothing of them


@pytest.fixture(scope="module")
def left() -> Asset:
    return harvest_actor(lit_car("left")[0], "car", light())


def test_a_car_seen_from_its_left_has_a_right_side_as_well(left: Asset) -> None:
    recorded = lit_car("left")[0].actors["car"].gaussians
    assert left.facts["mirrored"] > 100
    means = left.gaussians.means
    size = torch.tensor(left.size_m)
    right = (means[:, 1] < -0.3 * size[1]) & (means[:, 2].abs() < 0.3 * size[2])
    there = means[right] * torch.tensor([1.0, -1.0, 1.0])
    # The right side's Gaussians are the mirror images of recorded ones of the left, at the same places.
    nearest = torch.cdist(there, recorded.means).amin(dim=1)
    assert float((nearest < 1e-5).float().mean()) > 0.9
    assert 0.8 < len(left.gaussians) / len(recorded) < 1.2
    assert left.material is not None
    assert float((left.material.normals[right][:, 1] < 0).float().mean()) > 0.9


def test_an_asset_says_from_where_it_was_seen(left: Asset) -> None:
    from_left = left.facts[SEEN_FROM]
    assert {30, 60, 90, 120, 150} <= set(from_left), "from its left"
    assert {210, 240, 270, 300, 330} <= set(from_left), "and from its right, which is the mirror image"
    assert not {0, 180} & set(from_left)
    from_everywhere = harvest_actor(lit_car("all")[0], "car", None).facts[SEEN_FROM]
    assert max(b - a for a, b in pairwise([*from_everywhere, from_everywhere[0] + 360])) <= 45


def test_a_car_seen_from_all_sides_is_left_as_it_is() -> None:
    whole = harvest_actor(lit_car("all")[0], "car", None)
    recorded = lit_car("all")[0].actors["car"].gaussians
    assert whole.facts["mirrored"] < 0.05 * len(recorded)
    assert whole.material is None
    assert len(whole.gaussians) > 0.9 * len(recorded)


def test_the_light_is_taken_off_the_paint(left: Asset) -> None:
    """The roof lies in sun and sky, the left side in the sky alone: colours differ by far more than the albedo that is found."""
    material, means, size = left.material, left.gaussians.means, torch.tensor(left.size_m)
    assert material is not None
    roof = (means[:, 2] > 0.4 * size[2]) & (material.normals[:, 2] > 0.9)
    side = (means[:, 1] > 0.4 * size[1]) & (material.normals[:, 1] > 0.9) & (means[:, 2].abs() > 0.12)
    own = light_from_picture(left.gaussians.sh[:, 0] * 0.28209479 + 0.5)
    baked = float(own[roof, 0].median() / own[side, 0].median())
    assert baked > 2
    for part in (roof, side):
        found = material.albedo[part].median(0).values.numpy()
        np.testing.assert_allclose(found, PAINT, rtol=0.3, atol=0.03)


def relit_from_above(own: Gaussians, material: Material, light_there: SceneLight) -> torch.Tensor:
    """The light that matt Gaussians show when they are lit by nothing but this."""
    ones = torch.ones(len(own))
    matt_alone = replace(material, specular=torch.zeros(len(own), 3), roughness=ones)
    eye = torch.tensor([0.0, 8.0, 2.0])
    lit = relit(own, matt_alone, torch.eye(4), eye, light_there, sun_seen=ones, sky_seen=ones)
    return light_from_picture(lit.sh[:, 0] * 0.28209479 + 0.5)


def test_a_ghost_in_the_background_takes_no_light_from_the_actor(left: Asset) -> None:
    """Fits leave some of a vehicle in the background, dark where it is dark."""
    lit = lit_car("left")[0]
    xyz, _, size = car_surface(500)
    ghost = (1.03 * xyz + np.array([0, 0, size[2] / 2]))[xyz[:, 2] > 0.3 - size[2] / 2]
    shell = blobs(ghost, np.full_like(ghost, 0.02), 0.12)
    haunted = lit.with_gaussians(concatenate([lit.background.gaussians, shell]))
    found = harvest_actor(haunted, "car", light()).material
    assert found is not None
    assert found.lit_by is not None
    assert left.material is not None
    assert left.material.lit_by is not None
    assert float(found.lit_by.median() / left.material.lit_by.median()) == pytest.approx(1, abs=0.15)
    torch.testing.assert_close(found.albedo.median(0).values, left.material.albedo.median(0).values, atol=0.03, rtol=0.15)


def test_an_actor_lit_as_it_was_looks_as_it_did_and_by_another_sun_as_it_would(left: Asset) -> None:
    """Against the true material under the other sun: much nearer than the colours as they were."""
    scene_, normals = lit_car("left")
    recorded = scene_.actors["car"].gaussians
    material = left.material
    assert material is not None
    nearest = torch.cdist(left.gaussians.means, recorded.means).min(dim=1)
    direct = nearest.values < 1e-5  # not the mirror images
    true = torch.from_numpy(normals).float()[nearest.indices[direct]]
    around_it = light_there(tuple(scene_.actors["car"].track.track.world_from_body[0, :3, 3].tolist()))
    moved = replace(around_it, to_sun_world=(0.0, 0.8, 0.6))
    own = left.gaussians.select(direct)
    kept = material.select(direct)
    before = light_from_picture(own.sh[:, 0] * 0.28209479 + 0.5)
    paint = torch.tensor(PAINT) * torch.where(own.means[:, 2:].abs() < 0.1, 0.5, 1.0)
    wanted = paint * moved.diffuse(true)
    lit_again = relit_from_above(own, kept, moved)
    # Without the floor and what it shades: the true colours know no shadows.
    seen = (own.means[:, 1] > 0) & (own.means[:, 2] > -0.2 * left.size_m[2]) & (true[:, 2] > -0.3)
    shown = picture_from_light(wanted[seen])
    error, baked = ((picture_from_light(value[seen]) - shown).abs() for value in (lit_again, before))
    assert float(error.median()) < 0.65 * float(baked.median())
    assert float(error.square().mean()) < 0.85 * float(baked.square().mean())
    as_it_was = relit_from_above(own, kept, around_it)
    again, as_seen = (picture_from_light(value[seen]) for value in (as_it_was, before))
    assert float((again - as_seen).square().mean().sqrt()) < 0.3 * float(as_seen.mean())


def test_what_the_background_holds_of_a_standing_actor_belongs_to_it() -> None:
    """A fit may put any part of a car that never moves into the background; of one that moved, what is there is the street's."""
    base, _ = lit_car("all")
    car = base.actors["car"]
    aside = np.stack([yaw_pose(0.7, car.track.track.world_from_body[0, :3, 3])] * 2)
    car = replace(car, track=replace(car.track, track=replace(car.track.track, world_from_body=aside)))
    recorded = car.gaussians
    generator = torch.Generator().manual_seed(3)
    sh = torch.cat([recorded.sh, 0.1 * torch.randn(len(recorded), 3, 3, generator=generator)], dim=1)
    whole = replace(recorded, sh=sh)
    # The lowest part of a box is the street's anyway.
    own = (torch.rand(len(whole), generator=generator) < 0.5) | (whole.means[:, 2] < 0.2 - car.track.size_m[2] / 2)
    scene_from_car = car.track.track.world_from_body[0].copy()
    scene_from_car[:3, 3] -= base.origin_world_m
    ghost = turned(whole.select(~own), scene_from_car[:3, :3], np.zeros(3), 1.0)
    ghost = replace(ghost, means=ghost.means + torch.from_numpy(scene_from_car[:3, 3]).float())
    split = base.with_gaussians(concatenate([base.background.gaussians, ghost]))
    half = replace(split, actors={"car": replace(car, gaussians=whole.select(own))})
    found, wanted = (
        harvest_actor(one, "car", None).gaussians for one in (half, replace(base, actors={"car": replace(car, gaussians=whole)}))
    )
    assert len(found) == pytest.approx(len(wanted), rel=0.03)
    distance, nearest = torch.cdist(wanted.means, found.means).min(dim=1)
    close = distance < 2e-3
    assert float(close.float().mean()) > 0.95
    torch.testing.assert_close(found.sh[nearest[close]], wanted.sh[close], atol=2e-4, rtol=0)
    poses = car.track.track.world_from_body.copy()
    poses[-1, 0, 3] += 1.0
    moved = replace(car.track, track=replace(car.track.track, world_from_body=poses))
    left = harvest_actor(replace(half, actors={"car": replace(half.actors["car"], track=moved)}), "car", None).gaussians
    assert len(left) < 0.7 * len(wanted)


def test_floaters_see_through_ones_and_haze_are_left_out() -> None:
    base, _ = lit_car("all")
    actor = base.actors["car"]
    stray = blobs(np.array([[0.0, 0, 3.0], [9.0, 0, 0]]), np.full((2, 3), 0.5), 0.05)
    faint = blobs(np.array([[0.5, 0.9, 0.1]]), np.full((1, 3), 0.5), 0.05, opacity_logit=-8.0)
    haze = blobs(np.array([[0.0, 0.8, 0.0]]), np.full((1, 3), 0.5), 2.5)
    dirty = replace(base, actors={"car": replace(actor, gaussians=concatenate([actor.gaussians, stray, faint, haze]))})
    clean, asset = harvest_actor(base, "car", None), harvest_actor(dirty, "car", None)
    assert asset.facts["left_out"] - clean.facts["left_out"] == 4


def test_quality_falls_with_what_was_seen() -> None:
    base, _ = lit_car("all")
    whole = harvest_actor(base, "car", None)
    glimpse = harvest_actor(replace(base, shots=base.shots[2:3]), "car", None)
    assert 0 < glimpse.quality < whole.quality <= 1
    assert glimpse.facts["coverage"] < 0.6 < whole.facts["coverage"]
    far = tuple(replace(r, shot=r.shot.moved(pose(np.eye(3), np.array([0.0, 0, -24])))) for r in base.shots)
    coarse = harvest_actor(replace(base, shots=far), "car", None)
    assert coarse.facts["px_per_m"] < 0.5 * whole.facts["px_per_m"]
    assert coarse.quality < whole.quality


def test_sides_are_decided_by_looks() -> None:
    seen = torch.tensor([5.0, 0.0, 0.0, 5.0, 0.4])
    mirror = torch.tensor([5.0, 5.0, 0.0, 0.0, 0.6])
    which = halves(seen, mirror)
    assert which.stays.tolist() == [True, False, True, True, True]
    assert which.copied.tolist() == [False, False, False, True, False]


def test_unknown_and_unseen_actors_are_refused() -> None:
    base, _ = lit_car("all")
    with pytest.raises(UserError, match="no such actor; its actors are car"):
        harvest_actor(base, "bus", None)
    away = tuple(replace(r, shot=r.shot.moved(pose(np.diag([-1.0, 1, -1]), np.zeros(3)))) for r in base.shots)
    with pytest.raises(UserError, match="no fitted picture"):
        harvest_actor(replace(base, shots=away), "car", None)
    few = replace(base.actors["car"], gaussians=base.actors["car"].gaussians.select(torch.arange(20)))
    with pytest.raises(UserError, match="too few"):
        harvest_actor(replace(base, actors={"car": few}), "car", None)
