"""KITTI raw, synchronised and rectified: `.../2011_09_26/2011_09_26_drive_0001_sync` with the calibration files beside the drive.

Cameras are rectified: P_rect_xx = K [I | b] maps points of the rectified camera 0, whose axes are R_rect_00 times those of camera 0.
Poses come from GPS/IMU packets (`oxts`) where there are any, else from `poses_velodyne.txt`: world_from_velodyne per frame, rows of
3x4. The ego body is the scanner (x forward, y left, z up), the world's z points up.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, inverse, orthonormal, pose, rotation_fault
from splatmend.datasets.images import image_size, numbered_images
from splatmend.datasets.log import TURN_US, ActorTrack, Camera, CameraFrame, LidarSweep, SceneLog
from splatmend.datasets.readers.kitti_oxts import read_packets, world_from_imu
from splatmend.datasets.readers.kitti_shared import (
    FRAME_STEP_US,
    camera_frames,
    camera_from_projection,
    note_absent,
    only_recording,
    refuse_unposed,
)
from splatmend.datasets.readers.kitti_tracklets import read_tracklets
from splatmend.datasets.readers.text_files import (
    calibration_entry,
    read_calibration,
    read_pose_rows,
    read_rigid,
    read_timestamps_us,
)
from splatmend.datasets.readers.velodyne import numbered_sweeps, sweep_from_file
from splatmend.datasets.solar import direction_east_north_up

_CLOCK_AHEAD_US = 2 * 3_600_000_000
"""`timestamps.txt` is taken to be in the local time of Karlsruhe: all drives are of 26 September to 3 October 2011, summer time, two hours
ahead of UTC. The format's description names no zone."""
_EARLIEST_US = 1_262_304_000_000_000
"""The year 2010: earlier times are counted from the first frame, not from a clock."""
CAMERA_NUMBERS = (("02", "03"), ("00", "01"))  # colour first, grey where there is no colour


def recognises(path: Path) -> bool:
    """Whether the folder is a drive, or holds drives one or two levels below."""
    return bool(_drives(path))


def read(path: Path) -> SceneLog:
    """The drive as a log; `UserError` where files are missing or wrong."""
    return _Drive.at(only_recording(path, _drives(path), "drives")).log()


def _drives(path: Path) -> list[Path]:
    for pattern in (".", "*", "*/*"):
        folders = [path] if pattern == "." else sorted(path.glob(pattern))
        found = [folder for folder in folders if any((folder / f"image_{n}" / "data").is_dir() for pair in CAMERA_NUMBERS for n in pair)]
        if found:
            return found
    return []


@dataclass(frozen=True, kw_only=True)
class _Drive:
    """A drive while it is being read. `frame_times_us [N]` holds the time of each frame number, `poses` is where the path was read from,
    `place` latitude and longitude in degrees where GPS packets say them."""

    folder: Path
    images: dict[str, dict[int, Path]]
    sweeps: dict[int, Path]
    frame_times_us: np.ndarray
    world_from_velodyne: PoseTrack
    poses: Path
    place: tuple[float, float] | None
    notes: tuple[str, ...]

    @classmethod
    def at(cls, folder: Path) -> _Drive:
        notes: list[str] = []
        images = _images(folder)
        sweeps, empty = numbered_sweeps(folder / "velodyne_points" / "data")
        if empty:
            notes.append(f"{empty} LiDAR sweep file(s) are empty and were left out.")
        last = max([*sweeps, *(number for numbers in images.values() for number in numbers)], default=-1)
        frame_times_us = _stream_times(folder / f"image_{min(images)}", last + 1)
        if frame_times_us is None:
            frame_times_us = np.arange(last + 1, dtype=np.int64) * FRAME_STEP_US
            notes.append("There are no timestamps.txt: frames are taken to be 0.1 s apart.")
        world_from_velodyne, poses, place = _ego_track(folder, frame_times_us, notes)
        return cls(
            folder=folder,
            images=images,
            sweeps=sweeps,
            frame_times_us=frame_times_us,
            world_from_velodyne=world_from_velodyne,
            poses=poses,
            place=place,
            notes=tuple(notes),
        )

    def log(self) -> SceneLog:
        notes = list(self.notes)
        cameras, frames = {}, []
        for number, paths in self.images.items():
            camera, camera_from_velodyne = _camera(self.folder, number, paths)
            cameras[camera.name] = camera
            frames += self._frames(number, paths, camera, camera_from_velodyne, notes)
        refuse_unposed(self.poses, self.images.values(), frames)
        frames.sort(key=lambda frame: (frame.start_us, frame.camera))
        return SceneLog(
            log_id=self.folder.absolute().name,
            source="KITTI raw",
            path=self.folder,
            cameras=cameras,
            frames=tuple(frames),
            sweeps=self._sweeps(notes),
            actors=self._actors(),
            ego=self.world_from_velodyne,
            metric=True,
            sun_direction_world=self._sun(),
            notes=tuple(notes),
        )

    def _sun(self) -> tuple[float, float, float] | None:
        """Where the sun was half-way through the drive, if packets say the place and `timestamps.txt` the time, and it was day."""
        middle_us = (self.world_from_velodyne.start_us + self.world_from_velodyne.end_us) // 2
        if self.place is None or middle_us < _EARLIEST_US:
            return None
        time = datetime.fromtimestamp((middle_us - _CLOCK_AHEAD_US) / 1e6, UTC)
        # The world of packets has x east, y north and z up.
        direction = direction_east_north_up(time, *self.place)
        return direction if direction[2] > 0 else None

    def _frames(
        self, number: str, paths: dict[int, Path], camera: Camera, camera_from_velodyne: np.ndarray, notes: list[str]
    ) -> list[CameraFrame]:
        times_us = _stream_times(self.folder / f"image_{number}", len(self.frame_times_us))
        times_us = self.frame_times_us if times_us is None else times_us
        posed = self._posed(times_us)
        note_absent(paths, min(len(times_us), len(self.frame_times_us)), camera, notes)
        if unposed := sum(not posed[frame] for frame in paths):
            notes.append(f"{unposed} picture(s) of {camera.name} lie outside the recorded poses and were left out.")
        kept = [frame for frame in sorted(paths) if posed[frame]]
        world_from_camera = self.world_from_velodyne.at(times_us[kept]) @ inverse(camera_from_velodyne)
        return camera_frames(camera, [paths[frame] for frame in kept], times_us[kept], world_from_camera)

    def _posed(self, times_us: np.ndarray) -> np.ndarray:
        """Which times lie within the recorded poses, give or take half a frame (streams are stamped some milliseconds apart)."""
        half = FRAME_STEP_US // 2
        return (times_us >= self.world_from_velodyne.start_us - half) & (times_us <= self.world_from_velodyne.end_us + half)

    def _sweeps(self, notes: list[str]) -> tuple[LidarSweep, ...]:
        folder = self.folder / "velodyne_points"
        times_us = _stream_times(folder, len(self.frame_times_us))
        times_us = self.frame_times_us if times_us is None else times_us
        turn_us = _turn_us(folder)
        posed = self._posed(times_us)
        if unposed := sum(not posed[frame] for frame in self.sweeps):
            notes.append(f"{unposed} LiDAR sweep(s) lie outside the recorded poses and were left out.")
        return tuple(
            sweep_from_file(path, self.world_from_velodyne, int(times_us[frame]), turn_us=turn_us)
            for frame, path in sorted(self.sweeps.items())
            if posed[frame]
        )

    def _actors(self) -> tuple[ActorTrack, ...]:
        path = self.folder / "tracklet_labels.xml"
        return read_tracklets(path, self.world_from_velodyne, self.frame_times_us) if path.is_file() else ()


def _images(folder: Path) -> dict[str, dict[int, Path]]:
    for pair in CAMERA_NUMBERS:
        found = {number: numbered_images(folder / f"image_{number}" / "data") for number in pair}
        found = {number: images for number, images in found.items() if images}
        if found:
            return found
    raise UserError(f"{folder}: there are no pictures in image_02/data, image_03/data, image_00/data or image_01/data; copy them there.")


def _stream_times(stream: Path, count: int) -> np.ndarray | None:
    """A stream's times, one per frame number; None where it has no timestamp file."""
    path = stream / "timestamps.txt"
    if not path.is_file():
        return None
    times_us = read_timestamps_us(path)
    if len(times_us) < count:
        raise UserError(f"{path}: there are {len(times_us)} times for {count} frames; copy the file again.")
    return times_us


def _turn_us(folder: Path) -> int:
    """The scanner's turn from the starts and ends of its sweeps; 0.1 s where they are not recorded."""
    start, end = folder / "timestamps_start.txt", folder / "timestamps_end.txt"
    if not (start.is_file() and end.is_file()):
        return TURN_US
    starts_us, ends_us = read_timestamps_us(start), read_timestamps_us(end)
    if len(starts_us) != len(ends_us) or not len(starts_us):
        raise UserError(f"{end}: there are {len(ends_us)} ends for {len(starts_us)} starts of sweeps; copy both files again.")
    turn_us = int(np.median(ends_us - starts_us))
    if not TURN_US // 2 <= turn_us <= TURN_US * 2:
        raise UserError(f"{end}: sweeps that last {turn_us * 1e-6:.3f} s are no turns of a 10 Hz scanner; correct the times.")
    return turn_us


def _ego_track(folder: Path, frame_times_us: np.ndarray, notes: list[str]) -> tuple[PoseTrack, Path, tuple[float, float] | None]:
    """world_from_velodyne over time, the file or folder that says so, and latitude and longitude where it does."""
    calibration = _calibration_file(folder, "calib_imu_to_velo.txt")
    if (folder / "oxts" / "data").is_dir() and calibration.is_file():
        numbers, packets = read_packets(folder / "oxts" / "data")
        times_us = _stream_times(folder / "oxts", int(numbers.max()) + 1)
        times_us = frame_times_us if times_us is None else times_us
        if numbers.max() >= len(times_us):
            notes.append(f"{int((numbers >= len(times_us)).sum())} GPS packet(s) have no frame and were left out.")
        kept = numbers < len(times_us)
        if not kept.any():
            raise UserError(f"{folder / 'oxts' / 'data'}: no GPS packet is of one of the drive's frames; copy the packets of this drive.")
        velodyne_from_imu = read_rigid(calibration)
        poses = world_from_imu(packets[kept]) @ inverse(velodyne_from_imu)
        latitude, longitude = packets[kept][kept.sum() // 2, :2].tolist()
        return PoseTrack(times_us=times_us[numbers[kept]], world_from_body=poses), folder / "oxts" / "data", (latitude, longitude)
    path = folder / "poses_velodyne.txt"
    if not path.is_file():
        raise UserError(
            f"{folder}: there are no poses; copy oxts/data and calib_imu_to_velo.txt, or give poses_velodyne.txt with one 3x4 "
            "world_from_velodyne per frame."
        )
    poses = read_pose_rows(path)
    if not len(poses):
        raise UserError(f"{path}: there are no poses in the file; write one 3x4 world_from_velodyne per frame.")
    count = min(len(poses), len(frame_times_us))
    return PoseTrack(times_us=frame_times_us[:count], world_from_body=poses[:count]), path, None


def _calibration_file(folder: Path, name: str) -> Path:
    """The calibration beside the drive (as published), or in it."""
    return folder / name if (folder / name).is_file() else folder.parent / name


def _camera(folder: Path, number: str, paths: dict[int, Path]) -> tuple[Camera, np.ndarray]:
    """The camera and camera_from_velodyne `[4, 4]`."""
    path = _calibration_file(folder, "calib_cam_to_cam.txt")
    values = read_calibration(path)
    projection = calibration_entry(path, values, f"P_rect_{number}", (3, 4))
    rectified_from_camera_0 = pose(calibration_entry(path, values, "R_rect_00", (3, 3)), np.zeros(3))
    if fault := rotation_fault(rectified_from_camera_0):
        raise UserError(f"{path}: entry R_rect_00 has {fault}; correct the calibration.")
    camera_0_from_velodyne = read_rigid(_calibration_file(folder, "calib_velo_to_cam.txt"))
    first = paths[min(paths)]
    width, height = image_size(first)
    if f"S_rect_{number}" in values:
        size = tuple(int(v) for v in calibration_entry(path, values, f"S_rect_{number}", (2,)))
        if size != (width, height):
            raise UserError(
                f"{path}: S_rect_{number} is {size[0]}x{size[1]} but {first} has {width}x{height} pixels; "
                "use the calibration of these pictures."
            )
    camera, camera_from_rectified = camera_from_projection(path, f"camera_{number}", projection, width, height)
    return camera, camera_from_rectified @ orthonormal(rectified_from_camera_0) @ camera_0_from_velodyne
