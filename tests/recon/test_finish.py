"""An inserted ball made to belong: what is lit, what is shaded, and what nobody touches."""

from __future__ import annotations

from dataclasses import replace

import lit_world
import numpy as np
import pytest
import torch
from lit_world import GROUND_ALBEDO, RADIUS_M, SKY, SUN, TO_SUN

from splatmend.datasets.errors import UserError
from splatmend.recon.assets.asset import Asset
from splatmend.recon.edits.apply import EditedScene, Inserted
from splatmend.recon.exposure import apply_exposure
from splatmend.recon.gaussians import concatenate
from splatmend.recon.harmonics import colours, from_rgb
from splatmend.recon.insertion.frame import InsertedFrame, draw_insertion
from splatmend.recon.light.colour import light_from_picture, picture_from_light
from splatmend.recon.light.finish import FinishConfig, FinishedFrame, Finisher
from splatmend.recon.render import render


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def finished(asset: Asset, x: float = 0.0, height_m: float = 7.0) -> tuple[InsertedFrame, FinishedFrame]:
    edited = EditedScene(
        scene=lit_world.with_ball(asset, x),
        recorded=lit_world.scene(),
        inserted={"ball": Inserted(actor_id="ball", edit=0, asset=asset)},
        removed=(),
        notes=(),
    )
    frame = draw_insertion(edited, lit_world.from_above(x, height_m))
    return frame, Finisher(edited.scene, {"ball": asset}, lit_world.light()).finish(frame)


def pixel_of(x: float, y: float, height_m: float = 7.0) -> tuple[int, int]:
    """Row and column that see a place of the ground, seen from above its origin."""
    camera = lit_world.CAMERA
    return int(camera.principal_px[1] - camera.focal_px[1] * y / height_m), int(camera.principal_px[0] + camera.focal_px[0] * x / height_m)


def test_the_ground_is_darker_in_the_shadow_and_the_same_elsewhere() -> None:
    frame, lit = finished(lit_world.ball())
    long = RADIUS_M / TO_SUN[2]
    landing = -RADIUS_M * TO_SUN[0] / TO_SUN[2]
    row, column = pixel_of(landing - 0.85 * long, 0.0)
    shaded = light_from_picture(lit.rgb[row - 1 : row + 2, column - 1 : column + 2]).mean()
    assert float(shaded) == pytest.approx(GROUND_ALBEDO * SKY, rel=0.3), "the sky's light is left there, but for what the ball covers"
    untouched = (lit.kept == 1).all(dim=-1) & (frame.shares["ball"] == 0)
    assert float(untouched.float().mean()) > 0.3
    assert torch.equal(lit.rgb[untouched], frame.rgb[untouched])
    lit_side = pixel_of(1.6, 0.0)
    assert float(lit.shadow[lit_side]) < 0.1 < 0.5 < float(lit.shadow[row, column])


def test_the_ball_is_lit_from_the_suns_side() -> None:
    frame, lit = finished(lit_world.ball())
    ball = frame.shares["ball"] > 0.9
    rows, columns = torch.nonzero(ball, as_tuple=True)
    linear = light_from_picture(lit.rgb)[rows, columns, 1]
    right = columns > columns.float().mean() + 3
    left = columns < columns.float().mean() - 3
    assert float(linear[right].mean()) > 1.25 * float(linear[left].mean())
    assert float(linear.max()) == pytest.approx(SUN + SKY * 0.9, rel=0.15)
    naive = light_from_picture(frame.rgb)[rows, columns, 1]
    assert float(naive.std()) < 0.02 < float(linear.std())


def test_in_the_shade_of_the_scene_a_body_casts_no_sun_shadow_and_gets_no_sun() -> None:
    frame, lit = finished(lit_world.ball(), x=9.0)
    ball = frame.shares["ball"] > 0.9
    assert float(light_from_picture(lit.rgb)[ball].max()) < 1.15 * SKY
    row, column = pixel_of(-RADIUS_M * TO_SUN[0] / TO_SUN[2] - 0.85 * RADIUS_M / TO_SUN[2], 0.0)
    assert float(lit.kept[row, column].min()) > 0.6


def test_a_body_without_material_keeps_its_colours_and_casts_a_shadow() -> None:
    frame, lit = finished(replace(lit_world.ball(), material=None))
    ball = frame.shares["ball"] > 0.99
    assert torch.allclose(lit.rgb[ball], frame.rgb[ball], atol=2e-3)
    assert float(lit.shadow.max()) > 0.5


def test_the_cameras_exposure_is_applied_to_what_is_lit() -> None:
    frame, lit = finished(lit_world.ball())
    edited = lit_world.with_ball(lit_world.ball())
    darker = torch.cat([0.5 * torch.eye(3), torch.full((3, 1), 0.02)], dim=1)
    again = Finisher(edited, {"ball": lit_world.ball()}, lit_world.light()).finish(replace(frame, exposure=darker))
    changed = (lit.kept < 1).any(dim=-1) | (frame.shares["ball"] > 0)
    assert torch.allclose(again.rgb[changed], apply_exposure(lit.rgb, darker)[changed], atol=1e-5)


def test_an_absent_body_changes_nothing() -> None:
    asset = lit_world.ball()
    scene = lit_world.with_ball(asset)
    gone = replace(scene.actors["ball"].track, track=replace(scene.actors["ball"].track.track, times_us=np.array([10**8, 10**8 + 1])))
    scene = replace(scene, actors={"ball": replace(scene.actors["ball"], track=gone)})
    edited = EditedScene(
        scene=scene, recorded=lit_world.scene(), inserted={"ball": Inserted(actor_id="ball", edit=0, asset=asset)}, removed=(), notes=()
    )
    frame = draw_insertion(edited, lit_world.from_above())
    assert torch.equal(Finisher(scene, {"ball": asset}, lit_world.light()).finish(frame).rgb, frame.rgb)


def beside(asset: Asset, others: dict[str, np.ndarray]) -> EditedScene:
    """The ball in the middle and others at places (metres, seen from the ground's origin)."""
    scene = lit_world.with_ball(asset)
    own = scene.actors["ball"]
    actors = {"ball": own}
    for name, shift in others.items():
        poses = own.track.track.world_from_body.copy()
        poses[:, :3, 3] += shift
        actors[name] = replace(own, track=replace(own.track, actor_id=name, track=replace(own.track.track, world_from_body=poses)))
    inserted = {"ball": Inserted(actor_id="ball", edit=0, asset=asset)}
    return EditedScene(scene=replace(scene, actors=actors), recorded=lit_world.scene(), inserted=inserted, removed=(), notes=())


@pytest.mark.parametrize("others", [{}, {"other": np.array([-0.5, -1.0, 1.0])}], ids=["alone", "behind another actor"])
def test_borders_are_those_of_a_picture_whose_ground_is_darker(others: dict[str, np.ndarray]) -> None:
    """Ground Gaussians in the colours that the shadow leaves them, drawn with the body: no line of other colours around it."""
    asset = replace(lit_world.ball(), material=None)
    edited = beside(asset, others)
    frame = draw_insertion(edited, lit_world.from_above(height_m=4.0), others=True)
    lit = Finisher(edited.scene, {"ball": asset}, lit_world.light()).finish(frame)
    ground = edited.scene.background.gaussians
    height, width = frame.opacity.shape
    rows, columns = (torch.tensor(at) for at in zip(*(pixel_of(x, y, 4.0) for x, y in ground.means[:, :2].tolist()), strict=True))
    kept = lit.kept[rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    shaded = picture_from_light(light_from_picture(colours(ground.sh, ground.means, 0)) * kept)
    darker = draw_insertion(
        replace(edited, scene=edited.scene.with_gaussians(replace(ground, sh=from_rgb(shaded)[:, None]))), frame.shot, others=True
    )
    share = frame.shares["ball"]
    # The shadow's own edge is blurred by the size of the ground's Gaussians, so away from it.
    deep = torch.nn.functional.max_pool2d(lit.kept[None, ..., 1], 5, stride=1, padding=2)[0] < 0.3
    border = deep & (share > 0.1) & (share < 0.9)
    assert int(border.sum()) > 10
    assert float((darker.rgb - frame.rgb)[border].abs().mean()) > 0.08
    assert float((darker.rgb - lit.rgb)[border].abs().mean()) < 0.006
    for other in frame.other_shares.values():
        assert float((other * share).max()) > 0.1, "the other actor covers a part of the border"
        assert torch.equal(lit.rgb[other > 0.99], frame.rgb[other > 0.99])


def test_the_shadow_lies_evenly_over_pits_in_what_was_reconstructed_of_the_ground() -> None:
    """Moving shadows make fits dig below the road; what is seen there is drawn at its place in the picture and has no surface."""
    asset = replace(lit_world.ball(), material=None)
    even = beside(asset, {})
    ground = even.scene.background.gaussians
    random = np.random.default_rng(0).uniform(0.3, 0.8, (200, 120)).astype(np.float32)
    cells = ((ground.means[:, :2] + torch.tensor([8.0, 6.0])) / 0.3).long()
    dug = (ground.means[:, 0] < -0.9) & (ground.means[:, 0] > -2.4) & (ground.means[:, 1].abs() < 1.5)
    depth_m = torch.where(dug, torch.from_numpy(random)[cells[:, 0], cells[:, 1]], 0.0)
    # Along the ray to the camera at 7 m, so that the picture stays as it was.
    eye = torch.tensor([0.0, 0.0, 7.0])
    pits = replace(ground, means=eye + (ground.means - eye) * (1 + depth_m / 7)[:, None])
    kept = []
    for background in (ground, pits):
        edited = replace(even, scene=even.scene.with_gaussians(background))
        frame = draw_insertion(edited, lit_world.from_above())
        kept.append(Finisher(edited.scene, {"ball": asset}, lit_world.light()).finish(frame).kept[..., 1])
    assert float((frame.background_depth_m > 7.3).float().mean()) > 0.02
    assert float((kept[0] < 0.3).float().mean()) > 0.02
    off = (kept[1] - kept[0]).abs()
    assert float(off.max()) < 0.1
    assert float(off.mean()) < 2e-3


def test_a_finished_picture_takes_no_pass_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies behind a body is a pass, and bodies that are lit are one."""
    passes: list[object] = []
    monkeypatch.setattr("splatmend.recon.insertion.frame.render", lambda *a, **k: passes.append(a[2]) or render(*a, **k))
    counts = []
    for asset, x, height_m in ((lit_world.ball(), 0, 7), (replace(lit_world.ball(), material=None), 0, 7), (lit_world.ball(), -4.5, 2)):
        passes.clear()
        edited = beside(asset, {})
        frame = draw_insertion(edited, lit_world.from_above(x, height_m))
        shaded = Finisher(edited.scene, {"ball": asset}, lit_world.light().with_sun(0.0, 20.0)).finish(frame)
        assert float(shaded.shadow.max()) > 0.5
        counts.append(len(passes))
    assert counts == [3, 2, 1], "lit, in its own colours, and out of sight"


def test_an_actor_before_the_sun_shades_a_body_and_one_elsewhere_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asset, shot = lit_world.ball(), lit_world.from_above()
    towards_sun = 3.5 * np.array(TO_SUN)

    def lit(others: dict[str, np.ndarray]) -> torch.Tensor:
        edited = beside(asset, others)
        frame = draw_insertion(edited, shot)
        picture = light_from_picture(Finisher(edited.scene, {"ball": asset}, lit_world.light()).finish(frame).rgb)
        return torch.where(frame.shares["ball"][..., None] > 0.9, picture, 0.0)

    alone, elsewhere, shaded = lit({}), lit({"other": np.array([-4.0, 4.0, 0.0])}), lit({"other": towards_sun * [1, 1, 0.9]})
    assert torch.equal(alone, elsewhere)
    right = slice(52, 60)
    seen = shaded[30:42, right] > 0
    assert float(shaded[30:42, right][seen].mean()) < 0.6 * float(alone[30:42, right][seen].mean())
    sets = [{"before": towards_sun, "elsewhere": np.array([-4.0, 4.0, 0.0])}, {"behind": -6 * np.array(TO_SUN)}]
    some = [lit(others) for others in sets]
    monkeypatch.setattr("splatmend.recon.light.finish.may_shade", lambda sizes, *_: np.ones(len(sizes), dtype=bool))
    for without, others in zip(some, sets, strict=True):
        assert torch.allclose(without, lit(others), atol=1e-5), "those that were left out change nothing"


def test_a_body_out_of_sight_is_drawn_by_its_shadow_alone_and_one_far_away_not_at_all() -> None:
    asset = lit_world.ball()
    edited = beside(asset, {})
    low = lit_world.light().with_sun(0.0, 20.0)
    finisher = Finisher(edited.scene, {"ball": asset}, low)
    frame = draw_insertion(edited, lit_world.from_above(-4.5, 2.0))
    assert "ball" not in frame.in_sight
    shaded = finisher.finish(frame)
    assert float(shaded.shadow.max()) > 0.5
    assert float((shaded.rgb - frame.rgb).abs().max()) > 0.1
    far = draw_insertion(edited, lit_world.from_above(20.0, 2.0))
    assert finisher.finish(far).rgb is far.rgb


def test_the_scene_before_the_sun_is_kept_between_places_along_the_way() -> None:
    """Under a moved sun only geometry is asked; a row of posts stands before it."""
    asset = lit_world.ball()
    scene = lit_world.with_ball(asset)
    ball, ground = scene.actors["ball"], scene.background.gaussians
    height, row = (grid.ravel() for grid in np.meshgrid(np.arange(0, 4, 0.06), np.arange(-4, 8, 0.06)))
    posts = np.stack([row, np.full_like(row, 3.0), height], axis=1)[np.floor(row) % 2 == 0]
    wall = replace(ground.select(torch.zeros(len(posts), dtype=torch.long)), means=torch.from_numpy(posts).float())
    wall = replace(wall, log_scales=torch.full((len(posts), 3), 0.05).log())
    poses = ball.track.track.world_from_body.copy()
    poses[0, 0, 3] -= 2.0
    poses[1, 0, 3] += 2.0
    ball = replace(ball, track=replace(ball.track, track=replace(ball.track.track, world_from_body=poses)))
    scene = replace(scene.with_gaussians(concatenate([ground, wall])), actors={"ball": ball})
    edited = EditedScene(
        scene=scene, recorded=lit_world.scene(), inserted={"ball": Inserted(actor_id="ball", edit=0, asset=asset)}, removed=(), notes=()
    )
    frame, sun = draw_insertion(edited, lit_world.from_above()), lit_world.light().with_sun(90.0, 35.0)
    points = asset.gaussians.means + torch.tensor([0.0, 0, RADIUS_M])
    kept, fresh = (
        Finisher(scene, {"ball": asset}, sun, FinishConfig(probe_step_m=step))._scene_open("ball", frame)(points) for step in (3.0, 0.01)
    )
    off = (kept - fresh).abs()
    # Edges of the posts lie otherwise in the pixels of the sun's picture, and no other place differs.
    assert float(off.mean()) < 0.005
    assert float(off.quantile(0.98)) < 0.05
    assert 0.2 < float(kept.mean()) < 0.8


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="directions"):
        FinishConfig(sky_directions=1)
    with pytest.raises(UserError, match="positive"):
        FinishConfig(scene_bias_m=0.0)
