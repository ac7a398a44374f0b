"""What is only noticed when everything is read: pictures, masks and sweeps."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.images import image_reader
from splatmend.datasets.log import Camera, CameraFrame, LidarSweep, SceneLog
from splatmend.datasets.log_check import check_content
from splatmend.datasets.log_key import log_key
from splatmend.datasets.readers.velodyne import sweep_from_file


@pytest.fixture
def log(tmp_path: Path) -> SceneLog:
    """Four pictures and two sweeps on disk."""
    still = PoseTrack(times_us=np.array([0]), world_from_body=np.eye(4)[None])
    frames, sweeps = [], []
    for number in range(4):
        file = tmp_path / f"{number}.jpg"
        cv2.imwrite(str(file), np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8))
        frames.append(
            CameraFrame(
                camera="front",
                index=number,
                start_us=number,
                end_us=number,
                world_from_camera_start=np.eye(4),
                world_from_camera_end=np.eye(4),
                read_image=image_reader(file, 64, 48),
                file=file,
            )
        )
    for number in range(2):
        file = tmp_path / f"{number}.bin"
        np.random.default_rng(number).uniform(-20, 20, (100, 4)).astype("<f4").tofile(file)
        sweeps.append(sweep_from_file(file, still, number * 100_000))
    return SceneLog(
        log_id="small",
        source="made up",
        path=tmp_path,
        cameras={"front": Camera(name="front", width=64, height=48, focal_px=(50.0, 50.0), principal_px=(32.0, 24.0))},
        frames=tuple(frames),
        sweeps=tuple(sweeps),
        actors=(),
        ego=still,
        metric=True,
    ).validate()


def file_of(part: CameraFrame | LidarSweep) -> Path:
    assert part.file is not None
    return part.file


def test_a_sound_log_has_no_notes_and_everything_is_counted(log: SceneLog) -> None:
    seen = []
    assert check_content(log, lambda done, total: seen.append((done, total))) == ()
    assert seen == [(number, 6) for number in range(1, 7)]


def test_broken_pictures_are_counted_and_the_first_is_named(log: SceneLog) -> None:
    whole = file_of(log.frames[1]).read_bytes()
    file_of(log.frames[1]).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"^\S*1\.jpg: the picture is cut short"):
        check_content(log)
    file_of(log.frames[2]).write_bytes(b"")
    file_of(log.frames[3]).write_text("<html>")
    with pytest.raises(UserError, match=r"3 of 4 pictures cannot be used, the first of them \S*1\.jpg: the picture is cut short"):
        check_content(log)


def test_a_mask_that_is_missing_is_named(log: SceneLog) -> None:
    def absent() -> np.ndarray:
        raise UserError("mask.png: cannot read the picture; check that the file is there.")

    with pytest.raises(UserError, match=r"mask\.png"):
        check_content(replace(log, frames=(*log.frames[:3], replace(log.frames[3], masks={"valid": absent}))))


def test_returns_that_are_no_numbers_or_far_out_are_noted(log: SceneLog) -> None:
    values = np.fromfile(file_of(log.sweeps[1]), "<f4").reshape(-1, 4)
    values[:7, 1], values[7:10, 0] = np.nan, 1e30
    values.tofile(file_of(log.sweeps[1]))
    notes = check_content(log)
    assert notes[0].startswith("7 of 200 LiDAR returns hold a value that is not finite")
    assert notes[1].startswith("3 of 200 LiDAR returns lie more than 1000 m from the scanner")


def test_a_sweep_that_is_cut_short_is_named(log: SceneLog) -> None:
    file_of(log.sweeps[0]).write_bytes(b"1234567890")
    with pytest.raises(UserError, match=r"0\.bin"):
        check_content(log)


def test_a_broken_file_of_points_is_named(log: SceneLog) -> None:
    def broken() -> None:
        raise UserError("points.ply: cannot read points")

    broken_points = replace(log, read_sfm_points=broken)
    assert check_content(broken_points) == ()  # found in the pictures when a fit asks for them
    with pytest.raises(UserError, match=r"points\.ply"):
        check_content(replace(broken_points, sfm_points_file=Path("points.ply")))


def test_the_key_of_a_log_follows_poses_calibration_and_files(log: SceneLog) -> None:
    key = log_key(log)
    assert log_key(log) == key
    moved = np.eye(4)
    moved[0, 3] = 0.01
    other = replace(log.frames[2], world_from_camera_start=moved)
    keys = {key, log_key(replace(log, frames=(*log.frames[:2], other, log.frames[3])))}
    keys.add(log_key(replace(log, cameras={"front": replace(log.cameras["front"], focal_px=(50.0, 51.0))})))
    file_of(log.frames[0]).write_bytes(file_of(log.frames[1]).read_bytes())
    keys.add(log_key(log))
    file_of(log.sweeps[0]).write_bytes(b"")
    keys.add(log_key(log))
    assert len(keys) == 5


def test_the_key_of_a_log_is_that_of_its_copy_and_sees_what_changes_no_size(log: SceneLog, tmp_path: Path) -> None:
    def copied(part: CameraFrame | LidarSweep) -> Path:
        copy = tmp_path / "copy" / file_of(part).name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file_of(part).read_bytes())
        os.utime(copy, (1, 1))
        return copy

    file_of(log.sweeps[0]).write_bytes(bytes(100_000))
    key = log_key(log)
    frames = tuple(replace(frame, file=copied(frame)) for frame in log.frames)
    sweeps = tuple(replace(sweep, file=copied(sweep)) for sweep in log.sweeps)
    copy = replace(log, log_id="copy", path=tmp_path / "copy", frames=frames, sweeps=sweeps)
    assert log_key(copy) == key
    for place in (0, 99_999):
        changed = bytearray(100_000)
        changed[place] = 1
        file_of(copy.sweeps[0]).write_bytes(changed)
        assert log_key(copy) != key
    without = replace(log, frames=tuple(replace(frame, file=None) for frame in log.frames), sweeps=())
    assert log_key(without) != log_key(replace(without, log_id="other"))
