"""Held-out frames are scored where the scene lies, and on the CPU as the plain libraries do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_log import CAMERA, tiny_log, true_scene
from torchmetrics.functional.image import structural_similarity_index_measure

from splatmend.datasets.image_metrics import float32_convolutions, frame_scores, lpips_available, lpips_network
from splatmend.datasets.log import SceneLog
from splatmend.recon.fit.heldout import held_out_rows
from splatmend.recon.render import render
from splatmend.recon.scene import Scene


def off_scene() -> Scene:
    """The true scene with every Gaussian a little too large."""
    scene = true_scene()
    larger = replace(scene.background.gaussians, log_scales=scene.background.gaussians.log_scales + 0.2)
    return replace(scene, background=replace(scene.background, gaussians=larger))


def masked_log() -> SceneLog:
    log = tiny_log()
    valid = np.ones((CAMERA.height, CAMERA.width), dtype=bool)
    valid[:, :20] = False
    return replace(log, frames=tuple(replace(frame, masks={"valid": lambda: valid}) for frame in log.frames))


def test_on_the_cpu_scores_are_those_of_the_plain_libraries_to_the_last_bit() -> None:
    log, scene = tiny_log(), off_scene()
    (row,) = held_out_rows(scene, log)
    number = next(n for n, shot in enumerate(scene.shots) if shot.held_out)
    truth = torch.from_numpy(log.frames[number].read_image()).float() / 255.0
    with torch.no_grad():
        picture = render(scene, scene.shots[number].shot, ("rgb",)).rgb
    assert picture is not None
    a, b = (x.clamp(0, 1).permute(2, 0, 1)[None] for x in (picture, truth))
    assert row["psnr"] == 10 * math.log10(1 / float(torch.mean((a - b) ** 2)))
    assert row["psnr"] < 35
    assert row["ssim"] == float(structural_similarity_index_measure(a, b, data_range=1.0))
    assert ("lpips" in row) == lpips_available()
    if "lpips" in row:
        with torch.no_grad():
            assert row["lpips"] == float(lpips_network()(a * 2 - 1, b * 2 - 1))


def test_pixels_that_are_ruled_out_are_not_scored() -> None:
    """Neither what is drawn there nor how many they are changes a score."""
    scene, usable = off_scene(), torch.ones(CAMERA.height, CAMERA.width, dtype=torch.bool)
    usable[:, :20] = False
    number = next(n for n, shot in enumerate(scene.shots) if shot.held_out)
    truth = torch.from_numpy(tiny_log().frames[number].read_image()).float() / 255.0
    with torch.no_grad():
        picture = render(scene, scene.shots[number].shot, ("rgb",)).rgb
    assert picture is not None
    (row,) = held_out_rows(scene, masked_log())
    squared_error = (picture.clamp(0, 1) - truth)[:, 20:].square().mean()
    assert row["psnr"] == pytest.approx(-10 * math.log10(float(squared_error)), abs=1e-4)
    picture[:, :20] = 0.5
    given = {name: row[name] for name in ("psnr", "ssim", "lpips") if name in row}
    assert frame_scores(picture, truth, usable=usable) == given


def test_a_mask_raises_no_score_of_pictures_that_are_wrong_alike_everywhere() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(96, 128, 3, generator=generator)
    picture = (truth + 0.2 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    usable = torch.ones(96, 128, dtype=torch.bool)
    assert frame_scores(picture, truth, usable=usable) == pytest.approx(frame_scores(picture, truth), abs=1e-6)
    usable[:, :64] = False
    whole, half = frame_scores(picture, truth), frame_scores(picture, truth, usable=usable)
    assert half["psnr"] == pytest.approx(whole["psnr"], abs=0.1)
    # Windows reach over five columns of the other half.
    assert half["ssim"] == pytest.approx(whole["ssim"], abs=0.02)
    assert half.keys() == whole.keys()
    if "lpips" in whole:
        assert half["lpips"] == pytest.approx(whole["lpips"], rel=0.15)
    right = torch.where(usable[..., None], picture, truth)
    assert half["psnr"] < frame_scores(right, truth)["psnr"] - 2.5
    assert half["ssim"] < frame_scores(right, truth)["ssim"] - 0.05


def test_a_frame_without_a_usable_pixel_has_no_row() -> None:
    nothing = np.zeros((CAMERA.height, CAMERA.width), dtype=bool)
    log = tiny_log()
    log = replace(log, frames=tuple(replace(frame, masks={"valid": lambda: nothing}) for frame in log.frames))
    assert list(held_out_rows(off_scene(), log)) == []


@float32_convolutions()
def _divide_within() -> float:
    return 1 / 0


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_off_while_pictures_are_compared_and_then_as_it_was(allowed: bool) -> None:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        with float32_convolutions():
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == allowed
        with pytest.raises(ZeroDivisionError):
            _divide_within()
        assert torch.backends.cudnn.allow_tf32 == allowed
        frame_scores(torch.zeros(40, 40, 3), torch.ones(40, 40, 3))
        assert torch.backends.cudnn.allow_tf32 == allowed
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.gpu
def test_scores_on_cuda_are_those_of_the_cpu() -> None:
    log, scene = masked_log(), off_scene()
    # Drawn pictures differ between backends; what is compared here is how one is scored.
    number = next(n for n, shot in enumerate(scene.shots) if shot.held_out)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(log.frames[number].read_image()).permute(2, 0, 1)[None].float() / 255, scale_factor=8
    )
    truth = large[0].permute(1, 2, 0)
    picture = (truth + 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    torch.backends.cudnn.allow_tf32 = True
    here, there = frame_scores(picture, truth), frame_scores(picture.cuda(), truth.cuda())
    assert here.keys() == there.keys()
    for name, value in here.items():
        assert there[name] == pytest.approx(value, abs=1e-4), name
    (row,) = held_out_rows(scene.to(torch.device("cuda")), log)
    (on_cpu,) = held_out_rows(scene, log)
    assert row["psnr"] == pytest.approx(on_cpu["psnr"], abs=0.2)
    assert row["ssim"] == pytest.approx(on_cpu["ssim"], abs=5e-3)
