"""References of edited scenes: recorded frames serve where no edit reaches, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_edits_apply import suv
from tiny_log import tiny_log, true_scene

from splatmend.recon.edits.apply import EditedScene, apply_edits
from splatmend.recon.edits.reading import parse_edits
from splatmend.recon.exposure import apply_exposure
from splatmend.recon.insertion.frame import InsertedFrame, draw_insertion
from splatmend.recon.insertion.references import MARGIN_PX, EditedReferences, with_bodies
from splatmend.recon.light.colour import taken_by_shade
from splatmend.recon.raster.api import Model
from splatmend.recon.references import References, references_of
from splatmend.recon.render import render

REMOVED = "edits:\n  - remove: car/1\n"
INSERTED = "edits:\n  - insert: suv\n    as: near\n    path: {ego: {ahead: 4.5, left: -0.9}}\n"
MOVED = "edits:\n  - move: car/1\n    path: {ego: {ahead: 6, left: -1.2}}\n"


def edited_scene(text: str, model: Model = "ewa") -> EditedScene:
    return apply_edits(replace(true_scene(), camera_model=model), parse_edits(text, Path("edits.yaml")), lambda name: suv())


def looked_up(edited: EditedScene) -> References:
    found = references_of(edited.recorded, tiny_log(scene=edited.recorded), 2)
    assert found is not None
    return found


def drawn(edited: EditedScene, number: int = 4) -> InsertedFrame:
    with torch.no_grad():
        return draw_insertion(edited, edited.recorded.shots[number].shot)


def near(mask: np.ndarray) -> np.ndarray:
    return F.max_pool2d(torch.from_numpy(mask)[None].float(), 2 * MARGIN_PX + 1, 1, MARGIN_PX)[0].numpy() > 0


def red(rgb: np.ndarray, least: float = 0.5) -> np.ndarray:
    return rgb[..., 0] - rgb[..., 1] > least


@pytest.mark.parametrize("model", ["ewa", "ray"])
@pytest.mark.parametrize("text", [REMOVED, MOVED])
def test_recorded_frames_serve_but_where_a_body_was(text: str, model: Model) -> None:
    edited = edited_scene(text, model)
    frame = drawn(edited)
    layers = EditedReferences(edited, looked_up(edited)).behind(frame)
    before = looked_up(edited).of(frame.shot)
    gone = (*edited.removed, *edited.moved)
    with torch.no_grad():
        there = render(edited.recorded, frame.shot, ("opacity",), shares=gone).extra["shares"].sum(-1).numpy()
        behind = render(edited.recorded, frame.shot, ("rgb",), without=gone).rgb
    assert behind is not None
    assert (there > 0.5).sum() > 20
    # Before the edit most of these pixels had references.
    assert (before[0, there > 0.5, 3] == 255).mean() > 0.3
    assert not layers[:, near(there >= 1 / 255)].any()
    seen = layers[..., 3] == 255
    assert seen[0].mean() > 0.4
    for layer in layers:
        here = layer[..., 3] == 255
        wrong = np.abs(layer[here, :3] - 255.0 * behind.numpy()[here].clip(0, 1)).mean(axis=-1)
        assert np.median(wrong) < 6
        # Nothing of the red car, where other frames saw it before what is behind.
        assert not (here & red(layer / 255.0) & ~red(behind.numpy(), 0.3)).any()


@pytest.mark.parametrize("model", ["ewa", "ray"])
@pytest.mark.parametrize("text", [INSERTED, MOVED])
def test_what_was_put_in_stands_before_recorded_frames(text: str, model: Model) -> None:
    edited = edited_scene(text, model)
    frame = drawn(edited)
    behind = EditedReferences(edited, looked_up(edited)).behind(frame)
    layers = with_bodies(behind, frame)
    body = sum(share.numpy() for share in frame.shares.values()).clip(0, 1)
    naive, background = (255.0 * rgb.numpy().clip(0, 1) for rgb in (frame.rgb, frame.background_rgb))
    np.testing.assert_array_equal(layers[..., 3], behind[..., 3])
    np.testing.assert_array_equal(layers[:, body == 0], behind[:, body == 0])
    for layer, plain in zip(layers, behind):
        here = layer[..., 3] == 255
        whole = here & (body > 0.995)
        assert whole.sum() >= 3
        assert np.abs(layer[whole, :3] - naive[whole]).max() < 3
        # At its border a frame gives the background's part of the pixel, and no more.
        border = here & (body > 0.2) & (body < 0.8)
        assert border.sum() >= 3
        wanted = naive + (1 - body)[..., None] * (plain[..., :3] - background)
        assert np.abs(layer[border, :3] - wanted[border].clip(0, 255)).max() < 1.5


def test_far_from_an_edit_nothing_changes() -> None:
    edited = edited_scene(INSERTED)
    frame = drawn(edited)
    layers, before = EditedReferences(edited, looked_up(edited)).behind(frame), looked_up(edited).of(frame.shot)
    np.testing.assert_array_equal(layers, before)
    far = sum(share.numpy() for share in frame.shares.values()) == 0
    assert far.mean() > 0.4
    np.testing.assert_array_equal(with_bodies(layers, frame)[:, far], before[:, far])


@pytest.mark.parametrize("gain", [1.0, 1.3])
def test_in_a_new_shadow_recorded_frames_are_darkened_as_the_render_is(gain: float) -> None:
    edited = edited_scene(INSERTED)
    exposure = torch.cat([gain * torch.eye(3), torch.full((3, 1), 0.02)], dim=1)
    frame = replace(drawn(edited), exposure=exposure)
    layers = EditedReferences(edited, looked_up(edited)).behind(frame)
    kept = torch.ones(*frame.opacity.shape, 3)
    kept[36:46, 4:20] = torch.tensor([0.4, 0.5, 0.6])
    finished = apply_exposure(frame.unexposed_rgb - taken_by_shade(frame.background_unexposed_rgb, kept), exposure)
    darker = with_bodies(layers, frame, finished, kept)
    alone = (sum(share.numpy() for share in frame.shares.values()) == 0) & (layers[0, ..., 3] == 255)
    cast = (kept < 1).any(dim=-1).numpy() & alone
    assert cast.sum() > 20
    # What a frame shows sharp goes through the same shade as the render of it.
    rgb = torch.from_numpy(layers[0, ..., :3] / 255.0).float()
    unexposed = (rgb - exposure[:, 3]) / gain
    wanted = (unexposed - taken_by_shade(unexposed, kept)) * gain + exposure[:, 3]
    assert np.abs(darker[0, cast, :3] / 255.0 - wanted.numpy()[cast].clip(0, 1)).max() < 1.01 / 255
    np.testing.assert_array_equal(darker[..., 3], layers[..., 3])
    np.testing.assert_array_equal(darker[:, alone & ~cast], layers[:, alone & ~cast])
    assert not darker[darker[..., 3] == 0].any()


def test_shadows_have_none_where_the_exposure_cannot_be_taken_off() -> None:
    edited = edited_scene(INSERTED)
    frame = replace(drawn(edited), exposure=torch.eye(3, 4).expand(2, 2, 2, 3, 4))
    layers = EditedReferences(edited, looked_up(edited)).behind(drawn(edited))
    kept = torch.ones(*frame.opacity.shape, 3)
    kept[40:44, 4:12] = 0.9
    left = with_bodies(layers, frame, frame.rgb, kept)
    body = sum(share.numpy() for share in frame.shares.values()) > 0
    cast = near((kept < 1).any(dim=-1).numpy())
    assert (layers[0, cast, 3] == 255).any()
    assert not left[:, cast].any()
    np.testing.assert_array_equal(left[:, ~cast & ~body], layers[:, ~cast & ~body])


def test_mended_background_has_none() -> None:
    edited = edited_scene(INSERTED)
    frame, references = drawn(edited), looked_up(edited)
    plain = EditedReferences(edited, references).behind(frame)
    # A piece of the left wall is made anew, in other colours.
    background = edited.recorded.background
    chosen = (background.gaussians.means[:, 1] > 3) & (background.gaussians.means[:, 0] < 7)
    sh = torch.where(chosen[:, None, None], -background.gaussians.sh, background.gaussians.sh)
    mended = replace(edited.scene, background=replace(background, gaussians=replace(background.gaussians, sh=sh)))
    edited = replace(edited, scene=mended)
    healed = EditedReferences(edited, references).behind(drawn(edited))
    with torch.no_grad():
        pictures = [render(replace(scene, actors={}), frame.shot, ("rgb",)).rgb for scene in (edited.recorded, edited.scene)]
    assert pictures[0] is not None
    assert pictures[1] is not None
    changed = (pictures[0] - pictures[1]).abs().amax(dim=-1).numpy() > 0.05
    changed[:, 40:] = False  # beside the car, which stands before the wall's far end in one of the two
    assert (plain[0, changed, 3] == 255).any()
    assert not healed[:, changed].any()
    assert (healed[0, :, 40:, 3] == 255).any()


def test_references_of_another_scene_are_refused() -> None:
    edited = edited_scene(REMOVED)
    with pytest.raises(ValueError, match="looked up in the recorded one"):
        EditedReferences(edited, looked_up(edited_scene(REMOVED)))
