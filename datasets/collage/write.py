"""A collage as a log folder in nerfstudio's layout: pictures, `transforms.json`, sparse points."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from plyfile import PlyData, PlyElement

from splatmend.datasets.collage.build import build_collage
from splatmend.datasets.collage.config import CollageConfig
from splatmend.datasets.collage_mark import MADE_BY
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import OPENGL_FROM_OPENCV
from splatmend.datasets.images import images_in, read_image, write_image
from splatmend.datasets.video import VIDEO_SUFFIXES, iter_video

_FRAMES_OF_A_VIDEO = 6
_LONGEST_SIDE_PX = 1280
_SHORTEST_SIDE_PX = 16


def write_collage(config: CollageConfig, sources: Iterable[Path], folder: Path) -> None:
    """Write a collage of pictures and videos into an empty or missing folder. `UserError` for sources that cannot be read."""
    photos = list(photos_of(sources))
    if not photos:
        raise UserError("collage: no pictures are given; give images, folders of images or videos to cut from.")
    collage = build_collage(config, photos)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for number, picture in enumerate(collage.pictures()):
        name = f"images/{number:05d}.png"
        write_image(folder / name, picture)
        # OpenGL axes, as nerfstudio has them; the matrix that turns them is its own inverse.
        matrix = collage.world_from_camera[number] @ OPENGL_FROM_OPENCV
        entries.append({"file_path": name, "transform_matrix": matrix.tolist()})
    xyz, rgb = collage.sparse_points()
    _write_points(folder / "points.ply", xyz, rgb)
    k = collage.intrinsics
    content = {
        "camera_model": "OPENCV",
        "w": config.width,
        "h": config.height,
        "fl_x": k[0, 0],
        "fl_y": k[1, 1],
        "cx": k[0, 2],
        "cy": k[1, 2],
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "ply_file_path": "points.ply",
        "frames": entries,
        "made_by": MADE_BY,
    }
    (folder / "transforms.json").write_text(json.dumps(content, indent=1) + "\n")


def photos_of(sources: Iterable[Path]) -> Iterator[np.ndarray]:
    """The pictures of images, folders of images and videos (a few frames each), `[h, w, 3]` uint8, at most 1280 pixels long.

    Raises `UserError` for a source that cannot be read, a folder without pictures, and a picture that is too small to cut from.
    """
    for source in sources:
        if source.is_dir():
            images = images_in(source)
            if not images:
                raise UserError(f"{source}: there are no pictures in this folder; give another.")
            yield from (_bounded(read_image(image), image) for image in images)
        elif source.suffix.lower() in VIDEO_SUFFIXES:
            yield from _spread(source)
        else:
            yield _bounded(read_image(source), source)


def _spread(video: Path) -> Iterator[np.ndarray]:
    """Some frames of a video, evenly over its length."""
    count = sum(1 for _ in iter_video(video))
    wanted = set(np.linspace(0, max(count - 1, 0), _FRAMES_OF_A_VIDEO).round().astype(int).tolist())
    yield from (_bounded(rgb, video) for number, rgb in enumerate(iter_video(video)) if number in wanted)


def _bounded(rgb: np.ndarray, source: Path) -> np.ndarray:
    height, width = rgb.shape[:2]
    scale = min(_LONGEST_SIDE_PX / max(height, width), 1.0)
    if min(height, width) * scale < _SHORTEST_SIDE_PX:
        raise UserError(
            f"{source}: {width}x{height} pixels are too few to cut from; give pictures of {_SHORTEST_SIDE_PX} pixels or more each way, and "
            f"no longer than {_LONGEST_SIDE_PX // _SHORTEST_SIDE_PX} times their width or height."
        )
    if scale == 1.0:
        return rgb
    return cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _write_points(path: Path, xyz: np.ndarray, rgb: np.ndarray) -> None:
    fields = [(name, "f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    table = np.empty(len(xyz), dtype=fields)
    for column, name in enumerate("xyz"):
        table[name] = xyz[:, column]
    for column, name in enumerate(("red", "green", "blue")):
        table[name] = rgb[:, column]
    PlyData([PlyElement.describe(table, "vertex")]).write(str(path))
