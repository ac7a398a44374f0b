"""Which pixels of a picture say something of the scene as it stands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from splatmend.datasets.log import Camera, CameraFrame
from splatmend.recon.movers.apply import TRANSIENT
from splatmend.recon.raster.camera_rays import lens_rays


def _as_it_is(mask: np.ndarray) -> np.ndarray:
    return mask


def usable_pixels(frame: CameraFrame, camera: Camera, sized: Callable[[np.ndarray], np.ndarray] = _as_it_is) -> np.ndarray | None:
    """Bool `[H, W]`: `reached_pixels` that show nothing transient; None for all."""
    reached = reached_pixels(frame, camera, sized)
    if TRANSIENT not in frame.masks:
        return reached
    stays = ~sized(frame.masks[TRANSIENT]())
    return stays if reached is None else reached & stays


def reached_pixels(frame: CameraFrame, camera: Camera, sized: Callable[[np.ndarray], np.ndarray] = _as_it_is) -> np.ndarray | None:
    """Bool `[H, W]` of pixels that the log does not rule out and that the lens reaches; None for all. `sized` brings the log's masks to the
    camera's size."""
    reached = lens_rays(camera)[1] if camera.distortion_model != "none" else None
    if "valid" not in frame.masks:
        return reached
    valid = sized(frame.masks["valid"]())
    return valid if reached is None else valid & reached
