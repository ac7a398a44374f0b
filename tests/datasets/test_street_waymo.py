"""A street written as a Waymo v2 drive and read again is the street."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.street import Street, StreetConfig, build_street, is_street, load_street, street_log, write_street

CONFIG = StreetConfig(
    seed=3, duration_s=0.3, width=96, height=56, readout_us=30_000, moving_cars=2, parked_cars=3, lidar_beams=16, lidar_columns=128
)


@pytest.fixture(scope="module")
def street() -> Street:
    return build_street(CONFIG)


@pytest.fixture(scope="module")
def folder(street: Street, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street(street, tmp_path_factory.mktemp("drive") / "street")


@pytest.fixture(scope="module")
def read(folder: Path) -> SceneLog:
    return open_log(folder)


def test_frames_keep_times_poses_and_pictures(street: Street, read: SceneLog) -> None:
    made = street_log(street)
    assert len(read.frames) == len(made.frames) == 9
    for ours, theirs in zip(made.frames, read.frames):
        assert (ours.camera, ours.index, ours.start_us, ours.end_us) == (theirs.camera, theirs.index, theirs.start_us, theirs.end_us)
        assert np.allclose(ours.world_from_camera_start, theirs.world_from_camera_start, atol=1e-5)
        assert np.allclose(ours.world_from_camera_end, theirs.world_from_camera_end, atol=1e-5)
    picture, decoded = made.frames[0].read_image(), read.frames[0].read_image()
    assert np.abs(picture.astype(int) - decoded).mean() < 6  # JPEG at 96x56 with every leaf in it
    assert read.cameras["FRONT"].shutter == "top_to_bottom"


def test_actors_keep_boxes_and_tracks(street: Street, read: SceneLog) -> None:
    made = {actor.actor_id: actor for actor in street.actors}
    assert read.actors
    for theirs in read.actors:
        ours = made[theirs.actor_id]
        assert np.allclose(ours.size_m, theirs.size_m)
        assert np.allclose(ours.track.at(theirs.track.times_us), theirs.track.world_from_body, atol=1e-6)


def test_sweeps_keep_points_and_their_times(street: Street, read: SceneLog) -> None:
    for ours, theirs in zip(street_log(street).sweeps, read.sweeps):
        a, b = ours.read_points(), theirs.read_points()
        assert len(a.xyz_world_m) > 500
        assert np.abs(a.xyz_world_m - b.xyz_world_m).max() < 2e-3  # pixel poses are float32
        assert np.array_equal(a.time_us, b.time_us)
        assert np.allclose(a.intensity, b.intensity)


def test_the_oracle_comes_back_exactly(street: Street, folder: Path) -> None:
    assert is_street(folder)
    again = load_street(folder)
    assert again.config == CONFIG
    shot = street.shot("FRONT_LEFT", 2)
    assert np.array_equal(street.render(shot).rgb, again.render(shot).rgb)


def test_a_full_folder_and_a_broken_file_are_refused(street: Street, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already"):
        write_street(street, folder)
    (tmp_path / "street.json").write_text('{"format_version": 99}')
    with pytest.raises(UserError, match="version"):
        load_street(tmp_path)
    with pytest.raises(UserError, match="missing"):
        load_street(tmp_path / "nothing")
