"""The benchmark of the large recipes at toy size: some steps by the command line, interrupted and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "recipe_steps.py"


@pytest.mark.timeout(600)
def test_a_recipe_is_gone_on_with_after_its_first_step(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    line = [sys.executable, str(SCRIPT), "--toy", "--work", str(tmp_path), "--rows", "wan21-14b-lora", "--steps", "4", "--pause-s", "0"]
    done = subprocess.run([*line, "--out", str(out), "--", "--lr", "0.01"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    environment, row = [json.loads(text) for text in out.read_text().splitlines()]
    assert environment["options"] == ["--lr", "0.01"]
    assert row["steps_before"] == 1
    assert row["steps"] == [1, 2, 3, 4]
    # Latents weigh 1 and LPIPS 100, as published.
    assert all(loss > 100 * lpips > 0 for loss, lpips in zip(row["loss"], row["lpips_vgg"], strict=True))
    assert min(row["loss"][2:]) < row["loss"][0], "it learns"
    assert "lora" in row["megabytes"]
    assert "transformer" not in row["megabytes"], "the base's own stays where it is"
