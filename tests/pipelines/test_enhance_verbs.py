"""Training and enhancing through the command line, with a small model of one training step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.datasets.image_metrics import lpips_available
from splatmend.datasets.images import write_image
from splatmend.datasets.video import VideoWriter
from splatmend.enhance.artifact import save_enhancer
from splatmend.enhance.harmoniser import small_harmoniser
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


def test_a_video_file_in_and_out(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int]] = []
    monkeypatch.setattr("splatmend.datasets.progress.ConsoleBar.show", lambda bar, done, total: shown.append((done, total)))
    first, second = tmp_path / "first.mp4", tmp_path / "new" / "second.mp4"
    assert main(["enhance", str(clip), "--out", str(first), "--device", "cpu"]) == 0
    assert first.is_file()
    assert "video: " in capsys.readouterr().out
    assert shown == [(number, 6) for number in range(1, 7)]
    assert main(["enhance", str(first), "--out", str(second), "--device", "cpu", "--strength", "0"]) == 0
    before, after = (open_clip(path) for path in (first, second))
    assert len(before) == len(after) == 6
    assert before.rate_hz == after.rate_hz == 10.0
    for a, b in zip(before.iter_rgb(), after.iter_rgb()):
        assert a.shape == b.shape == (48, 64, 3)
    assert main(["enhance", str(clip), "--out", str(first), "--device", "cpu"]) == 2
    assert main(["enhance", str(clip), "--out", str(tmp_path / "x.mkv"), "--device", "cpu"]) == 2
    assert "videos are written as .mp4" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"first.mp4", "new"}


def test_a_fault_in_the_middle_leaves_no_video(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(writer: VideoWriter, rgb: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoWriter, "write", fail)
    assert main(["enhance", str(clip), "--out", str(tmp_path / "out.mp4"), "--device", "cpu", "--strength", "0"]) == 2
    assert list(tmp_path.iterdir()) == []


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


def test_pictures_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        write_image(folder / f"{number}.png", np.full((32, 32, 3), 20 * number, np.uint8))
    assert main(["enhance", str(folder), "--out", str(tmp_path / "out"), "--device", "cpu", "--strength", "0"]) == 0
    assert [int(rgb.mean()) for rgb in open_clip(tmp_path / "out").iter_rgb()] == [20 * number for number in range(12)]


def test_folders_of_others_are_not_replaced(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write_image(folder / "0.png", np.zeros((32, 32, 3), np.uint8))
    for verb in (["enhance", str(folder), "--strength", "0", "--device", "cpu"], ["street", "--seed", "1"], ["collage", str(folder)]):
        assert main([*verb, "--out", str(folder), "--overwrite"]) == 2
        assert "splatmend has not made this folder" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["0.png"]
    (folder / "manifest.json").write_text('{"name": "somebody else\'s", "version": 3}')
    assert main(["enhance", str(clip), "--strength", "0", "--device", "cpu", "--out", str(folder), "--overwrite"]) == 2
    assert (folder / "0.png").is_file()
    # What a command of ours has written may be replaced.
    for _ in range(2):
        again = ["enhance", str(clip), "--strength", "0", "--device", "cpu", "--out", str(tmp_path / "out"), "--overwrite"]
        assert main(again) == 0


def test_a_harmoniser_needs_to_be_told(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    save_enhancer(small_harmoniser(), tmp_path / "model")
    for out in ("out", "out.mp4"):
        assert main(["enhance", str(clip), "--model", str(tmp_path / "model"), "--out", str(tmp_path / out), "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert "it does not say what was put in (masks/inserted" in error
        assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_clip_is_not_replaced_by_its_own_enhancement(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in clip.rglob("*") if file.is_file()}
    assert main(["enhance", str(clip), "--out", f"{clip.parent}/../{clip.parent.name}/{clip.name}", "--overwrite", "--device", "cpu"]) == 2
    assert "this is the clip that is to be enhanced" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in clip.rglob("*") if file.is_file()} == before
