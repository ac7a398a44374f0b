"""Cutting a latent frame into spatial chunks, each with a halo of context.

A chunk's *core* is the part it answers for; its *crop* is the core and a halo around it, clipped at the frame's border. Cores tile the
frame without overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SpatialCrop:
    """One chunk of a latent frame of `height` x `width` latent pixels; all bounds are in latent pixels, end excluded."""

    height: int
    width: int
    core_rows: slice
    core_columns: slice
    rows: slice
    columns: slice

    def outer(self, x: torch.Tensor) -> torch.Tensor:
        """View of the crop in a tensor [..., H, W] of whole frames, H and W whole multiples of the latent frame's sides."""
        return self._view(x, self.rows, self.columns)

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        """View of the core in a tensor [..., H, W] of whole frames, H and W whole multiples of the latent frame's sides."""
        return self._view(x, self.core_rows, self.core_columns)

    def core_of_crop(self, x: torch.Tensor, factor: int) -> torch.Tensor:
        """View of the core in a tensor [..., H', W'] of this crop at `factor` pixels per latent pixel."""
        top, left = self.core_rows.start - self.rows.start, self.core_columns.start - self.columns.start
        rows = slice(top * factor, (top + self.core_rows.stop - self.core_rows.start) * factor)
        columns = slice(left * factor, (left + self.core_columns.stop - self.core_columns.start) * factor)
        return x[..., rows, columns]

    def _view(self, x: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
        down, right = x.shape[-2] // self.height, x.shape[-1] // self.width
        if (down * self.height, right * self.width) != tuple(x.shape[-2:]) or not down or not right:
            raise ValueError(
                f"a tensor of {x.shape[-2]}x{x.shape[-1]} is no whole multiple of the latent frame of {self.height}x{self.width}"
            )
        return x[..., rows.start * down : rows.stop * down, columns.start * right : columns.stop * right]


def whole_frame(height: int, width: int) -> SpatialCrop:
    """The one chunk that is the whole latent frame."""
    rows, columns = slice(0, height), slice(0, width)
    return SpatialCrop(height, width, rows, columns, rows, columns)


def spatial_crops(height: int, width: int, chunks: tuple[int, int], halo: int) -> list[SpatialCrop]:
    """Cut a latent frame into `chunks` (down, across) nearly equal cores, each with a halo of up to `halo` latent pixels.

    Raises `ValueError` where there are more chunks than latent pixels along a side.
    """
    if chunks[0] > height or chunks[1] > width:
        raise ValueError(f"a latent frame of {height}x{width} cannot be cut into {chunks[0]}x{chunks[1]} chunks")
    return [
        SpatialCrop(height, width, rows, columns, _widen(rows, halo, height), _widen(columns, halo, width))
        for rows in _tile(height, chunks[0])
        for columns in _tile(width, chunks[1])
    ]


def _tile(size: int, count: int) -> list[slice]:
    return [slice(i * size // count, (i + 1) * size // count) for i in range(count)]


def _widen(part: slice, halo: int, size: int) -> slice:
    return slice(max(part.start - halo, 0), min(part.stop + halo, size))
