"""A road with a coloured stripe, along which a parked box hides a stretch at all times, and Gaussians planted in the box."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_log
import torch
from torch import Tensor

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, pose
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.shot import Shot
from splatmend.recon.edits.heal import HealConfig, heal
from splatmend.recon.edits.heal_frame import Way, filled
from splatmend.recon.gaussians import concatenate
from splatmend.recon.nodes import RigidActor, StaticNode
from splatmend.recon.render import render
from splatmend.recon.scene import Scene

BOX_M = np.array([6.0, 0.0, 0.6])
SIZE_M = (2.4, 1.6, 1.2)
GHOSTS = 40


def _road_scene() -> Scene:
    """Road Gaussians first (none below the box), then the ghosts."""
    x, y = np.meshgrid(np.arange(-2, 24, 0.2), np.arange(-3, 3.01, 0.2), indexing="ij")
    xyz = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    under = (np.abs(xyz[:, 0] - BOX_M[0]) < 1.3) & (np.abs(xyz[:, 1]) < 0.9)
    xyz = xyz[~under]
    rgb = np.where(np.abs(xyz[:, 1:2]) < 0.35, [[0.9, 0.7, 0.1]], [[0.3, 0.3, 0.3]])
    road = tiny_log.gaussians(xyz, rgb, 0.14)
    road = replace(road, log_scales=road.log_scales + torch.tensor([0.0, 0.0, -2.5]))
    random = np.random.default_rng(0)
    ghosts = tiny_log.gaussians(BOX_M + random.uniform(-0.5, 0.5, (GHOSTS, 3)) * [2.0, 1.2, 0.5], np.full((GHOSTS, 3), 0.1), 0.15)
    base = tiny_log.true_scene(6)
    times_us = np.arange(6) * tiny_log.STEP_US
    track = ActorTrack(
        actor_id="box",
        actor_class="vehicle",
        size_m=SIZE_M,
        track=PoseTrack(times_us=times_us, world_from_body=np.stack([pose(np.eye(3), tiny_log.ORIGIN_M + BOX_M)] * 6)),
    )
    body = tiny_log.gaussians(random.uniform(-0.5, 0.5, (900, 3)) * SIZE_M, np.tile([[0.1, 0.1, 0.8]], (900, 1)), 0.12)
    return replace(
        base,
        background=StaticNode(gaussians=concatenate([road, ghosts]), origin_world_m=tiny_log.ORIGIN_M),
        actors={"box": RigidActor(gaussians=body, track=track)},
    )


@pytest.fixture(scope="module")
def scene() -> Scene:
    return _road_scene()


@pytest.fixture(scope="module")
def healed(scene: Scene) -> Scene:
    return heal(scene, ["box"], HealConfig(shots=4))


def _with_road(scene: Scene, xyz: np.ndarray, rgb: np.ndarray, scale: Tensor) -> Scene:
    """The scene with more on the road; `scale` is relative to 0.14 m."""
    more = tiny_log.gaussians(xyz, rgb, 0.14)
    more = replace(more, log_scales=more.log_scales + scale.log())
    return scene.with_gaussians(concatenate([scene.background.gaussians, more]))


def _from_above(scene: Scene, x_m: float, y_m: float) -> Tensor:
    """What is drawn of a place of the road, seen from straight above, `[3]`; no sky."""
    turned = np.array([[0.0, -1, 0], [-1, 0, 0], [0, 0, -1]])
    camera = replace(tiny_log.CAMERA, width=32, height=32, principal_px=(16.5, 16.5))
    shot = Shot.still(camera, pose(turned, tiny_log.ORIGIN_M + np.array([x_m, y_m, 6.0])), 0)
    with torch.no_grad():
        rgb = render(replace(scene, sky=None), shot, ("rgb",), exposure=None, without=list(scene.actors)).rgb
    assert rgb is not None
    return rgb[16, 16]


def test_ghosts_go_and_the_given_scene_stays(scene: Scene) -> None:
    before = {name: getattr(scene.background.gaussians, name).clone() for name in ("means", "opacity_logits", "sh")}
    healed = heal(scene, ["box"], HealConfig(shots=2, copy_uprights=False))
    inside = (healed.background.gaussians.means - torch.from_numpy(BOX_M).float()).abs() < torch.tensor(SIZE_M) / 2
    assert not (inside.all(dim=1) & (healed.background.gaussians.means[:, 2] > 0.25)).any()
    assert "box" not in healed.actors
    assert "box" in scene.actors
    for name, value in before.items():
        assert torch.equal(getattr(scene.background.gaussians, name), value)


def test_stripe_goes_on_under_the_box(scene: Scene, healed: Scene) -> None:
    old = scene.background.gaussians
    road = scene.with_gaussians(old.select(old.means[:, 2] < 0.1))
    assert float(_from_above(road, 6.0, 0.0).sum()) < 0.1  # there is a hole
    for x_m in (5.3, 6.0, 6.6):
        stripe, beside = _from_above(healed, x_m, 0.0), _from_above(healed, x_m, 0.7)
        assert float((stripe - torch.tensor([0.9, 0.7, 0.1])).abs().max()) < 0.15
        assert float((beside - 0.3).abs().max()) < 0.15


def test_shadow_of_a_slow_actor_is_neither_left_nor_copied(scene: Scene) -> None:
    box = scene.actors["box"]
    times_us = box.track.track.times_us
    poses = [pose(np.eye(3), tiny_log.ORIGIN_M + BOX_M + [0.3 * number, 0, 0]) for number in range(len(times_us))]
    track = replace(box.track, track=PoseTrack(times_us=times_us, world_from_body=np.stack(poses)))
    x, y = np.meshgrid(np.arange(3.9, 4.75, 0.1), np.arange(-0.8, 0.81, 0.1))
    shade = np.stack([x.ravel(), y.ravel(), np.full(x.size, 0.01)], axis=1)
    shaded = _with_road(scene, shade, np.full((x.size, 3), 0.03), torch.tensor([0.6, 0.6, 0.08]))
    shaded = replace(shaded, actors={"box": replace(box, track=track)})
    assert float(_from_above(shaded, 4.3, 0.7).max()) < 0.1
    healed = heal(shaded, ["box"], HealConfig(shots=6))
    for x_m in (4.5, 4.7, 6.0, 6.6, 7.4):
        assert float((_from_above(healed, x_m, 0.0) - torch.tensor([0.9, 0.7, 0.1])).abs().max()) < 0.15


def test_ground_behind_what_gives_way_to_ground_is_made_too(scene: Scene) -> None:
    means = scene.background.gaussians.means
    bare = scene.with_gaussians(scene.background.gaussians.select((means[:, 0] < 7.2) | (means[:, 0] > 9.5)))
    y = np.arange(-1.2, 1.21, 0.1)
    curtain = np.stack([np.full(len(y), 6.9), y, np.full(len(y), 0.15)], axis=1)
    hung = _with_road(bare, curtain, np.full((len(y), 3), 0.1), torch.tensor([0.2, 1.0, 3.0]))
    healed = heal(hung, ["box"], HealConfig(shots=6))
    for x_m in (7.6, 8.2, 8.8):
        assert float((_from_above(healed, x_m, 0.0) - torch.tensor([0.9, 0.7, 0.1])).abs().max()) < 0.15


def test_what_was_seen_stays_to_the_bit(scene: Scene, healed: Scene) -> None:
    old, new = scene.background.gaussians, healed.background.gaussians
    far = ((old.means[:, 0] > 0) & (old.means[:, 0] < 4.0)) | (old.means[:, 1].abs() > 2.4) & (old.means[:, 0] < 4.0)
    kept = old.select(far)
    place = torch.cdist(kept.means, new.means, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    assert (place.values == 0).all()
    for name in ("means", "quats_wxyz", "log_scales", "opacity_logits", "sh"):
        assert torch.equal(getattr(new.select(place.indices), name), getattr(kept, name))


def test_what_is_seen_through_a_box_but_past_its_actor_stays(scene: Scene) -> None:
    box = scene.actors["box"]
    flat = replace(box, gaussians=box.gaussians.select(box.gaussians.means[:, 2] < -0.5))
    old = scene.background.gaussians.means
    behind = old[(old[:, 0] > 10) & (old[:, 2] < 0.1)]

    def lost(actor: RigidActor) -> int:
        new = heal(replace(scene, actors={"box": actor}), ["box"], HealConfig(shots=6)).background.gaussians.means
        return int((torch.cdist(behind, new, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1).values > 0).sum())

    assert 0 < 2 * lost(flat) < lost(box)


def test_nothing_removed_changes_nothing(scene: Scene) -> None:
    assert heal(scene, []).background is scene.background


def test_unknown_actor_is_a_user_error(scene: Scene) -> None:
    with pytest.raises(UserError, match="no such actor"):
        heal(scene, ["bus"])


def test_places_along_a_way_are_found_again() -> None:
    angles = np.linspace(0, 1.2, 40)
    way = Way.through(50 * np.stack([np.sin(angles), 1 - np.cos(angles)], axis=1), np.array([1.0, 0.0]), torch.device("cpu"))
    along, left = torch.tensor([-8.0, 3.0, 20.0, 45.0, 70.0]), torch.tensor([2.0, -3.0, 1.0, 4.0, -2.0])
    found_along, found_left = way.locate(way.place(along, left))
    assert torch.allclose(found_along, along, atol=0.3)
    assert torch.allclose(found_left, left, atol=0.05)


def test_filling_keeps_what_is_known() -> None:
    known = torch.zeros(9, 14)
    known[:, :3], known[:, -3:] = 1, 1
    values = torch.where(torch.arange(14) < 7, 1.0, 3.0).expand(1, 9, 14) * known
    out = filled(values, known)
    assert torch.equal(out * known, values)
    assert (out >= 0.99).all()
    assert (out <= 3.01).all()
    assert float(out[0, 4, 4]) < float(out[0, 4, 9])
