"""The material of house walls: brick, plaster, stone or panels with storeys of windows, doors and shop fronts."""

from __future__ import annotations

import torch

from splatmend.datasets.street.materials import Points, Surface, colour
from splatmend.datasets.street.noise import Noise, band, blend, fade, joints


def facade(points: Points, noise: Noise) -> Surface:
    """4 wall (0 brick, 1 plaster, 2 stone, 3 panels), 5 window pitch, 6 storey height, 7 height of the ground floor, 8 and 9 width and
    height of a window, 10 sill above the storey's floor, 11 and 12 width and height of the wall, 13-15 colour of the trim, 16 ground floor
    (0 dwelling, 1 shop, 2 blind), 17 share of lit windows, 18 panes across, 19 share of bays with a window. Texture: (along, up, depth)."""
    u, v, foot = points.texture[:, 0], points.texture[:, 1], points.footprint_m
    surface = Surface.matt(_wall(points, noise))
    width, height = points.value(11), points.value(12)
    pitch, storey, ground = points.value(5), points.value(6), points.value(7)
    trim = points.part[:, 13:16]
    bays = torch.floor((width - 0.6) / pitch).clamp(min=1)
    margin = 0.5 * (width - bays * pitch)
    bay = torch.floor((u - margin) / pitch)
    floor = torch.floor((v - ground) / storey)
    upper = (v > ground) & (v < height - 0.3)
    cell = noise.cell(bay, floor, points.value(3) * 1e4)
    has = upper & (bay >= 0) & (bay < bays) & (cell[:, 3] < points.value(19))
    half_w, half_h = 0.5 * points.value(8), 0.5 * points.value(9)
    x = u - margin - (bay + 0.5) * pitch
    y = v - ground - floor * storey - points.value(10) - half_h
    # A window must end below the eaves.
    has = has & (ground + floor * storey + points.value(10) + 2 * half_h < height - 0.25)
    dwelling = (points.value(16) < 0.5) & (v <= ground)
    door = noise.cell(bay, points.value(3) * 1e4, points.value(3) * 0 + 9)[:, 0] < 0.24
    has_ground = dwelling & (bay >= 0) & (bay < bays) & (cell[:, 3] < points.value(19))
    y = torch.where(dwelling, v - 0.95 - half_h, y)
    is_door = has_ground & door
    half_h = torch.where(is_door, torch.full_like(half_h, 1.1), half_h)
    half_w = torch.where(is_door, torch.full_like(half_w, 0.52), half_w)
    y = torch.where(is_door, v - 1.1, y)
    shown = (has | has_ground).float()

    # Surround, streaks of dirt under the sill, then the opening itself.
    surround = shown * band(x.abs(), -1, half_w + 0.13, foot) * band(y, -half_h - 0.16, half_h + 0.16, foot)
    streak = (
        shown * (1 - is_door.float()) * band(x.abs(), -1, half_w, foot) * ((-half_h - y) / 0.9 > 0).float() * torch.exp((y + half_h) / 0.5)
    )
    stripes = noise.octaves(torch.stack([u, v * 0.08], 1), 0.12, foot, 2)
    surface.albedo = surface.albedo * (1 - 0.22 * streak * (0.6 + 0.4 * stripes[:, 0]).clamp(0, 1))[:, None]
    surface.albedo = blend(surface.albedo, trim, surround)
    opening = shown * band(x.abs(), -1, half_w, foot) * band(y, -half_h, half_h, foot)
    _put_window(surface, points, noise, opening, x, y, half_w, half_h, cell, trim, is_door)
    shop = (points.value(16) > 0.5) & (points.value(16) < 1.5) & (v <= ground)
    if bool(shop.any()):
        _put_shop(surface, points, noise, shop, u, v)
    surface.albedo = surface.albedo.clamp(0.004, 0.92)
    return surface


def _wall(points: Points, noise: Noise) -> torch.Tensor:
    u, v, foot = points.texture[:, 0], points.texture[:, 1], points.footprint_m
    kind = points.value(4)
    where = torch.stack([u + 3.1 * points.texture[:, 2], v], 1)
    fine, broad = noise.octaves(where, 0.05, foot, 2), noise.octaves(where, 1.9, foot, 3)
    streaks = noise.octaves(torch.stack([where[:, 0], v * 0.06], 1), 0.35, foot, 3)
    base = points.part[:, :3]
    row = torch.floor(v / 0.075)
    shifted = u + 0.12 * torch.remainder(row, 2)
    brick_cell = noise.cell(torch.floor(shifted / 0.24), row, points.value(3) * 1e4)
    mortar = torch.maximum(joints(shifted, 0.24, 0.012, foot), joints(v, 0.075, 0.012, foot))
    near = fade(foot, 0.2)[:, None]
    warm = torch.tensor([0.10, -0.02, -0.08], device=u.device)
    brick = base * (1 + near * ((brick_cell[:, :1] - 0.5) * 0.7 + (brick_cell[:, 1:2] - 0.5) * warm * 2))
    brick = blend(brick, colour(points, 0.42, 0.39, 0.35) * (0.6 + base.mean(1, keepdim=True)), mortar * 0.85)
    plaster = base * (1 + 0.05 * fine[:, :1] + 0.05 * broad[:, :1])
    stone_cell = noise.cell(
        torch.floor((u + 0.45 * torch.remainder(torch.floor(v / 0.45), 2)) / 0.9), torch.floor(v / 0.45), points.value(3) * 1e4
    )
    stone_joint = torch.maximum(
        joints(u + 0.45 * torch.remainder(torch.floor(v / 0.45), 2), 0.9, 0.016, foot), joints(v, 0.45, 0.016, foot)
    )
    stone = base * (1 + 0.24 * (stone_cell[:, :1] - 0.5) + 0.10 * fine[:, :1]) * (1 - 0.5 * stone_joint)[:, None]
    panel_joint = torch.maximum(joints(u, points.value(5), 0.03, foot), joints(v - points.value(7), points.value(6), 0.03, foot))
    panel = base * (1 + 0.06 * broad[:, :1] + 0.05 * fine[:, :1]) * (1 - 0.6 * panel_joint)[:, None]
    out = torch.where(
        (kind < 0.5)[:, None], brick, torch.where((kind < 1.5)[:, None], plaster, torch.where((kind < 2.5)[:, None], stone, panel))
    )
    dirt = 0.30 * torch.exp(-v.clamp(min=0) / 0.7) + 0.10 * (broad[:, 1] * 0.5 + 0.3).clamp(0, 1) + 0.10 * (streaks[:, 0] * 0.5).clamp(0, 1)
    dirt = dirt + 0.16 * torch.exp((v - points.value(12)) / 0.8) * (0.6 + 0.5 * streaks[:, 1]).clamp(0, 1.5)
    return out * (1 - dirt[:, None] * torch.tensor([0.85, 0.95, 1.05], device=u.device))


def _put_window(
    surface: Surface,
    points: Points,
    noise: Noise,
    opening: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    half_w: torch.Tensor,
    half_h: torch.Tensor,
    cell: torch.Tensor,
    trim: torch.Tensor,
    is_door: torch.Tensor,
) -> None:
    """Frames, panes and what is seen behind them, into `surface`."""
    foot = points.footprint_m
    frame_colour = torch.where((cell[:, 0:1] < 0.03), trim * 0.5, (0.35 + 0.6 * trim))
    panes = points.value(18).clamp(min=1)
    pane = 2 * half_w / panes
    bars = torch.maximum(joints(x + half_w, pane, 0.05, foot), band(y, 0.28 * half_h - 0.03, 0.28 * half_h + 0.03, foot))
    glass = band(x.abs(), -1, half_w - 0.07, foot) * band(y.abs(), -1, half_h - 0.07, foot) * (1 - bars) * (1 - is_door.float())
    inside = noise.octaves(torch.stack([x + 7 * cell[:, 1], y + 5 * cell[:, 2]], 1), 0.8, foot, 2)
    room = (0.035 + 0.02 * inside[:, :1].clamp(-1, 2)) * torch.tensor([1.0, 0.96, 0.9], device=x.device)
    # Curtains hang at both sides, blinds from the top; each window decides for itself.
    folds = 0.8 + 0.2 * torch.sin(x * 55) * fade(foot, 0.12)
    curtain = ((cell[:, 1] > 0.45) & (x.abs() > half_w * (0.25 + 0.6 * cell[:, 2]))).float()
    blind = ((cell[:, 2] > 0.6) & (y > half_h * (1 - 2.2 * cell[:, 0]))).float()
    slats = 0.85 + 0.15 * torch.sin(y * 120) * fade(foot, 0.06)
    tint = torch.stack([0.42 + 0.2 * cell[:, 0], 0.40 + 0.15 * cell[:, 2], 0.34 + 0.15 * cell[:, 0]], 1)
    room = blend(room, tint * folds[:, None] * 0.55, curtain)
    room = blend(room, tint * slats[:, None] * 0.75, blind)
    # The reveal's shadow along the upper and one side edge.
    shade = 1 - 0.55 * torch.maximum(band(y, half_h - 0.2, half_h + 1, foot), band(x, half_w - 0.12, half_w + 1, foot))
    door = blend(trim * 0.45, trim * 0.25, joints(x, 0.42, 0.03, foot)) * (0.7 + 0.3 * cell[:, 1:2])
    filled = blend(frame_colour, room, glass) * shade[:, None]
    filled = torch.where(is_door[:, None], door * shade[:, None], filled)
    surface.albedo = blend(surface.albedo, filled, opening)
    reflecting = opening * glass * (1 - 0.5 * curtain)
    surface.mirror = surface.mirror * (1 - reflecting) + 0.10 * reflecting
    surface.sharpness = surface.sharpness * (1 - reflecting) + 0.97 * reflecting
    lit = (cell[:, 3] * 0 + noise.cell(cell[:, 0] * 4096, cell[:, 1] * 4096)[:, 0] < points.value(17)).float() * opening * glass
    surface.emission = surface.emission + lit[:, None] * (0.25 + room) * colour(points, 0.55, 0.38, 0.18)


def _put_shop(surface: Surface, points: Points, noise: Noise, shop: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> None:
    """A shop's window, door and lettered board over the whole ground floor, into `surface`."""
    foot, ground, width = points.footprint_m, points.value(7), points.value(11)
    unit = torch.floor(u / 5.5)
    cell = noise.cell(unit, points.value(3) * 1e4, unit * 0 + 3)
    x = torch.remainder(u, 5.5)
    here = shop.float()
    board_colour = 0.04 + 0.36 * torch.stack([cell[:, 0] ** 2, cell[:, 1] ** 2, cell[:, 2] ** 2], 1)
    board = here * band(v, ground - 0.95, ground - 0.25, foot) * band(x, 0.12, 5.38, foot)
    letter = noise.cell(torch.floor(u / 0.07), torch.floor(v / 0.085), cell[:, 3] * 1e4)
    word = noise.cell(torch.floor(u / 0.35), cell[:, 3] * 1e4)
    text = (
        (letter[:, 0] > 0.42).float() * (word[:, 1] > 0.15).float() * band(v, ground - 0.82, ground - 0.40, foot) * band(x, 1.0, 4.4, foot)
    )
    letters = blend(board_colour, colour(points, 0.8, 0.78, 0.7), text * fade(foot, 0.3))
    pane = here * band(v, 0.45, ground - 1.1, foot) * band(x, 0.25, 5.25, foot) * (u < width - 0.2).float()
    bars = torch.maximum(joints(x - 0.25, 1.666, 0.07, foot), band(v, ground - 1.6, ground - 1.54, foot))
    goods = noise.octaves(torch.stack([u, v * 0.7], 1), 0.5, foot, 3)
    muted = 0.15 * goods[:, :3] + 0.6 * goods[:, 3:]
    shelf = 0.05 + 0.10 * (muted * 0.6 + 0.5).clamp(0, 1.6) * torch.exp(-(((v - 0.9) / 0.7) ** 2))[:, None]
    panelled = blend(surface.albedo, board_colour * 0.55, here * band(v, 0.0, ground - 0.25, foot) * band(x, 0.1, 5.4, foot))
    panelled = blend(panelled, letters, board)
    glass = pane * (1 - bars)
    surface.albedo = blend(panelled, shelf, glass)
    surface.mirror = surface.mirror * (1 - glass) + 0.09 * glass
    surface.sharpness = surface.sharpness * (1 - glass) + 0.97 * glass
    surface.emission = surface.emission + (glass * (0.3 * points.value(17) + 0.03))[:, None] * shelf * colour(points, 3.0, 2.6, 2.0)
