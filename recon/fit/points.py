"""Coloured points to begin with: LiDAR (split into background and actors), structure from motion, and pixel rays.

Everything here is NumPy in float64 and world coordinates; `splatmend.recon.fit.seeding` turns it into Gaussians.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from splatmend.datasets.geometry import inverse, project, transform
from splatmend.datasets.log import Camera, CameraFrame, LidarPoints, LidarSweep, SceneLog
from splatmend.recon.fit.config import InitConfig
from splatmend.recon.fit.timed_points import TimedPoints
from splatmend.recon.fit.usable_pixels import usable_pixels
from splatmend.recon.read_ahead import worked_in_order

_SPARE, _FEWEST_VOXELS = 4, 20_000
"""Voxels that are kept while sweeps are read: so many for each initial Gaussian, and never fewer."""
_MOST_OF_ACTOR = 100_000
"""Returns of an actor that are kept before they are thinned."""
_NEAR_US = 500_000
"""A picture that is farther in time from the middle of a sweep says nothing of what moves."""


@dataclass(frozen=True, kw_only=True)
class ColouredPoints:
    """`xyz [N, 3]` float64 and `rgb [N, 3]` float64 in [0, 1]."""

    xyz: np.ndarray
    rgb: np.ndarray

    def __len__(self) -> int:
        return self.xyz.shape[0]

    def select(self, which: np.ndarray) -> ColouredPoints:
        return ColouredPoints(xyz=self.xyz[which], rgb=self.rgb[which])


def joined(parts: Sequence[ColouredPoints]) -> ColouredPoints:
    """All points one after the other."""
    return ColouredPoints(
        xyz=np.concatenate([np.zeros((0, 3)), *(part.xyz for part in parts)]),
        rgb=np.concatenate([np.zeros((0, 3)), *(part.rgb for part in parts)]),
    )


def scene_extent(frames: Sequence[CameraFrame], metric: bool) -> float:
    """Unit of length of learning rates: 1.1 times the greatest distance of a camera from their mean; 5 to 50 m in metric scenes."""
    centres = np.stack([frame.world_from_camera[:3, 3] for frame in frames])
    reach = 1.1 * float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())
    return float(np.clip(reach, 5.0, 50.0)) if metric else max(reach, 1e-6)


def lidar_points(log: SceneLog, frames: Sequence[CameraFrame], config: InitConfig) -> tuple[ColouredPoints, Mapping[str, ColouredPoints]]:
    """Points of all sweeps that a training frame near in time sees, with its colours: those of the background in the world, and those
    in each actor's box in the actor's frame. Where no frame ever sees the background from near in time, one that is far may do. All are
    thinned to one point per voxel; of the background's voxels a fair share is left out where there are many more than `point_count`, so
    that memory does not grow with the way that was driven."""
    centres = cKDTree(np.stack([frame.world_from_camera[:3, 3] for frame in frames]))
    most = max(_SPARE * config.point_count, _FEWEST_VOXELS)
    background, from_afar = Voxels(centres, config.voxel_m, most), Voxels(centres, config.voxel_m, most)
    actors: dict[str, list[ColouredPoints]] = {actor.actor_id: [] for actor in log.actors}
    near_origin = cKDTree(np.zeros((1, 3)))
    images = _ImageMemo()

    def told_apart(sweep: LidarSweep, points: LidarPoints) -> tuple[list[ColouredPoints], dict[str, ColouredPoints]]:
        timed = TimedPoints.of(points, log.actors)
        rgb, near, far = _sweep_colours(sweep, timed, log, frames, images)
        standing = [ColouredPoints(xyz=timed.xyz_world_m[seen], rgb=rgb[seen]) for seen in (timed.standing & near, far)]
        of_actors = {
            body.actor.actor_id: ColouredPoints(xyz=body.xyz[near[body.rows]], rgb=rgb[body.rows][near[body.rows]]) for body in timed.bodies
        }
        return standing, {n: p for n, p in of_actors.items() if len(p)}

    for standing, of_actors in worked_in_order(log.sweeps, lambda sweep: sweep.read_points(), told_apart):
        for actor_id, points in of_actors.items():
            parts = actors[actor_id]
            parts.append(points)
            if sum(map(len, parts)) > _MOST_OF_ACTOR:
                parts[:] = [thinned(joined(parts), near_origin, config.voxel_m)]
        for voxels, points in zip((background, from_afar), standing, strict=True):
            voxels.add(points)
    return (
        background.with_missing(from_afar.points()),
        {actor_id: thinned(joined(parts), near_origin, config.voxel_m) for actor_id, parts in actors.items() if parts},
    )


def thinned(points: ColouredPoints, centres: cKDTree, voxel_m: float) -> ColouredPoints:
    """One point (the mean) per voxel. Voxels have side `voxel_m` up to 10 m from the nearest of `centres`, twice that up to 20 m, and so
    on."""
    if not len(points):
        return points
    keys = _voxels(points.xyz, centres, voxel_m)
    cell, counts = _grouped(keys)
    mean = [np.stack([np.bincount(cell, weights=values[:, i]) for i in range(3)], axis=1) for values in (points.xyz, points.rgb)]
    return ColouredPoints(xyz=mean[0] / counts[:, None], rgb=mean[1] / counts[:, None])


def _grouped(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of whole numbers `[N, K]` the place of its like among the rows that differ, in rising order, and how many are like each
    of those. Where it can be, rows are sorted as one number each, which takes a small part of the time."""
    low = keys.min(axis=0)
    spans = [int(span) for span in keys.max(axis=0) - low + 1]
    if math.prod(spans) < 2**63:
        packed = np.zeros(len(keys), dtype=np.int64)
        for span, column in zip(spans, (keys - low).T):
            packed = packed * span + column
        _, place, counts = np.unique(packed, return_inverse=True, return_counts=True)
    else:
        _, place, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return place.reshape(-1), counts


class Voxels:
    """Points of sweep after sweep, one per voxel. Of more than `most` voxels half are left out, again and again where need be, by lots that
    are drawn from their places: so it is the same half in every sweep, and often seen places are not more likely to stay."""

    def __init__(self, centres: cKDTree, voxel_m: float, most: int) -> None:
        self._centres, self._voxel_m, self._most = centres, voxel_m, most
        self._parts: list[ColouredPoints] = []
        self._share = 1.0

    def add(self, points: ColouredPoints) -> None:
        """Points of a sweep."""
        self._parts.append(thinned(self._drawn(points), self._centres, self._voxel_m))
        if len(self._parts) > 16:
            self._parts = [self.points()]

    def points(self) -> ColouredPoints:
        """One point, the mean, for each voxel that is left."""
        points = thinned(joined(self._parts), self._centres, self._voxel_m)
        while len(points) > self._most:
            self._share /= 2
            points = self._drawn(points)
        return points

    def with_missing(self, points: ColouredPoints) -> ColouredPoints:
        """`points()`, and of others those in voxels that hold none of them, less the share that is left out: twice `most` at most."""
        own = self.points()
        points = self._drawn(points)
        if not len(points):
            return own
        place, _ = _grouped(_voxels(np.concatenate([own.xyz, points.xyz]), self._centres, self._voxel_m))
        return joined([own, points.select(~np.isin(place[len(own) :], place[: len(own)]))])

    def _drawn(self, points: ColouredPoints) -> ColouredPoints:
        if self._share == 1.0 or not len(points):
            return points
        mixed = np.zeros(len(points), dtype=np.uint64)
        for key in _voxels(points.xyz, self._centres, self._voxel_m).T.astype(np.uint64):
            # A finaliser of SplitMix64 (Steele, Lea and Flood 2014) after each coordinate.
            mixed = (mixed ^ key) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
        return points.select(mixed < np.uint64(self._share * 2.0**63) * np.uint64(2))


def _voxels(xyz: np.ndarray, centres: cKDTree, voxel_m: float) -> np.ndarray:
    """Level and place `[N, 4]` of each point's voxel."""
    distance = centres.query(xyz, workers=-1)[0]
    level = np.maximum(np.floor(np.log2(np.maximum(distance, 1e-9) / 5.0)), 0.0)
    side = voxel_m * 2.0**level
    return np.concatenate([level[:, None], np.floor(xyz / side[:, None])], axis=1).astype(np.int64)


def sfm_points(log: SceneLog, frames: Sequence[CameraFrame]) -> ColouredPoints:
    """The log's structure-from-motion points, less the few percent that lie absurdly far away; none where it has none."""
    if log.read_sfm_points is None:
        return joined([])
    found = log.read_sfm_points()
    points = ColouredPoints(xyz=np.asarray(found.xyz_world_m, dtype=np.float64), rgb=found.rgb / 255.0)
    if len(points) < 8:
        return points
    centre = np.mean([frame.world_from_camera[:3, 3] for frame in frames], axis=0)
    distance = np.linalg.norm(points.xyz - centre, axis=1)
    return points.select(distance <= 20 * np.median(distance))


def depth_range(points: ColouredPoints, frames: Sequence[CameraFrame], extent: float, metric: bool, far_m: float) -> tuple[float, float]:
    """Nearest and farthest depth for random points along rays."""
    if metric:
        return 3.0, far_m
    if len(points) < 8:
        return 0.3 * extent, 10.0 * extent
    centres = cKDTree(np.stack([frame.world_from_camera[:3, 3] for frame in frames]))
    near, far = np.quantile(centres.query(points.xyz)[0], [0.05, 0.95])
    return float(near), float(3.0 * far)


class _ImageMemo:
    """The last few decoded pictures: neighbouring sweeps ask for the same ones, perhaps at the same time."""

    def __init__(self, size: int = 12) -> None:
        self.size = size
        self.pictures: dict[tuple[str, int], np.ndarray] = {}
        self._lock = threading.Lock()

    def __call__(self, frame: CameraFrame) -> np.ndarray:
        key = (frame.camera, frame.index)
        with self._lock:
            if key in self.pictures:
                return self.pictures[key]
        # Outside the lock: two that want the same picture at once both decode it.
        picture = frame.read_image()
        with self._lock:
            while len(self.pictures) >= self.size:
                self.pictures.pop(next(iter(self.pictures)))
            self.pictures[key] = picture
        return picture


def _sweep_colours(
    sweep: LidarSweep, points: TimedPoints, log: SceneLog, frames: Sequence[CameraFrame], images: _ImageMemo
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours `[N, 3]` of a sweep's points from each camera's nearest training frame; which points a frame near in time sees; and which
    of the others, if they stand, one that is far."""
    rgb = np.zeros((len(points.xyz_world_m), 3))
    near, far = np.zeros((2, len(rgb)), dtype=bool)
    standing = points.standing
    for gap_us, frame in _nearest_frames(sweep, log, frames):
        new = ~near if gap_us <= _NEAR_US else standing & ~near & ~far
        colours, shown = _colours_in(frame, log.cameras[frame.camera], points, new, images)
        rgb[shown] = colours
        (near if gap_us <= _NEAR_US else far)[shown] = True
    return rgb, near, far


def _nearest_frames(sweep: LidarSweep, log: SceneLog, frames: Sequence[CameraFrame]) -> list[tuple[int, CameraFrame]]:
    """Each camera's nearest frame in time with how far it is (microseconds): those that are near in the cameras' order, then the others,
    nearest first."""
    found = []
    for name in log.cameras:
        own = [(abs(frame.mid_us - sweep.middle_us), frame) for frame in frames if frame.camera == name]
        if own:
            found.append(min(own, key=lambda one: one[0]))
    return sorted(found, key=lambda one: max(one[0], _NEAR_US))


def _colours_in(
    frame: CameraFrame, camera: Camera, points: TimedPoints, wanted: np.ndarray, images: _ImageMemo
) -> tuple[np.ndarray, np.ndarray]:
    """Colours of those of the wanted points that a frame shows, and which `[N]` these are."""
    pixels, inside = project(camera, transform(inverse(frame.world_from_camera), points.at(frame.mid_us)))
    for body in points.bodies:
        # Where it is then, nobody says.
        inside[body.rows] &= body.actor.is_labelled(frame.mid_us)
    shown = inside & wanted
    columns, rows = np.floor(pixels[shown]).astype(np.int64).T
    usable = usable_pixels(frame, camera)
    if usable is not None:
        kept = usable[rows, columns]
        columns, rows = columns[kept], rows[kept]
        shown[shown] = kept
    return images(frame)[rows, columns] / 255.0, shown
