"""Stage one at toy size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.images import write_image
from splatmend.enhance.artifact import load_autoencoder
from splatmend.enhance.small import small_vae
from splatmend.enhance.train.autoencoder import train_autoencoder
from splatmend.enhance.train.config import AutoencoderTrainConfig
from splatmend.enhance.train.data import DataConfig, TrainingClips
from splatmend.enhance.train.recipes import starting_enhancer


def images(folder: Path) -> DataConfig:
    folder.mkdir()
    pattern = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    for i in range(5):
        write_image(folder / f"{i}.png", np.roll(pattern, 2 * i, axis=1))
    return DataConfig(videos=(folder,), flip=False)


def test_it_learns_resumes_and_starts_stage_two(tmp_path: Path) -> None:
    data = images(tmp_path / "video")
    settings = AutoencoderTrainConfig(
        steps=40, lr=4e-3, precision="fp32", device="cpu", clip_frames=5, crop_px=(32, 32), warmup_steps=1, losses={"l1": 1.0},
        ema=None, log_every=1, log=False, batch=1,
    )  # fmt: skip

    def fresh() -> torch.nn.Module:
        torch.manual_seed(0)
        return small_vae(8)

    out = train_autoencoder(settings, data, tmp_path / "out", vae=fresh())
    assert out is not None
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] < 0.6 * curve[0]["loss"]
    vae = load_autoencoder(out)
    assert max(map(abs, vae.config.latents_mean)) > 1e-3
    assert len(set(vae.config.latents_std)) == 16

    enhancer = starting_enhancer(out)
    assert torch.equal(enhancer.vae.encoder.conv_in.weight, vae.encoder.conv_in.weight)
    assert not enhancer.vae.decoder.conv_out.weight.any()
    kept = starting_enhancer(out, output="direct")
    assert torch.equal(kept.vae.decoder.conv_out.weight, vae.decoder.conv_out.weight)
    x = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    latents = enhancer.encode(x).latents
    torch.testing.assert_close(latents, enhancer.predict(latents))

    short = dataclasses.replace(settings, steps=3)
    whole = train_autoencoder(short, data, tmp_path / "whole", vae=fresh())
    for _ in range(2):
        assert train_autoencoder(dataclasses.replace(short, pause_seconds=0.0), data, tmp_path / "parts", vae=fresh(), resume=True) is None
    parts = train_autoencoder(short, data, tmp_path / "parts", vae=fresh(), resume=True)
    assert whole is not None
    assert parts is not None
    a, b = load_autoencoder(whole), load_autoencoder(parts)
    assert a.config.latents_mean == b.config.latents_mean
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_no_artefacts_are_made_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at targets alone, and artefacts take most of the time in which a sample is made."""

    def made(*_: object) -> np.ndarray:
        raise AssertionError("artefacts")

    monkeypatch.setattr(TrainingClips, "_with_artefacts", made)
    data = dataclasses.replace(images(tmp_path / "video"), clean_share=0.0, workers=0)
    settings = AutoencoderTrainConfig(
        steps=2, lr=1e-3, device="cpu", clip_frames=5, crop_px=(32, 32), warmup_steps=1, losses={"l1": 1.0}, log=False, batch=2
    )
    assert train_autoencoder(settings, data, tmp_path / "out", vae=small_vae(8)) is not None
