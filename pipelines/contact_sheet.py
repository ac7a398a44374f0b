"""A picture of a scene's pairs, and what the degraded clips score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from splatmend.datasets.clip import Clip, open_clip
from splatmend.datasets.image_metrics import frame_scores, mean_scores
from splatmend.datasets.images import write_image

COLUMNS, THUMB_WIDTH, LABEL_HEIGHT = 6, 240, 18
SCORED_EVERY = 4


def clip_scores(degraded: Path, target: Path, device: str = "cpu") -> tuple[dict[str, float], dict[str, list[float]]]:
    """PSNR, SSIM and (where its network is at hand) LPIPS of every fourth frame: their means, and the frames' own. `device`: torch's."""
    rows = []
    for index, (a, b) in enumerate(zip(open_clip(degraded).iter_rgb(), open_clip(target).iter_rgb())):
        if index % SCORED_EVERY == 0:
            pictures = (torch.from_numpy(rgb).to(device).float() / 255 for rgb in (a, b))
            rows.append(frame_scores(*pictures))
    means = mean_scores(rows)
    return means, {name: [row[name] for row in rows if name in row] for name in means}


def write_contact_sheet(folder: Path, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """For each row of the index a strip of the degraded clip over the same frames of its target, with name and scores."""
    strips = []
    for row in rows:
        degraded, target = open_clip(folder / row["degraded"]), open_clip(folder / row["target"])
        which = sorted({round(i) for i in np.linspace(0, len(degraded) - 1, min(COLUMNS, len(degraded)))})
        scores = ", ".join(f"{name} {value:.3g}" for name, value in row["scores"].items())
        strips += [_label(f"{Path(row['degraded']).parent.name}   {row['kind']}, {row['split']}   {scores}"), _strip(degraded, which)]
        strips.append(_strip(target, which))
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255) for strip in strips]
    write_image(path, np.concatenate(padded))


def _strip(clip: Clip, which: Sequence[int]) -> np.ndarray:
    pictures = []
    for index, rgb in enumerate(clip.iter_rgb()):
        if index in which:
            height = max(1, round(rgb.shape[0] * THUMB_WIDTH / rgb.shape[1]))
            pictures.append(cv2.resize(rgb, (THUMB_WIDTH, height), interpolation=cv2.INTER_AREA))
    return np.concatenate(pictures, axis=1)


def _label(text: str) -> np.ndarray:
    band = np.full((LABEL_HEIGHT, COLUMNS * THUMB_WIDTH, 3), 255, dtype=np.uint8)
    return cv2.putText(band, text, (4, LABEL_HEIGHT - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
