"""Materials of cars. Texture coordinates are the position in the car: x forward, y left, z up, from the middle of its box."""

from __future__ import annotations

import torch

from splatmend.datasets.street.materials import Points, Surface, colour
from splatmend.datasets.street.noise import Noise, band, blend, fade


def car_body(points: Points, noise: Noise) -> Surface:
    """4-6 length, width, height, 7 belt line, 8 wheel radius, 9 and 10 front and rear axle, 11 z of the ground, 12 and 13 door seams."""
    x, y, z = points.texture.unbind(1)
    foot, length, width, height = points.footprint_m, points.value(4), points.value(5), points.value(6)
    ground, wheel = points.value(11), points.value(8)
    above = z - ground
    side = band(y.abs(), 0.40 * width, width, foot)
    dirt = noise.octaves(torch.stack([x, z + y], 1), 0.3, foot, 3)
    splashed = 0.25 * torch.exp(-(above - 0.2) / 0.18).clamp(0, 1) * (0.6 + 0.4 * dirt[:, 0])
    paint = points.part[:, :3] * (1 - splashed)[:, None]
    albedo, gloss = paint, torch.ones_like(x)
    black = colour(points, 0.012, 0.012, 0.013)
    # Seams of doors, handles, the dark sill and bumpers' lower edge.
    on_side = side * band(above, 0.32, 0.72 * height, foot)
    seam = torch.zeros_like(x)
    for index in (12, 13):
        seam = torch.maximum(seam, band(x, points.value(index) - 0.009, points.value(index) + 0.009, foot))
        handle = (
            side
            * band(x, points.value(index) + 0.06, points.value(index) + 0.24, foot)
            * band(z, points.value(7) - 0.13, points.value(7) - 0.10, foot)
        )
        albedo = blend(albedo, paint * 0.45, handle)
    albedo = blend(albedo, black, seam * on_side * 0.8)
    albedo = blend(albedo, black * 1.6, band(above, -1, 0.27, foot))
    for index in (9, 10):
        arch = side * band(torch.hypot(x - points.value(index), above - wheel), -1, 1.17 * wheel, foot)
        albedo, gloss = blend(albedo, black * 0.6, arch), gloss * (1 - arch)
    gloss = gloss * (1 - band(above, -1, 0.27, foot))
    emission = torch.zeros_like(albedo)
    # Both ends: lamps at the corners, grille or boot line, plate in the middle.
    front, rear = band(x, 0.5 * length - 0.34, length, foot), band(x, -length, -0.5 * length + 0.30, foot)
    lamp_low, lamp_high = 0.40 * height, 0.40 * height + 0.15
    corner = band(y.abs(), 0.27 * width, 0.47 * width, foot) * band(above, lamp_low, lamp_high, foot)
    albedo = blend(albedo, colour(points, 0.55, 0.56, 0.58), front * corner)
    albedo = blend(albedo, colour(points, 0.32, 0.012, 0.01), rear * corner)
    emission = (
        emission + (front * corner)[:, None] * colour(points, 0.10, 0.10, 0.09) + (rear * corner)[:, None] * colour(points, 0.05, 0.0, 0.0)
    )
    end = torch.maximum(band(x, 0.5 * length - 0.20, length, foot), band(x, -length, -0.5 * length + 0.16, foot))
    grille = front * band(y.abs(), -1, 0.24 * width, foot) * band(above, 0.36 * height, 0.36 * height + 0.16, foot)
    albedo = blend(albedo, black * (1.4 + torch.sin(z * 160) * fade(foot, 0.06))[:, None], grille)
    low_intake = front * band(y.abs(), -1, 0.36 * width, foot) * band(above, 0.24, 0.36, foot)
    albedo = blend(albedo, black, low_intake)
    plate = end * band(y.abs(), -1, 0.26, foot) * band(above, 0.385, 0.495, foot) * (x.abs() > 0.4 * length).float()
    glyph = (
        (noise.cell(torch.floor(y / 0.03), torch.floor(points.value(3) * 1e4))[:, 0] > 0.5).float()
        * band(above, 0.41, 0.47, foot)
        * fade(foot, 0.08)
    )
    albedo = blend(albedo, colour(points, 0.62, 0.62, 0.55) * (1 - 0.9 * glyph)[:, None], plate)
    surface = Surface.matt(albedo)
    surface.mirror, surface.sharpness, surface.emission = 0.045 * gloss, 0.55 + 0.35 * gloss, emission
    return surface


def car_window(points: Points, noise: Noise) -> Surface:
    """As `car_body`; 14 kind (0 side windows, 1 screen), 15 and 16 lower and upper edge of the glass, 17 and 18 its front and rear end at
    the belt, 19 how far the roof is shorter at each end. Pillars and the rim are painted."""
    x, y, z = points.texture.unbind(1)
    foot = points.footprint_m
    low, high = points.value(15), points.value(16)
    up = ((z - low) / (high - low)).clamp(0, 1)
    front, rear = points.value(17) - points.value(19) * up, points.value(18) + points.value(19) * 0.8 * up
    inset = 0.07
    side = band(x, rear + inset, front - inset, foot) * band(z, low + 0.03, high - 0.045, foot)
    for index in (12, 13):
        side = side * (1 - band(x, points.value(index) - 0.045, points.value(index) + 0.045, foot))
    screen = band(y.abs(), -1, 0.5 * points.value(5) * (0.84 - 0.12 * up), foot) * band(z, low + 0.03, high - 0.03, foot)
    glass = torch.where(points.value(14) < 0.5, side, screen)
    seats = noise.octaves(torch.stack([x + y, z], 1), 0.5, foot, 2)
    inside = (0.014 + 0.004 * seats[:, :1].clamp(-1, 2)) * colour(points, 1.0, 1.0, 1.05)
    pillar = torch.where((points.value(3) > 0.5)[:, None], points.part[:, :3], colour(points, 0.015, 0.015, 0.016))
    rim = torch.where((points.value(14) < 0.5)[:, None], pillar, points.part[:, :3])
    surface = Surface.matt(blend(rim, inside, glass))
    surface.mirror, surface.sharpness = 0.045 + 0.035 * glass, 0.9 + 0.07 * glass
    return surface


def wheel(points: Points, noise: Noise) -> Surface:
    """4 radius, 5 and 6 x and z of the hub, 7 number of spokes, 8 brightness of the rim."""
    x, z, foot = points.texture[:, 0] - points.value(5), points.texture[:, 2] - points.value(6), points.footprint_m
    radius, angle = torch.hypot(x, z) / points.value(4), torch.atan2(z, x)
    spoke = (torch.cos(angle * points.value(7)) > 0.1).float()
    rim = band(radius, -1, 0.68, foot / points.value(4))
    metal = points.value(8)[:, None] * (0.25 + 0.75 * torch.where((radius < 0.15) | (radius > 0.6), torch.ones_like(spoke), spoke))[:, None]
    tyre = colour(points, 0.022, 0.022, 0.023).expand(len(x), 3)
    surface = Surface.matt(blend(tyre, metal * colour(points, 1.0, 1.0, 1.02), rim))
    surface.mirror, surface.sharpness = 0.06 * rim, 0.6 * rim
    return surface
