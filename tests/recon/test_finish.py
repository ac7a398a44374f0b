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
from splatmend.recon.insertion.frame import InsertedFrame, draw_insertion
from splatmend.recon.light.colour import light_from_picture
from splatmend.recon.light.finish import FinishConfig, FinishedFrame, Finisher


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


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="directions"):
        FinishConfig(sky_directions=1)
    with pytest.raises(UserError, match="positive"):
        FinishConfig(scene_bias_m=0.0)
