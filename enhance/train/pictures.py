"""Sample strips: input, output and target beside each other, for a few frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from splatmend.datasets.images import to_uint8, write_image


def strip(columns: tuple[torch.Tensor, ...], frames: int = 3) -> np.ndarray:
    """`[H', W', 3]` uint8 of clips `[3, T, H, W]` in [-1, 1]: a row per frame (first, middle ones, last), a column per clip."""
    count = columns[0].shape[1]
    index = sorted({round(i) for i in np.linspace(0, count - 1, min(frames, count))})
    rows = [np.concatenate([_picture(clip[:, i]) for clip in columns], axis=1) for i in index]
    return np.concatenate(rows, axis=0)


def write_strip(path: Path, columns: tuple[torch.Tensor, ...]) -> None:
    """A strip as PNG."""
    write_image(path, strip(columns))


def _picture(frame: torch.Tensor) -> np.ndarray:
    return to_uint8((frame.detach().float().cpu().permute(1, 2, 0).numpy() + 1.0) / 2.0)
