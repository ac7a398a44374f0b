"""The benchmark of a fit's steps at toy size."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_our_step_is_timed_and_taken_apart(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_step = importlib.import_module("fit_step")
    out = tmp_path / "rows.jsonl"
    small = ["--model", model, "--warm", "1", "--turns", "2", "--length", "3", "--cap", "500"]
    monkeypatch.setattr(sys, "argv", ["fit_step.py", "--toy", *small, "--out", str(out)])
    assert fit_step.main() == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["environment", "step", "kernels", "pictures"]
    _, step, kernels, pictures = lines
    assert step["way"] == kernels["way"] == f"ours, tiles of {fit_step.gsplat_backend.RAY_TILE_PX}"
    assert len(step["all_ms"]) == 2
    spent = [kernel["ms"] for kernel in kernels["kernels"]]
    assert spent == sorted(spent, reverse=True)
    assert 0 < sum(spent) <= kernels["kernel_ms"]
    assert pictures["greatest"] == 0, "the same tiles draw the same picture"
    assert pictures["gaussians"] >= 500


def test_a_picture_that_differs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_step = importlib.import_module("fit_step")
    torch = fit_step.torch
    recon_gpus = importlib.import_module("recon_gpus")
    config = fit_step.FitConfig(
        iterations=10,
        camera_model="ray",
        init=fit_step.InitConfig(point_count=200, ray_count=50),
        densify=fit_step.DensifyConfig(cap=300),
        device="cpu",
    )
    log = fit_step.prepared_log(recon_gpus.toy_log(tmp_path), config.data, "ray")
    trainer = fit_step.Trainer(log, fit_step.recorded_shots(log, config.data), config, torch.device("cpu"))
    drawn = fit_step.render

    def darker_in_small_tiles(*given: object, **named: object) -> object:
        found = drawn(*given, **named)
        return found if fit_step.gsplat_backend.RAY_TILE_PX == 16 else fit_step.replace(found, rgb=found.rgb - 0.01)

    monkeypatch.setattr(fit_step, "render", darker_in_small_tiles)
    same, other = fit_step.differences(trainer, [16, 8], torch.device("cpu"))
    assert (same["greatest"], same["share_above_1_of_255"]) == (0, 0)
    assert other["greatest"] == pytest.approx(0.01, abs=1e-6)
    assert other["share_above_1_of_255"] == 1
