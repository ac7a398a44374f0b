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


def test_masks_of_the_sky_are_the_oracle_s(ablation: ModuleType, streets: Path) -> None:
    log, truths = ablation.load_street(streets / "street-31")
    assert sorted(truths) == [(4, shift) for shift in ablation.SHIFTS_M]
    street = importlib.import_module("splatmend.datasets.street").load_street(streets / "street-31")
    masked = ablation.with_sky_masks(log, streets / "street-31")
    seen = [frame for frame in masked.frames if frame.index == 3]
    assert len(seen) == 3
    for frame in seen:
        ids = street.render(street.shot(frame.camera, frame.index), supersample=1).ids
        assert np.array_equal(frame.masks["sky"](), ids == 0)
    assert any(frame.masks["sky"]().any() for frame in seen)


@pytest.mark.timeout(600)
def test_variants_run(ablation: ModuleType, streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, variants = tmp_path / "rows.jsonl", ["everything", "floaters taken out", ablation.SKY_MASKS, "exposure grids"]
    small = ["--seeds", "31", "--iterations", "6", "--cap", "1500", "--device", "cpu", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--streets", str(streets), *small, "--variants", *variants])
    assert ablation.main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()][1:]
    assert [row["variant"] for row in rows] == variants
    assert all(set(row["scores"]) == {"0 m", "1 m", "2 m", "3 m"} for row in rows), "a row that failed says so in place of scores"
    everything, _, masked, _ = (row["scores"]["0 m"]["psnr"] for row in rows)
    assert masked != everything


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
