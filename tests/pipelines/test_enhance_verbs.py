"""Training and enhancing through the command line, with a small model of one training step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.datasets.image_metrics import lpips_available
from splatmend.pipelines.cli import main


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clip") / "clip"
    generator = np.random.default_rng(0)
    with building(out, manifest := Manifest(kind="clip", config={})) as partial, ClipWriter(partial) as writer:
        for _ in range(6):
            writer.write(generator.random((48, 64, 3)), extra={"held_out": True})
        manifest.facts = writer.facts
    return out


@pytest.mark.skipif(not lpips_available("squeeze"), reason="the recipe's LPIPS needs SqueezeNet's weights in torch's hub cache")
def test_train_one_step_then_enhance(clip: Path, tmp_path: Path) -> None:
    enhancer = tmp_path / "enhancer"
    size = ["--steps", "1", "--batch", "1", "--clip-frames", "5", "--crop-px", "32", "32", "--precision", "fp32", "--no-log"]
    where = ["--videos", str(clip), "--out", str(enhancer), "--device", "cpu"]
    assert main(["train", "small-onestep", *where, *size]) == 0
    assert (enhancer / "enhancer.json").is_file()
    assert main(["enhance", str(clip), "--model", str(enhancer), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    enhanced = open_clip(tmp_path / "out")
    assert len(enhanced) == 6
    assert all(frame.extra["held_out"] for frame in enhanced.frames)
    off = ["--strength", "0", "--out", str(tmp_path / "same"), "--device", "cpu"]
    assert main(["enhance", str(clip), "--model", str(enhancer), *off]) == 0
    for a, b in zip(open_clip(tmp_path / "same").iter_rgb(), open_clip(clip).iter_rgb()):
        assert np.array_equal(a, b)


def test_wrong_models_data_and_settings(capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    before = set(tmp_path.iterdir())
    out = ["--out", str(tmp_path / "out")]
    for arguments, part in (
        (["enhance", str(clip), "--model", str(empty), *out], "no enhancer"),
        (["enhance", str(clip), "--model", str(clip), *out], "enhancer"),
        (["enhance", str(clip), "--strength", "3", *out], "strength"),
        (["enhance", str(tmp_path / "absent"), "--model", str(empty), *out], "absent"),
        (["train", "large", *out], "no such training recipe"),
        (["train", "small-onestep", "--precision", "fp32", *out], "neither pairs nor videos"),
        (["train", "small-onestep", "--precision", "fp32", "--videos", str(tmp_path / "absent"), *out], "absent"),
    ):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert part in error, error
        assert error.count("\n") == 1, error
    assert set(tmp_path.iterdir()) == before
