"""What stands behind a removed actor where no shot saw it: copies of what stands beside, along the way. Shape letters: N Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from splatmend.recon.edits.heal_boxes import RemovedActor
from splatmend.recon.edits.heal_copy import block_shifts, source_rows
from splatmend.recon.edits.heal_frame import Grid
from splatmend.recon.edits.heal_ground import GroundField
from splatmend.recon.edits.heal_views import Views
from splatmend.recon.gaussians import Gaussians, left_matrices

_CELL_M = 0.5
_LOWEST_M, _LAYERS = 0.2, 14
_BLOCK_M, _COPIED_FROM_M = 2.0, 20.0
_BESIDE_M = 14.0
_GOES_ON_M, _MOSTLY = 8.0, 0.6
_LARGEST_M = 1.0
"""Larger Gaussians are not copied: they reach too far beyond their cell."""


@dataclass(frozen=True, kw_only=True)
class NewUprights:
    """Background Gaussians that are taken out, and copies in scene axes with their level means."""

    out: Bool[Tensor, "N"]
    gaussians: Gaussians
    level: Float[Tensor, "M 3"]


def new_uprights(
    actor: RemovedActor, ground: GroundField, views: Views, gaussians: Gaussians, level: Float[Tensor, "N 3"], up: Float[Tensor, "3"]
) -> NewUprights:
    """Cells above the ground that no shot saw and that stand open without the actor take the Gaussians of seen cells as far beside the way
    and as high, from near by along it, if most seen cells along there hold something: walls, hedges and kerbs go on, other things are not
    repeated. What the actor's own volume holds stays empty."""
    grid = Grid.over(actor.way, 15.0, 30.0, _BESIDE_M, _CELL_M)
    along, left = grid.middles()
    floor = torch.cat([grid.way.place(along, left), ground.at(along, left)[:, None]], dim=1)
    lifts = _LOWEST_M + (torch.arange(_LAYERS, device=level.device) + 0.5) * _CELL_M
    cells = floor[:, None] + functional.pad(lifts[:, None], (2, 0))[None]
    seen = views.look_at(cells.reshape(-1, 3))
    shape = (grid.rows, grid.columns * _LAYERS)
    own = actor.under(floor[:, :2], 0.3).repeat_interleave(_LAYERS).view(shape)
    wanted = seen.exposed.view(shape) & ~own
    source = seen.seen.view(shape) & ~own
    at, beside = grid.way.locate(level[:, :2])
    height = level[:, 2] - ground.at(at, beside)
    floor_cell = grid.cell_of(at, beside)
    layer = ((height - _LOWEST_M) / _CELL_M).floor().long()
    held = (floor_cell >= 0) & (layer >= 0) & (layer < _LAYERS)
    cell = torch.where(held, floor_cell * _LAYERS + layer, -1)
    if not bool(wanted.any()):
        nothing = gaussians.select(torch.zeros(len(level), dtype=torch.bool, device=level.device))
        return NewUprights(out=torch.zeros_like(held), gaussians=nothing, level=level[:0])
    solid = torch.zeros(cells.shape[0] * _LAYERS, device=level.device)
    solid.index_add_(0, cell[held], gaussians.opacities[held])
    filled_cells = solid.clamp_max(1.0).view(1, grid.rows, grid.columns, _LAYERS)
    wanted_rows, looks = wanted & _goes_on(filled_cells[0], source), filled_cells.view(1, *shape)
    block, most = round(_BLOCK_M / _CELL_M), round(_COPIED_FROM_M / _CELL_M)
    shifts = block_shifts(wanted, source.float(), looks, source, block=block, most=most, cell_m=_CELL_M)
    rows = source_rows(wanted_rows, source, shifts, block=block, most=most).view(-1)
    wanted_cells = (rows >= 0).nonzero()[:, 0]
    from_cells = rows[wanted_cells] * shape[1] + wanted_cells % shape[1]
    picks, targets = _in_cells(cell, gaussians.scales.amax(dim=1) < _LARGEST_M, from_cells, cells.shape[0] * _LAYERS)
    moved_m = (wanted_cells[targets] // shape[1] - from_cells[targets] // shape[1]) * _CELL_M
    copies, places = _moved(gaussians, level, grid, ground, picks, at[picks], beside[picks], height[picks], moved_m.float(), up)
    hollow = held & wanted.view(-1)[cell.clamp_min(0)]
    return NewUprights(out=hollow, gaussians=copies, level=places)


def _goes_on(solid: Float[Tensor, "S D L"], source: Bool[Tensor, "S DL"]) -> Bool[Tensor, "S DL"]:
    """Cells along which most seen ones, or ones next to these across the way, hold something."""
    wide = functional.max_pool2d(solid[:, None], 3, stride=1, padding=1)[:, 0].reshape(source.shape)
    reach = round(_GOES_ON_M / _CELL_M)
    sums = torch.stack([wide * source, source.float()])
    held, seen = functional.avg_pool2d(sums[None], (2 * reach + 1, 1), stride=1, padding=(reach, 0))[0]
    return held > _MOSTLY * seen.clamp_min(1e-3)


def _in_cells(cell: Tensor, usable: Tensor, asked: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Numbers of the Gaussians in each asked cell, one after the other, and which question each one answers."""
    numbers = ((cell >= 0) & usable).nonzero()[:, 0]
    order = numbers[cell[numbers].argsort(stable=True)]
    counts = torch.bincount(cell[order], minlength=count)
    starts = counts.cumsum(0) - counts
    many = counts[asked]
    targets = torch.arange(len(asked), device=cell.device).repeat_interleave(many)
    within = torch.arange(len(targets), device=cell.device) - (many.cumsum(0) - many).repeat_interleave(many)
    return order[starts[asked].repeat_interleave(many) + within], targets


def _moved(
    gaussians: Gaussians,
    level: Tensor,
    grid: Grid,
    ground: GroundField,
    picks: Tensor,
    along: Tensor,
    beside: Tensor,
    height: Tensor,
    moved_m: Tensor,
    up: Tensor,
) -> tuple[Gaussians, Tensor]:
    """Copies brought along the way, turned with it."""
    copies = gaussians.select(picks)
    there = along + moved_m
    places = torch.cat([grid.way.place(there, beside), (ground.at(there, beside) + height)[:, None]], dim=1)
    before, after = grid.way.left_at(along), grid.way.left_at(there)
    angle = torch.atan2(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0], (before * after).sum(dim=1))
    turn = torch.cat([(angle / 2).cos()[:, None], (angle / 2).sin()[:, None] * up[None]], dim=1)
    quats = (left_matrices(turn) @ copies.quats_wxyz[..., None])[..., 0]
    # Only the mean colour is turned rightly without turning harmonics.
    sh = torch.where(
        (angle.abs() < math.radians(3))[:, None, None], copies.sh, functional.pad(copies.sh[:, :1], (0, 0, 0, copies.sh.shape[1] - 1))
    )
    return (
        Gaussians(means=places, quats_wxyz=quats, log_scales=copies.log_scales, opacity_logits=copies.opacity_logits, sh=sh),
        places,
    )
