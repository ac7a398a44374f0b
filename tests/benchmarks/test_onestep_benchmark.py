"""The benchmark of training steps and inference at toy size."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "onestep.py"


def test_rows_run_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    arguments = ["--toy", "--repeats", "1", "--out", str(out), "--rows", "lora 14B", "full*", "infer 1.3B"]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    environment, *rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert environment["kind"] == "environment"
    assert environment["torch"]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [environment, *rows]
    assert [row["row"] for row in rows] == ["lora 14B", "full 1.3B", "infer 1.3B"]
    for row in rows[:2]:
        assert set(row["parts"]) == {"encode", "transformer_forward", "decode", "transformer_backward", "optimiser"}
        assert abs(sum(row["parts"].values()) - row["seconds"]) < 1e-3
        # Latents are made in the first step and kept.
        assert row["parts"]["encode"] < 0.5 * row["encode_one_clip_s"]
        assert row["loss"] > 0
    assert rows[0]["trained_parameters"] != rows[1]["trained_parameters"]
    assert set(rows[2]["parts"]) == {"encode", "transformer", "decode"}


def test_rows_that_cannot_be_started_so_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("onestep_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    for rows in ("parallel", "no such row"):
        monkeypatch.setattr(sys, "argv", ["onestep.py", "--toy", "--rows", rows])
        with pytest.raises(SystemExit, match="torchrun"):
            module.main()
