"""Pictures of what was found to move."""

from __future__ import annotations

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.overlay import draw_boxes
from splatmend.recon.movers.apply import TRANSIENT, with_movers
from splatmend.recon.movers.find import Movers

_FRAMES = 4


def movers_picture(log: SceneLog, movers: Movers, camera: str | None = None, frame: int | None = None) -> np.ndarray:
    """Four frames of a camera (the first one by default) from first to last, or the one that is named, below one another as `[H, W, 3]`
    uint8: boxes of moving vehicles, and transient things in red.

    Raises:
        UserError: for a camera or frame that is not there.
    """
    name = next(iter(log.cameras)) if camera is None else camera
    if name not in log.cameras:
        raise UserError(f"{log.path}: there is no camera {name}; choose one of {', '.join(log.cameras)}.")
    marked = with_movers(log, movers)
    frames = marked.frames_of(name)
    if frame is not None and not 0 <= frame < len(frames):
        raise UserError(f"{log.path}: camera {name} has no frame {frame}; choose one from 0 to {len(frames) - 1}.")
    spread = np.unique(np.linspace(0, len(frames) - 1, _FRAMES).astype(int)).tolist()
    pictures = []
    for number in spread if frame is None else [frame]:
        chosen = frames[number]
        picture = np.ascontiguousarray(chosen.read_image())
        if TRANSIENT in chosen.masks:
            which = chosen.masks[TRANSIENT]()
            picture[which] = picture[which] // 2 + np.array([127, 0, 0], dtype=np.uint8)
        draw_boxes(picture, marked.cameras[name], chosen, movers.actors)
        pictures.append(picture)
    return np.concatenate(pictures)
