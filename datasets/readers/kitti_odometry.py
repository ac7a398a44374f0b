"""KITTI odometry: `sequences/NAME` with calib.txt, times.txt and image folders; poses in `poses/NAME.txt`.

Poses are world_from_camera_0 with the world's axes those of the first camera 0 (x right, y down, z forward). The world is turned by
`BODY_FROM_OPENCV` so that x points forward, y left, z up; the ego body sits at camera 0 with the same axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import BODY_FROM_OPENCV, PoseTrack, inverse, orthonormal, rotation_fault
from splatmend.datasets.images import image_size, numbered_images
from splatmend.datasets.log import Camera, CameraFrame, LidarSweep, SceneLog
from splatmend.datasets.readers.kitti_shared import (
    FRAME_STEP_US,
    camera_frames,
    camera_from_projection,
    note_absent,
    only_recording,
    refuse_unposed,
)
from splatmend.datasets.readers.text_files import calibration_entry, read_calibration, read_pose_rows, read_seconds_us
from splatmend.datasets.readers.velodyne import numbered_sweeps, sweep_from_file
from splatmend.datasets.triangulate import triangulated_points

CAMERA_NUMBERS = ((2, 3), (0, 1))  # colour first, grey where there is no colour


def recognises(path: Path) -> bool:
    """Whether the folder is a sequence, or holds sequences (the root, or its folder `sequences`)."""
    return bool(_sequences(path))


def read(path: Path) -> SceneLog:
    """The sequence as a log; `UserError` where files are missing or wrong."""
    return _read_sequence(only_recording(path, _sequences(path), "sequences"))


def _sequences(path: Path) -> list[Path]:
    for folders in ([path], sorted(path.glob("*")), sorted(path.glob("sequences/*"))):
        found = [f for f in folders if (f / "calib.txt").is_file() and any((f / f"image_{n}").is_dir() for n in range(4))]
        if found:
            return found
    return []


@dataclass(frozen=True, kw_only=True)
class _Timing:
    """`times_us [N]` and `world_from_ego [N, 4, 4]` per frame number; `file` is the one that ends first."""

    times_us: np.ndarray
    world_from_ego: np.ndarray
    file: Path


def _read_sequence(folder: Path) -> SceneLog:
    notes: list[str] = []
    calibration_path = folder / "calib.txt"
    values = read_calibration(calibration_path)
    images = _images(folder)
    timing = _timing(folder, images, notes)
    ego = PoseTrack(times_us=timing.times_us, world_from_body=timing.world_from_ego)
    cameras: dict[str, Camera] = {}
    frames: list[CameraFrame] = []
    for number, paths in images.items():
        width, height = image_size(paths[min(paths)])
        projection = calibration_entry(calibration_path, values, f"P{number}", (3, 4))
        camera, camera_from_camera_0 = camera_from_projection(calibration_path, f"camera_{number}", projection, width, height)
        cameras[camera.name] = camera
        frames += _frames(paths, camera, BODY_FROM_OPENCV @ inverse(camera_from_camera_0), timing, notes)
    refuse_unposed(timing.file, images.values(), frames)
    frames.sort(key=lambda frame: (frame.start_us, frame.camera))
    return SceneLog(
        log_id=f"kitti_odometry_{folder.absolute().name}",
        source="KITTI odometry",
        path=folder,
        cameras=cameras,
        frames=tuple(frames),
        sweeps=_sweeps(folder, calibration_path, values, ego, notes),
        actors=(),
        ego=ego,
        metric=True,
        read_sfm_points=cache(lambda: triangulated_points(cameras, frames)),
        notes=tuple(notes),
    )


def _images(folder: Path) -> dict[int, dict[int, Path]]:
    for pair in CAMERA_NUMBERS:
        found = {number: images for number in pair if (images := numbered_images(folder / f"image_{number}"))}
        if found:
            return found
    raise UserError(f"{folder}: there are no pictures in image_2, image_3, image_0 or image_1; copy them there.")


def _timing(folder: Path, images: dict[int, dict[int, Path]], notes: list[str]) -> _Timing:
    candidates = (folder.parent.parent / "poses" / f"{folder.name}.txt", folder / "poses.txt")
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise UserError(
            f"{candidates[0]}: the sequence has no poses; only sequences with ground truth (or a poses.txt of your own) can be used."
        )
    world_from_camera_0 = read_pose_rows(path)
    times_path = folder / "times.txt"
    if times_path.is_file():
        times_us = read_seconds_us(times_path)
    else:
        times_us = np.arange(len(world_from_camera_0), dtype=np.int64) * FRAME_STEP_US
        notes.append("There is no times.txt: frames are taken to be 0.1 s apart.")
    count = min(len(times_us), len(world_from_camera_0))
    if count == 0:
        raise UserError(f"{path}: there are {len(world_from_camera_0)} poses for {len(times_us)} times; copy both files again.")
    if unposed := sum(number >= count for paths in images.values() for number in paths):
        notes.append(f"{unposed} picture(s) have no pose or time and were left out.")
    axes = BODY_FROM_OPENCV
    return _Timing(
        times_us=times_us[:count],
        world_from_ego=axes @ world_from_camera_0[:count] @ inverse(axes),
        file=path if count == len(world_from_camera_0) else times_path,
    )


def _frames(paths: dict[int, Path], camera: Camera, ego_from_camera: np.ndarray, timing: _Timing, notes: list[str]) -> list[CameraFrame]:
    count = len(timing.times_us)
    note_absent(paths, count, camera, notes)
    kept = [number for number in sorted(paths) if number < count]
    return camera_frames(camera, [paths[number] for number in kept], timing.times_us[kept], timing.world_from_ego[kept] @ ego_from_camera)


def _sweeps(
    folder: Path, calibration_path: Path, values: dict[str, np.ndarray], ego: PoseTrack, notes: list[str]
) -> tuple[LidarSweep, ...]:
    paths, empty = numbered_sweeps(folder / "velodyne")
    if empty:
        notes.append(f"{empty} LiDAR sweep file(s) are empty and were left out.")
    if not paths:
        return ()
    camera_0_from_velodyne = np.vstack([calibration_entry(calibration_path, values, "Tr", (3, 4)), [0, 0, 0, 1]])
    if fault := rotation_fault(camera_0_from_velodyne):
        raise UserError(f"{calibration_path}: entry Tr has {fault}; correct the calibration.")
    ego_from_velodyne = BODY_FROM_OPENCV @ orthonormal(camera_0_from_velodyne)
    track = PoseTrack(times_us=ego.times_us, world_from_body=ego.world_from_body @ ego_from_velodyne)
    return tuple(
        sweep_from_file(path, track, int(ego.times_us[number]), is_compensated=True)
        for number, path in sorted(paths.items())
        if number < len(ego.times_us)
    )
