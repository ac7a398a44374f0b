"""New ground where a removed actor hid it or shaded it. Shape letters: N Gaussians, S and D rows and columns of a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from splatmend.recon.edits.heal_boxes import RemovedActor
from splatmend.recon.edits.heal_copy import block_shifts, source_rows
from splatmend.recon.edits.heal_frame import Grid, filled, spread
from splatmend.recon.edits.heal_ground import GroundField
from splatmend.recon.edits.heal_views import Seen, Views
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import from_rgb

_CELL_M = 0.2
_FAR_CELL_M = 1.0
_BLOCK_M = 3.0
_COPIED_FROM_M, _SEEN_FROM_M, _WELL_SEEN_M = 40.0, 25.0, 5.0
"""Ground is copied from at most so far along the way, only where it was seen from nearer than the second length, best from the third."""
_CONTACT_M, _SHADED = 1.2, 0.65
"""Ground within this of where an actor was that is darker than this share of what it should be is its contact shadow, and none of it is
copied. A longer shadow cannot be told from those of houses or from markings by its look alone, and is left."""
_MOST_CORRECTION = 0.25
_FAR_BELOW_M = 0.1
_LOGIT = 4.0
_WIDTH, _THICKNESS_M = 0.7, 0.004
"""Standard deviation in cells of a new Gaussian across, and in metres through the ground."""


@dataclass(frozen=True, kw_only=True)
class NewGround:
    """Cells of a grid that are made anew (`hole`), and places (level), cell sizes and colours of Gaussians for these and a rim around."""

    grid: Grid
    hole: Bool[Tensor, "S D"]
    points: Float[Tensor, "N 3"]
    rgb: Float[Tensor, "N 3"]

    def gaussians(self, quat_wxyz: Float[Tensor, "4"], sh_count: int) -> Gaussians:
        """Flat Gaussians with points in level coordinates; `quat_wxyz` turns their third axis to the ground's normal."""
        count, like = len(self.points), self.points
        scale = like.new_tensor([_WIDTH * self.grid.cell_m, _WIDTH * self.grid.cell_m, _THICKNESS_M])
        sh = torch.zeros(count, sh_count, 3, device=like.device)
        sh[:, 0] = from_rgb(self.rgb)
        return Gaussians(
            means=like,
            quats_wxyz=quat_wxyz.expand(count, 4).clone(),
            log_scales=scale.log().expand(count, 3).clone(),
            opacity_logits=torch.full((count,), _LOGIT, device=like.device),
            sh=sh,
        )


def near_ground(actor: RemovedActor, ground: GroundField, views: Views, taken: Tensor | None, *, only_open: bool = False) -> NewGround:
    """Ground around an actor's way in fine cells: what no shot saw, and the contact shadow of a slow actor, which the road was fitted with.

    Its look is copied from ground at the same distance beside the way, then brought to the colours of the ground around the hole by a
    smooth field of differences (as seamless cloning does: Pérez et al. 2003). `taken`: level places that were made anew already;
    `only_open`: only cells that would be see-through.
    """
    beside = float(actor.half_m[1]) + 6.5
    grid = Grid.over(actor.way, 14.0, 45.0, beside, _CELL_M)
    points, seen = _looked_at(grid, ground, views)
    shape = (grid.rows, grid.columns)
    under = actor.under(points[:, :2], 0.0).view(shape)
    looks = seen.rgb.T.view(3, *shape)
    good = seen.seen.view(shape) & (looks.sum(dim=0) > 0.02)
    hole = (seen.exposed.view(shape) | (under & ~seen.seen.view(shape))) & ~_taken(grid, taken)
    ring = spread(under, round(_CONTACT_M / grid.cell_m)) if actor.slow else under
    source = good & ~ring & (seen.distance_m.view(shape) < _SEEN_FROM_M)
    wanted = hole | ring & good
    quality = source * (_WELL_SEEN_M / seen.distance_m.view(shape)).clamp(0, 1)
    copied, has = _copied(wanted, quality, looks, good & ~ring, grid)
    corrected = (copied + _difference(looks, copied, good & ~ring & has, grid)).clamp(0, 1)
    dark = ring & good & has & (_smooth(looks.mean(dim=0)) < _SHADED * _smooth(corrected.mean(dim=0)))
    hole = _connected(hole, dark) & ~_taken(grid, taken)
    if only_open:
        hole &= seen.open.view(shape)
    return _new(grid, hole, corrected, looks, has, points, good)


def far_ground(actor: RemovedActor, ground: GroundField, views: Views, taken: Tensor | None) -> NewGround:
    """Ground farther away in coarse cells, only where the scene without the actor would be see-through."""
    grid = Grid.over(actor.way, 20.0, 110.0, 40.0, _FAR_CELL_M)
    points, seen = _looked_at(grid, ground, views)
    shape = (grid.rows, grid.columns)
    hole = seen.open.view(shape) & ~_taken(grid, taken)
    # Coarse cells reach over the fine ones around, which must stay on top.
    points[:, 2] -= _FAR_BELOW_M
    looks, good = seen.rgb.T.view(3, *shape), seen.seen.view(shape) & (seen.rgb.sum(dim=1) > 0).view(shape)
    smooth = filled(looks, good.float())
    return _new(grid, hole, smooth, looks, hole, points, good)


def _looked_at(grid: Grid, ground: GroundField, views: Views) -> tuple[Float[Tensor, "SD 3"], Seen]:
    along, left = grid.middles()
    points = torch.cat([grid.way.place(along, left), ground.at(along, left)[:, None]], dim=1)
    return points, views.look_at(points)


def _copied(wanted: Tensor, quality: Tensor, looks: Tensor, known: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """For cells in and near what is wanted the look of their source cells, and whether they have one."""
    block, most = round(_BLOCK_M / grid.cell_m), round(_COPIED_FROM_M / grid.cell_m)
    shifts = block_shifts(wanted, quality, looks, known, block=block, most=most, cell_m=grid.cell_m)
    around = spread(wanted, round(1.0 / grid.cell_m))
    rows = source_rows(around, quality > 0, shifts, block=block, most=most)
    taken = torch.stack([channel.gather(0, rows.clamp_min(0)) for channel in looks])
    return taken, rows >= 0


def _difference(looks: Tensor, copied: Tensor, both: Tensor, grid: Grid) -> Tensor:
    """Smooth difference between what is around the hole and what was copied to there, carried on into the hole."""
    width = 2 * round(0.6 / grid.cell_m) + 1
    weight = both.float()
    sums = functional.avg_pool2d(torch.cat([(looks - copied) * weight, weight[None]])[None], width, 1, width // 2)[0]
    return filled(sums[:3] / sums[3:].clamp_min(1e-6), weight).clamp(-_MOST_CORRECTION, _MOST_CORRECTION)


def _smooth(values: Tensor) -> Tensor:
    return functional.avg_pool2d(values[None, None], 3, 1, 1, count_include_pad=False)[0, 0]


def _connected(start: Tensor, through: Tensor) -> Tensor:
    """Cells of `start`, and those of `through` that reach it, with a cell more around these for soft edges."""
    grown = start
    while True:
        more = grown | (spread(grown, 1) & through)
        if bool((more == grown).all()):
            break
        grown = more
    return start | (spread(grown & ~start, 1) & (start | through | spread(start, 1)))


def _new(grid: Grid, hole: Tensor, inside: Tensor, looks: Tensor, has: Tensor, points: Tensor, good: Tensor) -> NewGround:
    smooth = filled(looks, (good & ~hole).float())
    rgb = torch.where(has & hole, inside, smooth)
    rim = spread(hole, 1) & ~hole & good
    keep = (hole | rim).view(-1)
    places = points[keep].clone()
    # The rim lies a little lower: where the old ground is solid it stays on top.
    places[:, 2] -= 0.02 * rim.view(-1)[keep]
    return NewGround(grid=grid, hole=hole, points=places, rgb=rgb.view(3, -1).T[keep].clamp(0, 1))


def _taken(grid: Grid, taken: Tensor | None) -> Tensor:
    """Cells that places lie in, or beside."""
    out = torch.zeros(grid.rows * grid.columns, dtype=torch.bool, device=grid.way.points.device)
    if taken is not None and len(taken):
        cells = grid.cell_of(*grid.way.locate(taken[:, :2]))
        out[cells[cells >= 0]] = True
    return out.view(grid.rows, grid.columns)
