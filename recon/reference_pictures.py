"""The recorded pictures of a scene, from its log, as the fit saw them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.log_for_cameras import log_for_cameras
from splatmend.recon.movers.apply import TRANSIENT
from splatmend.recon.raster.camera_rays import lens_rays
from splatmend.recon.scene import RecordedShot, Scene

Pictures = Callable[[RecordedShot], UInt8[np.ndarray, "H W C"]]
"""The recorded frame of a shot, at the size and without distortion of its camera: `[H, W, 3]`, or `[H, W, 4]` with an alpha of 0 where it
is not to be trusted."""


def log_pictures(scene: Scene, log: SceneLog) -> Pictures:
    """The pictures of a scene's recorded shots, found in its log by camera and number, and read when they are asked for. What a log's masks
    call invalid or transient, and what the lens does not reach, has an alpha of 0.

    Raises:
        UserError: where the log lacks a camera of the scene, or has it with another calibration; from the pictures, where it lacks a frame
            or has another one in its place.
    """
    cameras = {recorded.shot.camera.name: recorded.shot.camera for recorded in scene.shots}
    prepared = log_for_cameras(log, cameras, "the scene")
    frames = {(frame.camera, frame.index): frame for frame in prepared.frames}

    def read(recorded: RecordedShot) -> UInt8[np.ndarray, "H W 4"]:
        camera = recorded.shot.camera
        frame = frames.get((camera.name, recorded.frame_index))
        if frame is None or frame.start_us != recorded.shot.start_us:
            raise UserError(
                f"{log.path}: frame {recorded.frame_index} of camera {camera.name} is missing or of another time than in the scene; give "
                "the log that the scene was fitted to."
            )
        rgb = frame.read_image()
        usable = lens_rays(camera)[1] if camera.distortion_model != "none" else np.ones(rgb.shape[:2], dtype=bool)
        if "valid" in frame.masks:
            usable = usable & frame.masks["valid"]()
        if TRANSIENT in frame.masks:
            usable = usable & ~frame.masks[TRANSIENT]()
        return np.concatenate([rgb, usable[..., None].astype(np.uint8) * 255], axis=2)

    return read
