"""Mild damage: degraded frames mixed with their target, by one share for the whole clip or by a share that differs from place to place.

Renders of real logs are sharp here and smeared there. Where every training clip is damaged all over, a model learns to tell good clips from
bad ones as a whole and leaves alone what is bad in a good one.
"""

from __future__ import annotations

import cv2
import numpy as np

_CELLS = (2, 6)
_MOMENTS = (1, 4)
_CONTRAST = (1.5, 6.0)


def draw_mixture(rng: np.random.Generator, shape: tuple[int, ...], patchy_share: float) -> float | np.ndarray:
    """How much of the way from target to degraded frames, from 0 to 1: a number, or with a probability of `patchy_share`
    `[frames, rows, columns, 1]` float32. `shape`: frames, rows and columns of the clip."""
    if rng.random() >= patchy_share:
        return float(rng.random())
    # Contrast beyond the range leaves places wholly clean and wholly degraded, with slopes between them.
    return smooth_field(rng, shape, contrast=_CONTRAST, middle=(0.3, 0.7))


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, ...], *, contrast: tuple[float, float], middle: tuple[float, float]
) -> np.ndarray:
    """Random numbers in [0, 1] that change smoothly over picture and clip, `[frames, rows, columns, 1]` float32: uniform ones from a coarse
    grid, multiplied about a middle that becomes a half. Factor (`contrast`) and middle are drawn from their ranges."""
    frames, rows, columns = shape
    moments, down, across = int(rng.integers(*_MOMENTS)), *(int(n) for n in rng.integers(*_CELLS, size=2))
    coarse = rng.random((moments, down, across), dtype=np.float32)
    field = np.stack([cv2.resize(at, (columns, rows), interpolation=cv2.INTER_LINEAR) for at in coarse])
    factor, centre = float(rng.uniform(*contrast)), float(rng.uniform(*middle))
    field = np.clip(0.5 + factor * (field - centre), 0.0, 1.0)
    when = np.linspace(0.0, moments - 1.0, frames, dtype=np.float32) if moments > 1 else np.zeros(frames, np.float32)
    before = np.minimum(when.astype(np.intp), max(moments - 2, 0))
    after = np.minimum(before + 1, moments - 1)
    part = (when - before).astype(np.float32)[:, None, None]
    return ((1.0 - part) * field[before] + part * field[after])[..., None]


def mixed(target: np.ndarray, degraded: np.ndarray, share: float | np.ndarray) -> np.ndarray:
    """`share` of the way from the target to the degraded frames, uint8."""
    return np.rint(target + np.float32(share) * (degraded.astype(np.float32) - target)).astype(np.uint8)
