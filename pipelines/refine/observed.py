"""How well recorded cameras saw what a render shows, pixel by pixel, and so how little an enhanced picture may say there.

After unstructured lumigraph rendering (Buehler et al. 2001, section 3): a recorded view speaks for a surface point the more, the smaller
the angle between both lines of sight and the finer its pixels there. It speaks only for points that it shows, which lie at the depth that
it has there: a floater before what it shows, and a surface behind, are not what it saw. Pixels that one sees through stand for points at
infinity, seen by a view that sees through there as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from splatmend.datasets.geometry import inverse, transform
from splatmend.datasets.shot import Shot
from splatmend.pipelines.evaluation.coverage import MOST_POINTS, Riding, narrow, points_at, points_on_actors
from splatmend.pipelines.evaluation.metrics import SEE_THROUGH
from splatmend.pipelines.evaluation.readout import as_drawn, project_by_line, surface_points
from splatmend.recon.raster.api import Backend
from splatmend.recon.raster.camera_rays import lens_rays
from splatmend.recon.render import Channel, render
from splatmend.recon.scene import Scene

MOST_VIEWS = 24
"""Recorded views that are asked after each picture, at most: half of them the nearest in space, half the nearest in time."""
_FAR = 1e5
_RELATIVE_SLACK, _SLACK = 0.05, 0.1


@dataclass(frozen=True, kw_only=True)
class RecordedViews:
    """The shots that a scene was fitted to, with the nearest and the farthest camera z within a pixel of each pixel, `[h, w]` float16
    (infinite where one sees through). `angle_deg` is where an angle between lines of sight leaves a view 1/e of its say."""

    scene: Scene
    angle_deg: float
    shots: tuple[Shot, ...]
    nearest_m: tuple[np.ndarray, ...]
    farthest_m: tuple[np.ndarray, ...]

    @staticmethod
    def of(scene: Scene, angle_deg: float, *, backend: Backend | None = None, on_view: Callable[[], None] = lambda: None) -> RecordedViews:
        """Draws the depth of each shot; `on_view` is called after each."""
        shots = tuple(as_drawn(scene.camera_model, narrow(recorded.shot)) for recorded in scene.shots if recorded.role == "train")
        nearest, farthest = [], []
        channels: tuple[Channel, ...] = ("depth",)
        for shot in shots:
            with torch.no_grad():
                drawn = render(scene, shot, channels, backend=backend)
            assert drawn.depth_m is not None
            depth_m = np.where(drawn.opacity.cpu().numpy() < SEE_THROUGH, np.float32(np.inf), drawn.depth_m.cpu().numpy())
            # Neighbours count, so that roads seen at a grazing angle and edges are what they are.
            nearest.append(_half(cv2.erode(depth_m, np.ones((3, 3), np.uint8))))
            farthest.append(_half(cv2.dilate(depth_m, np.ones((3, 3), np.uint8))))
            on_view()
        return RecordedViews(scene=scene, angle_deg=angle_deg, shots=shots, nearest_m=tuple(nearest), farthest_m=tuple(farthest))

    def unobserved(self, shot: Shot, depth_m: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        """1 where no recorded view saw the surface that a render shows, towards 0 the better one did; 0 where the lens does not reach.
        `[H, W]` float32, between every n-th pixel of every n-th row interpolated.

        Args:
            shot: the render's camera, pose and time.
            depth_m, opacity: of the render, `[H, W]`.
        """
        height, width = depth_m.shape
        stride = int(np.ceil(np.sqrt(depth_m.size / MOST_POINTS)))
        rows, columns = np.meshgrid(np.arange(stride // 2, height, stride), np.arange(stride // 2, width, stride), indexing="ij")
        depth = np.where(opacity < SEE_THROUGH, _FAR, depth_m)[rows, columns].reshape(-1).astype(np.float64)
        pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5
        points = surface_points(as_drawn(self.scene.camera_model, shot), pixels, depth)
        best = self._best_say(shot, points, depth).reshape(rows.shape).astype(np.float32)
        weight = 1.0 - (best if stride == 1 else cv2.resize(best, (width, height), interpolation=cv2.INTER_LINEAR))
        if shot.camera.distortion_model != "none":
            weight = np.where(lens_rays(shot.camera)[1], weight, 0.0)
        return np.clip(weight, 0.0, 1.0).astype(np.float32)

    def _best_say(self, shot: Shot, points: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """The most that any recorded view has to say of each world point, in [0, 1], `[N]`."""
        riding = points_on_actors(self.scene, points, shot.mid_us)
        eye = shot.world_from_camera[:3, 3]
        pixel_size = depth / np.mean(shot.camera.focal_px)
        best = np.zeros(len(points))
        for index in self._asked(shot):
            view = self.shots[index]
            moved, there = points_at(self.scene, points, riding, view.mid_us)
            where, z, inside = project_by_line(view, moved)
            inside = inside & there
            columns, rows = np.floor(where[inside]).astype(np.int64).T
            slack = _SLACK * self.scene.unit
            z_seen = z[inside]
            low = self.nearest_m[index][rows, columns].astype(np.float64) * (1 - _RELATIVE_SLACK) - slack
            high = self.farthest_m[index][rows, columns].astype(np.float64) * (1 + _RELATIVE_SLACK) + slack
            shown = (z_seen <= high) & (np.where(z_seen > _FAR / 10, np.inf, z_seen) >= low)
            eyes = self._eyes(view, shot.mid_us, riding, len(points))
            aside = _angle(points[inside] - eye, points[inside] - eyes[inside])
            fineness = np.clip(pixel_size[inside] * np.mean(view.camera.focal_px) / np.maximum(z_seen, 1e-6), 0.0, 1.0)
            say = np.where(shown, np.exp(-np.square(aside / np.radians(self.angle_deg))) * fineness, 0.0)
            best[inside] = np.maximum(best[inside], say)
        return best

    def _eyes(self, view: Shot, t_us: int, riding: Riding, count: int) -> np.ndarray:
        """Where a view's camera stood, per point, `[N, 3]`: for points on an actor, carried along to where the actor is at a time."""
        eye = view.world_from_camera[:3, 3]
        eyes = np.tile(eye, (count, 1))
        for actor_id, (mine, _) in riding.items():
            now, then = (self.scene.actors[actor_id].world_from_node(t) for t in (t_us, view.mid_us))
            if now is not None and then is not None:
                eyes[mine] = transform(now @ inverse(then), eye[None])[0]
        return eyes

    def _asked(self, shot: Shot) -> list[int]:
        distances = [float(np.linalg.norm(view.world_from_camera[:3, 3] - shot.world_from_camera[:3, 3])) for view in self.shots]
        apart_us = [abs(view.mid_us - shot.mid_us) for view in self.shots]
        near = np.argsort(distances, kind="stable")[: MOST_VIEWS // 2].tolist()
        soon = np.argsort(apart_us, kind="stable")[: MOST_VIEWS // 2].tolist()
        return sorted({*near, *soon})


def _half(depth_m: np.ndarray) -> np.ndarray:
    """In half precision; what that does not hold is as good as infinite (an erosion of infinite pixels at a border gives no infinity)."""
    return np.where(depth_m > np.finfo(np.float16).max, np.inf, depth_m).astype(np.float16)


def _angle(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angles between vectors `[N, 3]`, radians `[N]`."""
    across = np.linalg.norm(np.cross(one, other), axis=-1)
    return np.arctan2(across, (one * other).sum(-1))
