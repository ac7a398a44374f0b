"""Pictures that show whether a log's calibration is right: points coloured by depth and boxes, drawn on a frame."""

from __future__ import annotations

import cv2
import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import box_corners, transform
from splatmend.datasets.log import ActorTrack, Camera, CameraFrame, LidarSweep, SceneLog
from splatmend.datasets.point_projection import project_frame

# Corners of `box_corners` whose signs differ along one axis.
_BOX_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)]
_BOX_COLOURS = {
    "vehicle": (60, 220, 60),
    "pedestrian": (255, 80, 80),
    "cyclist": (255, 170, 40),
    "sign": (80, 160, 255),
    "other": (220, 220, 220),
}
_EDGE_STEPS = 16  # edges are drawn as polylines: distortion and shutter bend them


def lidar_overlay(log: SceneLog, camera: str | None = None, frame: int | None = None) -> np.ndarray:
    """A frame `[H, W, 3]` uint8 with the points of the sweeps that were running at its exposure, or the sparse points of a log without
    sweeps, coloured from red (near) to blue (far), and the boxes of the actors labelled then.

    `camera` is the first one by default, `frame` its middle one. Raises `UserError` for a camera or frame that is not there, or a log
    that has neither points nor actors.
    """
    chosen = _frame(log, camera, frame)
    view = log.cameras[chosen.camera]
    image = np.ascontiguousarray(chosen.read_image())
    draw_points(image, view, chosen, _points(log, chosen))
    draw_boxes(image, view, chosen, log.actors)
    return image


def draw_points(image: np.ndarray, camera: Camera, frame: CameraFrame, xyz_world_m: np.ndarray) -> None:
    """Draw points `[N, 3]` on the picture, the nearest last; colours follow the logarithm of the depth."""
    pixels, depth, inside = project_frame(camera, frame, xyz_world_m)
    if not inside.any():
        return
    pixels, depth = pixels[inside], depth[inside]
    order = np.argsort(-depth)
    near, far = np.percentile(depth, [2, 98])
    level = np.log(np.clip(depth, near, far) / near) / max(np.log(far / near), 1e-6)
    table = cv2.applyColorMap((255 * (1 - level)).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    radius = max(1, round(camera.width / 900))
    for index in order:
        centre = (int(pixels[index, 0]), int(pixels[index, 1]))
        cv2.circle(image, centre, radius, tuple(int(v) for v in table[index]), thickness=-1)


def draw_boxes(image: np.ndarray, camera: Camera, frame: CameraFrame, actors: tuple[ActorTrack, ...]) -> None:
    """Draw the edges of the boxes that are labelled at the frame's time, where they lie in front of the camera."""
    thickness = max(1, round(camera.width / 900))
    along = np.linspace(0.0, 1.0, _EDGE_STEPS)[:, None]
    for actor in actors:
        if not actor.is_labelled(frame.mid_us):
            continue
        corners = transform(actor.world_from_actor(frame.mid_us), box_corners(actor.size_m))
        for a, b in _BOX_EDGES:
            pixels, _, inside = project_frame(camera, frame, corners[a] * (1 - along) + corners[b] * along)
            for start in np.flatnonzero(inside[:-1] & inside[1:]):
                ends = np.round(pixels[start : start + 2] - 0.5).astype(int)
                cv2.line(image, tuple(ends[0].tolist()), tuple(ends[1].tolist()), _BOX_COLOURS[actor.actor_class], thickness, cv2.LINE_AA)


def _frame(log: SceneLog, camera: str | None, frame: int | None) -> CameraFrame:
    name = next(iter(log.cameras)) if camera is None else camera
    if name not in log.cameras:
        raise UserError(f"{log.path}: there is no camera {name}; choose one of {', '.join(log.cameras)}.")
    frames = log.frames_of(name)
    index = len(frames) // 2 if frame is None else frame
    if not 0 <= index < len(frames):
        raise UserError(f"{log.path}: camera {name} has no frame {index}; choose one from 0 to {len(frames) - 1}.")
    return frames[index]


def _points(log: SceneLog, frame: CameraFrame) -> np.ndarray:
    if log.sweeps:
        return np.concatenate([sweep.read_points().xyz_world_m for sweep in _running_sweeps(log, frame.mid_us)])
    if log.read_sfm_points is not None:
        return log.read_sfm_points().xyz_world_m
    if log.actors:
        return np.zeros((0, 3))
    raise UserError(f"{log.path}: the log has no LiDAR sweeps, sparse points or actors to draw; choose a log that has.")


def _running_sweeps(log: SceneLog, t_us: int) -> list[LidarSweep]:
    """Of each sensor the last sweep that had started by then, or its first one."""
    running: dict[str, LidarSweep] = {}
    for sweep in sorted(log.sweeps, key=lambda sweep: sweep.timestamp_us):
        if sweep.sensor not in running or sweep.timestamp_us <= t_us:
            running[sweep.sensor] = sweep
    return list(running.values())
