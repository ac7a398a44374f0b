"""Fits to pictures that a camera has darkened and brightened in places, differently from one to the next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_log import tiny_log, true_scene

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import CameraFrame, SceneLog
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.fit import CorrectionConfig, DensifyConfig, ExposureConfig, FitConfig, RatesConfig
from splatmend.recon.fit.data import recorded_shots
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.render import render
from splatmend.recon.scene import Scene

CONFIG = FitConfig(
    iterations=220,
    sh_degree=0,
    sky_rows=16,
    device="cpu",
    movers="labels",
    camera_poses=CorrectionConfig(on=False),
    actor_poses=CorrectionConfig(on=False),
    rates=RatesConfig(exposure=1e-2),
    densify=DensifyConfig(stop_share=0.0),
)


def _spoilt(frame: CameraFrame) -> np.ndarray:
    """A vignette, and a part that moves over the pictures where what is dark becomes brighter."""
    rgb = frame.read_image() / 255.0
    height, width = rgb.shape[:2]
    x, y = (np.arange(width) + 0.5) / width, ((np.arange(height) + 0.5) / height)[:, None]
    lifted = np.exp(-8 * (x - 0.08 * frame.index) ** 2) * np.ones_like(y)
    rgb = rgb + 0.3 * lifted[..., None] * (1 - rgb)
    radius = (2 * x - 1) ** 2 + (2 * y - 1) ** 2
    return np.rint((rgb * (1 - 0.25 * radius)[..., None]).clip(0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def spoilt_log() -> SceneLog:
    log = tiny_log()
    frames = []
    for frame in log.frames:
        held = _spoilt(frame)
        frames.append(replace(frame, read_image=lambda held=held: held))
    return replace(log, frames=tuple(frames))


def _psnr(picture: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * (picture - truth).square().mean().log10())


def _fitted(log: SceneLog, exposure: ExposureConfig) -> Scene:
    """From the true scene on, so that all that changes comes from what its colours cannot explain."""
    shots = recorded_shots(log, CONFIG.data)
    trained = [recorded.shot for recorded in shots if recorded.role == "train"]
    table = ExposureTable.identity([shot.camera.name for shot in trained], [shot.mid_us for shot in trained], exposure.grid)
    scene = replace(true_scene(), exposure=table, shots=shots)
    trainer = Trainer(log, shots, replace(CONFIG, exposure=exposure), torch.device("cpu"), scene=scene)
    for _ in range(CONFIG.iterations):
        trainer.step()
    return trainer.finished_scene()


def test_grids_explain_what_one_map_cannot(spoilt_log: SceneLog) -> None:
    truth = true_scene()
    found = {}
    for model in ("affine", "bilateral"):
        scene = _fitted(spoilt_log, ExposureConfig(model=model, variation=0.01))
        assert bool(scene.exposure.grid) == (model == "bilateral")
        held_out, own = [], []
        for recorded, frame in zip(scene.shots, spoilt_log.frames):
            with torch.no_grad():
                seen, plain = render(scene, recorded.shot, ("rgb",)).rgb, render(scene, recorded.shot, ("rgb",), exposure=None).rgb
                true = render(truth, recorded.shot, ("rgb",), exposure=None).rgb
            if recorded.held_out:
                held_out.append(_psnr(seen, torch.from_numpy(frame.read_image()).float() / 255))
            # But for a factor that all have in common.
            own.append(_psnr(plain * (true.mean((0, 1)) / plain.mean((0, 1))), true))
        found[model] = (float(np.mean(held_out)), float(np.mean(own)))
    assert found["bilateral"][0] > found["affine"][0] + 3
    assert found["bilateral"][1] > found["affine"][1] + 5


@pytest.mark.parametrize(
    ("settings", "fault"), [({"rows": 0}, "rows must lie between 1 and 64"), ({"variation": -1.0}, "variation must be")]
)
def test_settings_out_of_range_are_refused(settings: dict, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        ExposureConfig(**settings)
