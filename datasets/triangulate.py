"""Sparse points of a log that has neither LiDAR nor structure-from-motion points: SIFT tracks triangulated with the known poses.

Triangulation is the weighted linear method (Hartley and Sturm, "Triangulation", CVIU 1997, iterative linear-eigen), over all views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from splatmend.datasets.feature_tracks import Features, Observations, detect, join, match
from splatmend.datasets.geometry import inverse, transform
from splatmend.datasets.log import Camera, CameraFrame, SfmPoints
from splatmend.datasets.progress import ConsoleBar


@dataclass(frozen=True, kw_only=True)
class TriangulationConfig:
    """How many pictures and features are used, and which points count as good."""

    max_frames: int = 300
    """Pictures used at most (evenly chosen); time grows with it."""
    max_features: int = 3500
    """Features kept per picture."""
    neighbours: tuple[int, ...] = (1, 2, 3)
    """Each used picture is matched with those so many further on, of the same camera."""
    epipolar_px: float = 1.5
    """Matches lie within this distance of the epipolar line."""
    max_reprojection_px: float = 1.0
    """Points fall on each of their features within this distance."""
    min_parallax_rad: float = 0.02
    """The first and the last view see a point from directions at least so far apart."""
    min_views: int = 2
    """Views of a point."""

    def __post_init__(self) -> None:
        if self.max_frames < 2 or self.max_features < 1 or self.min_views < 2 or not self.neighbours or min(self.neighbours) < 1:
            raise ValueError(f"no points can be triangulated with {self}")


def triangulated_points(
    cameras: Mapping[str, Camera], frames: Sequence[CameraFrame], config: TriangulationConfig = TriangulationConfig()
) -> SfmPoints:
    """Points with colour in the world. Takes about a second per picture, with a bar where standard error is a terminal; an empty result is
    possible (a camera that never moves)."""
    chosen = frames
    if len(frames) > config.max_frames:
        chosen = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, config.max_frames).astype(int))]
    neighbours = _neighbours(chosen, config.neighbours)
    features, pairs = [], []
    with ConsoleBar("triangulating", len(chosen) + len(neighbours)) as bar:
        for frame in chosen:
            features.append(detect(frame.read_image(), cameras[frame.camera], frame.world_from_camera, config.max_features))
            bar.show(len(features))
        for a, b in neighbours:
            pairs.append((a, b, match(features[a], features[b], config.epipolar_px)))
            bar.show(len(features) + len(pairs))
    seen = join(features, pairs, config.min_views)
    if not len(seen.track):
        return SfmPoints(xyz_world_m=np.zeros((0, 3)), rgb=np.zeros((0, 3), dtype=np.uint8))
    views = _Views.of(features, seen)
    # A wrong match spoils the point that it is in: drop what is far off, solve again, and only then be strict.
    for slack in (16.0, 6.0, 2.5, 1.0):
        views = views.where(views.errors_px(views.solve()) <= slack * config.max_reprojection_px, config.min_views)
    xyz = views.solve()
    good = views.all_of(views.errors_px(xyz) <= config.max_reprojection_px) & (views.parallax_rad(xyz) >= config.min_parallax_rad)
    return SfmPoints(xyz_world_m=xyz[good], rgb=views.rgb[views.first][good])


def _neighbours(frames: Sequence[CameraFrame], steps: Sequence[int]) -> list[tuple[int, int]]:
    """Index pairs of pictures to match: `steps` apart among those of the same camera."""
    pairs = []
    for camera in {frame.camera: None for frame in frames}:
        own = [index for index, frame in enumerate(frames) if frame.camera == camera]
        pairs += [(a, b) for step in steps for a, b in zip(own, own[step:])]
    return pairs


@dataclass(frozen=True, kw_only=True)
class _Views:
    """M views of T points, sorted by point: `point [M]`, `ideal [M, 2]`, `camera_from_world [M, 4, 4]`, `focal_px [M]`, `rgb [M, 3]`."""

    point: np.ndarray
    ideal: np.ndarray
    camera_from_world: np.ndarray
    focal_px: np.ndarray
    rgb: np.ndarray

    @classmethod
    def of(cls, features: Sequence[Features], seen: Observations) -> _Views:
        offsets = np.concatenate([[0], np.cumsum([len(f.ideal) for f in features])]).astype(np.int64)
        row = offsets[seen.picture] + seen.feature
        return cls(
            point=seen.track,
            ideal=np.concatenate([f.ideal for f in features])[row],
            camera_from_world=np.stack([f.camera_from_world for f in features])[seen.picture],
            focal_px=np.array([f.focal_px for f in features])[seen.picture],
            rgb=np.concatenate([f.rgb for f in features])[row],
        )

    @property
    def first(self) -> np.ndarray:
        """Index `[T]` of each point's first view."""
        return np.flatnonzero(np.diff(self.point, prepend=-1))

    @property
    def last(self) -> np.ndarray:
        """Index `[T]` of each point's last view."""
        return np.flatnonzero(np.diff(self.point, append=-1))

    def where(self, kept: np.ndarray, min_views: int) -> _Views:
        """The views `kept [M]`, without the points that then have too few."""
        kept = kept & (np.bincount(self.point, weights=kept)[self.point] >= min_views)
        point = np.unique(self.point[kept], return_inverse=True)[1]
        return _Views(
            point=point,
            ideal=self.ideal[kept],
            camera_from_world=self.camera_from_world[kept],
            focal_px=self.focal_px[kept],
            rgb=self.rgb[kept],
        )

    def all_of(self, held: np.ndarray) -> np.ndarray:
        """Points `[T]` for which `held [M]` is true in every view."""
        return np.bincount(self.point, weights=~held) == 0

    def solve(self, rounds: int = 3) -> np.ndarray:
        """Points `[T, 3]`: the smallest eigenvector of each point's 4x4 normal matrix, rows weighted by 1 / depth of the round before
        so that what is minimised becomes the distance in the picture. The world is shifted near the cameras for good conditioning."""
        if not len(self.point):
            return np.zeros((0, 3))
        centre = inverse(self.camera_from_world)[:, :3, 3].mean(axis=0)
        projection = self.camera_from_world[:, :3].copy()
        projection[:, :, 3] = transform(self.camera_from_world, centre)
        rows = self.ideal[:, :, None] * projection[:, 2:3] - projection[:, :2]  # [M, 2, 4]
        weight = self.focal_px.copy()
        solution = np.zeros((self.point[-1] + 1, 4))
        for _ in range(rounds):
            weighted = rows * weight[:, None, None]
            normal = np.add.reduceat(np.einsum("mij,mik->mjk", weighted, weighted), self.first, axis=0)
            solution = np.linalg.eigh(normal)[1][:, :, 0]
            solution = solution / np.where(np.abs(solution[:, 3:]) < 1e-9, 1e-9, solution[:, 3:])
            depth = np.einsum("mj,mj->m", projection[:, 2], solution[self.point])
            weight = self.focal_px / np.maximum(np.abs(depth), 1e-6)
        return solution[:, :3] + centre

    def errors_px(self, xyz: np.ndarray) -> np.ndarray:
        """Distance `[M]` between each view's feature and its point's projection; infinite behind the camera."""
        in_camera = transform(self.camera_from_world, xyz[self.point])
        front = in_camera[:, 2] > 1e-6
        projected = in_camera[:, :2] / np.where(front, in_camera[:, 2], 1.0)[:, None]
        return np.where(front, np.linalg.norm(projected - self.ideal, axis=1) * self.focal_px, np.inf)

    def parallax_rad(self, xyz: np.ndarray) -> np.ndarray:
        """Angle `[T]` between the directions in which the first and the last view see each point."""
        towards = xyz[self.point] - inverse(self.camera_from_world)[:, :3, 3]
        towards = towards / np.linalg.norm(towards, axis=1, keepdims=True)
        return np.arccos(np.clip((towards[self.first] * towards[self.last]).sum(axis=1), -1.0, 1.0))
