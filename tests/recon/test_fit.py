from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_log import tiny_log, true_scene

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.errors import UserError
from splatmend.recon.exposure import from_identity
from splatmend.recon.fit import DataConfig, DensifyConfig, FitConfig, InitConfig, LossConfig, RatesConfig, fit
from splatmend.recon.fit.data import recorded_shots
from splatmend.recon.fit.trainer import BACKGROUND, Trainer
from splatmend.recon.render import render
from splatmend.recon.scene_files import load_scene

SMALL = FitConfig(
    iterations=60,
    sh_degree=1,
    sh_every=20,
    sky_rows=16,
    device="cpu",
    init=InitConfig(point_count=800, ray_count=100, actor_count=200),
    densify=DensifyConfig(cap=1200, actor_cap=250, start=10, every=20),
    log_every=20,
    snapshots_at=(20,),
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fit") / "scene"
    log = replace(tiny_log(), sun_direction_world=(0.0, 0.6, 0.8))
    return fit(log, out, SMALL, on_progress=lambda row: None)


def test_the_fit_learns_views_it_has_not_seen(fitted: Path) -> None:
    facts = read_manifest(fitted, "scene").facts
    first = json.loads((fitted / "curve.jsonl").read_text().splitlines()[0])
    assert facts["sun_direction_world"] == [0.0, 0.6, 0.8]
    assert facts["held_out"]["frames"] == 1
    assert facts["held_out"]["psnr"] > max(first["psnr"] + 3, 21)
    (row,) = [json.loads(line) for line in (fitted / "heldout.jsonl").read_text().splitlines()]
    assert row["frame_index"] == 4
    assert row["psnr"] == pytest.approx(facts["held_out"]["psnr"])


def test_nothing_of_the_work_in_progress_is_left(fitted: Path) -> None:
    names = {path.name for path in fitted.iterdir()}
    expected = {"background.ply", "actors", "tracks.json", "sky.safetensors", "exposure.json", "shots.jsonl", "manifest.json"}
    assert names == expected | {"curve.jsonl", "heldout.jsonl", "snapshots"}
    assert not fitted.with_name("scene.partial").exists()


def test_the_car_is_a_part_of_its_own_that_follows_its_track(fitted: Path) -> None:
    scene = load_scene(fitted)
    truth = true_scene()
    for index in (1, 10):
        shot = truth.shots[index].shot
        with torch.no_grad():
            share = render(scene, shot, ("actors",)).extra["actors"]
            true_share = render(truth, shot, ("actors",)).extra["actors"]
        overlap = torch.minimum(share, true_share).sum() / torch.maximum(share, true_share).sum()
        assert float(overlap) > 0.5
    # Densification never moves a Gaussian from the road into the car's frame.
    assert float(scene.actors["car/1"].gaussians.means.abs().max()) < 3.0


def test_snapshots_are_scenes_with_worse_pictures(fitted: Path) -> None:
    truth, early, late = true_scene(), load_scene(fitted / "snapshots" / "000020"), load_scene(fitted)

    def error(scene) -> float:
        with torch.no_grad():
            return float((render(scene, truth.shots[4].shot).rgb - render(truth, truth.shots[4].shot).rgb).square().mean())

    assert error(early) > 1.2 * error(late)


def test_an_existing_scene_is_not_overwritten_unasked(fitted: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        fit(tiny_log(2), fitted, SMALL, on_progress=lambda row: None)


def test_pictures_with_their_own_gains_give_a_scene_without_them() -> None:
    gains = tuple(1.0 + (0.15 if i % 2 else -0.15) for i in range(12))
    rates = RatesConfig(exposure=2e-2)
    config = replace(SMALL, iterations=180, rates=rates, loss=LossConfig(exposure=0.0), data=DataConfig(holdout_every=0), snapshots_at=())
    log = tiny_log(gains=gains)
    trainer = Trainer(log, recorded_shots(log, config.data), config, torch.device("cpu"))
    for _ in range(config.iterations):
        trainer.step()
    table = trainer.finished_scene().exposure
    maps = from_identity(table.centred)
    brightness = (maps[:, :, :3].sum(dim=(1, 2)) + 1.5 * maps[:, :, 3].sum(dim=1)).numpy()
    # Each of three gains is 0.3 larger in every second picture.
    assert brightness[1::2].mean() == pytest.approx(brightness[0::2].mean() + 0.9, abs=0.35)
    torch.testing.assert_close(maps.mean(0), torch.eye(3, 4), atol=1e-5, rtol=0)


def test_scale_of_the_world_does_not_matter_without_metres() -> None:
    """A scene without metric scale that is a thousand times larger is fitted just as well."""
    errors = []
    for factor in (1.0, 1000.0):
        log = replace(tiny_log(), sweeps=(), actors=(), metric=False)
        frames = []
        for frame in log.frames:
            pose = frame.world_from_camera.copy()
            pose[:3, 3] = (pose[:3, 3] - log.frames[0].world_from_camera[:3, 3]) * factor
            frames.append(replace(frame, world_from_camera_start=pose, world_from_camera_end=pose))
        log = replace(log, frames=tuple(frames))
        config = replace(SMALL, iterations=40, init=InitConfig(ray_count=600), snapshots_at=())
        trainer = Trainer(log, recorded_shots(log, config.data), config, torch.device("cpu"))
        losses = [float(sum(trainer.step().terms.values())) for _ in range(40)]
        errors.append(np.mean(losses[-10:]))
        assert np.isfinite(trainer.nodes[BACKGROUND].params["means"].detach().numpy()).all()
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_settings_that_are_no_numbers_are_refused(value: float) -> None:
    for refused in (
        lambda: RatesConfig(sh0=value),
        lambda: LossConfig(lidar_depth=value),
        lambda: InitConfig(voxel_m=value),
        lambda: InitConfig(far_m=value),
        lambda: InitConfig(scale=value),
    ):
        with pytest.raises(UserError, match=r"must be a number"):
            refused()


def test_a_backend_of_another_device_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="backend gsplat draws on cuda, but the device is cpu"):
        fit(tiny_log(), tmp_path / "scene", FitConfig(backend="gsplat", device="cpu"))
    assert not list(tmp_path.iterdir())


def test_a_cap_holds_to_the_end() -> None:
    log = tiny_log(4)
    config = replace(SMALL, iterations=12, densify=DensifyConfig(cap=40, actor_cap=20, start=1, every=2, stop_share=1.0), snapshots_at=())
    trainer = Trainer(log, recorded_shots(log, config.data), config, torch.device("cpu"))
    for _ in range(12):
        trainer.step()
    assert {key: len(node) for key, node in trainer.nodes.nodes.items()} == {BACKGROUND: 40, "actor/car/1": 20}


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30])
def test_seeds_that_no_generator_takes_are_refused(seed: int) -> None:
    with pytest.raises(UserError, match="seed must lie between 0"):
        FitConfig(seed=seed)
