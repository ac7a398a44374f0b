"""Where everything of a street stands: road, pavements, houses, trees and furniture along the centreline, drawn from the seed (numpy)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from splatmend.datasets.street import furniture
from splatmend.datasets.street.buildings import DISTRICTS, District, building
from splatmend.datasets.street.centreline import Centreline, winding_line
from splatmend.datasets.street.materials import Material
from splatmend.datasets.street.mesh import Mesh, box, grid_triangles, joined, mesh_of, part_row, smooth_normals

KERB_M = 0.12
BEHIND_M = 45.0
AHEAD_M = 150.0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The road's line and widths, and the mesh of everything that does not move. `parking_m[side]` is the width of the parking lane on
    the left (1) and right (-1), 0 without one; the road's half widths are lane plus parking."""

    line: Centreline
    start_m: float
    end_m: float
    lane_m: float
    parking_m: dict[int, float]
    pavement_m: dict[int, float]
    district: District
    static: Mesh

    def half_width(self, side: int) -> float:
        return self.lane_m + self.parking_m[side]


def lay_out(seed: int, drive_m: float) -> Layout:
    """A street long enough for a drive of `drive_m` metres from s = 0."""
    generator = np.random.default_rng([seed, 1])
    start, end = -BEHIND_M, drive_m + AHEAD_M
    line = winding_line(generator, start - 15, end + 30)
    district = DISTRICTS[str(generator.choice(list(DISTRICTS)))]
    lane = generator.uniform(3.0, 3.5)
    parking = [{1: 2.2, -1: 2.2}, {1: 2.2, -1: 0.0}, {1: 0.0, -1: 2.2}][generator.choice(3, p=[0.6, 0.15, 0.25])]
    pavement = {side: generator.uniform(2.0, 3.8) for side in (1, -1)}
    meshes = [_road(generator, line, start, end, lane, parking)]
    leaf = furniture.leaf_colour(generator)
    steel = np.array([[0.05, 0.06, 0.055], [0.28, 0.29, 0.30], [0.03, 0.08, 0.06]])[generator.integers(3)]
    lamp_style, tall_side = int(generator.integers(2)), int(generator.choice([-1, 1]))
    slab = (generator.uniform(0.4, 1.0), generator.choice([0.4, 0.6, 0.9]), generator.choice([0.0, 0.5]))
    slab_colour = np.array([0.30, 0.285, 0.26]) * generator.uniform(0.75, 1.3) * (1 + generator.uniform(-0.08, 0.08, 3))
    for side in (1, -1):
        edge = lane + parking[side]
        meshes += _pavement(generator, line, start, end, side, edge, pavement[side], slab, slab_colour)
        meshes += _houses(generator, line, start, end, side, edge + pavement[side], district, leaf)
        meshes += _furniture(generator, line, start, end, side, edge, pavement[side], district, leaf, steel, lamp_style, tall_side)
    meshes += _ends(generator, line, start, end, district)
    return Layout(
        line=line, start_m=start, end_m=end, lane_m=lane, parking_m=parking, pavement_m=pavement, district=district, static=joined(meshes)
    )  # fmt: skip


def _ribbon(
    line: Centreline, s: np.ndarray, lefts: np.ndarray, ups: np.ndarray, material: int, part: np.ndarray, shift: float = 0.0
) -> Mesh:
    """A strip along the road through a cross-section given from left to right; texture is (along, left, 0)."""
    grid = line.point(s[:, None], lefts[None], ups[None])
    across = np.concatenate([[0], np.cumsum(np.hypot(np.diff(lefts), np.diff(ups)))])
    texture = np.stack(np.broadcast_arrays(s[:, None], lefts[0] - across[None] + shift, 0.0), axis=-1)
    triangles = grid_triangles(len(s), len(lefts))[:, ::-1]
    vertices = grid.reshape(-1, 3)
    return mesh_of(vertices, triangles, material, part, texture.reshape(-1, 3), smooth_normals(vertices, triangles))


def _road(generator: np.random.Generator, line: Centreline, start: float, end: float, lane: float, parking: dict[int, float]) -> Mesh:
    s = np.arange(start - 12, end + 20, 2.5)
    crossings = generator.uniform(18, 40), generator.uniform(55, 95)
    if generator.random() < 0.35:
        crossings = (crossings[0] + 1e4, crossings[1])
    half = lane + max(parking.values())
    grey = generator.uniform(0.075, 0.15)
    values = (
        half,
        lane,
        *crossings,
        generator.uniform(0.2, 0.8),
        generator.uniform(0, 3),
        float(generator.random() < 0.3),
        generator.choice([3.0, 6.0, 9.0]),
    )
    part = part_row(grey * np.array([1.0, 0.98, 0.95]), generator.random(), *values)
    lefts = np.array([lane + parking[1], 0.5 * lane, -0.5 * lane, -lane - parking[-1]])
    return _ribbon(line, s, lefts, np.zeros(4), Material.ROAD, part)


def _pavement(
    generator: np.random.Generator, line: Centreline, start: float, end: float, side: int, edge: float, width: float,
    slab: tuple[float, float, float], colour: np.ndarray,
) -> list[Mesh]:  # fmt: skip
    s = np.arange(start - 12, end + 20, 2.5)
    kerb = part_row(np.array([0.36, 0.35, 0.33]), generator.random(), 0.9)
    stones = part_row(colour, generator.random(), *slab)
    ground = (
        part_row(np.array([0.07, 0.10, 0.03]), generator.random())
        if generator.random() < 0.75
        else part_row(np.array([0.20, 0.17, 0.13]), generator.random())
    )

    # Cross-sections from left to right; on the left side of the road the outer edge comes first.
    def section(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
        lefts, ups = np.array([p[0] for p in points]) * side, np.array([p[1] for p in points])
        return (lefts[::-1], ups[::-1]) if side == 1 else (lefts, ups)

    inner, outer = edge + 0.15, edge + width
    meshes = [
        _ribbon(line, s, *section([(edge, 0.0), (edge, KERB_M)]), Material.CONCRETE, kerb),
        _ribbon(line, s, *section([(edge, KERB_M), (inner, KERB_M)]), Material.CONCRETE, kerb),
        _ribbon(line, s, *section([(inner, KERB_M), (outer, KERB_M + 0.03)]), Material.PAVEMENT, stones),
        _ribbon(line, s, *section([(outer, KERB_M + 0.02), (outer + 14, KERB_M + 0.1)]), Material.GRASS, ground),
        _ribbon(
            line, s[::4], *section([(outer + 14, KERB_M + 0.1), (outer + 80, -0.5)]), Material.GRAVEL, part_row((0.12, 0.13, 0.07), 0.3)
        ),
    ]
    return meshes


def _house_pose(line: Centreline, s0: float, s1: float, side: int, left_m: float) -> tuple[np.ndarray, float]:
    """Pose of a house's local frame whose front spans s0 to s1, and the front's width."""
    a, b = line.point(s0, side * left_m), line.point(s1, side * left_m)
    if side == -1:
        a, b = b, a
    along = np.array([b[0] - a[0], b[1] - a[1], 0.0])
    width = float(np.linalg.norm(along))
    along /= width
    pose = np.eye(4)
    pose[:3, :3] = np.stack([along, np.cross([0, 0, 1.0], along), [0, 0, 1.0]], axis=1)
    pose[:3, 3] = [a[0], a[1], min(a[2], b[2]) + KERB_M]
    return pose, width


def _detail_along(end: float) -> Callable[[float], float]:
    """How finely trees are made at a place along the road: fully where the vehicle passes, coarsely where it only looks."""
    return lambda s: 1.0 if -10 < s < end - AHEAD_M + 30 else 0.3


def _houses(
    generator: np.random.Generator, line: Centreline, start: float, end: float, side: int, edge: float, district: District, leaf: np.ndarray
) -> list[Mesh]:
    meshes: list[Mesh] = []
    detail = _detail_along(end)
    s, setback = start - 8.0, generator.uniform(*district.setback_m)
    while s < end + 6:
        front = generator.uniform(*district.front_m)
        if generator.random() < 0.4:
            setback = generator.uniform(*district.setback_m)
        pose, width = _house_pose(line, s, s + front, side, edge + setback)
        meshes.append(building(generator, district, width).moved(pose))
        if setback > 1.2:
            border_pose, border = _house_pose(line, s, s + front, side, edge + 0.1)
            gate = generator.uniform(0.3, 0.6) * border
            for begin, length in ((0.0, gate - 0.7), (gate + 0.7, border - gate - 0.7)):
                if length < 1:
                    continue
                shifted = border_pose.copy()
                shifted[:3, 3] += border_pose[:3, 0] * begin
                made = (
                    furniture.hedge(generator, length, leaf)
                    if generator.random() < district.hedge_share
                    else furniture.low_wall(generator, length)
                )
                meshes.append(made.moved(shifted))
        s += front
        if generator.random() < district.gap_share:
            gap = generator.uniform(3.0, 7.5)
            meshes.append(
                furniture.tree(generator, leaf, detail(s) * 0.6).moved(
                    line.frame(s + gap / 2, side * (edge + generator.uniform(4, 8)), KERB_M)
                )
            )
            s += gap
    return meshes


def _furniture(
    generator: np.random.Generator, line: Centreline, start: float, end: float, side: int, edge: float, width: float,
    district: District, leaf: np.ndarray, steel: np.ndarray, lamp_style: int, tall_side: int,
) -> list[Mesh]:  # fmt: skip
    meshes: list[Mesh] = []
    detail = _detail_along(end)

    def put(mesh: Mesh, s: float, from_kerb: float, turn: float = 0.0) -> None:
        meshes.append(mesh.moved(line.frame(s, side * (edge + from_kerb), KERB_M, turn_rad=turn)))

    # An arm along +y reaches over the road from the right side; on the left it is turned half round.
    inward = 0.0 if side == -1 else np.pi
    if side == tall_side or lamp_style == 1:
        for s in np.arange(start + generator.uniform(0, 12), end, 24.0):
            put(furniture.lamp(generator, lamp_style, steel), s, 0.45, inward)
    for s in np.arange(start + 3, end, district.tree_spacing_m):
        if generator.random() < 0.72:
            put(furniture.tree(generator, leaf, detail(s)), s + generator.uniform(-2.5, 2.5), 0.85, generator.uniform(0, 6.3))
    for s in np.arange(start + generator.uniform(0, 20), end, 31.0):
        put(furniture.sign_post(generator), s + generator.uniform(-6, 6), 0.4, 0.0 if side == -1 else np.pi)
    for s in np.arange(start, end, 9.0):
        chance = generator.random()
        if chance < 0.22:
            put(furniture.bin_on_wheels(generator), s + generator.uniform(0, 8), width - 0.45, inward)
        elif chance < 0.34:
            for step in range(int(generator.integers(3, 6))):
                put(furniture.bollard(generator, steel), s + 1.6 * step, 0.3)
    return meshes


def _ends(generator: np.random.Generator, line: Centreline, start: float, end: float, district: District) -> list[Mesh]:
    """The street ends in front of houses, so that no ray leaves the world along the road; a plain closes the ground below."""
    meshes = [box((-900, -900, -2.2), (900, 900, -2.0), Material.GRAVEL, part_row((0.12, 0.13, 0.07), 0.2), without=("bottom",))]
    for s, turn in ((start - 10, np.pi), (end + 16, 0.0)):
        for offset in (-1, 0, 1):
            width = generator.uniform(12, 18)
            pose = line.frame(s, 0.0, turn_rad=turn - np.pi / 2)
            # The house's x runs along its front: here across the road, to the right as seen by who comes.
            pose[:3, 3] += pose[:3, 0] * (offset * 17 - width / 2)
            meshes.append(building(generator, district, width).moved(pose))
    return meshes
