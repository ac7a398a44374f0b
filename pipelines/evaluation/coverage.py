"""What the training views have seen: for each pixel of a render, how many of them looked at the surface that it shows.

A pixel's surface point (rendered depth) counts as seen by a training view if it falls into its frustum and lies no farther than what that
view shows there. Pixels that one sees through stand for points at infinity: only a view that sees through there as well has seen them. So
open sky is seen, and a hole that opens behind a building is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from splatmend.datasets.geometry import inverse, transform
from splatmend.datasets.shot import Shot
from splatmend.pipelines.evaluation.metrics import FEW_VIEWS, SEE_THROUGH
from splatmend.pipelines.evaluation.readout import as_drawn, project_by_line, surface_points
from splatmend.recon.raster.api import Backend
from splatmend.recon.render import Channel, render
from splatmend.recon.scene import Scene

VIEW_WIDTH_PX = 320
"""Training views are drawn no wider than this: their depth maps stay in memory, 70 MB for 600 views."""
MOST_POINTS = 20_000
"""Pixels of a render that are asked after, spread evenly."""
Riding = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Per actor which of some points it carries, `[N]` bool, and all of them in its frame, `[N, 3]`."""
_FAR = 1e5
_RELATIVE_SLACK, _SLACK = 0.05, 0.1


@dataclass(frozen=True, kw_only=True)
class TrainingViews:
    """The training shots of a scene with `depths`: camera z `[h, w]` float16 each, infinite where one sees through."""

    scene: Scene
    shots: tuple[Shot, ...]
    depths: tuple[np.ndarray, ...]

    @staticmethod
    def of(scene: Scene, *, backend: Backend | None = None, on_view: Callable[[], None] = lambda: None) -> TrainingViews:
        """Renders the depth of every shot that the scene was fitted to; `on_view` is called after each."""
        shots = tuple(as_drawn(scene.camera_model, narrow(recorded.shot)) for recorded in scene.shots if recorded.role == "train")
        depths = []
        channels: tuple[Channel, ...] = ("depth",)
        for shot in shots:
            with torch.no_grad():
                drawn = render(scene, shot, channels, backend=backend)
            assert drawn.depth_m is not None
            depth, opacity = drawn.depth_m.cpu().numpy(), drawn.opacity.cpu().numpy()
            # The farthest of the neighbours, so that roads seen at a grazing angle do not hide themselves.
            farthest = cv2.dilate(np.where(opacity < SEE_THROUGH, np.float32(np.inf), depth), np.ones((3, 3), np.uint8))
            depths.append(farthest.astype(np.float16))
            on_view()
        return TrainingViews(scene=scene, shots=shots, depths=tuple(depths))

    def counts(self, shot: Shot, depth_m: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        """How many training views saw what a render shows, at most `FEW_VIEWS`, `[h, w]` uint8: every n-th pixel of every n-th row.

        Args:
            shot: the render's camera, pose and time.
            depth_m, opacity: of the render, `[H, W]`.

        Points in an actor's box go with the actor.
        """
        stride = int(np.ceil(np.sqrt(depth_m.size / MOST_POINTS)))
        rows, columns = np.meshgrid(
            np.arange(stride // 2, depth_m.shape[0], stride), np.arange(stride // 2, depth_m.shape[1], stride), indexing="ij"
        )
        depth = np.where(opacity < SEE_THROUGH, _FAR, depth_m)[rows, columns].reshape(-1).astype(np.float64)
        pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5
        points = surface_points(as_drawn(self.scene.camera_model, shot), pixels, depth)
        riding = points_on_actors(self.scene, points, shot.mid_us)
        found = np.zeros(len(points), dtype=np.uint8)
        for index in sorted(range(len(self.shots)), key=lambda i: abs(self.shots[i].mid_us - shot.mid_us)):
            asked = np.nonzero(found < FEW_VIEWS)[0]
            if not len(asked):
                break
            found[asked] += self._sees(index, points[asked], asked, riding)
        return found.reshape(rows.shape)

    def _sees(self, index: int, points: np.ndarray, asked: np.ndarray, riding: Riding) -> np.ndarray:
        shot, depth = self.shots[index], self.depths[index]
        mine = {actor_id: (inside[asked], local[asked]) for actor_id, (inside, local) in riding.items()}
        points, there = points_at(self.scene, points, mine, shot.mid_us)
        pixels, z, inside = project_by_line(shot, points)
        seen = np.zeros(len(points), dtype=bool)
        columns, rows = np.floor(pixels[inside]).astype(np.int64).T
        slack = _SLACK * self.scene.unit
        seen[inside] = z[inside] <= depth[rows, columns].astype(np.float64) * (1.0 + _RELATIVE_SLACK) + slack
        return seen & there


def points_on_actors(scene: Scene, points: np.ndarray, t_us: int) -> Riding:
    """Per actor: which of the world points `[N, 3]` lie in its box at a time, `[N]` bool, and all points in its frame, `[N, 3]`."""
    riding = {}
    for actor_id, actor in scene.actors.items():
        world_from_actor = actor.world_from_node(t_us)
        if world_from_actor is None:
            continue
        local = transform(inverse(world_from_actor), points)
        inside = (np.abs(local) <= 0.55 * np.asarray(actor.track.size_m)).all(-1)
        if inside.any():
            riding[actor_id] = (inside, local)
    return riding


def points_at(scene: Scene, points: np.ndarray, riding: Riding, t_us: int) -> tuple[np.ndarray, np.ndarray]:
    """World points `[N, 3]` at another time, those on actors carried along, and which are there then, `[N]` bool."""
    there = np.ones(len(points), dtype=bool)
    points = points.copy()
    for actor_id, (mine, local) in riding.items():
        world_from_actor = scene.actors[actor_id].world_from_node(t_us)
        if world_from_actor is None:
            there &= ~mine
        else:
            points[mine] = transform(world_from_actor, local[mine])
    return points, there


def narrow(shot: Shot) -> Shot:
    """The shot with a picture no wider than `VIEW_WIDTH_PX`."""
    camera = shot.camera
    if camera.width <= VIEW_WIDTH_PX:
        return shot
    return replace(shot, camera=camera.resized(VIEW_WIDTH_PX, max(8, round(camera.height * VIEW_WIDTH_PX / camera.width))))
