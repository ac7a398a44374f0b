"""From where along the way the content of holes is copied. Shape letters: S and D rows and columns of a grid, C values of a cell."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

_FAR_COST_PER_M = 0.01
_JITTER = 0.02


def block_shifts(
    wanted: Bool[Tensor, "S D"],
    source: Float[Tensor, "S D"],
    looks: Float[Tensor, "C S D"],
    known: Bool[Tensor, "S D"],
    *,
    block: int,
    most: int,
    cell_m: float,
) -> Int[Tensor, "B"]:
    """How many rows along the way each block of rows is copied from, 0 where nothing is wanted.

    `source` says how good a source each cell is, in [0, 1]. A shift costs for wanted cells that it finds no good source for, for its
    length, and for how little the cells around the hole look like those around the source, as in patch-based completion (Criminisi et
    al. 2004), with whole blocks as patches, so that markings stay whole.
    """
    rows = wanted.shape[0]
    count = -(-rows // block)
    weight = wanted.float()
    per_block = _blocks(weight, block, 0)
    random = torch.Generator().manual_seed(0)
    best = torch.full((count,), torch.inf, device=wanted.device)
    out = torch.zeros(count, dtype=torch.long, device=wanted.device)
    compare = known.float()
    for rows_away in [k for step in range(2, most) for k in (step, -step)]:
        there = _shifted(source, rows_away)
        found = _blocks(weight * there, block, 0) / per_block.clamp_min(1)
        both = compare * (there > 0)
        unlike = _blocks(both * (looks - _shifted(looks, rows_away)).abs().mean(dim=0), block, block) / (_blocks(both, block, block) + 1)
        cost = 1.5 * (1 - found) + 4.0 * unlike + _FAR_COST_PER_M * abs(rows_away) * cell_m
        cost = cost + _JITTER * torch.rand(count, generator=random).to(cost.device)
        better = (cost < best) & (found > 0)
        best = torch.where(better, cost, best)
        out = torch.where(better, rows_away, out)
    return torch.where(per_block > 0, out, 0)


def source_rows(
    wanted: Bool[Tensor, "S D"], source: Bool[Tensor, "S D"], shifts: Int[Tensor, "B"], *, block: int, most: int
) -> Int[Tensor, "S D"]:
    """The row that each wanted cell is copied from: by its block's shift, or where that finds nothing, from the nearest source row of its
    column; -1 where there is none."""
    rows, columns = wanted.shape
    device = wanted.device
    row = torch.arange(rows, device=device)[:, None].expand(rows, columns)
    out = torch.full((rows, columns), -1, dtype=torch.long, device=device)
    by_block = row + shifts.repeat_interleave(block)[:rows, None]
    inside = (by_block >= 0) & (by_block < rows)
    valid = inside & source.gather(0, by_block.clamp(0, rows - 1))
    out = torch.where(valid, by_block, out)
    # Three cells of a row do not take the same one: a little way on, differing from row to row, so that no streaks come of it.
    scatter = torch.randint(0, 4, (rows, 1), generator=torch.Generator().manual_seed(1)).to(device)
    for rows_away in [k for step in range(1, most) for k in (step, -step)]:
        missing = wanted & (out < 0)
        if not bool(missing.any()):
            break
        there = row + rows_away + (scatter if rows_away > 0 else -scatter)
        inside = (there >= 0) & (there < rows)
        valid = inside & source.gather(0, there.clamp(0, rows - 1))
        out = torch.where(missing & valid, there, out)
    return torch.where(wanted, out, -1)


def _shifted(values: Tensor, rows_away: int) -> Tensor:
    """Each row is given what lies so many rows on; nothing beyond the ends."""
    rows = values.shape[-2]
    padded = functional.pad(values, (0, 0, max(-rows_away, 0), max(rows_away, 0)))
    return padded[..., max(rows_away, 0) : max(rows_away, 0) + rows, :]


def _blocks(values: Float[Tensor, "S D"], block: int, around: int) -> Float[Tensor, "B"]:
    """Sums over blocks of rows, with some rows around."""
    per_row = values.sum(dim=1)
    count = -(-len(per_row) // block)
    padded = functional.pad(per_row, (around, count * block - len(per_row) + around))
    return padded.unfold(0, block + 2 * around, block).sum(dim=1)[:count]
