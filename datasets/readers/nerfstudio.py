"""nerfstudio's `transforms.json`, which DL3DV uses as well: posed photos without metric scale.

Conventions (nerfstudio's documentation, "Data conventions"): `transform_matrix` is world_from_camera with OpenGL camera axes (x right,
y up, z backward), camera models are COLMAP's, the first pixel's centre is (0.5, 0.5). The world's up is arbitrary there: here it is
turned so that the mean of the cameras' up directions is +z; the scale stays. Photos have no times, so they get 1/30 s between them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import BODY_FROM_OPENCV, OPENGL_FROM_OPENCV, PoseTrack, inverse, orthonormal, pose, rotation_fault
from splatmend.datasets.images import image_reader, image_size, mask_reader, natural_key
from splatmend.datasets.log import Camera, CameraFrame, SceneLog, SfmPoints
from splatmend.datasets.readers.colmap_points import find_colmap_points, read_points
from splatmend.datasets.readers.nerfstudio_cameras import camera_from_entry, intrinsics_entry, intrinsics_fault
from splatmend.datasets.triangulate import triangulated_points

FRAME_STEP_US = 33_333


def recognises(path: Path) -> bool:
    """Whether the path is a transforms.json or a folder with one."""
    return _transforms_file(path).is_file()


def read(path: Path) -> SceneLog:
    """The photos as a log, in the order of their file names; `UserError` where files are missing or wrong."""
    file = _transforms_file(path)
    content = _content(file)
    entries = sorted(content["frames"], key=lambda entry: natural_key(entry["file_path"]))
    images = _image_paths(file.parent, entries)
    _refuse_doubles(file, entries, images)
    present = [(entry, image) for entry in entries if (image := images[entry["file_path"]]).is_file()]
    notes = ["Photos have no times: they are taken to be 1/30 s apart in the order of their names."]
    if absent := len(entries) - len(present):
        notes.append(f"{absent} of {len(entries)} listed pictures are missing and were left out.")
    if len(present) < 2:
        raise UserError(f"{file}: only {len(present)} of {len(entries)} listed pictures exist, and a scene needs 2; copy the pictures.")
    file_from_camera = np.stack([_pose(file, entry) for entry, _ in present])
    world_from_file = _levelling(file_from_camera)
    cameras, camera_names = _cameras(file, content, present)
    frames = _frames(file.parent, present, [cameras[name] for name in camera_names], world_from_file @ file_from_camera)
    read_sfm_points, points_file = _points_reader(file, content, world_from_file, cameras, frames, notes)
    return SceneLog(
        log_id=file.parent.absolute().name,
        source="nerfstudio",
        path=file.parent,
        cameras=cameras,
        frames=frames,
        sweeps=(),
        actors=(),
        ego=PoseTrack(
            times_us=np.array([frame.start_us for frame in frames], dtype=np.int64),
            world_from_body=np.stack([frame.world_from_camera for frame in frames]) @ inverse(BODY_FROM_OPENCV),
        ),
        metric=False,
        read_sfm_points=read_sfm_points,
        sfm_points_file=points_file,
        notes=tuple(notes),
    )


def _transforms_file(path: Path) -> Path:
    return path if path.name == "transforms.json" else path / "transforms.json"


def _content(file: Path) -> dict[str, Any]:
    """What the file says, with the type of everything that is used checked but for matrices."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: this is no JSON that can be read ({error}); copy the file again.") from error
    except RecursionError:
        raise UserError(f"{file}: this is no JSON that can be read (nested too deeply); copy the file again.") from None
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(f, dict) and isinstance(f.get("file_path"), str) for f in frames):
        raise UserError(f"{file}: there is no list `frames` of entries with a `file_path`; give a transforms.json of nerfstudio.")
    for entry in (content, *frames):
        where = "the whole file" if entry is content else entry["file_path"]
        if fault := intrinsics_fault(entry):
            raise UserError(f"{file}: {fault[0]} of {where} is {fault[1]}; correct the calibration.")
        for key in ("mask_path", "ply_file_path"):
            if not isinstance(entry.get(key), str | None):
                raise UserError(f"{file}: {key} of {where} is no text; write the path of a file there, or leave it out.")
        if entry is not content and not Path(where).name:
            raise UserError(f"{file}: an entry has the file_path {where!r}, which names no picture; correct or remove the entry.")
    return content


def _refuse_doubles(file: Path, entries: list[dict[str, Any]], images: dict[str, Path]) -> None:
    """`UserError` where several entries name one picture: it would be fitted from two poses, or be fitted and held out at once."""
    path, count = Counter(images[entry["file_path"]] for entry in entries).most_common(1)[0] if entries else (file, 1)
    if count > 1:
        raise UserError(f"{file}: {count} entries name the picture {path.name}; keep the one with the right pose.")


def _image_paths(folder: Path, entries: list[dict[str, Any]]) -> dict[str, Path]:
    """Where the pictures are: as listed, or, where none of these exists, in a scaled copy of their folder (`images_4`)."""
    listed = {entry["file_path"]: folder / entry["file_path"] for entry in entries}
    listed = {name: path if path.suffix else path.with_suffix(".png") for name, path in listed.items()}
    if not listed or any(path.is_file() for path in listed.values()):
        return listed
    # The folder that all pictures lie in, however deep below it.
    whole = {name: Path(os.path.abspath(path)) for name, path in listed.items()}
    common = Path(os.path.commonpath([path.parent for path in whole.values()]))
    beside = [Path(os.path.abspath(folder)), *Path(os.path.abspath(folder)).parents]
    while common.parent not in beside and common != common.parent:
        common = common.parent
    scaled = [sibling for sibling in common.parent.glob(f"{common.name}_*") if sibling.name.rpartition("_")[2].isdecimal()]
    for sibling in sorted(scaled, key=lambda s: int(s.name.rpartition("_")[2])):
        moved = {name: sibling / path.relative_to(common) for name, path in whole.items()}
        if any(path.is_file() for path in moved.values()):
            return moved
    return listed


def _pose(file: Path, entry: dict[str, Any]) -> np.ndarray:
    """file_world_from_camera `[4, 4]` with OpenCV camera axes."""
    try:
        matrix = np.array(entry["transform_matrix"], dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{file}: {entry['file_path']} has no transform_matrix of numbers; correct its entry.") from error
    if matrix.shape not in ((3, 4), (4, 4)):
        raise UserError(f"{file}: the transform_matrix of {entry['file_path']} has shape {matrix.shape}, not 4x4; correct its entry.")
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0, 0, 0, 1]])
    if fault := rotation_fault(matrix):
        raise UserError(f"{file}: the transform_matrix of {entry['file_path']} has {fault}; correct its entry.")
    return orthonormal(matrix) @ OPENGL_FROM_OPENCV


def _levelling(file_from_camera: np.ndarray) -> np.ndarray:
    """world_from_file `[4, 4]`: the shortest turn that brings the mean of the cameras' up directions to +z."""
    up = -file_from_camera[:, :3, 1].mean(axis=0)
    length = np.linalg.norm(up)
    if length < 0.1:  # cameras rolled all ways: there is no up to find
        return np.eye(4)
    up = up / length
    axis = np.cross(up, [0.0, 0.0, 1.0])
    sine, cosine = np.linalg.norm(axis), up[2]
    if sine < 1e-9:
        return np.eye(4) if cosine > 0 else np.diag([1.0, -1.0, -1.0, 1.0])
    return pose(Rotation.from_rotvec(axis / sine * np.arctan2(sine, cosine)).as_matrix(), np.zeros(3))


def _cameras(file: Path, content: dict[str, Any], present: list[tuple[dict[str, Any], Path]]) -> tuple[dict[str, Camera], list[str]]:
    """One camera per distinct calibration, and each frame's camera name."""
    names: dict[tuple[object, ...], str] = {}
    cameras: dict[str, Camera] = {}
    per_frame = []
    for entry, image in present:
        intrinsics = intrinsics_entry(content, entry)
        key = tuple(sorted(intrinsics.items()))
        if key not in names:
            names[key] = f"camera_{len(names)}"
            width, height = image_size(image)
            cameras[names[key]] = camera_from_entry(file, names[key], intrinsics, width, height)
        per_frame.append(names[key])
    return cameras, per_frame


def _frames(
    folder: Path, present: list[tuple[dict[str, Any], Path]], cameras: list[Camera], world_from_camera: np.ndarray
) -> tuple[CameraFrame, ...]:
    counts: dict[str, int] = {}
    frames = []
    for number, ((entry, image), camera) in enumerate(zip(present, cameras)):
        index = counts.setdefault(camera.name, 0)
        counts[camera.name] += 1
        mask = entry.get("mask_path")
        frames.append(
            CameraFrame(
                camera=camera.name,
                index=index,
                start_us=number * FRAME_STEP_US,
                end_us=number * FRAME_STEP_US,
                world_from_camera_start=world_from_camera[number],
                world_from_camera_end=world_from_camera[number],
                read_image=image_reader(image, camera.width, camera.height),
                file=image,
                masks={"valid": mask_reader(folder / mask, camera.width, camera.height)} if mask else {},
            )
        )
    return tuple(frames)


def _points_reader(
    file: Path,
    content: dict[str, Any],
    world_from_file: np.ndarray,
    cameras: dict[str, Camera],
    frames: tuple[CameraFrame, ...],
    notes: list[str],
) -> tuple[Callable[[], SfmPoints], Path | None]:
    """How to get sparse points (the PLY named in the file, COLMAP's points, or triangulation from the pictures), and the file if it is one.

    nerfstudio moves COLMAP's world by `applied_transform` when it writes the file (and the PLY is written after that move). Without that
    entry nobody knows how the two worlds lie to each other, so COLMAP's points are left alone.
    """
    ply, colmap = content.get("ply_file_path"), find_colmap_points(file.parent)
    if ply and (file.parent / ply).is_file():
        return cache(lambda: read_points(file.parent / ply, world_from_file)), file.parent / ply
    if ply:
        notes.append(f"The points file {ply} that transforms.json names is missing; other points are taken instead.")
    if colmap and "applied_transform" in content:
        world_from_colmap = world_from_file @ _applied_transform(file, content)
        return cache(lambda: read_points(colmap, world_from_colmap)), colmap
    if colmap:
        notes.append(f"{colmap.name} is not used, since transforms.json has no applied_transform that ties it to the poses.")
    return cache(lambda: triangulated_points(cameras, frames)), None


def _applied_transform(file: Path, content: dict[str, Any]) -> np.ndarray:
    try:
        matrix = np.array(content["applied_transform"], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{file}: applied_transform is not a matrix of numbers; correct it.") from error
    if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
        raise UserError(f"{file}: applied_transform is not a finite 3x4 matrix; correct it.")
    return np.vstack([matrix[:3], [0, 0, 0, 1]])
