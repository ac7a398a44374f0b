"""The benchmark of flicker at window borders: which transitions are borders, what flicker is, and a clip that runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter
from splatmend.datasets.optical_flow import Flow


@pytest.fixture(scope="module")
def borders() -> ModuleType:
    return importlib.import_module("window_borders")


def test_borders_are_where_windows_begin_and_end(borders: ModuleType) -> None:
    # 25 frames are seven latents: 0; 1 to 4; ...; 21 to 24. Windows of five with two in common begin at 0 and at 2.
    border = borders.at_border(25, 4, 5, 2)
    assert (np.nonzero(border)[0] + 1).tolist() == [5, 13], "the first frames of latent 2 and of latent 4"
    assert not borders.at_border(17, 4, 5, 2).any(), "one window"
    assert [borders.latent_count(frames, 4) for frames in (1, 2, 5, 6)] == [1, 2, 2, 3]


def test_what_moves_along_the_flow_is_no_flicker(borders: ModuleType) -> None:
    wide = np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8)
    frames = np.stack([wide[:, k : k + 30] for k in range(3)])
    right = np.zeros((20, 30, 2), np.float32)
    right[..., 0] = 1
    inside = np.zeros((20, 30), bool)
    inside[2:-2, 2:-2] = True
    moving = Flow(xy_px=right, visible=inside, source="exact")
    assert borders.warping_errors(frames, [moving, moving]) == pytest.approx(0, abs=1e-4)
    frames[2] = (frames[2] * 0.5).astype(np.uint8)
    assert borders.warping_errors(frames, [moving, moving])[1] > 10


@pytest.mark.timeout(300)
def test_the_bundled_model_has_a_row(borders: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = np.random.default_rng(1).integers(0, 255, (12, 18, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    with (
        building(tmp_path / "clip", Manifest(kind="clip", config={})) as folder,
        ClipWriter(folder, encoding="png", rate_hz=10.0) as writer,
    ):
        for shift in range(22):
            writer.write(np.roll(base, -shift, axis=1))
    assert borders.main([str(tmp_path / "clip"), "--device", "cpu"]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| clip | 2 of 21 |")
    assert "nan" not in row
