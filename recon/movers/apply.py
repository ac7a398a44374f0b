"""Puts what moves into a log: vehicles as actors, the rest out of its sweeps and pictures."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
from scipy.spatial import cKDTree

from splatmend.datasets.geometry import inverse, transform
from splatmend.datasets.log import Camera, CameraFrame, LidarPoints, LidarSweep, SceneLog
from splatmend.datasets.point_projection import project_frame
from splatmend.recon.movers.find import Movers
from splatmend.recon.spool import Kept, Spool

TRANSIENT = "transient"
"""Name of the mask `[H, W]` bool of pixels that show something transient."""
NEAREST_SWEEP_US = 60_000
GROWN_M = 0.3
"""The outline of a thing's returns is widened by this: a scanner seldom meets the very edge."""
CLEARED_M = 0.2
"""Returns nearer than this to a transient one go with it."""


def with_movers(log: SceneLog, movers: Movers) -> SceneLog:
    """The log with the movers: their actors beside its own, sweeps without the transient returns, and a mask `transient` for each frame
    in which there are some. Frames must be those that are fitted (masks are drawn at their cameras' sizes). The transient returns lie in a
    temporary file until they are asked for."""
    spool = Spool()
    transient = {key: spool.keep(*things) for key, things in movers.transient.items() if things}
    middles_us = {(sweep.sensor, sweep.timestamp_us): sweep.middle_us for sweep in log.sweeps}
    in_order = sorted(transient, key=lambda key: middles_us[key])
    in_order_us = [middles_us[key] for key in in_order]

    def near(frame: CameraFrame) -> list[Kept]:
        # Of sweeps whose middles are near the frame: of two, where it lies between them.
        first = bisect_left(in_order_us, frame.mid_us - NEAREST_SWEEP_US)
        last = bisect_right(in_order_us, frame.mid_us + NEAREST_SWEEP_US)
        return [transient[key] for key in in_order[first:last]]

    frames = tuple(_masked(frame, log.cameras[frame.camera], near(frame)) for frame in log.frames)
    sweeps = tuple(
        replace(sweep, read_points=partial(_without, sweep, transient[key])) if key in transient else sweep
        for sweep in log.sweeps
        for key in [(sweep.sensor, sweep.timestamp_us)]
    )
    return replace(log, frames=frames, sweeps=sweeps, actors=(*log.actors, *movers.actors))


def transient_mask(camera: Camera, frame: CameraFrame, things: Sequence[np.ndarray]) -> np.ndarray:
    """Bool `[H, W]`: the convex outline of each thing's returns `[N, 3]`, widened, where the camera sees them."""
    mask = np.zeros((camera.height, camera.width), dtype=bool)
    for xyz in things:
        pixels, _, inside = project_frame(camera, frame, xyz)
        if inside.sum() < 3:
            continue
        depth = transform(inverse(frame.world_from_camera), xyz[inside])[:, 2]
        hull = cv2.convexHull(np.round(pixels[inside]).astype(np.int32))
        one = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), hull, 1)
        grown_px = int(np.clip(GROWN_M * camera.focal_px[0] / np.median(depth), 1, 0.1 * camera.width))
        mask |= cv2.dilate(one, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grown_px + 1, 2 * grown_px + 1))) > 0
    return mask


def _masked(frame: CameraFrame, camera: Camera, things: list[Kept]) -> CameraFrame:
    if not things:
        return frame

    def mask() -> np.ndarray:
        return transient_mask(camera, frame, [xyz for of_sweep in things for xyz in of_sweep.load()])

    return replace(frame, masks={**frame.masks, TRANSIENT: mask})


def _without(sweep: LidarSweep, things: Kept) -> LidarPoints:
    """The sweep's points less those of the given things, which were read from it, and around them: large sweeps are searched thinned."""
    points = sweep.read_points()
    kept = cKDTree(np.concatenate(things.load())).query(points.xyz_world_m, distance_upper_bound=CLEARED_M)[0] > CLEARED_M
    return LidarPoints(
        xyz_world_m=points.xyz_world_m[kept],
        time_us=points.time_us[kept],
        intensity=points.intensity[kept],
        origin_world_m=points.origin_world_m[kept],
    )
