"""`splatmend locality` on a small autoencoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter
from splatmend.enhance.artifact import save_model
from splatmend.enhance.small import small_vae
from splatmend.pipelines.cli import main


def test_locality_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    with building(tmp_path / "clip", manifest := Manifest(kind="clip", config={})) as partial, ClipWriter(partial) as writer:
        for _ in range(13):
            writer.write(generator.random((32, 32, 3)))
        manifest.facts = writer.facts
    save_model(small_vae(8), tmp_path / "vae", None)
    command = [
        "locality",
        "--vae",
        str(tmp_path / "vae"),
        "--clips",
        str(tmp_path / "clip"),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
    ]
    few = ["--frames", "13", "--crop", "16", "16", "--truncations", "0", "1", "--losses", "l1", "--draws", "1", "--repeats", "1"]
    assert main([*command, *few]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "locality.json").read_text())
    assert [row["truncation"] for row in result["latents"]] == [0, 1]
    assert f"{result['latents'][1]['mean']['cosine']:.3f}" in printed
    assert "kept by autograd" in printed
    assert main([*command, *few]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--frames", "4", "--overwrite"]) == 2
    assert "frames: 4" in capsys.readouterr().err
