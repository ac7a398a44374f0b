"""The benchmark of enhancers on pairs: rows of render and enhancer by kind, kept and not made twice; drift over long clips."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter
from splatmend.enhance.artifact import save_enhancer
from splatmend.enhance.small import small_enhancer
from splatmend.pipelines.pairing.index import INDEX, write_rows

FRAMES = 5


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return importlib.import_module("enhancer")


def write_clip(folder: Path, pictures: np.ndarray) -> None:
    with building(folder, Manifest(kind="clip", config={})) as partial, ClipWriter(partial, encoding="png", rate_hz=10.0) as writer:
        for picture in pictures:
            writer.write(picture)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder, random = tmp_path / "pairs", np.random.default_rng(0)
    rows = []
    for kind in ("sparse", "shift"):
        target = np.repeat(random.integers(40, 210, (1, 48, 64, 3), dtype=np.uint8), FRAMES, axis=0)
        noise = random.integers(-20, 21, target.shape)
        write_clip(folder / kind / "target", target)
        write_clip(folder / kind / "degraded", (target.astype(int) + noise).clip(0, 255).astype(np.uint8))
        rows.append({"degraded": f"{kind}/degraded", "target": f"{kind}/target", "kind": kind, "split": "train", "scene": "made-up"})
    write_rows(folder / INDEX, rows)
    return folder


def test_rows_of_render_and_enhancer(benchmark: ModuleType, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_enhancer(small_enhancer(), tmp_path / "fresh")
    out = tmp_path / "rows.jsonl"
    line = [
        str(pairs),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--metrics",
        "psnr",
        "lpips_squeeze",
        "--model",
        f"fresh={tmp_path / 'fresh'}",
    ]
    assert benchmark.main([*line, "--kinds", "shift"]) == 0
    assert benchmark.main(line) == 0
    printed = capsys.readouterr().out
    records = [json.loads(text) for text in out.read_text().splitlines()]
    scored = [record for record in records if record["kind"] != "environment"]
    assert [record["kind"] for record in scored] == ["shift", "sparse"]
    for record in scored:
        # A fresh enhancer is the identity.
        assert record["rows"]["fresh"]["mean"]["psnr"] == pytest.approx(record["rows"]["raw"]["mean"]["psnr"], abs=0.05)
        assert 20 < record["rows"]["raw"]["mean"]["psnr"] < 35
        assert len(record["rows"]["fresh"]["lpips"]) == FRAMES
    table = [text.split("|") for text in printed.splitlines() if text.startswith("| shift | fresh")]
    assert table[-1][3].strip() == "1"
    with pytest.raises(SystemExit, match="no such pairs"):
        benchmark.main([*line, "--kinds", "cycle"])


def test_drift_is_the_loss_of_gain_over_a_long_clip(benchmark: ModuleType) -> None:
    raw = [0.2] * 80
    assert benchmark.drift(raw, [0.1] * 80) == pytest.approx(0)
    assert benchmark.drift(raw, [0.1] * 40 + [0.2] * 40) == pytest.approx(0.5)
    assert benchmark.drift(raw[:40], [0.1] * 40) is None
