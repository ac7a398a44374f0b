"""What surfaces look like before light falls on them: procedural materials evaluated at hit points.

Each material reads texture coordinates and the parameters of the part that was hit (`Mesh.parts`: colour, random number, then from
index 4 on what the function's docstring names) and gives a `Surface`. Patterns are box-filtered by the footprint of the ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch

from splatmend.datasets.street.noise import Noise, band, blend, fade, joints


class Material(IntEnum):
    PLAIN = 0
    ROAD = 1
    PAVEMENT = 2
    CONCRETE = 3
    FACADE = 4
    ROOF = 5
    FOLIAGE = 6
    BARK = 7
    METAL = 8
    GRASS = 9
    CAR_BODY = 10
    CAR_WINDOW = 11
    WHEEL = 12
    SIGN = 13
    COLOURED = 14
    GRAVEL = 15


@dataclass
class Points:
    """N hit points of one material: `texture [N, 3]`, `part [N, 20]`, `footprint_m [N]` (side of a pixel on the surface), `normal_z [N]`
    (upward component of the world normal) and `height_m [N]` (world z)."""

    texture: torch.Tensor
    part: torch.Tensor
    footprint_m: torch.Tensor
    normal_z: torch.Tensor
    height_m: torch.Tensor

    def value(self, index: int) -> torch.Tensor:
        return self.part[:, index]


@dataclass
class Surface:
    """N points: `albedo [N, 3]` linear, `mirror [N]` reflectance at normal incidence, `sharpness [N]` 0 (no highlight) to 1 (mirror),
    `emission [N, 3]` radiance in units of a white surface in full sun, `translucency [N]` light that passes from behind."""

    albedo: torch.Tensor
    mirror: torch.Tensor
    sharpness: torch.Tensor
    emission: torch.Tensor
    translucency: torch.Tensor

    @classmethod
    def matt(cls, albedo: torch.Tensor, mirror: float = 0.0, sharpness: float = 0.0, translucency: float = 0.0) -> Surface:
        def full(value: float) -> torch.Tensor:
            return torch.full((len(albedo),), value, device=albedo.device)

        return cls(albedo.clamp(0.004, 0.92), full(mirror), full(sharpness), torch.zeros_like(albedo), full(translucency))


def colour(points: Points, *rgb: float) -> torch.Tensor:
    return torch.tensor(rgb, device=points.texture.device)


def plain(points: Points, noise: Noise) -> Surface:
    """Paint or plaster with some dirt."""
    shade = noise.octaves(points.texture[:, :2] + points.texture[:, 2:], 0.6, points.footprint_m, 2)
    return Surface.matt(points.part[:, :3] * (1 + 0.06 * shade[:, :1]))


def coloured(points: Points, noise: Noise) -> Surface:
    """The texture coordinates are the linear colour itself (meshes from elsewhere)."""
    return Surface.matt(points.texture, mirror=0.02, sharpness=0.3)


def road(points: Points, noise: Noise) -> Surface:
    """4 half width, 5 lane width, 6 and 7 positions of zebra crossings, 8 wear of the paint, 9 number of patches, 10 whether the middle is
    a double solid line, 11 dash period. Texture: (along, left, 0)."""
    s, d, foot = points.texture[:, 0], points.texture[:, 1], points.footprint_m
    fine = noise.octaves(points.texture[:, :2], 0.045, foot, 2, 0.8)
    broad = noise.octaves(points.texture[:, :2], 4.0, foot, 3, 0.75)
    lane = points.value(5)
    from_lane_middle = (d.abs() - 0.5 * lane).abs()
    tracks = torch.exp(-(((from_lane_middle - 0.78) / 0.28) ** 2))
    oil = torch.exp(-((from_lane_middle / 0.35) ** 2))
    tone = 1 + 0.17 * fine[:, 0] + 0.10 * broad[:, 0] + 0.12 * tracks - 0.15 * oil * (0.7 + 0.3 * broad[:, 1])
    # Long patches of newer asphalt, sealed at their edges.
    row, column = torch.floor(s / 9.0), torch.floor(d / 1.7)
    cell = noise.cell(row, column, points.value(3) * 1e4)
    in_s, in_d = torch.remainder(s, 9.0), torch.remainder(d, 1.7)
    size_s, size_d = 2.0 + 6.0 * cell[:, 1], 0.7 + 0.9 * cell[:, 2]
    has = (cell[:, 0] < 0.10 * points.value(9)).float()
    patch = has * band(in_s, 0.3, size_s, foot) * band(in_d, 0.1, size_d, foot)
    inner = has * band(in_s, 0.34, size_s - 0.04, foot) * band(in_d, 0.14, size_d - 0.04, foot)
    tone = tone * (1 + (0.5 * cell[:, 3] - 0.42) * patch) * (1 - 0.35 * (patch - inner))
    crack = band(broad[:, 2], -0.014, 0.014, 0.5 * foot + 0.004) * (broad[:, 3] > 0.55).float() * fade(foot, 0.2)
    tone = tone * (1 - 0.45 * crack)
    gutter = band(points.value(4) - d.abs(), -0.1, 0.32, foot)
    tone = tone * (1 - 0.22 * gutter * (1 + 0.4 * broad[:, 1]))
    # Manhole covers.
    cover = noise.cell(torch.floor(s / 23.0), torch.sign(d), points.value(3) * 1e4 + 5)
    reach = torch.hypot(torch.remainder(s, 23.0) - 3 - 17 * cell.new_tensor(1.0) * cover[:, 0], d - (cover[:, 1] - 0.5) * 5.0)
    lid = band(reach, -1, 0.31, foot)
    tone = tone * (1 - 0.35 * lid * (0.7 + 0.3 * torch.sign(torch.sin(s * 90) * torch.sin(d * 90)) * fade(foot, 0.08)))
    albedo = points.part[:, :3] * tone[:, None]
    paint = road_paint(points) * (
        1 - points.value(8) * ((0.25 * fine[:, 1] + 0.45 * broad[:, 3] + 0.15).clamp(0, 1) + 0.25 * tracks).clamp(0, 1)
    )
    return Surface.matt(blend(albedo, colour(points, 0.62, 0.61, 0.57) * (1 + 0.05 * fine[:, :1]), paint), mirror=0.025, sharpness=0.12)


def road_paint(points: Points) -> torch.Tensor:
    """Coverage of the road by fresh white paint, `[N]`: lines along the lanes, zebra crossings and what belongs to them."""
    s, d, foot = points.texture[:, 0], points.texture[:, 1], points.footprint_m
    lane = points.value(5)
    zebra = torch.zeros_like(s)
    for index in (6, 7):
        along = s - points.value(index)
        here = band(along, 0.0, 3.2, foot) * (d.abs() < points.value(4) - 0.35).float()
        zebra = zebra + here * joints(d, 1.0, 0.5, foot)
        stop = band(along, -1.5, -1.15, foot) * band(d, -lane, -0.1, foot) + band(along, 4.35, 4.7, foot) * band(d, 0.1, lane, foot)
        zebra = zebra + stop
    return (zebra + lane_lines(points)).clamp(0, 1)


def lane_lines(points: Points) -> torch.Tensor:
    """Coverage of the road by the lines along its lanes, `[N]`, which crossings interrupt."""
    s, d, foot = points.texture[:, 0], points.texture[:, 1], points.footprint_m
    lane = points.value(5)
    period = points.value(11)
    phase = torch.remainder(s, period)
    dashes = band(d, -0.07, 0.07, foot) * band(phase, 0.0, 0.4 * period, foot)
    double = band(d.abs(), 0.07, 0.19, foot)
    middle = torch.where(points.value(10) > 0.5, double, dashes)
    edges = band((d.abs() - lane).abs(), -0.05, 0.06, foot)
    clear = torch.ones_like(s)
    for index in (6, 7):
        clear = clear * (1 - band(s - points.value(index), -1.2, 4.4, foot))
    return clear * (middle + edges)


def pavement(points: Points, noise: Noise) -> Surface:
    """4 and 5 length and width of a slab, 6 how far its rows are shifted. Texture: (along, left, 0)."""
    length, width, foot = points.value(4), points.value(5), points.footprint_m
    row = torch.floor(points.texture[:, 1] / width)
    s = points.texture[:, 0] + row * points.value(6) * length
    cell = noise.cell(torch.floor(s / length), row, points.value(3) * 1e4)
    detail = noise.octaves(points.texture[:, :2], 0.07, foot, 2)
    broad = noise.octaves(points.texture[:, :2], 2.2, foot, 3)
    slab = 1 + (0.30 * cell[:, 0] - 0.15) * fade(foot, 0.9)
    spots = band(detail[:, 2] + 0.4 * broad[:, 1], 2.0, 9.0, foot * 4)  # old chewing gum
    gaps = torch.maximum(joints(s, length, 0.014, foot), joints(points.texture[:, 1], width, 0.014, foot))
    tone = slab * (1 + 0.10 * detail[:, 0] + 0.13 * broad[:, 0]) * (1 - 0.4 * spots) * (1 - 0.6 * gaps)
    warm = 1 + (cell[:, 1:2] - 0.5) * torch.tensor([0.10, 0.0, -0.10], device=tone.device)
    return Surface.matt(points.part[:, :3] * warm * tone[:, None], mirror=0.02, sharpness=0.1)


def concrete(points: Points, noise: Noise) -> Surface:
    """4 distance of joints along the first texture axis (0: none)."""
    foot = points.footprint_m
    across = points.texture[:, 1] + points.texture[:, 2]
    where = torch.stack([points.texture[:, 0], across], 1)
    detail, broad = noise.octaves(where, 0.08, foot, 2), noise.octaves(where, 1.4, foot, 2)
    pitch = points.value(4)
    gaps = torch.where(pitch > 0, joints(points.texture[:, 0], pitch.clamp(min=0.1), 0.012, foot), torch.zeros_like(foot))
    tone = (1 + 0.12 * detail[:, 0] + 0.14 * broad[:, 0]) * (1 - 0.5 * gaps)
    return Surface.matt(points.part[:, :3] * tone[:, None], mirror=0.02, sharpness=0.05)


def gravel(points: Points, noise: Noise) -> Surface:
    """Earth and gravel at the edge of the world."""
    return _mottled(points, noise, 0.12, (0.9, 1.0, 1.1), 0.3)


def grass(points: Points, noise: Noise) -> Surface:
    return _mottled(points, noise, 0.09, (1.25, 1.0, 0.8), 0.42)


def _mottled(points: Points, noise: Noise, grain_m: float, dry: tuple[float, float, float], contrast: float) -> Surface:
    where = points.texture[:, :2]
    detail, broad = noise.octaves(where, grain_m, points.footprint_m, 2), noise.octaves(where, 3.0, points.footprint_m, 3)
    albedo = points.part[:, :3] * (1 + contrast * detail[:, :1] * 0.7 + 0.2 * broad[:, :1])
    return Surface.matt(blend(albedo, albedo * colour(points, *dry), (0.5 + 0.5 * broad[:, 1]).clamp(0, 1)))


def roof(points: Points, noise: Noise) -> Surface:
    """4 and 5 width and height of a tile. Texture: (along, up the slope, 0)."""
    width, height, foot = points.value(4), points.value(5), points.footprint_m
    row = torch.floor(points.texture[:, 1] / height)
    u = points.texture[:, 0] + 0.5 * width * torch.remainder(row, 2)
    cell = noise.cell(torch.floor(u / width), row, points.value(3) * 1e4)
    up = torch.remainder(points.texture[:, 1], height) / height
    broad = noise.octaves(points.texture[:, :2], 1.8, foot, 2)
    near = fade(foot, 0.35)
    tone = 1 + near * (0.36 * cell[:, 0] - 0.18 + 0.25 * up - 0.12) + 0.15 * broad[:, 0]
    tone = tone * (1 - 0.5 * joints(u, width, 0.02, foot)) * (1 - 0.5 * joints(points.texture[:, 1], height, 0.02, foot))
    return Surface.matt(points.part[:, :3] * tone[:, None], mirror=0.02, sharpness=0.1)


def foliage(points: Points, noise: Noise) -> Surface:
    """4 how far leaves differ. Texture: the position."""
    foot = points.footprint_m
    where = torch.stack([points.texture[:, 0] + 0.6 * points.texture[:, 2], points.texture[:, 1] - 0.8 * points.texture[:, 2]], 1)
    fine, broad = noise.octaves(where, 0.11, foot, 2, 0.8), noise.octaves(where, 1.3, foot, 2)
    tone = (1 + points.value(4) * (0.30 * fine[:, 0] + 0.18 * broad[:, 0])).clamp(0.25, 2.2)
    hue = 1 + (0.10 * broad[:, 1:2] + 0.04 * fine[:, 1:2]) * torch.tensor([1.0, 0.2, -0.6], device=tone.device)
    return Surface.matt(points.part[:, :3] * hue * tone[:, None], mirror=0.03, sharpness=0.15, translucency=0.35)


def bark(points: Points, noise: Noise) -> Surface:
    where = points.texture[:, :2] * torch.tensor([1.0, 0.22], device=points.texture.device)
    fine = noise.octaves(where, 0.06, points.footprint_m, 3, 0.8)
    return Surface.matt(points.part[:, :3] * (1 + 0.4 * fine[:, :1]).clamp(min=0.2))


def metal(points: Points, noise: Noise) -> Surface:
    shade = noise.octaves(points.texture[:, :2] + points.texture[:, 2:], 0.2, points.footprint_m, 2)
    return Surface.matt(points.part[:, :3] * (1 + 0.1 * shade[:, :1]), mirror=0.06, sharpness=0.5)


def sign(points: Points, noise: Noise) -> Surface:
    """4 kind (0 ring, 1 square, 2 text), 5 half size. Texture: (right, up, 0) from its middle."""
    x, y, foot = points.texture[:, 0] / points.value(5), points.texture[:, 1] / points.value(5), points.footprint_m / points.value(5)
    kind = points.value(4)
    radius = torch.hypot(x, y)
    white = colour(points, 0.75, 0.75, 0.72)
    ink = colour(points, 0.03, 0.03, 0.04)
    glyph = noise.cell(torch.floor(x * 5), torch.floor(y * 5), points.value(3) * 1e4)[:, 0] > 0.45
    mark = glyph.float() * band(x, -0.45, 0.45, foot) * band(y, -0.4, 0.4, foot) * fade(foot, 0.5)
    ring = blend(blend(white, ink, mark), points.part[:, :3], band(radius, 0.72, 2.0, foot))
    square = blend(points.part[:, :3], white, torch.maximum(mark, 1 - band(x.abs(), -1, 0.9, foot) * band(y.abs(), -1, 0.9, foot)))
    albedo = torch.where((kind < 0.5)[:, None], ring, square)
    return Surface.matt(albedo, mirror=0.04, sharpness=0.3)
