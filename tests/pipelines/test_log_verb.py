"""`splatmend log`, on a real drive through traffic."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from splatmend.datasets.images import read_image
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
