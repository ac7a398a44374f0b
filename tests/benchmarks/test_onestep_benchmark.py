"""The benchmark of training steps and inference at toy size."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "onestep.py"


def test_rows_run_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    arguments = ["--toy", "--repeats", "1", "--out", str(out), "--rows", "full*", "lora 14B", "infer 1.3B"]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    environment, *rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert environment["kind"] == "environment"
    assert environment["torch"]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [environment, *rows]
    assert [row["row"] for row in rows] == ["full 1.3B", "lora 14B", "infer 1.3B"]
    assert {row["status"] for row in rows} == {"measured"}
    for row in rows[:2]:
        assert set(row["parts"]) == {"encode", "transformer_forward", "decode", "transformer_backward", "optimiser"}
        assert abs(sum(row["parts"].values()) - row["seconds"]) < 1e-3
        # Latents are made in the first step and kept.
        assert row["parts"]["encode"] < 0.5 * row["encode_one_clip_s"]
        assert row["loss"] > 0
    assert rows[0]["trained_parameters"] != rows[1]["trained_parameters"]
    assert set(rows[2]["parts"]) == {"encode", "transformer", "decode"}


@pytest.fixture
def onestep() -> ModuleType:
    return importlib.import_module("onestep")


def test_memory_that_runs_out_is_a_row_and_the_next_row_is_tried(
    onestep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    monkeypatch.setitem(onestep.TRANSFORMERS, "toy", {**onestep.TRANSFORMERS["toy"], "ffn_dim": 1 << 50})
    arguments = ["onestep.py", "--toy", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--rows", "infer 14B", "infer 1.3B"])
    assert onestep.main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()][1:]
    assert [(row["row"], row["status"]) for row in rows] == [("infer 14B", "out of memory"), ("infer 1.3B", "out of memory")]
    assert all("allocate" in row["error"] for row in rows)
    monkeypatch.setattr(sys, "argv", [*arguments, "--budget-s", "0", "--rows", "infer 14B"])
    assert onestep.main() == 0
    assert "1 rows are left, infer 14B first" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 4


def test_rows_that_cannot_be_started_so_are_named(onestep: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in ("parallel", "no such row"):
        monkeypatch.setattr(sys, "argv", ["onestep.py", "--toy", "--rows", rows])
        with pytest.raises(SystemExit, match="torchrun"):
            onestep.main()
