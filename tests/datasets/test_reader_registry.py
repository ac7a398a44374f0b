"""`open_log`: what it says about paths that are no logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from splatmend.datasets import UserError, open_log
from splatmend.datasets.readers.registry import SOURCES


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such file or folder"):
        open_log(tmp_path / "nowhere")


def test_unknown_layout_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError) as caught:
        open_log(tmp_path)
    assert all(source.layout in str(caught.value) for source in SOURCES)
    with pytest.raises(UserError, match="no known data set"):
        open_log(tmp_path / "notes.txt")


def test_every_source_can_be_imported_and_has_its_own_sample(shared_data: Path) -> None:
    folders = ("kitti_raw", "kitti_odometry", "nerfstudio/fox", "waymo_v1", "waymo_v2")
    for folder in folders:
        assert sum(source.recognises(shared_data / folder) for source in SOURCES) == 1, folder
