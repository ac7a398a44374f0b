"""Boxes of the actors in a picture, as detectors are trained on: in the world, in the camera, and in pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from splatmend.datasets.geometry import box_corners, inverse, transform
from splatmend.datasets.point_projection import project_frame
from splatmend.datasets.shot import Shot
from splatmend.recon.edits.apply import EditedScene
from splatmend.recon.insertion.frame import InsertedFrame
from splatmend.recon.raster.api import Model
from splatmend.recon.scene_files import file_name
from splatmend.recon.sky import rotation_to_z

_NEAR_M = 0.05
_EDGE_POINTS = 17
_FARTHEST_PX = 1e6


def box_rows(
    edited: EditedScene, frame: InsertedFrame, number: int, masks: Mapping[str, np.ndarray], visible: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    """A line of `boxes.jsonl` per actor that is there, those behind the camera included.

    `masks [H, W]` bool say where an actor's share is more than half, `visible` which part of what the picture would show of it alone,
    before its box, is not hidden.
    """
    scene, shot = edited.scene, frame.shot
    camera_from_world = inverse(shot.world_from_camera)
    level_from_world = rotation_to_z(np.asarray(scene.up_world, dtype=np.float64))
    rows = []
    for actor_id, world_from_actor in frame.world_from_actor.items():
        track = scene.actors[actor_id].track
        camera_from_actor = camera_from_world @ world_from_actor
        forward = level_from_world @ world_from_actor[:3, 0]
        box_px, truncated = amodal_box(track.size_m, world_from_actor, shot, scene.camera_model)
        mask = masks.get(actor_id)
        inserted = edited.inserted.get(actor_id)
        rows.append(
            {
                "frame": number,
                "time_us": shot.mid_us,
                "camera": shot.camera.name,
                "actor_id": actor_id,
                "actor_class": track.actor_class,
                "inserted": inserted is not None,
                "edit": None if inserted is None else inserted.edit,
                "size_m": list(track.size_m),
                "centre_world_m": world_from_actor[:3, 3].tolist(),
                "yaw_rad": float(np.arctan2(forward[1], forward[0])),
                "world_from_actor": world_from_actor.tolist(),
                "centre_camera_m": camera_from_actor[:3, 3].tolist(),
                "camera_from_actor": camera_from_actor.tolist(),
                "distance_m": float(np.linalg.norm(camera_from_actor[:3, 3])),
                "box_px": box_px,
                "truncated_share": truncated,
                "mask": f"masks/{file_name(actor_id)}" if inserted is not None else None,
                "mask_box_px": None if mask is None else modal_box(mask),
                "mask_pixels": 0 if mask is None else int(mask.sum()),
                "visible_share": visible.get(actor_id),
            }
        )
    return rows


def modal_box(mask: np.ndarray) -> list[int] | None:
    """Left, top, right and bottom edge in pixels of what a mask `[H, W]` shows; None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def amodal_box(
    size_m: tuple[float, float, float], world_from_actor: np.ndarray, shot: Shot, model: Model
) -> tuple[list[float] | None, float | None]:
    """Left, top, right and bottom edge in pixels around the 8 corners of a box, hidden or not, cut to the picture; and which share of it
    was cut off. None where nothing of it is in the picture."""
    pixels = edge_pixels(size_m, world_from_actor, shot, model)
    if not len(pixels):
        return None, None
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    limits = np.array([shot.camera.width, shot.camera.height], dtype=np.float64)
    inside_low, inside_high = np.clip(low, 0, limits), np.clip(high, 0, limits)
    area = float(np.prod(inside_high - inside_low))
    if area <= 0:
        return None, None
    return [*inside_low.tolist(), *inside_high.tolist()], float(np.clip(1.0 - area / np.prod(high - low), 0.0, 1.0))


def silhouette(size_m: tuple[float, float, float], world_from_actor: np.ndarray, shot: Shot, model: Model) -> np.ndarray:
    """Pixels `[H, W]` (bool) before which a box lies."""
    canvas = np.zeros((shot.camera.height, shot.camera.width), dtype=np.uint8)
    pixels = edge_pixels(size_m, world_from_actor, shot, model)
    if len(pixels):
        # Pixel centres lie at halves. OpenCV counts in whole numbers, which must not overflow.
        hull = cv2.convexHull(np.clip(pixels - 0.5, -_FARTHEST_PX, _FARTHEST_PX).astype(np.float32))
        cv2.fillConvexPoly(canvas, np.rint(hull).astype(np.int32), 1)
    return canvas > 0


def edge_pixels(size_m: tuple[float, float, float], world_from_actor: np.ndarray, shot: Shot, model: Model) -> np.ndarray:
    """Pixels `[N, 2]` of points on the edges of a box, inside the picture or not. Of a box that reaches behind the camera, only the part
    in front counts. Lenses and rolling shutters bend edges, so corners alone would not do."""
    if model == "ewa":
        shot = Shot.still(replace(shot.camera, shutter="global"), shot.world_from_camera, shot.mid_us)
    corners = transform(inverse(shot.world_from_camera) @ world_from_actor, box_corners(size_m))
    a, b = np.array([(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]).T
    starts, ends = corners[a], corners[b]
    in_front = (starts[:, 2] > _NEAR_M) | (ends[:, 2] > _NEAR_M)
    if not in_front.any():
        return np.zeros((0, 2))
    starts, ends = starts[in_front], ends[in_front]
    starts, ends = _cut(starts, ends), _cut(ends, starts)
    share = np.linspace(0.0, 1.0, _EDGE_POINTS)[:, None, None]
    points = (starts + share * (ends - starts)).reshape(-1, 3)
    pixels, _, _ = project_frame(shot.camera, shot, transform(shot.world_from_camera, points))
    return pixels[np.isfinite(pixels).all(axis=1)]


def _cut(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Ends of edges, those behind the near plane moved onto it along the edge to the other end."""
    behind = points[:, 2] < _NEAR_M
    share = np.where(behind, (_NEAR_M - points[:, 2]) / np.where(behind, others[:, 2] - points[:, 2], 1.0), 0.0)
    return points + share[:, None] * (others - points)
