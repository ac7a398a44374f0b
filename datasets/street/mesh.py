"""Triangle meshes that carry what procedural materials need, and the few solids that streets are built from (numpy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import ConvexHull

PART_WIDTH = 20  # numbers that describe a part to its material


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """V vertices, F triangles, P parts.

    `vertices [V, 3]` metres, `normals [V, 3]` unit (interpolated over triangles), `texture [V, 3]` coordinates in metres whose meaning
    is the material's, `triangles [F, 3]`, `material [F]` (`splatmend.datasets.street.materials.Material`), `part [F]` the row of
    `parts [P, 20]` with the material's parameters: three of linear colour, a random number, then what each material documents.
    """

    vertices: np.ndarray
    normals: np.ndarray
    texture: np.ndarray
    triangles: np.ndarray
    material: np.ndarray
    part: np.ndarray
    parts: np.ndarray

    def moved(self, a_from_b: np.ndarray) -> Mesh:
        """The mesh under a rigid pose `[4, 4]`; texture coordinates stay."""
        rotation = a_from_b[:3, :3]
        return replace(self, vertices=self.vertices @ rotation.T + a_from_b[:3, 3], normals=self.normals @ rotation.T)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.vertices.min(0), self.vertices.max(0)


def part_row(colour: Sequence[float] | np.ndarray, seed: float, *values: float) -> np.ndarray:
    """One row of `Mesh.parts`: linear RGB, a random number in [0, 1), the material's own values."""
    row = np.zeros(PART_WIDTH, dtype=np.float32)
    row[:3], row[3] = colour, seed
    row[4 : 4 + len(values)] = values
    return row


def mesh_of(
    vertices: np.ndarray,
    triangles: np.ndarray,
    material: int,
    part: np.ndarray,
    texture: np.ndarray | None = None,
    normals: np.ndarray | None = None,
) -> Mesh:
    """A mesh of one part. Without `texture` it is the position; without `normals` triangles are flat (their vertices are split)."""
    vertices, triangles = np.asarray(vertices, dtype=np.float64), np.asarray(triangles, dtype=np.int64)
    texture = vertices if texture is None else np.asarray(texture, dtype=np.float64)
    if normals is None:
        corners = vertices[triangles]
        flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(flat, axis=1)
        keep = length > 1e-10
        flat = flat[keep] / length[keep, None]
        vertices, texture = corners[keep].reshape(-1, 3), texture[triangles[keep]].reshape(-1, 3)
        normals = np.repeat(flat, 3, axis=0)
        triangles = np.arange(len(vertices)).reshape(-1, 3)
    count = len(triangles)
    return Mesh(
        vertices=vertices,
        normals=normals,
        texture=texture,
        triangles=triangles,
        material=np.full(count, int(material), dtype=np.int64),
        part=np.zeros(count, dtype=np.int64),
        parts=np.asarray(part, dtype=np.float32)[None],
    )


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """All meshes as one; parts are renumbered."""
    vertex_start = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    part_start = np.cumsum([0, *(len(mesh.parts) for mesh in meshes)])
    return Mesh(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        normals=np.concatenate([mesh.normals for mesh in meshes]),
        texture=np.concatenate([mesh.texture for mesh in meshes]),
        triangles=np.concatenate([mesh.triangles + start for mesh, start in zip(meshes, vertex_start)]),
        material=np.concatenate([mesh.material for mesh in meshes]),
        part=np.concatenate([mesh.part + start for mesh, start in zip(meshes, part_start)]),
        parts=np.concatenate([mesh.parts for mesh in meshes]),
    )


def smooth_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted vertex normals `[V, 3]`."""
    corners = vertices[triangles]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    out = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(out, triangles[:, corner], flat)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


_BOX_QUADS = {
    "left": (2, 3, 7, 6),
    "right": (0, 4, 5, 1),
    "front": (4, 6, 7, 5),
    "back": (0, 1, 3, 2),
    "top": (1, 5, 7, 3),
    "bottom": (0, 2, 6, 4),
}


def box(low: Sequence[float], high: Sequence[float], material: int, part: np.ndarray, without: Sequence[str] = ()) -> Mesh:
    """An upright box from corner to corner; sides named in `without` (left is +y, front is +x) are left out."""
    lo, hi = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    corners = np.array([[x, y, z] for x in (lo[0], hi[0]) for y in (lo[1], hi[1]) for z in (lo[2], hi[2])])
    triangles = [tri for name, (a, b, c, d) in _BOX_QUADS.items() if name not in without for tri in ((a, b, c), (a, c, d))]
    return mesh_of(corners, np.array(triangles), material, part)


def quad(corners: np.ndarray, texture: np.ndarray, material: int, part: np.ndarray) -> Mesh:
    """A flat four-cornered face `[4, 3]`, counter-clockwise seen from outside, with texture coordinates `[4, 3]`."""
    return mesh_of(corners, np.array([[0, 1, 2], [0, 2, 3]]), material, part, texture)


def tube(path: np.ndarray, radius_m: np.ndarray, sides: int, material: int, part: np.ndarray) -> Mesh:
    """A smooth tube of given radii `[K]` along points `[K, 3]`; texture is (angle times radius, length, 0)."""
    path = np.asarray(path, dtype=np.float64)
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    helper = np.where(np.abs(tangent[:, 2:3]) > 0.9, [[1.0, 0, 0]], [[0, 0, 1.0]])
    across = np.cross(helper, tangent)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    over = np.cross(tangent, across)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.cos(angle)[None, :, None] * across[:, None] + np.sin(angle)[None, :, None] * over[:, None]
    radius = np.asarray(radius_m, dtype=np.float64)
    vertices = path[:, None] + ring * radius[:, None, None]
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    texture = np.stack(
        [angle[None] * radius[:, None].mean() + 0 * length[:, None], length[:, None] + 0 * angle, np.zeros(ring.shape[:2])], -1
    )
    return mesh_of(
        vertices.reshape(-1, 3), grid_triangles(len(path), sides + 1), material, part, texture.reshape(-1, 3), ring.reshape(-1, 3)
    )


def grid_triangles(rows: int, columns: int) -> np.ndarray:
    """Triangles of a grid of vertices numbered row by row; the face (row, column) x (column, row) turns counter-clockwise."""
    start = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1)
    return np.concatenate(
        [np.stack([start, start + 1, start + columns + 1], 1), np.stack([start, start + columns + 1, start + columns], 1)]
    )


def cylinder(radius_m: float, half_width_m: float, sides: int, material: int, part: np.ndarray) -> Mesh:
    """A closed cylinder around the y axis (a wheel), flat-shaded on its caps; texture is the position."""
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    rim = np.stack([np.cos(angle) * radius_m, np.zeros(sides), np.sin(angle) * radius_m], axis=1)
    right, left = rim - np.array([0, half_width_m, 0]), rim + np.array([0, half_width_m, 0])
    vertices = np.concatenate([right, left, [[0, -half_width_m, 0], [0, half_width_m, 0]]])
    i, j = np.arange(sides), (np.arange(sides) + 1) % sides
    ring = np.concatenate([np.stack([i, sides + j, j], 1), np.stack([i, sides + i, sides + j], 1)])
    caps = np.concatenate(
        [np.stack([np.full(sides, 2 * sides), i, j], 1), np.stack([np.full(sides, 2 * sides + 1), sides + j, sides + i], 1)]
    )
    return mesh_of(vertices, np.concatenate([ring, caps]), material, part)


def icosphere(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices `[V, 3]` on the unit sphere and triangles `[F, 3]`: an icosahedron whose faces are quartered again and again."""
    golden = (1 + 5**0.5) / 2
    plane = np.array([[0, a, b * golden] for a in (-1, 1) for b in (-1, 1)])
    vertices = np.concatenate([np.roll(plane, shift, axis=1) for shift in range(3)])
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    triangles = ConvexHull(vertices).simplices
    corners = vertices[triangles]
    inward = np.einsum("ij,ij->i", np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), corners.mean(1)) < 0
    triangles = np.where(inward[:, None], triangles[:, ::-1], triangles).astype(np.int64)
    for _ in range(subdivisions):
        sides = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
        edges, edge_of = np.unique(sides, axis=0, return_inverse=True)
        middle = edge_of.reshape(3, -1) + len(vertices)
        a, b, c = triangles.T
        ab, bc, ca = middle
        halves = vertices[edges].mean(1)
        vertices = np.concatenate([vertices, halves / np.linalg.norm(halves, axis=1, keepdims=True)])
        triangles = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return vertices, triangles
