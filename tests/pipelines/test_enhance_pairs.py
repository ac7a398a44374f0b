"""The tool that puts enhanced clips in the places of degraded ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.enhance.artifact import save_enhancer
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.train.data import read_pairs
from splatmend.pipelines.pairing.index import INDEX, read_rows, write_rows

TOOL = Path(__file__).resolve().parents[2] / "tools" / "enhance_pairs.py"


def test_enhanced_clips_take_the_places_of_degraded_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("enhance_pairs", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32))
    torch.nn.init.normal_(enhancer.vae.decoder.conv_out.weight, std=0.2)
    save_enhancer(enhancer, tmp_path / "enhancer")
    pairs, random = tmp_path / "pairs", np.random.default_rng(0)
    for name in ("degraded", "target"):
        with building(pairs / "clips" / "a" / name, Manifest(kind="clip", config={})) as made, ClipWriter(made) as writer:
            for _ in range(5):
                writer.write(random.integers(0, 255, (32, 48, 3), dtype=np.uint8), masks={"inserted": np.ones((32, 48), bool)})
    row = {"degraded": "clips/a/degraded", "target": "clips/a/target", "kind": "insert", "split": "train", "scene": "a"}
    write_rows(pairs / INDEX, [row])
    assert tool.main([str(pairs), "--model", str(tmp_path / "enhancer"), "--device", "cpu"]) == 0
    assert read_rows(pairs / "enhanced.jsonl") == [row | {"degraded": "clips/a/degraded-enhanced"}]
    assert len(read_pairs(pairs / "enhanced.jsonl")) == 1
    before, after = (np.stack(list(open_clip(pairs / "clips" / "a" / name).iter_rgb())) for name in ("degraded", "degraded-enhanced"))
    assert (before != after).any()
    mask = open_clip(pairs / "clips" / "a" / "degraded-enhanced").read_channel("masks/inserted", 4)
    assert mask is not None
    assert mask.all()
    written = (pairs / "clips" / "a" / "degraded-enhanced" / "manifest.json").stat().st_mtime_ns
    assert tool.main([str(pairs), "--model", str(tmp_path / "enhancer"), "--device", "cpu"]) == 0
    assert (pairs / "clips" / "a" / "degraded-enhanced" / "manifest.json").stat().st_mtime_ns == written
    assert tool.main([str(tmp_path / "nothing")]) == 1
    assert "there is no pairs.jsonl" in capsys.readouterr().err
