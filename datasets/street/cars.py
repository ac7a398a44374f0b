"""Car bodies: sections lofted along the length, windows as their own faces, wheels that turn nothing (numpy)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from splatmend.datasets.street.materials import Material
from splatmend.datasets.street.mesh import Mesh, box, cylinder, grid_triangles, joined, mesh_of, part_row, smooth_normals


@dataclass(frozen=True, kw_only=True)
class BodyStyle:
    """Proportions of a kind of car. Sizes in metres; places along the car as fractions of its length, 0 at the nose and 1 at the tail;
    heights as fractions of its height above the ground."""

    length_m: float
    width_m: float
    height_m: float
    bonnet_height: float  # height at the nose
    cowl: float  # where the windscreen begins
    roof_front: float
    roof_rear: float
    deck: float  # where the rear window ends
    belt_height: float
    deck_height: float
    wheel_m: float
    axles: tuple[float, float]
    side_seams: tuple[float, float]


STYLES: dict[str, BodyStyle] = {
    "hatchback": BodyStyle(
        length_m=4.0,
        width_m=1.76,
        height_m=1.49,
        bonnet_height=0.52,
        cowl=0.27,
        roof_front=0.43,
        roof_rear=0.86,
        deck=0.965,
        belt_height=0.64,
        deck_height=0.66,
        wheel_m=0.31,
        axles=(0.19, 0.82),
        side_seams=(0.56, 0.36),
    ),
    "saloon": BodyStyle(
        length_m=4.65,
        width_m=1.83,
        height_m=1.45,
        bonnet_height=0.50,
        cowl=0.29,
        roof_front=0.44,
        roof_rear=0.70,
        deck=0.84,
        belt_height=0.63,
        deck_height=0.69,
        wheel_m=0.33,
        axles=(0.19, 0.79),
        side_seams=(0.56, 0.35),
    ),
    "estate": BodyStyle(
        length_m=4.7,
        width_m=1.84,
        height_m=1.50,
        bonnet_height=0.50,
        cowl=0.28,
        roof_front=0.42,
        roof_rear=0.90,
        deck=0.975,
        belt_height=0.63,
        deck_height=0.65,
        wheel_m=0.33,
        axles=(0.19, 0.79),
        side_seams=(0.55, 0.34),
    ),
    "suv": BodyStyle(
        length_m=4.55,
        width_m=1.90,
        height_m=1.70,
        bonnet_height=0.57,
        cowl=0.27,
        roof_front=0.41,
        roof_rear=0.88,
        deck=0.97,
        belt_height=0.64,
        deck_height=0.66,
        wheel_m=0.37,
        axles=(0.19, 0.80),
        side_seams=(0.56, 0.35),
    ),
    "van": BodyStyle(
        length_m=5.1,
        width_m=1.95,
        height_m=1.98,
        bonnet_height=0.47,
        cowl=0.17,
        roof_front=0.31,
        roof_rear=0.965,
        deck=0.99,
        belt_height=0.56,
        deck_height=0.58,
        wheel_m=0.34,
        axles=(0.17, 0.79),
        side_seams=(0.50, 0.30),
    ),
}

_PAINTS = np.array(
    [[0.55, 0.56, 0.57], [0.03, 0.03, 0.035], [0.25, 0.26, 0.28], [0.70, 0.70, 0.68], [0.32, 0.02, 0.02], [0.02, 0.06, 0.22],
     [0.04, 0.10, 0.07], [0.35, 0.24, 0.12], [0.06, 0.22, 0.40], [0.60, 0.42, 0.05], [0.12, 0.12, 0.13], [0.45, 0.43, 0.38]]
)  # fmt: skip


def car_mesh(generator: np.random.Generator) -> Mesh:
    """A random car around the middle of its box: x forward, y left, z up. The box is the mesh's bounds, symmetric around zero."""
    style = STYLES[str(generator.choice(list(STYLES), p=[0.3, 0.25, 0.15, 0.2, 0.1]))]
    scale = generator.uniform(0.95, 1.05)
    style = replace(
        style, length_m=style.length_m * scale, width_m=style.width_m * generator.uniform(0.98, 1.02), height_m=style.height_m * scale
    )
    paint = _PAINTS[generator.choice(len(_PAINTS), p=np.array([5, 5, 5, 5, 2, 2, 1, 1, 2, 1, 4, 2]) / 35)] * generator.uniform(0.8, 1.15)
    seed = generator.random()
    half, ground = 0.5 * style.length_m, -0.5 * style.height_m

    def along(fraction: float) -> float:
        return half - fraction * style.length_m

    def above(fraction: float) -> float:
        return ground + fraction * style.height_m

    belt, roof_edge = above(style.belt_height), above(0.955)
    axles, seams = [along(f) for f in style.axles], [along(f) for f in style.side_seams]
    common = (style.length_m, style.width_m, style.height_m, belt, style.wheel_m, *axles, ground, *seams)
    body = part_row(paint, seed, *common)
    slant = (style.roof_front - style.cowl) * style.length_m
    rear_slant = (style.deck - style.roof_rear) * style.length_m
    side = part_row(paint, seed, *common, 0.0, belt, roof_edge, along(style.cowl) + 0.02, along(style.deck) - 0.02, 0.0)
    side[19] = max(slant, rear_slant / 0.8)
    if slant != rear_slant / 0.8:
        # One slope serves both ends in the material: the steeper end's glass ends earlier.
        side[17], side[18] = along(style.roof_front) + side[19] * 0.98, along(style.roof_rear) - 0.8 * side[19] * 0.98
    screen = part_row(paint, seed, *common, 1.0, belt, roof_edge)
    meshes = _shell(style, body, side, screen, along, above)
    for axle in axles:
        for left in (-1, 1):
            rim = part_row(
                (0, 0, 0), seed, style.wheel_m, axle, ground + style.wheel_m, float(int(5 + 3 * seed)), 0.25 + 0.4 * ((seed * 7) % 1)
            )
            turned = cylinder(style.wheel_m, 0.11, 20, Material.WHEEL, rim)
            offset = np.array([axle, left * (0.5 * style.width_m - 0.10), ground + style.wheel_m])
            meshes.append(replace(turned, vertices=turned.vertices + offset, texture=turned.texture + offset))
    for left in (-1, 1):
        x, y = along(style.cowl) - 0.28, left * (0.5 * style.width_m + 0.05)
        meshes.append(box((x, y - 0.08, belt - 0.01), (x + 0.09, y + 0.08, belt + 0.11), Material.CAR_BODY, body))
    car = joined(meshes)
    low, high = car.bounds
    middle = 0.5 * (low + high)
    return replace(car, vertices=car.vertices - middle)


def _shell(style: BodyStyle, body: np.ndarray, side: np.ndarray, screen: np.ndarray, along, above) -> list[Mesh]:
    half_w, bottom = 0.5 * style.width_m, above(0.0) + 0.17
    roof = above(1.0)
    belt, nose, deck = above(style.belt_height), above(style.bonnet_height), above(style.deck_height)
    cowl_top = belt + 0.02
    # (fraction along, half width, height of the shoulder, glass edge half width, its height, height in the middle)
    rows = [
        (0.0, 0.80, nose - 0.16, 0.66, nose - 0.10, nose - 0.08),
        (0.012, 0.90, nose - 0.08, 0.76, nose - 0.02, nose),
        (0.05, 0.97, nose - 0.03, 0.82, nose + 0.03, nose + 0.05),
        (0.5 * style.cowl + 0.03, 1.0, belt - 0.09, 0.84, belt - 0.045, belt - 0.01),
        (style.cowl, 1.0, belt - 0.03, 0.86, belt, cowl_top),
        (style.roof_front, 1.0, belt, 0.70, roof - 0.075, roof - 0.02),
        (0.5 * (style.roof_front + style.roof_rear), 1.0, belt + 0.005, 0.71, roof - 0.06, roof),
        (style.roof_rear, 0.995, belt + 0.01, 0.69, roof - 0.085, roof - 0.03),
        (style.deck, 0.97, belt + 0.01, 0.82, deck, deck + 0.02),
        (0.985 if style.deck < 0.97 else 0.5 * (1 + style.deck), 0.93, belt - 0.02, 0.80, deck - 0.05, deck - 0.03),
        (1.0, 0.84, belt - 0.12, 0.74, deck - 0.12, deck - 0.10),
    ]
    count = len(rows)
    line = np.zeros((count, 6, 3))  # right half (y < 0) from the underside's middle up to the shoulder
    cabin = np.zeros((count, 3, 3))  # shoulder, glass edge, roof's middle
    for k, (fraction, wide, shoulder, edge, edge_z, middle_z) in enumerate(rows):
        x = along(fraction)
        w = wide * half_w
        low = bottom + (0.10 if k in (0, count - 1) else 0.0)
        line[k] = [
            (x, 0, low),
            (x, -0.86 * w, low),
            (x, -0.975 * w, low + 0.07),
            (x, -w, 0.55 * (low + shoulder)),
            (x, -0.985 * w, shoulder - 0.03),
            (x, -0.95 * w, shoulder),
        ]
        line[k, 3, 2] = low + 0.58 * (shoulder - low)
        cabin[k] = [(x, -0.95 * w, shoulder), (x, -edge * half_w, edge_z), (x, 0, middle_z)]
    meshes = []
    for sign in (1, -1):
        mirror = np.array([1, sign, 1])
        flip = slice(None) if sign == 1 else slice(None, None, -1)
        lower = grid_triangles(count, 6)[:, flip]
        vertices = line.reshape(-1, 3) * mirror
        meshes.append(mesh_of(vertices, lower, Material.CAR_BODY, body, vertices, smooth_normals(vertices, lower)))
        upper = grid_triangles(count, 3)
        vertices = cabin.reshape(-1, 3) * mirror
        normals = smooth_normals(vertices, upper[:, flip])
        row, inner = upper[:, 0] // 3, upper[:, 0] % 3 == 1
        windows = (~inner) & (row >= 4) & (row <= 7)
        screens = inner & ((row == 4) | (row == 7))
        for chosen, material, part in (
            (windows, Material.CAR_WINDOW, side),
            (screens, Material.CAR_WINDOW, screen),
            (~(windows | screens), Material.CAR_BODY, body),
        ):
            own = normals if material == Material.CAR_BODY else None
            meshes.append(mesh_of(vertices, upper[chosen][:, flip], material, part, vertices, own))
        for row_index, outward in ((0, True), (count - 1, False)):
            ring = np.concatenate([line[row_index], cabin[row_index, 1:]]) * mirror
            fan = np.array([[0, i + 1, i] for i in range(1, len(ring) - 1)])
            keep_order = outward == (sign == 1)
            meshes.append(mesh_of(ring, fan if keep_order else fan[:, ::-1], Material.CAR_BODY, body))
    return meshes
