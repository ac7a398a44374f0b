"""A picture of one path: frames of it over their truth, and over what no training view has seen."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from splatmend.datasets.images import write_image
from splatmend.pipelines.evaluation.metrics import FEW_VIEWS

COLUMNS, THUMB_WIDTH_PX, BAND_PX = 6, 320, 18
NEVER_SEEN_RGB, SEEN_BY_FEW_RGB = (230, 40, 40), (240, 200, 40)


class Strip:
    """Thumbnails of a clip of `count` frames, taken as its frames pass: `COLUMNS` of them, evenly spread."""

    def __init__(self, count: int) -> None:
        self.chosen = frozenset(np.linspace(0, count - 1, min(COLUMNS, count)).round().astype(int).tolist())
        self.rows: dict[str, dict[int, np.ndarray]] = {}

    def add(self, frame: int, row: str, rgb: np.ndarray) -> None:
        """A picture `[H, W, 3]` uint8 of a frame; only the chosen frames are kept."""
        if frame in self.chosen:
            height = max(1, round(rgb.shape[0] * THUMB_WIDTH_PX / rgb.shape[1]))
            self.rows.setdefault(row, {})[frame] = cv2.resize(rgb, (THUMB_WIDTH_PX, height), interpolation=cv2.INTER_AREA)

    def write(self, path: Path) -> None:
        """The rows in the order in which they came, each under its name; a frame without a picture stays grey."""
        parts = []
        for row, pictures in self.rows.items():
            blank = np.full_like(next(iter(pictures.values())), 128)
            parts.append(_band(row, len(self.chosen)))
            parts.append(np.concatenate([pictures.get(frame, blank) for frame in sorted(self.chosen)], axis=1))
        write_image(path, np.concatenate(parts))


def unseen_overlay(rgb: np.ndarray, views: np.ndarray) -> np.ndarray:
    """The picture `[H, W, 3]` uint8 in grey, red where `views [h, w]` is 0, yellow where it is below `FEW_VIEWS`."""
    views = cv2.resize(views, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_NEAREST)
    out = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    for mask, colour in (((views > 0) & (views < FEW_VIEWS), SEEN_BY_FEW_RGB), (views == 0, NEVER_SEEN_RGB)):
        out[mask] = (0.35 * out[mask] + 0.65 * np.asarray(colour)).astype(np.uint8)
    return out


def _band(text: str, columns: int) -> np.ndarray:
    band = np.full((BAND_PX, columns * THUMB_WIDTH_PX, 3), 255, dtype=np.uint8)
    return cv2.putText(band, text, (4, BAND_PX - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
