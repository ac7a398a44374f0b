"""What KITTI raw and KITTI odometry have in common: rectified cameras, exposures without a duration, folders of recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import pose
from splatmend.datasets.images import image_reader
from splatmend.datasets.log import Camera, CameraFrame

FRAME_STEP_US = 100_000  # the cameras are triggered at 10 Hz


def only_recording(path: Path, found: Sequence[Path], kind: str) -> Path:
    """The one recording of a folder; `UserError` where there are several."""
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found[:4])
        raise UserError(f"{path}: there are {len(found)} {kind} here ({names} ...); give the folder of one of them.")
    return found[0]


def camera_from_projection(path: Path, name: str, projection: np.ndarray, width: int, height: int) -> tuple[Camera, np.ndarray]:
    """Camera and camera_from_rectified_0 `[4, 4]` of KITTI's rectified projection `[3, 4]` = K [I | b].

    KITTI calibrates with OpenCV's convention (the first pixel's centre is 0), so half a pixel is added to the principal point.
    """
    camera = Camera(
        name=name,
        width=width,
        height=height,
        focal_px=(float(projection[0, 0]), float(projection[1, 1])),
        principal_px=(float(projection[0, 2]) + 0.5, float(projection[1, 2]) + 0.5),
    )
    if fault := camera.fault():
        raise UserError(f"{path}: {name} has {fault}; use the calibration of these pictures.")
    if not np.allclose(projection[2, :3], [0, 0, 1], atol=1e-3) or abs(np.linalg.det(projection[:, :3])) < 1e-6:
        said = " ".join(f"{value:g}" for value in projection.ravel())
        raise UserError(f"{path}: the projection of {name} ({said}) is none of a rectified camera; use the calibration of these pictures.")
    return camera, pose(np.eye(3), np.linalg.solve(projection[:, :3], projection[:, 3]))


def camera_frames(camera: Camera, images: Sequence[Path], times_us: np.ndarray, world_from_camera: np.ndarray) -> list[CameraFrame]:
    """Frames of one camera in the order of `images`, with `times_us [N]` and `world_from_camera [N, 4, 4]`."""
    return [
        CameraFrame(
            camera=camera.name,
            index=index,
            start_us=int(t_us),
            end_us=int(t_us),
            world_from_camera_start=at,
            world_from_camera_end=at,
            read_image=image_reader(image, camera.width, camera.height),
            file=image,
        )
        for index, (image, t_us, at) in enumerate(zip(images, times_us, world_from_camera, strict=True))
    ]


def note_absent(images: Mapping[int, Path], count: int, camera: Camera, notes: list[str]) -> None:
    """Notes how many of the first `count` pictures of a camera are missing, if any are."""
    if absent := sum(number not in images for number in range(count)):
        notes.append(f"{absent} of {count} pictures of {camera.name} are missing and were left out.")


def refuse_unposed(poses: Path, pictures: Iterable[Mapping[int, Path]], frames: Iterable[CameraFrame]) -> None:
    """`UserError` that names the poses where they leave less than 2 frames of every camera, though there are more pictures."""
    most = max(Counter(frame.camera for frame in frames).values(), default=0)
    count = max(len(paths) for paths in pictures)
    if most < 2 <= count:
        raise UserError(f"{poses}: it covers {most} of {count} pictures, and a scene needs at least 2; give an entry for every frame.")
