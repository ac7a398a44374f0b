"""Points at random depths along pixel rays, for what neither LiDAR nor structure from motion reaches: upper storeys, trees, far ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splatmend.datasets.geometry import inverse, project, transform
from splatmend.datasets.log import Camera, CameraFrame, SceneLog
from splatmend.recon.fit.points import ColouredPoints
from splatmend.recon.fit.usable_pixels import usable_pixels
from splatmend.recon.raster.camera_rays import lens_rays
from splatmend.recon.read_ahead import worked_in_order

CAMERA_HEIGHT_M = 1.6
"""Height above the road of a car's cameras, give or take; rays that go down end near the ground."""
_COVER_PX = 8


@dataclass(frozen=True, kw_only=True)
class RayPoints:
    """Points with the standard deviation `sigma [N]` that makes neighbours of one picture touch."""

    points: ColouredPoints
    sigma: np.ndarray


def ray_points(
    log: SceneLog,
    frames: Sequence[CameraFrame],
    known_world: np.ndarray,
    count: int,
    depth_range: tuple[float, float],
    generator: np.random.Generator,
    *,
    most_frames: int = 64,
) -> RayPoints:
    """`count` points (fewer where the known points cover nearly everything) on rays of up to `most_frames` training frames.

    Pixels near the projection of a known point (`known_world [N, 3]`) are left out, and those that say nothing of the scene. Depths are
    log-uniform; in metric logs rays that go down end within half and one and a half times the distance to a level road under the camera.
    """
    if count == 0:
        return RayPoints(points=ColouredPoints(xyz=np.zeros((0, 3)), rgb=np.zeros((0, 3))), sigma=np.zeros(0))
    chosen = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, min(most_frames, len(frames))).astype(int))]
    each = -(-count // len(chosen))
    parts_xyz, parts_rgb, parts_sigma = [np.zeros((0, 3))], [np.zeros((0, 3))], [np.zeros(0)]

    def covered(frame: CameraFrame, picture: np.ndarray) -> tuple[CameraFrame, np.ndarray, np.ndarray]:
        return frame, picture, _covered(log.cameras[frame.camera], frame, known_world)

    for frame, picture, hidden in worked_in_order(chosen, lambda frame: frame.read_image(), covered):
        camera = log.cameras[frame.camera]
        free = ~hidden
        cells = np.argwhere(free)
        if not len(cells):
            continue
        wanted = min(each, len(cells) * _COVER_PX**2)
        cell = cells[generator.integers(len(cells), size=wanted)]
        pixels = (cell[:, ::-1] + generator.random((wanted, 2))) * _COVER_PX
        pixels = np.minimum(pixels, [camera.width - 0.5, camera.height - 0.5])
        columns, rows = np.floor(pixels).astype(np.int64).T
        usable = usable_pixels(frame, camera)
        if usable is not None:
            shown = usable[rows, columns]
            pixels, columns, rows = pixels[shown], columns[shown], rows[shown]
        if not len(pixels):
            continue
        wanted = len(pixels)
        if camera.distortion_model == "none":
            in_camera = np.concatenate([(pixels - camera.principal_px) / camera.focal_px, np.ones((wanted, 1))], axis=1)
        else:
            in_camera = lens_rays(camera)[0][rows, columns]
        world_from_camera = frame.world_from_camera
        directions = in_camera @ world_from_camera[:3, :3].T
        depth = np.exp(generator.uniform(np.log(depth_range[0]), np.log(depth_range[1]), size=wanted))
        if log.metric:
            fall = -(directions @ np.asarray(log.up_world)) / np.linalg.norm(log.up_world)
            ground = CAMERA_HEIGHT_M / np.maximum(fall, 1e-6)
            low = ground < depth_range[1]
            depth = np.where(low, np.minimum(depth, ground * generator.uniform(0.5, 1.5, size=wanted)), depth)
        parts_xyz.append(world_from_camera[:3, 3] + depth[:, None] * directions)
        parts_rgb.append(picture[rows, columns] / 255.0)
        spacing_px = np.sqrt(len(cells) * _COVER_PX**2 / wanted)
        parts_sigma.append(0.5 * spacing_px * depth / camera.focal_px[0])
    points = ColouredPoints(xyz=np.concatenate(parts_xyz), rgb=np.concatenate(parts_rgb))
    keep = np.sort(generator.permutation(len(points))[:count])
    return RayPoints(points=points.select(keep), sigma=np.concatenate(parts_sigma)[keep])


def _covered(camera: Camera, frame: CameraFrame, known_world: np.ndarray) -> np.ndarray:
    """Cells of the picture (`_COVER_PX` square) that hold a known point, `[rows, columns]` bool."""
    cells = np.zeros((-(-camera.height // _COVER_PX), -(-camera.width // _COVER_PX)), dtype=bool)
    if len(known_world):
        pixels, inside = project(camera, transform(inverse(frame.world_from_camera), known_world))
        columns, rows = np.floor(pixels[inside] / _COVER_PX).astype(np.int64).T
        cells[rows, columns] = True
    return cells
