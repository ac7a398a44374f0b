"""Cards: textured rectangles in space, their cut-out outlines, and what they are cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

_LEVELS = 6
_PIECES = 3
_SMALLEST_PIECE = 4


class Pyramid(NamedTuple):
    """A texture at several sizes, from fine to coarse: all texels `[n, 4]` uint8, and each level's first texel, rows and columns."""

    texels: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Card:
    """A rectangle `centre + a * across + b * up` for a, b in [-1, 1], with a picture whose first row lies at b = 1."""

    centre_m: np.ndarray
    across_m: np.ndarray
    up_m: np.ndarray
    rgb: np.ndarray
    """[h, w, 3] uint8 sRGB."""
    alpha: np.ndarray
    """[h, w] uint8; shown where above 127."""
    velocity_m: np.ndarray
    """Motion from frame to frame."""

    @cached_property
    def pyramid(self) -> Pyramid:
        """Picture and outline at one, half, a quarter ... of their size."""
        levels = [np.dstack([self.rgb, self.alpha])]
        while len(levels) < _LEVELS and min(levels[-1].shape[:2]) >= 8:
            levels.append(cv2.pyrDown(levels[-1]))
        sizes = np.array([level.shape[:2] for level in levels])
        starts = np.concatenate([[0], np.cumsum(sizes.prod(axis=1))[:-1]])
        return Pyramid(np.concatenate([level.reshape(-1, 4) for level in levels]), starts, sizes[:, 0].copy(), sizes[:, 1].copy())

    @property
    def moves(self) -> bool:
        """Whether it stands elsewhere in every frame."""
        return bool(np.any(self.velocity_m))


def cut_texture(photos: Sequence[np.ndarray], rng: np.random.Generator, *, aspect: float, size_px: int = 384) -> np.ndarray:
    """A piece of a random photo, `[h, w, 3]` uint8 with w / h = aspect and at most `size_px` on the longer side, its colours varied."""
    # Of some pieces the one that holds most, for large parts of most photos are bare.
    piece = max((_piece(photos, rng, aspect) for _ in range(_PIECES)), key=_detail)
    longer = min(size_px, max(piece.shape[:2]))
    scale = longer / max(aspect, 1.0)
    size = max(8, round(scale * aspect)), max(8, round(scale))
    piece = cv2.resize(piece, size, interpolation=cv2.INTER_AREA if piece.shape[1] > size[0] else cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    return _varied(piece, rng)


def _piece(photos: Sequence[np.ndarray], rng: np.random.Generator, aspect: float) -> np.ndarray:
    photo = photos[int(rng.integers(len(photos)))]
    height, width = photo.shape[:2]
    rows = min(height, width / aspect) * float(rng.uniform(0.25, 1.0))
    columns = rows * aspect
    top, left = int(rng.uniform(0, height - max(rows, _SMALLEST_PIECE))), int(rng.uniform(0, width - max(columns, _SMALLEST_PIECE)))
    return photo[top : top + max(int(rows), _SMALLEST_PIECE), left : left + max(int(columns), _SMALLEST_PIECE)]


def _detail(rgb: np.ndarray) -> float:
    """Mean absolute difference of neighbouring pixels."""
    grey = rgb.mean(axis=2)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


def _varied(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another light and other paint: hue, saturation, contrast and brightness."""
    hsv = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2HSV_FULL).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-128, 128) * (rng.random() < 0.3)) % 256
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.3, 1.3), 0, 255)
    painted = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB_FULL).astype(np.float32) / 255
    gamma, gain, lift = rng.uniform(0.7, 1.4), rng.uniform(0.6, 1.15), rng.uniform(0.0, 0.12)
    return np.rint(np.clip(painted**gamma * gain + lift, 0, 1) * 255).astype(np.uint8)


def outline(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The cut of a card `[h, w]` uint8: whole, a polygon, or leaves of smooth noise."""
    height, width = shape
    kind = rng.random()
    if kind < 0.35:
        return np.full(shape, 255, np.uint8)
    if kind < 0.7:
        corners = int(rng.integers(4, 10))
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = rng.uniform(0.5, 1.0, corners)
        xy = np.stack([(1 + radius * np.cos(angle)) * width / 2, (1 + radius * np.sin(angle)) * height / 2], axis=1)
        mask = np.zeros(shape, np.uint8)
        cv2.fillPoly(mask, [np.rint(xy).astype(np.int32)], 255)
        return mask
    cells = int(rng.integers(4, 14))
    noise = cv2.resize(rng.random((cells, cells)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.where(noise > np.quantile(noise, rng.uniform(0.3, 0.6)), 255, 0).astype(np.uint8)
