"""Colours of meshes: sRGB to linear values, and what a texture holds at a place (numpy)."""

from __future__ import annotations

import numpy as np


def texels(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of a picture `[H, W, C]` uint8 at places `uv [M, 2]` (origin at the lower left), bilinear, repeated outside."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    left, top = np.floor(x), np.floor(y)
    right_share, low_share = (x - left)[:, None], (y - top)[:, None]
    columns = [(left + i).astype(np.int64) % width for i in (0, 1)]
    rows = [(top + i).astype(np.int64) % height for i in (0, 1)]
    upper, lower = (texture[row, columns[0]] * (1 - right_share) + texture[row, columns[1]] * right_share for row in rows)
    return (upper * (1 - low_share) + lower * low_share) / 255.0


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """Linear values of sRGB in [0, 1], `[..., 3]` (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
