"""Places on a mesh, evenly spread over what can be seen of it from outside, with normals that look outwards.

Time and memory go by the number of places, not of faces. What is outside is decided by depth buffers of the places themselves from many
directions, so that neither the order of a face's corners, nor inner walls, nor mirrored transforms matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

_DIRECTIONS = 64
_LOWEST = -0.6
"""Sine of the elevation of the lowest direction looked from: bodies stand on the ground, and an open floor shows its inside."""
_LEAST_COSINE = 0.25
_CELL = 2.5
"""Side of a pixel over the distance of places: one in five hundred is empty by chance where something lies."""
LEAST_SEEN = 1.0
"""Sum of cosines over the directions from which on a place counts as seen; less comes from empty pixels."""
_PACKING = 0.8
"""Distance between places, over the square root of the area of each, at which random placing with this minimum fills up."""


@dataclass(frozen=True, kw_only=True)
class SurfacePoints:
    """M places on triangles: `xyz [M, 3]`, unit `flat_normals [M, 3]` of the triangles, which `face [M]` and where on it `weights [M, 3]`
    (of its corners)."""

    xyz: np.ndarray
    flat_normals: np.ndarray
    face: np.ndarray
    weights: np.ndarray

    def select(self, which: np.ndarray) -> SurfacePoints:
        return SurfacePoints(xyz=self.xyz[which], flat_normals=self.flat_normals[which], face=self.face[which], weights=self.weights[which])


def scattered(vertices: np.ndarray, faces: np.ndarray, count: int, generator: np.random.Generator) -> tuple[SurfacePoints, float]:
    """`count` places with even chances over the area, stratified along the list of faces, in random order; and the whole area."""
    corners = [vertices[faces[:, i]] for i in range(3)]
    edges = corners[1] - corners[0], corners[2] - corners[0]
    cross = np.cross(*edges)
    areas = 0.5 * np.linalg.norm(cross, axis=1)
    summed = np.cumsum(areas)
    total = float(summed[-1]) if len(summed) else 0.0
    if not total > 0:
        return _none(), 0.0
    places = (np.arange(count) + generator.random(count)) / count * total
    generator.shuffle(places)
    face = np.minimum(np.searchsorted(summed, places, side="right"), len(faces) - 1)
    # Turk (1990): a square of random numbers folded onto a triangle.
    a, b = generator.random((2, count))
    fold = a + b > 1
    a[fold], b[fold] = 1 - a[fold], 1 - b[fold]
    weights = np.stack([1 - a - b, a, b], axis=1)
    xyz = sum(weights[:, i, None] * corners[i][face] for i in range(3))
    normals = cross[face] / (2 * areas[face, None])
    return SurfacePoints(xyz=np.asarray(xyz), flat_normals=normals, face=face, weights=weights), total


def _none() -> SurfacePoints:
    return SurfacePoints(xyz=np.zeros((0, 3)), flat_normals=np.zeros((0, 3)), face=np.zeros(0, np.int64), weights=np.zeros((0, 3)))


def seen_from_outside(xyz: np.ndarray, normals: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """How much of each place `[M]` is seen from outside on the side of its normal and on the other: sums of cosines over directions from
    which nothing lies before it. `spacing` is the mean distance between the places; z is up."""
    front, back = np.zeros(len(xyz)), np.zeros(len(xyz))
    cell = _CELL * spacing
    for direction in _directions():
        cosine = normals @ direction
        u = np.cross(direction, [0.0, 0.0, 1.0] if abs(direction[2]) < 0.9 else [1.0, 0.0, 0.0])
        u /= np.linalg.norm(u)
        v = np.cross(direction, u)
        column, row = (np.floor((xyz @ axis - (xyz @ axis).min()) / cell).astype(np.int64) for axis in (u, v))
        where = row * (int(column.max()) + 1) + column
        nearness = xyz @ direction
        nearest = np.full(int(where.max()) + 1, -np.inf)
        np.maximum.at(nearest, where, nearness)
        steep = np.sqrt(np.maximum(1 - cosine**2, 0)) / np.maximum(np.abs(cosine), 1e-6)
        seen = (np.abs(cosine) > _LEAST_COSINE) & (nearness >= nearest[where] - cell * (0.5 + 0.9 * steep))
        front += np.where(seen & (cosine > 0), cosine, 0)
        back += np.where(seen & (cosine < 0), -cosine, 0)
    return front, back


def thinned(xyz: np.ndarray, normals: np.ndarray, distance: float) -> np.ndarray:
    """Which places `[M]` of a list in random order stay so that none of like normals are nearer to each other than `distance` and no more
    can be added: each stays unless an earlier one that stays is near."""
    pairs = cKDTree(xyz).query_pairs(distance, output_type="ndarray")
    pairs = pairs[(normals[pairs[:, 0]] * normals[pairs[:, 1]]).sum(axis=1) > 0.3]
    early, late = pairs.min(axis=1), pairs.max(axis=1)
    # Rounds of all that wait for no undecided one give what the walk through the list would.
    undecided, stays = np.ones(len(xyz), dtype=bool), np.zeros(len(xyz), dtype=bool)
    while undecided.any():
        waits = np.zeros(len(xyz), dtype=bool)
        waits[late] = True
        accepted = undecided & ~waits
        stays |= accepted
        dropped = np.zeros(len(xyz), dtype=bool)
        dropped[late[accepted[early]]] = True
        undecided &= ~(accepted | dropped)
        live = undecided[early] & undecided[late]
        early, late = early[live], late[live]
    return stays


def spread(count: int, area: float) -> float:
    """The minimum distance with which `thinned` leaves about `count` places on an area."""
    return float(_PACKING * np.sqrt(area / count))


def _directions() -> np.ndarray:
    index = np.arange(_DIRECTIONS) + 0.5
    up = 1 - (1 - _LOWEST) * index / _DIRECTIONS
    turn = index * np.pi * (1 + 5**0.5)
    flat = np.sqrt(1 - up**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), up], axis=1)
