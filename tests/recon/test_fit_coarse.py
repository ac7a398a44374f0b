"""Fits that begin with smaller pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_log import tiny_log

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import Camera, DistortionModel
from splatmend.datasets.shot import Shot
from splatmend.recon.fit import CoarseConfig, DensifyConfig, FitConfig, InitConfig
from splatmend.recon.fit import trainer as trainer_module
from splatmend.recon.fit.coarse import CoarseSchedule, coarser_targets, halved, halved_shot
from splatmend.recon.fit.config import RatesConfig
from splatmend.recon.fit.continuing import ContinueConfig, continued_config
from splatmend.recon.fit.data import FrameSource, prepared_log, recorded_shots
from splatmend.recon.fit.heldout import held_out_rows, mean_row
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.raster.api import Model
from splatmend.recon.raster.camera_rays import RayCamera, ray_directions

CPU = torch.device("cpu")
WIDE = Camera(name="wide", width=400, height=300, focal_px=(300.0, 310.0), principal_px=(190.0, 160.0))


def _halvings(config: CoarseConfig, camera: Camera = WIDE, iterations: int = 12, processes: int = 1) -> list[int]:
    schedule = CoarseSchedule(config, iterations, [camera], processes)
    return [schedule.halvings(iteration) for iteration in range(iterations)]


def test_sides_double_in_equal_parts_of_the_share() -> None:
    assert _halvings(CoarseConfig()) == [0] * 12
    assert _halvings(CoarseConfig(until=0.5)) == [2, 2, 2, 1, 1, 1] + [0] * 6
    assert _halvings(CoarseConfig(until=0.5, halvings=1)) == [1] * 6 + [0] * 6
    assert _halvings(CoarseConfig(until=1.0, halvings=3)) == [3] * 4 + [2] * 4 + [1] * 4


def test_small_pictures_are_halved_less_often() -> None:
    # 70 rows: 35, then 17.5, which becomes 18.
    assert _halvings(CoarseConfig(until=0.5, halvings=6), replace(WIDE, height=70))[0] == 2
    assert _halvings(CoarseConfig(until=0.5, halvings=6), replace(WIDE, height=20)) == [0] * 12


def test_all_pictures_of_a_step_have_one_size() -> None:
    # Alone, the size changes between the iterations 4 and 5, which are one step of two processes.
    alone, together = (_halvings(CoarseConfig(until=0.4, halvings=1), processes=count) for count in (1, 2))
    assert alone == [1] * 5 + [0] * 7
    assert together == [1] * 6 + [0] * 6


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match=r"coarse\.until must lie between 0 and 1"):
        CoarseConfig(until=1.5)
    with pytest.raises(UserError, match=r"coarse\.halvings must lie between 1 and 6"):
        CoarseConfig(halvings=0)


def test_a_fit_that_goes_on_has_full_size() -> None:
    continued = continued_config(FitConfig(coarse=CoarseConfig(until=0.5)), ContinueConfig(), 100)
    assert continued.coarse == CoarseConfig()
    assert continued.rates.exposure == pytest.approx(0.1 * FitConfig().rates.exposure)


@pytest.mark.parametrize("distortion", ["none", "opencv_fisheye"])
def test_a_halved_camera_looks_along_the_middle_of_what_its_pixels_cover(distortion: DistortionModel) -> None:
    camera = replace(WIDE, width=64, height=48, focal_px=(60.0, 60.0), principal_px=(30.0, 25.0))
    if distortion != "none":
        camera = replace(camera, distortion_model=distortion, distortion=(0.02, 0.0, 0.0, 0.0))
    shot = Shot.still(camera, np.eye(4), 0)
    full, half = (ray_directions(RayCamera.of(halved_shot(shot, count)), CPU) for count in (0, 1))
    assert half.shape == (24, 32, 3)
    blocks = full.view(24, 2, 32, 2, 3).mean(dim=(1, 3))
    torch.testing.assert_close(half, blocks, rtol=0, atol=2e-4)


def test_a_halved_sample_shows_the_same() -> None:
    log = tiny_log(6)
    source = FrameSource(log, CPU, 10)
    full, half = source[1], source[1, 1]
    assert half.rgb.shape == (24, 32, 3)
    blocks = full.rgb.float().view(24, 2, 32, 2, 3).mean(dim=(1, 3))
    torch.testing.assert_close(half.rgb.float(), blocks, rtol=0, atol=1.0)
    picture = torch.full((48, 64), torch.inf)
    picture.view(-1)[full.pixels] = full.depth_m
    nearest = picture.view(24, 2, 32, 2).amin(dim=(1, 3)).view(-1)
    assert half.pixels.tolist() == nearest.isfinite().nonzero()[:, 0].tolist()
    torch.testing.assert_close(half.depth_m, nearest[half.pixels])
    assert float(half.depth_shares.sum()) == pytest.approx(1.0)
    # Both are held, each under its size.
    assert source[1] is full
    assert source[1, 1] is half


def test_targets_stay_inside_pictures_of_odd_sizes() -> None:
    full = replace(WIDE, width=375, height=121)
    small = halved(full, 2)
    pixels = np.arange(full.width * full.height, dtype=np.int32)
    depth_m = np.random.default_rng(0).uniform(1, 9, len(pixels)).astype(np.float32)
    found, nearest = coarser_targets(pixels, depth_m, full, small)
    assert found.tolist() == list(range(small.width * small.height))
    assert nearest.max() < depth_m.max()
    assert nearest.min() == depth_m.min()


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_a_coarse_start_ends_where_a_plain_fit_does(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    draw = trainer_module.draw_splats

    def noted(scene, shot, *given, **named):  # type: ignore[no-untyped-def]
        sizes.append((shot.camera.width, shot.camera.height))
        return draw(scene, shot, *given, **named)

    monkeypatch.setattr(trainer_module, "draw_splats", noted)
    config = FitConfig(
        iterations=240,
        sh_degree=0,
        sky_rows=16,
        device="cpu",
        camera_model=model,
        init=InitConfig(point_count=800, ray_count=100, actor_count=200),
        densify=DensifyConfig(cap=1200, actor_cap=250, start=10, every=20),
        rates=RatesConfig(exposure=0.0),  # so few pictures move colours by chance
    )
    log = prepared_log(tiny_log(), config.data, model)
    scores = {}
    for until in (0.0, 0.5):
        sizes.clear()
        coarse = replace(config, coarse=CoarseConfig(until=until, halvings=1))
        trainer = Trainer(log, recorded_shots(log, config.data), coarse, CPU)
        for _ in range(config.iterations):
            trainer.step()
        begun = round(until * config.iterations)
        assert sizes == [(32, 24)] * begun + [(64, 48)] * (config.iterations - begun)
        scene = trainer.finished_scene()
        assert {recorded.shot.camera.width for recorded in scene.shots} == {64}
        scores[until] = mean_row(list(held_out_rows(scene, log)))["psnr"]
    assert scores[0.5] > scores[0.0] - 1.5, scores
