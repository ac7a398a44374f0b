"""Houses: walls, roofs, ledges, sills, balconies, awnings (numpy). Local frame: x along the front, y into the house, z up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splatmend.datasets.street.materials import Material
from splatmend.datasets.street.mesh import Mesh, box, joined, mesh_of, part_row, quad, tube

_BRICKS = np.array([[0.30, 0.12, 0.075], [0.24, 0.10, 0.07], [0.38, 0.22, 0.13], [0.20, 0.13, 0.10], [0.42, 0.33, 0.22]])
_PLASTERS = np.array(
    [
        [0.66, 0.62, 0.53],
        [0.62, 0.52, 0.34],
        [0.58, 0.40, 0.30],
        [0.50, 0.53, 0.52],
        [0.72, 0.71, 0.68],
        [0.40, 0.47, 0.52],
        [0.56, 0.58, 0.44],
    ]
)
_STONES = np.array([[0.46, 0.42, 0.34], [0.36, 0.35, 0.33], [0.52, 0.47, 0.38]])
_ROOFS = np.array([[0.30, 0.10, 0.06], [0.12, 0.11, 0.11], [0.22, 0.13, 0.09], [0.16, 0.17, 0.19]])


@dataclass(frozen=True, kw_only=True)
class District:
    """What the houses of a street have in common."""

    storeys: tuple[int, int]
    shop_share: float
    gable_share: float
    gap_share: float
    setback_m: tuple[float, float]
    wall_weights: tuple[float, float, float, float]  # brick, plaster, stone, panels
    front_m: tuple[float, float]
    tree_spacing_m: float
    hedge_share: float


DISTRICTS: dict[str, District] = {
    "old town": District(
        storeys=(3, 5),
        shop_share=0.55,
        gable_share=0.35,
        gap_share=0.06,
        setback_m=(0.0, 0.3),
        wall_weights=(0.2, 0.5, 0.3, 0.0),
        front_m=(8, 15),
        tree_spacing_m=26,
        hedge_share=0.0,
    ),
    "terraces": District(
        storeys=(2, 3),
        shop_share=0.08,
        gable_share=0.9,
        gap_share=0.12,
        setback_m=(1.5, 3.0),
        wall_weights=(0.65, 0.3, 0.05, 0.0),
        front_m=(6, 11),
        tree_spacing_m=15,
        hedge_share=0.5,
    ),
    "suburb": District(
        storeys=(1, 2),
        shop_share=0.0,
        gable_share=1.0,
        gap_share=0.75,
        setback_m=(4.0, 8.0),
        wall_weights=(0.35, 0.6, 0.05, 0.0),
        front_m=(9, 15),
        tree_spacing_m=11,
        hedge_share=0.8,
    ),
    "modern": District(
        storeys=(4, 8),
        shop_share=0.45,
        gable_share=0.0,
        gap_share=0.25,
        setback_m=(0.5, 3.5),
        wall_weights=(0.2, 0.25, 0.1, 0.45),
        front_m=(14, 26),
        tree_spacing_m=13,
        hedge_share=0.15,
    ),
}


def building(generator: np.random.Generator, district: District, front_m: float) -> Mesh:
    """A house whose front is `front_m` wide."""
    wall = int(generator.choice(4, p=district.wall_weights))
    palette = (_BRICKS, _PLASTERS, _STONES, np.array([[0.42, 0.42, 0.42], [0.28, 0.30, 0.33], [0.55, 0.53, 0.50], [0.20, 0.16, 0.13]]))[
        wall
    ]
    colour = palette[generator.integers(len(palette))] * generator.uniform(0.8, 1.12) * (1 + generator.uniform(-0.06, 0.06, 3))
    trim = (
        np.array([0.62, 0.60, 0.55]) * generator.uniform(0.75, 1.15) if generator.random() < 0.7 else colour * generator.uniform(0.45, 1.25)
    )
    storeys = int(generator.integers(district.storeys[0], district.storeys[1] + 1))
    storey_m = generator.uniform(2.8, 3.4)
    shop = generator.random() < district.shop_share
    ground_m = generator.uniform(3.6, 4.2) if shop else storey_m
    height = ground_m + (storeys - 1) * storey_m + generator.uniform(0.3, 0.7)
    pitch = generator.uniform(2.2, 3.4)
    window_w, window_h = (
        (pitch - generator.uniform(0.3, 0.6), 1.6) if wall == 3 else (generator.uniform(0.95, 1.45), generator.uniform(1.3, 1.75))
    )
    sill = generator.uniform(0.75, 0.95)
    depth = generator.uniform(9, 12)
    seed = generator.random()
    lit = generator.choice([0.0, 0.03, 0.08])
    panes = float(generator.choice([1, 2, 2, 3]))

    def part(width: float, bays: float, ground_kind: float) -> np.ndarray:
        values = (wall, pitch, storey_m, ground_m, window_w, window_h, sill, width, height, *trim, ground_kind, lit, panes, bays)
        # The table has 20 columns: parameters start at column 4.
        return part_row(np.clip(colour, 0.02, 0.85), seed, *values)

    base = -1.0
    front = part(front_m, 1.0 if wall == 3 else 0.96, 1.0 if shop else 0.0)
    flank = part(depth, 0.35, 2.0)
    meshes = [
        _wall((0, 0), (front_m, 0), base, height, front),
        _wall((front_m, 0), (front_m, depth), base, height, flank),
        _wall((0, depth), (0, 0), base, height, flank),
        _wall((front_m, depth), (0, depth), base, height, front),
    ]
    ledge = part_row(np.clip(trim, 0.05, 0.8), seed)
    if generator.random() < district.gable_share:
        meshes += _gable_roof(generator, front_m, depth, height, colour, seed)
    else:
        meshes += _flat_roof(front_m, depth, height, ledge)
    if wall != 3 and generator.random() < 0.65:
        meshes.append(
            box((-0.05, -0.12, ground_m - 0.12), (front_m + 0.05, 0, ground_m + 0.08), Material.PLAIN, ledge, without=("left", "bottom"))
        )
    meshes += _bays(generator, front_m, pitch, storeys, storey_m, ground_m, sill, window_w, window_h, height, wall, ledge, seed)
    if shop and generator.random() < 0.6:
        meshes.append(_awning(generator, front_m, ground_m))
    pipe = 0.22 if generator.random() < 0.5 else front_m - 0.22
    meshes.append(
        tube(
            np.array([[pipe, -0.07, base], [pipe, -0.07, height - 0.1]]),
            np.array([0.05, 0.05]),
            5,
            Material.METAL,
            part_row((0.25, 0.25, 0.24), seed),
        )
    )
    return joined(meshes)


def _wall(start: tuple[float, float], end: tuple[float, float], low: float, high: float, part: np.ndarray) -> Mesh:
    (x0, y0), (x1, y1) = start, end
    length = float(np.hypot(x1 - x0, y1 - y0))
    corners = np.array([[x0, y0, low], [x1, y1, low], [x1, y1, high], [x0, y0, high]])
    return quad(corners, np.array([[0, low, 0], [length, low, 0], [length, high, 0], [0, high, 0]]), Material.FACADE, part)


def _gable_roof(generator: np.random.Generator, width: float, depth: float, height: float, colour: np.ndarray, seed: float) -> list[Mesh]:
    rise, over = 0.5 * depth * generator.uniform(0.55, 1.0), 0.35
    tiles = part_row(_ROOFS[generator.integers(len(_ROOFS))] * generator.uniform(0.8, 1.2), seed, 0.30, 0.34)
    slope = np.hypot(0.5 * depth + over, rise * (1 + over / (0.5 * depth)))
    eaves, ridge = height - rise * over / (0.5 * depth), height + rise
    texture = np.array([[-over, 0, 0], [width + over, 0, 0], [width + over, slope, 0], [-over, slope, 0]])
    front = np.array([[-over, -over, eaves], [width + over, -over, eaves], [width + over, 0.5 * depth, ridge], [-over, 0.5 * depth, ridge]])
    back = np.array(
        [[width + over, depth + over, eaves], [-over, depth + over, eaves], [-over, 0.5 * depth, ridge], [width + over, 0.5 * depth, ridge]]
    )
    gutter = part_row((0.22, 0.21, 0.20), seed)
    wall = part_row(np.clip(colour, 0.02, 0.85), seed)
    gable = np.array(
        [
            [0, 0, height],
            [0, depth, height],
            [0, 0.5 * depth, ridge - 0.05],
            [width, 0, height],
            [width, depth, height],
            [width, 0.5 * depth, ridge - 0.05],
        ]
    )
    meshes = [
        quad(front, texture, Material.ROOF, tiles),
        quad(back, texture, Material.ROOF, tiles),
        mesh_of(gable, np.array([[0, 2, 1], [3, 4, 5]]), Material.PLAIN, wall),
        box((-over, -over - 0.12, eaves - 0.06), (width + over, -over + 0.02, eaves + 0.07), Material.METAL, gutter, without=("left",)),
        box(
            (-0.02, -over, eaves - 0.10),
            (width + 0.02, 0, eaves - 0.02),
            Material.PLAIN,
            part_row((0.55, 0.53, 0.50), seed),
            without=("left",),
        ),
    ]
    if generator.random() < 0.8:
        x = generator.uniform(0.2, 0.8) * width
        brick = part_row(_BRICKS[0], seed, 0, 3, 3, 0, 1, 1, 1, 0.1, 30, 0.3, 0.3, 0.3, 2, 0, 1, 0)
        meshes.append(
            box((x, 0.42 * depth, height), (x + 0.7, 0.42 * depth + 0.6, ridge + 0.9), Material.FACADE, brick, without=("bottom",))
        )
    return meshes


def _flat_roof(width: float, depth: float, height: float, ledge: np.ndarray) -> list[Mesh]:
    top = np.array([[0, 0, height], [width, 0, height], [width, depth, height], [0, depth, height]])
    return [
        quad(top, top, Material.PLAIN, part_row((0.2, 0.2, 0.2), 0.5)),
        box((-0.18, -0.28, height - 0.30), (width + 0.18, 0.25, height + 0.22), Material.PLAIN, ledge),
        box((-0.06, 0.25, height), (0.25, depth, height + 0.22), Material.PLAIN, ledge, without=("bottom",)),
        box((width - 0.25, 0.25, height), (width + 0.06, depth, height + 0.22), Material.PLAIN, ledge, without=("bottom",)),
    ]


def _bays(
    generator: np.random.Generator, front_m: float, pitch: float, storeys: int, storey_m: float, ground_m: float, sill: float,
    window_w: float, window_h: float, height: float, wall: int, ledge: np.ndarray, seed: float,
) -> list[Mesh]:  # fmt: skip
    """Sills under the upper windows, sometimes balconies, at the places where the material draws windows."""
    bays = max(int((front_m - 0.6) // pitch), 1)
    margin = 0.5 * (front_m - bays * pitch)
    balconies = generator.random() < 0.35 and storeys >= 3
    chosen = set(generator.choice(bays, size=max(1, bays // 3), replace=False).tolist())
    railing = part_row((0.05, 0.05, 0.055), seed)
    meshes = []
    for floor in range(storeys - 1):
        z = ground_m + floor * storey_m + sill
        if z + window_h >= height - 0.25:
            continue
        for bay in range(bays):
            x = margin + (bay + 0.5) * pitch
            if balconies and bay in chosen:
                reach, low = 1.0, z - sill + 0.02
                meshes.append(box((x - 0.95, -reach, low - 0.14), (x + 0.95, 0, low), Material.PLAIN, ledge, without=("left",)))
                meshes.append(box((x - 0.95, -reach, low + 0.88), (x + 0.95, -reach + 0.05, low + 0.95), Material.METAL, railing))
                meshes += [
                    box(
                        (post - 0.015, -reach, low),
                        (post + 0.015, -reach + 0.03, low + 0.9),
                        Material.METAL,
                        railing,
                        without=("bottom", "top"),
                    )
                    for post in np.linspace(x - 0.93, x + 0.93, 8)
                ]
            elif wall != 3:
                meshes.append(
                    box(
                        (x - 0.5 * window_w - 0.12, -0.11, z - 0.09),
                        (x + 0.5 * window_w + 0.12, 0, z),
                        Material.PLAIN,
                        ledge,
                        without=("left",),
                    )
                )
    return meshes


def _awning(generator: np.random.Generator, front_m: float, ground_m: float) -> Mesh:
    units = max(int(front_m // 5.5), 1)
    unit = int(generator.integers(units))
    x0, x1 = unit * 5.5 + 0.3, min(unit * 5.5 + 5.2, front_m - 0.1)
    z = ground_m - 0.98
    cloth = part_row(generator.uniform(0.03, 0.5, 3), generator.random())
    slope = np.array([[x0, -1.25, z - 0.55], [x1, -1.25, z - 0.55], [x1, -0.02, z], [x0, -0.02, z]])
    flap = np.array([[x0, -1.25, z - 0.78], [x1, -1.25, z - 0.78], [x1, -1.25, z - 0.55], [x0, -1.25, z - 0.55]])
    return joined([quad(slope, slope, Material.PLAIN, cloth), quad(flap, flap, Material.PLAIN, cloth)])
