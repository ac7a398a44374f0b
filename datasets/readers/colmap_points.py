"""Sparse points of COLMAP (`points3D.bin`, `points3D.txt`) and of PLY files.

Format: COLMAP's documentation, "Output Format". Points are in COLMAP's world; `world_from_points` moves them.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyParseError

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import transform
from splatmend.datasets.log import SfmPoints
from splatmend.datasets.readers.text_files import read_lines

_HEAD = struct.Struct("<Q3d3BdQ")  # id, xyz, rgb, reprojection error, length of the track
_TRACK_ITEM_BYTES = 8


def find_colmap_points(folder: Path) -> Path | None:
    """The points file of the usual places under a data set's folder; binary first."""
    for sparse in ("sparse/0", "colmap/sparse/0", "sparse"):
        for name in ("points3D.bin", "points3D.txt"):
            if (folder / sparse / name).is_file():
                return folder / sparse / name
    return None


def read_points(path: Path, world_from_points: np.ndarray) -> SfmPoints:
    """Points of a .bin, .txt or .ply file, moved by `[4, 4]` (which may mirror or scale). `UserError` where the file is broken."""
    readers = {".bin": _read_binary, ".txt": _read_text, ".ply": _read_ply}
    if path.suffix not in readers:
        raise UserError(f"{path}: points are read from .bin, .txt or .ply files; name one of these.")
    xyz, rgb = readers[path.suffix](path)
    if not np.isfinite(xyz).all():
        raise UserError(f"{path}: there is a point that is not finite; write the points again.")
    return SfmPoints(xyz_world_m=transform(world_from_points, xyz), rgb=rgb)


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data = path.read_bytes()
    try:
        (count,) = struct.unpack_from("<Q", data)
        offset = 8
        xyz, rgb = np.zeros((count, 3)), np.zeros((count, 3), dtype=np.uint8)
        for point in range(count):
            _, *values, _error, track_length = _HEAD.unpack_from(data, offset)
            xyz[point], rgb[point] = values[:3], values[3:]
            offset += _HEAD.size + _TRACK_ITEM_BYTES * track_length
    except (struct.error, MemoryError, ValueError) as error:
        raise UserError(f"{path}: the points file is cut short; copy it again.") from error
    if offset != len(data):
        raise UserError(f"{path}: the points file has {len(data)} bytes where {offset} are expected; copy it again.")
    return xyz, rgb


def _read_text(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = []
    for number, line in enumerate(read_lines(path)):
        if line.startswith("#") or not line.strip():
            continue
        try:
            rows.append([float(word) for word in line.split()[1:7]])
        except ValueError as error:
            raise UserError(f"{path}: line {number + 1} is no point; write the file again.") from error
        if len(rows[-1]) != 6:
            raise UserError(f"{path}: line {number + 1} is cut short; write the file again.")
    values = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return values[:, :3], values[:, 3:].astype(np.uint8)


def _read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        vertices = PlyData.read(str(path))["vertex"].data
        xyz = np.stack([vertices[axis] for axis in ("x", "y", "z")], axis=-1).astype(np.float64)
        rgb = np.stack([vertices[colour] for colour in ("red", "green", "blue")], axis=-1)
    except (OSError, PlyParseError, KeyError, ValueError, TypeError, IndexError, MemoryError) as error:
        raise UserError(f"{path}: cannot read points with x y z red green blue ({error}); write the PLY again.") from error
    return xyz, rgb.astype(np.uint8)
