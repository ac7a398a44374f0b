"""Pictures of edited scenes: shares, what is behind, boxes and masks, on both splat models."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from test_edits_apply import suv
from tiny_log import CAMERA, ORIGIN_M, STEP_US, gaussians, true_scene
from torch import Tensor

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.clip import open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import box_corners, inverse, pose, project, transform, yaw_pose
from splatmend.datasets.shot import Shot
from splatmend.recon.edits.apply import EditedScene, apply_edits
from splatmend.recon.edits.reading import parse_edits
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.insertion.boxes import amodal_box, modal_box, silhouette
from splatmend.recon.insertion.clips import render_insertion
from splatmend.recon.insertion.frame import InsertedFrame, draw_alone, draw_insertion, may_be_seen
from splatmend.recon.render import render
from splatmend.recon.scene import Scene
from splatmend.recon.trajectory import TrajectoryConfig, build_trajectory

Model = Literal["ewa", "ray"]
MODELS: tuple[Model, ...] = ("ewa", "ray")
BESIDE = """\
edits:
  - insert: suv
    as: near
    path: {ego: {ahead: 3.5, left: -0.9}}
  - duplicate: car/1
    as: far
    path: {ego: {ahead: 8, left: -1.2}}
  - insert: suv
    as: behind
    path: {ego: {ahead: -9}}
"""


def _scene(model: Model) -> Scene:
    deltas = torch.zeros(2, 3, 4)
    deltas[0, :, 3], deltas[1, :, 3] = 0.1, -0.1
    exposure = ExposureTable(cameras=("front", "front"), times_us=(0, 11 * STEP_US), deltas=deltas)
    return replace(true_scene(degree=1), camera_model=model, exposure=exposure)


def _edited(model: Model, text: str = BESIDE) -> EditedScene:
    return apply_edits(_scene(model), parse_edits(text, Path("edits.yaml")), lambda name: suv())


def _shot(scene: Scene, number: int = 2, *, rolling: bool = False) -> Shot:
    shot = scene.shots[number].shot
    if not rolling:
        return shot
    camera = replace(shot.camera, shutter="top_to_bottom", readout_us=60_000)
    later = shot.world_from_camera @ pose(np.eye(3), np.array([0.05, 0.0, 0.3]))
    return replace(shot, camera=camera, world_from_camera_end=later, start_us=shot.mid_us - 30_000, end_us=shot.mid_us + 30_000)


def _without(scene: Scene, shot: Shot, names: tuple[str, ...]) -> Tensor:
    rgb = render(scene, shot, ("rgb",), without=names).rgb
    assert rgb is not None
    return rgb


@pytest.mark.parametrize(("model", "rolling"), [("ewa", False), ("ray", False), ("ray", True)])
def test_a_frame_is_what_the_renderer_draws_with_and_without_what_was_put_in(model: Model, rolling: bool) -> None:
    edited = _edited(model)
    shot = _shot(edited.scene, rolling=rolling)
    with torch.no_grad():
        frame = draw_insertion(edited, shot, others=True)
        full = render(edited.scene, shot)
        recorded = render(edited.recorded, shot)
    assert full.rgb is not None
    assert full.depth_m is not None
    assert recorded.rgb is not None
    assert recorded.depth_m is not None
    torch.testing.assert_close(frame.rgb, full.rgb, atol=1e-5, rtol=0)
    torch.testing.assert_close(frame.depth_m, full.depth_m, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(frame.opacity, full.opacity, atol=1e-5, rtol=0)
    torch.testing.assert_close(frame.background_rgb, recorded.rgb, atol=1e-5, rtol=0)
    torch.testing.assert_close(frame.background_depth_m, recorded.depth_m, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(frame.background_opacity, recorded.opacity, atol=1e-5, rtol=0)
    torch.testing.assert_close(frame.exposure, edited.scene.exposure.at("front", shot.mid_us))
    assert float(frame.exposure[0, 3]) > 0.05
    assert set(frame.shares) == {"near", "far", "behind"}
    assert set(frame.other_shares) == {"car/1"}
    assert float((frame.rgb - frame.background_rgb).abs().max()) > 0.3


@pytest.mark.parametrize("model", MODELS)
def test_shares_are_each_bodys_part_of_the_picture(model: Model) -> None:
    """Paint a body in two colours: each pixel changes by its share times the difference."""
    edited = _edited(model)
    shot = _shot(edited.scene)
    with torch.no_grad():
        frame = draw_insertion(edited, shot, others=True)
        total = render(edited.scene, shot, ("actors",)).extra["actors"]
        for name in ("near", "far", "car/1"):
            pictures = []
            for dc in (0.0, 1.0):
                actor = edited.scene.actors[name]
                sh = torch.zeros_like(actor.gaussians.sh)
                sh[:, 0] = dc
                painted = replace(actor, gaussians=replace(actor.gaussians, sh=sh))
                scene = replace(edited.scene, actors={**edited.scene.actors, name: painted})
                rgb = render(scene, shot, ("rgb",), exposure=None).rgb
                assert rgb is not None
                pictures.append(rgb)
            share = {**frame.shares, **frame.other_shares}[name]
            torch.testing.assert_close((pictures[1] - pictures[0])[..., 0], 0.28209479 * share, atol=1e-5, rtol=0)
    summed = sum({**frame.shares, **frame.other_shares}.values())
    torch.testing.assert_close(summed, total, atol=1e-5, rtol=0)
    assert float(frame.shares["near"].max()) > 0.9
    assert not frame.shares["behind"].any()


@pytest.mark.parametrize("model", MODELS)
def test_a_body_in_front_takes_the_share_of_the_one_behind(model: Model) -> None:
    edited = _edited(model)
    shot = _shot(edited.scene)
    with torch.no_grad():
        frame = draw_insertion(edited, shot)
        alone = draw_alone(edited.scene, "far", frame.world_from_actor["far"], shot)
    covered = frame.shares["near"] > 0.98
    assert float(alone[covered].sum()) > 2.0
    assert float(frame.shares["far"][covered].max()) < 0.03
    assert float(alone.max()) > 0.8


def test_many_bodies_take_passes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    edited = _edited("ewa")
    shot = _shot(edited.scene)
    with torch.no_grad():
        at_once = draw_insertion(edited, shot, others=True)
        monkeypatch.setattr("splatmend.recon.insertion.frame._MOST_SHARES", 1)
        one_by_one = draw_insertion(edited, shot, others=True)
    for name, share in {**at_once.shares, **at_once.other_shares}.items():
        torch.testing.assert_close({**one_by_one.shares, **one_by_one.other_shares}[name], share, atol=1e-6, rtol=0)


def test_what_lies_behind_is_drawn_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    edited = _edited("ewa", "edits:\n  - remove: car/1\n  - insert: suv\n    as: behind\n    path: {ego: {ahead: -9}}\n")
    drawn = []
    monkeypatch.setattr("splatmend.recon.insertion.frame.render", lambda *a, **k: drawn.append(k) or render(*a, **k))
    with torch.no_grad():
        frame = draw_insertion(edited, _shot(edited.scene))
    assert frame.rgb is frame.background_rgb
    assert frame.depth_m is frame.background_depth_m
    assert len(drawn) == 1
    torch.testing.assert_close(frame.rgb, _without(edited.recorded, frame.shot, ("car/1",)), atol=1e-5, rtol=0)
    drawn.clear()
    edited = _edited("ewa")
    with torch.no_grad():
        frame = draw_insertion(edited, _shot(edited.scene), others=True)
        assert len(drawn) == 1
        assert frame.background_depth_m.shape == frame.background_opacity.shape
        assert len(drawn) == 2
        assert frame.background_rgb is frame.background_rgb
    assert len(drawn) == 2, "a pass for depth, opacity and colours"


def test_what_may_be_seen_is_what_is_drawn() -> None:
    """Bodies all around the camera: one that shows in the picture is never taken for one out of sight, most others are."""
    shot = _shot(true_scene())
    random = np.random.default_rng(1)
    out_of_sight = 0
    for _ in range(300):
        world_from_actor = yaw_pose(random.uniform(-3, 3), random.uniform([-12, -12, -2], [12, 12, 4]) + ORIGIN_M)
        seen = amodal_box((2.2, 1.2, 1.0), world_from_actor, shot, "ewa")[0] is not None
        may = may_be_seen((2.2, 1.2, 1.0), world_from_actor, shot)
        assert may or not seen
        out_of_sight += not may
    assert out_of_sight > 150


def test_amodal_boxes_hold_the_corners() -> None:
    shot = _shot(true_scene(), 0)
    size = (2.2, 1.2, 1.0)
    ahead = yaw_pose(0.4, ORIGIN_M + np.array([6, 0.5, 0.5]))
    box, truncated = amodal_box(size, ahead, shot, "ewa")
    pixels, _ = project(CAMERA, transform(inverse(shot.world_from_camera) @ ahead, box_corners(size)))
    assert truncated == 0.0
    np.testing.assert_allclose(box, [*pixels.min(axis=0), *pixels.max(axis=0)], atol=1e-6)
    # Half behind the camera's plane: corners behind say nothing of the box, which reaches the picture's edge.
    passing, cut = amodal_box((6.0, 1.2, 1.0), yaw_pose(0.0, ORIGIN_M + np.array([1, 1.5, 0.5])), shot, "ewa")
    assert passing is not None
    assert passing[0] == 0.0
    assert passing[3] == CAMERA.height
    assert cut is not None
    assert cut > 0.5
    assert amodal_box(size, yaw_pose(0.0, ORIGIN_M + np.array([-6, 0, 0.5])), shot, "ewa") == (None, None)
    assert amodal_box(size, yaw_pose(0.0, ORIGIN_M + np.array([6, 30, 0.5])), shot, "ewa") == (None, None)
    outline = silhouette(size, ahead, shot, "ewa")
    around = modal_box(outline)
    np.testing.assert_allclose(around, box, atol=1.01)
    assert modal_box(np.zeros((4, 4), dtype=bool)) is None


def test_boxes_of_a_rolling_shutter_lie_where_the_rows_see_them() -> None:
    """A camera that moves sideways while it reads: rows below see the box farther aside."""
    scene = replace(true_scene(), camera_model="ray")
    still = _shot(scene, 0)
    camera = replace(still.camera, shutter="top_to_bottom", readout_us=60_000)
    left, right = (still.world_from_camera @ pose(np.eye(3), np.array([x, 0.0, 0.0])) for x in (-1.0, 1.0))
    rolling = Shot(camera=camera, world_from_camera_start=left, world_from_camera_end=right, start_us=0, end_us=60_000)
    high, low = (amodal_box((0.2, 0.2, 0.2), yaw_pose(0.0, ORIGIN_M + np.array([5, 0, z])), rolling, "ray")[0] for z in (3.0, 0.2))
    assert high is not None
    assert low is not None
    assert high[0] - low[0] > 8


@dataclass
class Darkened:
    """What a finisher gives: half as bright where bodies are, with a shadow at the left."""

    rgb: Tensor
    shadow: Tensor


class Darkener:
    def finish(self, frame: InsertedFrame) -> Darkened:
        shadow = torch.zeros_like(frame.opacity)
        shadow[:, :10] = 1.0
        share = sum(frame.shares.values(), torch.zeros_like(frame.opacity))
        return Darkened(rgb=frame.rgb * (1 - 0.5 * share)[..., None], shadow=shadow)


@pytest.mark.parametrize("model", MODELS)
def test_clips_hold_pictures_masks_and_boxes(tmp_path: Path, model: Model) -> None:
    edited = _edited(model)
    trajectory = build_trajectory(edited.recorded, TrajectoryConfig(frames=3))
    done: list[tuple[int, int]] = []
    out = render_insertion(
        edited, trajectory, tmp_path / "clips", finisher=Darkener(), depth=True, on_progress=lambda number, of: done.append((number, of))
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert {path.name for path in out.iterdir()} == {"manifest.json", "boxes.jsonl", "naive", "finished"}
    manifest = read_manifest(out, "clips")
    assert manifest.facts["clips"] == 2
    assert manifest.facts["inserted"]["near"] == {
        "edit": 0,
        "asset": "suv",
        "actor_class": "vehicle",
        "size_m": [3.0, 1.3, 1.4],
        "mask": "masks/near",
    }
    naive, finished = open_clip(out / "naive"), open_clip(out / "finished")
    rows = [json.loads(line) for line in (out / "boxes.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * 4
    for number, (rgb, lit) in enumerate(zip(naive.iter_rgb(), finished.iter_rgb(), strict=True)):
        with torch.no_grad():
            frame = draw_insertion(edited, trajectory[number])
        np.testing.assert_allclose(rgb / 255, frame.rgb.clamp(0, 1).numpy(), atol=0.5 / 255 + 1e-5)
        here = {row["actor_id"]: row for row in rows if row["frame"] == number}
        for name in ("near", "far", "behind"):
            mask = naive.read_channel(f"masks/{name}", number)
            assert mask is not None
            np.testing.assert_array_equal(mask, frame.shares[name].numpy() > 0.5)
            np.testing.assert_array_equal(finished.read_channel(f"masks/{name}", number), mask)
            assert here[name]["mask"] == f"masks/{name}"
            assert here[name]["mask_pixels"] == mask.sum()
            assert here[name]["mask_box_px"] == modal_box(mask)
        assert lit[naive.read_channel("masks/near", number)].mean() < 0.7 * rgb[naive.read_channel("masks/near", number)].mean()
        assert (out / "finished" / "shadow" / f"{number:06d}.png").is_file()
        near, far = here["near"], here["far"]
        assert 0.8 < near["visible_share"] <= 1.0
        assert far["visible_share"] < near["visible_share"]
        assert here["behind"]["box_px"] is None
        assert (near["inserted"], near["edit"], near["actor_class"]) == (True, 0, "vehicle")
        assert (here["car/1"]["inserted"], here["car/1"]["edit"], here["car/1"]["mask"]) == (False, None, None)
        assert here["car/1"]["mask_box_px"] is not None
        shot = trajectory[number]
        world_from_actor = edited.scene.actors["near"].track.world_from_actor(shot.mid_us)
        np.testing.assert_allclose(near["world_from_actor"], world_from_actor, atol=1e-9)
        np.testing.assert_allclose(near["camera_from_actor"], inverse(shot.world_from_camera) @ world_from_actor, atol=1e-9)
        np.testing.assert_allclose(near["centre_world_m"], world_from_actor[:3, 3])
        assert near["distance_m"] == pytest.approx(np.linalg.norm(world_from_actor[:3, 3] - shot.world_from_camera[:3, 3]))
        assert near["yaw_rad"] == pytest.approx(np.arctan2(world_from_actor[1, 0], world_from_actor[0, 0]))
        # The mask fits the box: Gaussians reach beyond it by little.
        box, modal = np.array(near["box_px"]), np.array(near["mask_box_px"])
        assert (modal[:2] > box[:2] - 4).all()
        assert (modal[2:] < box[2:] + 4).all()
    assert naive.frames[0].edits.inserted == ("behind", "far", "near")
    assert not naive.frames[0].extra["recorded"]


def test_moved_and_removed_actors_are_gone_from_where_the_log_has_them(tmp_path: Path) -> None:
    edited = _edited("ewa", "edits:\n  - move: car/1\n    path: {ego: {ahead: 5}}\n")
    trajectory = build_trajectory(edited.recorded, TrajectoryConfig(frames=1))
    clip = open_clip(render_insertion(edited, trajectory, tmp_path / "clips") / "naive")
    assert (clip.frames[0].edits.removed, clip.frames[0].edits.inserted) == (("car/1",), ("car/1",))
    (folder,) = (tmp_path / "clips" / "naive" / "masks").iterdir()
    assert folder.name.startswith("car-1-")


def test_nothing_is_left_of_clips_that_fail(tmp_path: Path) -> None:
    edited = _edited("ewa")
    trajectory = build_trajectory(edited.recorded, TrajectoryConfig(frames=2))

    class Broken:
        def finish(self, frame: InsertedFrame) -> Darkened:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        render_insertion(edited, trajectory, tmp_path / "clips", finisher=Broken())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="no shot"):
        render_insertion(edited, replace(trajectory, shots=(), extra=()), tmp_path / "clips")
    shifted = build_trajectory(edited.recorded, TrajectoryConfig(remove_actors=("car/1",)))
    with pytest.raises(UserError, match="actors are edited by the file of edits"):
        render_insertion(edited, shifted, tmp_path / "clips")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", MODELS)
def test_masks_and_boxes_of_a_solid_box_are_the_boxs_own(model: Model) -> None:
    """A body that fills its box, at a size of picture where a pixel is little: masks cover its outline, modal boxes are amodal ones."""
    asset = suv()
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, n) for n in (31, 15, 15)]), axis=-1).reshape(-1, 3)
    full = gaussians(grid * (np.array(asset.size_m) - 0.08), np.full_like(grid, 0.5), 0.05)
    solid = replace(asset, gaussians=replace(full, opacity_logits=torch.full((len(grid),), 5.0)))
    scene = replace(_scene(model), actors={})
    edited = apply_edits(scene, parse_edits(BESIDE.split("  - dup")[0], Path("edits.yaml")), lambda name: solid)
    large = Shot.still(CAMERA.resized(256, 192), scene.shots[0].shot.world_from_camera, 0)
    with torch.no_grad():
        frame = draw_insertion(edited, large)
    mask = frame.shares["near"].numpy() > 0.5
    box, _ = amodal_box(asset.size_m, frame.world_from_actor["near"], large, model)
    outline = silhouette(asset.size_m, frame.world_from_actor["near"], large, model)
    assert (mask & outline).sum() / (mask | outline).sum() > 0.92
    assert box is not None
    modal = modal_box(mask)
    assert modal is not None
    overlap = np.prod(np.minimum(box[2:], modal[2:]) - np.maximum(box[:2], modal[:2]))
    areas = [np.prod(np.subtract(one[2:], one[:2])) for one in (box, modal)]
    assert overlap / (sum(areas) - overlap) > 0.92
