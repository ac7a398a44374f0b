"""The benchmark of faults in a log at toy size: each fault is in the log that is fitted, and the scores are those of the whole one."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from splatmend.datasets.log import SceneLog
from splatmend.recon.fit.config import DataConfig
from splatmend.recon.fit.data import frame_roles


@pytest.fixture(scope="module")
def bad_data() -> ModuleType:
    return importlib.import_module("bad_data")


@pytest.fixture(scope="module")
def log(bad_data: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> SceneLog:
    """Eight frames of one camera, of which the fifth is held out."""
    return bad_data.toy_log(tmp_path_factory.mktemp("street"))


def test_faults_are_where_no_frame_is_held_out(bad_data: ModuleType, log: SceneLog) -> None:
    config = DataConfig()
    assert [i for i, role in enumerate(frame_roles(log.frames, config)) if role == "held_out"] == [4]
    wrong = bad_data.with_wrong_poses(log, config)
    (off,) = [i for i in range(8) if not np.allclose(wrong.frames[i].world_from_camera, log.frames[i].world_from_camera)]
    assert off != 4
    moved = wrong.frames[off].world_from_camera @ np.linalg.inv(log.frames[off].world_from_camera)
    np.testing.assert_allclose(wrong.ego.world_from_body[off] @ np.linalg.inv(log.ego.world_from_body[off]), moved, atol=1e-6)
    assert 2 < np.linalg.norm((wrong.ego.world_from_body[off] - log.ego.world_from_body[off])[:3, 3]) < 3
    shifted = wrong.sweeps[off].read_points().xyz_world_m - log.sweeps[off].read_points().xyz_world_m
    assert np.linalg.norm(shifted, axis=1).max() > 1
    for before, after in zip(log.actors, bad_data.with_jumping_boxes(log, config).actors):
        away = np.abs(after.track.world_from_body - before.track.world_from_body).max(axis=(1, 2))
        assert int((away > 0.1).sum()) == round(0.1 * len(away))
    gap = bad_data.without_a_camera_for_a_while(log, config)
    assert [frame.index for frame in gap.frames] == [0, 1, 2, 4, 5, 6, 7]
    assert [frame.index for frame in bad_data.of_two_frames(log, config).frames] == [3, 4, 5]
    mixed = bad_data.with_sweeps_out_of_order(log, config).sweeps
    assert mixed != log.sweeps
    assert sorted(sweep.timestamp_us for sweep in mixed) == [sweep.timestamp_us for sweep in log.sweeps]


@pytest.mark.timeout(600)
def test_rows_are_scored_with_the_whole_log_s_poses(bad_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, faults = tmp_path / "rows.jsonl", ["none", "a tenth of the vehicle's poses wrong", "two frames of each camera"]
    monkeypatch.setattr(sys, "argv", ["bad_data.py", "--toy", "--iterations", "4", "--out", str(out), "--faults", *faults])
    assert bad_data.main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()][1:]
    assert [row["fault"] for row in rows] == faults
    assert all(row["frames"] == 1 and row["psnr"] > 5 for row in rows)
    assert any("jump" in note for note in rows[1]["notes"])
