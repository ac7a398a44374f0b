"""Scores of the frames that were held out: rendered with interpolated exposure, never fitted on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from splatmend.datasets.image_metrics import frame_scores, mean_scores
from splatmend.datasets.log import SceneLog
from splatmend.recon.fit.usable_pixels import reached_pixels
from splatmend.recon.raster.api import Backend
from splatmend.recon.render import Channel, render
from splatmend.recon.scene import Scene


def held_out_rows(scene: Scene, log: SceneLog, *, backend: Backend | None = None) -> Iterator[dict[str, Any]]:
    """One row of scores per held-out frame of the prepared log that the scene was fitted to, reckoned on the scene's device. Pixels that a
    "valid" mask excludes, and those that the lens does not reach, are not scored (`frame_scores` says how); a frame without others has no
    row."""
    wanted: tuple[Channel, ...] = ("rgb",)
    for recorded, frame in zip(scene.shots, log.frames):
        if not recorded.held_out:
            continue
        truth = torch.from_numpy(frame.read_image()).to(scene.device).float() / 255.0
        with torch.no_grad():
            picture = render(scene, recorded.shot, wanted, backend=backend).rgb
        assert picture is not None
        reached = reached_pixels(frame, recorded.shot.camera)
        scores = frame_scores(picture, truth, usable=None if reached is None else torch.tensor(reached, device=scene.device))
        if scores:
            yield {"camera": frame.camera, "frame_index": frame.index, "time_us": frame.mid_us, **scores}


def mean_row(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means over frames, with their number; empty where there are no rows."""
    if not rows:
        return {}
    scores: list[dict[str, float]] = [{name: row[name] for name in ("psnr", "ssim", "lpips") if name in row} for row in rows]
    return {"frames": len(rows), **mean_scores(scores)}
