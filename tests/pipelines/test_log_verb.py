"""`splatmend log`, on a real drive through traffic."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.images import read_image, write_image
from splatmend.pipelines.cli import main


def test_movers_of_a_real_drive_are_said_and_drawn(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lorry passes on the right, and the car ahead creeps to the lights."""
    picture = tmp_path / "movers.png"
    assert main(["log", str(shared_data / "kitti_raw"), "--movers", str(picture)]) == 0
    said = re.findall(r"mover-\d+: ([\d.]+) x ([\d.]+) x [\d.]+ m, seen for ([\d.]+) s, moved ([\d.]+) m", capsys.readouterr().out)
    (lorry, car) = ([float(value) for value in one] for one in said)
    assert 11 < lorry[0] < 17
    assert 2.2 < lorry[1] < 3.3
    assert 13 < lorry[3] < 14
    assert 1.4 < car[1] < 2.1
    assert 3.5 < car[3] < 4.5
    assert lorry[2] > 4.5
    assert car[2] > 4.5
    assert read_image(picture).shape == (4 * 375, 1242, 3)


def test_movers_need_sweeps(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", str(shared_data / "nerfstudio" / "fox"), "--movers", str(tmp_path / "movers.png")]) == 2
    assert "no sweeps in metres" in capsys.readouterr().err
    assert not (tmp_path / "movers.png").exists()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures with poses, the fewest of which one is held out."""
    frames = []
    for index in range(5):
        picture = np.random.default_rng(index).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        write_image(tmp_path / "photos" / f"{index}.png", picture)
        matrix = np.eye(4)
        matrix[0, 3] = index
        frames.append({"file_path": f"{index}.png", "transform_matrix": matrix.tolist()})
    content = {"camera_model": "PINHOLE", "w": 96, "h": 64, "fl_x": 80.0, "frames": frames}
    (tmp_path / "photos" / "transforms.json").write_text(json.dumps(content))
    return tmp_path / "photos"


def test_a_broken_picture_in_the_middle_is_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", str(photos)]) == 0
    (photos / "2.png").write_bytes((photos / "2.png").read_bytes()[:400])
    assert main(["log", str(photos)]) == 2
    assert "2.png: the picture is cut short (400 bytes)" in capsys.readouterr().err


def test_names_that_no_picture_can_have_are_refused_before_any_work(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("splatmend.datasets.readers.registry.open_log", None)
    for flag in ("--movers", "--overlay"):
        assert main(["log", str(photos), flag, "x.gif"]) == 2
        assert "x.gif: pictures are written as .png or .jpg" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("--camera", "camera_0"), ("--frame", "1")])
def test_what_a_picture_shows_is_refused_without_a_picture(
    photos: Path, flag: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("splatmend.datasets.readers.registry.open_log", None)
    assert main(["log", str(photos), flag, value]) == 2
    assert f"{flag}: it says what a picture shows, and none is asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "arguments", "said"),
    [
        ("photos", ["--camera", "foo"], "there is no camera foo; the log has camera_0"),
        ("photos", ["--strength", "0.5"], "strength: it belongs to an enhancer"),
        ("photos", ["--device", "tpu"], "tpu is none of auto, cpu and cuda"),
        ("kitti-raw", [], "a log of nerfstudio, DL3DV, which the recipe kitti-raw is not for; run photos instead"),
    ],
)
def test_a_dry_run_refuses_what_can_be_known(
    photos: Path, recipe: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photos.parent / "run"
    assert main(["run", recipe, str(photos), "--out", str(out), "--model", "none", "--dry-run", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert main(["run", "photos", str(photos), "--out", str(out), "--model", "none", "--dry-run"]) == 0
    assert not out.exists()


def test_a_dry_run_refuses_an_output_that_cannot_be_written(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos.parent / "file").write_text("")
    for out, said in (("file", "this is a file, and a run needs a folder"), ("file/run", "is a file where a folder is needed")):
        assert main(["run", "photos", str(photos), "--out", str(photos.parent / out), "--model", "none", "--dry-run"]) == 2
        assert said in capsys.readouterr().err


def test_a_run_that_could_hold_no_frame_out_is_refused_before_it_fits(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((photos / "transforms.json").read_text())
    (photos / "transforms.json").write_text(json.dumps(content | {"frames": content["frames"][:4]}))
    arguments = ["run", "photos", str(photos), "--out", str(photos.parent / "run"), "--model", "none", "--dry-run"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "photos: 4 frame(s) of a camera are too few to hold one out" in said
    assert "which takes 5" in said
    assert main([*arguments, "--until", "shift"]) == 0
    assert main([*arguments, "--until", "held-out"]) == 2
