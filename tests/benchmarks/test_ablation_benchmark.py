"""The benchmarks of a fit's parts and of exposure at toy size: streets, their truths, and variants that run."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    return importlib.import_module("ablation")


@pytest.fixture(scope="module")
def streets(ablation: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    ablation.make_street(31, ablation.argparse.Namespace(streets=folder, width=60, seconds=0.6))
    return folder


@pytest.mark.timeout(600)
def test_variants_run(ablation: ModuleType, streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, variants = tmp_path / "rows.jsonl", ["everything", "rays as at mid exposure"]
    small = ["--seeds", "31", "--iterations", "6", "--cap", "1500", "--device", "cpu", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--streets", str(streets), *small, "--variants", *variants])
    assert ablation.main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()][1:]
    assert [row["variant"] for row in rows] == variants
    assert all(set(row["scores"]) == {"0 m", "1 m", "2 m", "3 m"} for row in rows), "a row that failed says so in place of scores"


def test_streets_have_all_that_variants_are_about(ablation: ModuleType, streets: Path) -> None:
    log, _ = ablation.load_street(streets / "street-31")
    assert {actor.actor_class for actor in log.actors} == {"vehicle", "pedestrian"}
    still = ablation.with_one_pose_a_picture(log)
    for before, after in zip(log.frames, still.frames, strict=True):
        assert not np.allclose(before.world_from_camera_start, before.world_from_camera_end, atol=1e-3)
        shots = [ablation.Shot.of(frame, log.cameras[frame.camera]) for frame in (before, after)]
        np.testing.assert_array_equal(shots[0].world_from_camera, shots[1].world_from_camera)
        np.testing.assert_array_equal(after.world_from_camera_start, after.world_from_camera_end)
    for before, after in zip(log.sweeps, ablation.with_one_time_a_turn(log).sweeps, strict=True):
        first, second = before.read_points(), after.read_points()
        assert np.ptp(first.time_us) > 50_000
        assert set(second.time_us) == {int(np.median(first.time_us))}
        np.testing.assert_array_equal(first.xyz_world_m, second.xyz_world_m)


def test_boxes_drawn_one_by_one_jitter(ablation: ModuleType, streets: Path) -> None:
    log, _ = ablation.load_street(streets / "street-31")
    assert len([name for name in ablation.GIVEN if name.startswith(ablation.ONE_BY_ONE)]) == 3
    away, next_to_each_other = [], []
    for before, after in zip(log.actors, ablation.with_boxes_one_by_one(log).actors, strict=True):
        off = after.track.world_from_body[:, :3, 3] - before.track.world_from_body[:, :3, 3]
        away.append(np.linalg.norm(off, axis=1))
        next_to_each_other.append(np.linalg.norm(np.diff(off, axis=0), axis=1))
    assert 0.08 < np.concatenate(away).mean() < 0.2
    assert np.concatenate(next_to_each_other).mean() > np.concatenate(away).mean()


@pytest.mark.timeout(600)
def test_exposure_models_run_on_altered_pictures(streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exposure = importlib.import_module("exposure")
    out = tmp_path / "rows.jsonl"
    small = ["--seeds", "31", "--iterations", "3", "--cap", "1000", "--points", "600", "--device", "cpu", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["exposure.py", "--streets", str(streets), *small, "--faults", "none", "both"])
    assert exposure.main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()][1:]
    assert [(row["model"], row["fault"], row["at_m"]) for row in rows] == [
        (model, fault, shift) for model in ("affine", "bilateral") for fault in ("none", "both") for shift in (0.0, 2.0)
    ]
    seen = {(row["model"], row["fault"]): row["seen"]["psnr"] for row in rows if row["at_m"] == 0}
    assert len(set(seen.values())) == 4, "each model fits each fault in its own way"
