"""What the camera made of the scene's colours, per recorded picture: an affine map `rgb_seen = gain @ rgb_scene + offset`, or a grid of
such maps over the picture and over brightness (`splatmend.recon.bilateral`).

A common factor of all pictures belongs to the scene, so the mean of the trained pictures' maps is kept at the identity, of grids at each
brightness: what all pictures have in common at a place of the picture, a vignette, is the camera's. Pictures that were not trained on, and
novel ones, take what their camera's trained neighbours in time say.

Shape letters: F pictures, G the axes of a grid (L levels of brightness, Y X vertices along height and width), none for one map per picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.recon.bilateral import slice_grid

_LEAST_DETERMINANT, _WORST_CONDITION = 1e-3, 30.0
"""Of the gain of a map that is taken off again."""


@dataclass(frozen=True, kw_only=True)
class ExposureTable:
    """`deltas [F, *G, 3, 4]`: gain (first three columns) and offset of each trained picture, less the identity; `cameras` and `times_us`
    say which picture a row belongs to."""

    cameras: tuple[str, ...]
    times_us: tuple[int, ...]
    deltas: Float[Tensor, "F *G 3 4"]

    @classmethod
    def identity(cls, cameras: Sequence[str], times_us: Sequence[int], grid: tuple[int, ...] = ()) -> ExposureTable:
        """No correction for any of the pictures; `grid` is how many levels, rows and columns of vertices they have, `()` for one map."""
        return cls(cameras=tuple(cameras), times_us=tuple(int(t) for t in times_us), deltas=torch.zeros(len(cameras), *grid, 3, 4))

    @property
    def grid(self) -> tuple[int, ...]:
        """Levels, rows and columns of each picture's grid; `()` for one map."""
        return tuple(self.deltas.shape[1:-2])

    @property
    def centred(self) -> Float[Tensor, "F *G 3 4"]:
        """The deltas with their mean at zero."""
        return self.deltas - common(self.deltas) if len(self.cameras) else self.deltas

    def at(self, camera: str, t_us: int) -> Float[Tensor, "*G 3 4"]:
        """The map for a picture of a camera at a time: linear between the trained pictures before and after, held at the ends. A camera
        that was not trained gets the identity."""
        rows = [(t, i) for i, (name, t) in enumerate(zip(self.cameras, self.times_us)) if name == camera]
        if not rows:
            return _identity(self.deltas)
        rows.sort()
        times = np.array([t for t, _ in rows])
        right = int(np.clip(np.searchsorted(times, t_us), 0, len(rows) - 1))
        left = max(right - 1, 0)
        span = int(times[right] - times[left])
        fraction = 1.0 if span == 0 else float(np.clip((t_us - times[left]) / span, 0.0, 1.0))
        centred = self.centred
        return _identity(self.deltas) + (1.0 - fraction) * centred[rows[left][1]] + fraction * centred[rows[right][1]]

    def with_deltas(self, deltas: Tensor) -> ExposureTable:
        """The same pictures with other maps."""
        return ExposureTable(cameras=self.cameras, times_us=self.times_us, deltas=deltas)

    def to(self, device: str | torch.device) -> ExposureTable:
        """The same table on another device."""
        return self.with_deltas(self.deltas.to(device))

    def to_json(self) -> list[dict[str, object]]:
        """One entry per trained picture, mean taken off; without maps where these are grids, which are kept apart."""
        if self.grid:
            return [{"camera": camera, "time_us": t} for camera, t in zip(self.cameras, self.times_us)]
        maps = self.centred.detach().cpu().numpy()
        return [
            {"camera": camera, "time_us": t, "gain_less_identity": m[:, :3].tolist(), "offset": m[:, 3].tolist()}
            for camera, t, m in zip(self.cameras, self.times_us, maps)
        ]

    @classmethod
    def from_json(cls, rows: Sequence[dict], grids: Float[Tensor, "F L Y X 3 4"] | None = None) -> ExposureTable:
        """The inverse of `to_json`, with the grids that were kept apart; `ValueError` where it is no list of entries, or not of these."""
        if not isinstance(rows, list):
            raise ValueError("the exposure table is no list")
        if grids is not None:
            if grids.ndim != 6 or grids.shape[0] != len(rows) or grids.shape[-2:] != (3, 4) or not bool(torch.isfinite(grids).all()):
                raise ValueError("the exposure grids are not those of the table")
            return cls(cameras=tuple(r["camera"] for r in rows), times_us=tuple(int(r["time_us"]) for r in rows), deltas=grids.float())
        deltas = [np.concatenate([np.asarray(r["gain_less_identity"]), np.asarray(r["offset"])[:, None]], axis=1) for r in rows]
        stacked = np.stack(deltas) if deltas else np.zeros((0, 3, 4))
        return cls(
            cameras=tuple(r["camera"] for r in rows),
            times_us=tuple(int(r["time_us"]) for r in rows),
            deltas=torch.from_numpy(stacked.astype(np.float32)),
        )


def from_identity(delta: Float[Tensor, "*G 3 4"]) -> Float[Tensor, "*G 3 4"]:
    """The map or grid that differs so from the identity."""
    return _identity(delta) + delta


def apply_exposure(rgb: Float[Tensor, "*batch 3"], maps: Float[Tensor, "*G 3 4"]) -> Float[Tensor, "*batch 3"]:
    """Colours through an affine map, or a picture `[H, W, 3]` through a grid of them."""
    if maps.ndim > 2:
        return slice_grid(maps, rgb)
    return rgb @ maps[:, :3].T + maps[:, 3]


def take_off_exposure(rgb: Float[Tensor, "*batch 3"], maps: Float[Tensor, "*G 3 4"]) -> Float[Tensor, "*batch 3"] | None:
    """The inverse of `apply_exposure`; None for grids, and for a map that can as good as not be taken off."""
    if maps.ndim > 2:
        return None
    gain, offset = maps.detach().double().cpu().numpy()[:, :3], maps[:, 3]
    if abs(np.linalg.det(gain)) < _LEAST_DETERMINANT or np.linalg.cond(gain) > _WORST_CONDITION:
        return None
    return (rgb - offset) @ torch.from_numpy(np.linalg.inv(gain).T.copy()).to(rgb)


def common(deltas: Float[Tensor, "F *G 3 4"]) -> Float[Tensor, "1 *g 3 4"]:
    """What all have in common and the scene takes: the mean over pictures, of grids at each brightness."""
    return deltas.mean(dim=0, keepdim=True) if deltas.ndim == 3 else deltas.mean(dim=(0, 2, 3), keepdim=True)


def _identity(like: Tensor) -> Tensor:
    return torch.eye(3, 4, dtype=like.dtype, device=like.device)
