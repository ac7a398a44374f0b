"""What a reader left out of a log or assumed is said before a fit begins, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.street import StreetConfig, build_street, write_street
from splatmend.pipelines.cli import main
from splatmend.pipelines.log_notes import open_log_with_notes
from splatmend.pipelines.stage import StageContext
from splatmend.pipelines.stages import fit_scene
from splatmend.recon.fit.config import DensifyConfig, FitConfig, InitConfig

STREET = StreetConfig(
    seed=3, duration_s=0.6, width=64, height=48, cameras=("FRONT",), supersample=1, lidar_beams=8, lidar_columns=64, moving_cars=0
)
FIT = FitConfig(
    iterations=1, sh_degree=0, sky_rows=8, init=InitConfig(point_count=200, ray_count=50), densify=DensifyConfig(cap=300), device="cpu"
)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log without labels, of which its reader has more than one note."""
    folder = tmp_path_factory.mktemp("log") / "street"
    write_street(build_street(STREET), folder)
    for labels in folder.rglob("lidar_box"):
        labels.rename(folder / "hidden")
    assert any("no actor is labelled" in note for note in open_log(folder).notes)
    return folder


def notes_said(log: Path, text: str) -> list[int]:
    """How often each of a log's notes stands in a text."""
    return [text.count(f"{log}: {note}") for note in open_log(log).notes]


def test_the_fit_command_says_them(street: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = ["--iterations", "1", "--sh-degree", "0", "--sky-rows", "8", "--device", "cpu", "--init.point-count", "200"]
    assert main(["fit", str(street), "--out", str(tmp_path / "scene"), *small, "--init.ray-count", "50"]) == 0
    assert notes_said(street, caplog.text) == [1] * len(open_log(street).notes)


def test_the_fit_of_a_recipe_says_them(street: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit_scene(replace(FIT, device="auto"), {"log": street}, tmp_path / "scene", StageContext(device="cpu"))
    assert notes_said(street, caplog.text) == [1] * len(open_log(street).notes)


def test_of_several_processes_the_first_one_says_them(
    street: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert open_log_with_notes(street).notes
    assert not caplog.text
    monkeypatch.setenv("RANK", "0")
    open_log_with_notes(street)
    assert 0 not in notes_said(street, caplog.text)
