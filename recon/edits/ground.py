"""The scene's own ground below a body: a plane through the low background Gaussians around its place.

What is known without looking: the recorded vehicle drove on it, and labelled bodies stand on it. So the search keeps to a band around
the height of the vehicle's wheels that widens with the distance from its path, and places under bodies count like Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from splatmend.recon.scene import Scene
from splatmend.recon.sky import rotation_to_z

_OPAQUE = 0.2
_NEAREST_BELOW = 150
_BAND, _BAND_OF_HEIGHT, _STEEPEST = 0.6, 0.4, 0.12
_LEAST_POINTS = 12
_WEIGHT_OF_WHEELS = 5.0
_GROWTH = (1.0, 1.6, 2.5)
_MOST_POINTS = 400
_LOW_SHARE = 0.3
_MOST_TILT = 0.25
_SPREAD = 0.04


@dataclass(frozen=True, kw_only=True)
class GroundPlanes:
    """Heights `z [N]` and slopes `[N, 2]` (dz/dx, dz/dy) of the ground at places, in the level frame; `known [N]` says where the scene
    shows the ground, elsewhere it is the plane of the recorded vehicle's wheels."""

    z: np.ndarray
    slopes: np.ndarray
    known: np.ndarray


class SceneGround:
    """The ground of a scene, in the level frame (the world turned so that z is up)."""

    def __init__(self, scene: Scene, unit: float) -> None:
        self.level_from_world = rotation_to_z(np.asarray(scene.up_world, dtype=np.float64))
        self.unit = unit
        ego = scene.ego.world_from_body[:, :3, 3] @ self.level_from_world.T
        self._origin = ego[0]
        gaussians = scene.background.gaussians
        solid = (gaussians.opacities > _OPAQUE).cpu().numpy()
        means = gaussians.means.detach().cpu().numpy()[solid].astype(np.float64) + scene.origin_world_m
        self._points = means @ self.level_from_world.T - self._origin
        self._ego = ego[_spread_out(ego, unit)] - self._origin
        self._wheels_below = self._wheel_height()
        wheels = self._below_actors(scene)
        self._weights = np.concatenate([np.ones(len(self._points)), np.full(len(wheels), _WEIGHT_OF_WHEELS)])
        self._points = np.concatenate([self._points, wheels])
        self._tree = cKDTree(self._points[:, :2]) if len(self._points) else None
        self._ego_tree = cKDTree(self._ego[:, :2])

    def distance_from_ego(self, xy: np.ndarray) -> np.ndarray:
        """How far places `[N, 2]` are from the recorded path."""
        return self._ego_tree.query(xy - self._origin[:2])[0]

    def planes(self, xy: np.ndarray, reach: float) -> GroundPlanes:
        """The ground at places `[N, 2]`, looked for within `reach` of each, farther where little is there."""
        around = xy - self._origin[:2]
        distance, nearest = self._ego_tree.query(around)
        prior = self._ego[nearest, 2] - self._wheels_below
        band = max(_BAND * self.unit, _BAND_OF_HEIGHT * abs(self._wheels_below)) + _STEEPEST * distance
        z, slopes, known = prior.copy(), np.zeros((len(xy), 2)), np.zeros(len(xy), dtype=bool)
        for index, place in enumerate(around):
            found = self._plane(place, prior[index], band[index], reach)
            if found is not None:
                z[index], slopes[index], known[index] = found[0], found[1:], True
        return GroundPlanes(z=z + self._origin[2], slopes=slopes, known=known)

    def _plane(self, place: np.ndarray, prior: float, band: float, reach: float) -> np.ndarray | None:
        """Height and slopes of the plane around a place; None where too little is seen."""
        if self._tree is None:
            return None
        for growth in _GROWTH:
            near = np.asarray(self._tree.query_ball_point(place, growth * reach), dtype=np.int64)
            near = near[np.abs(self._points[near, 2] - prior) < band]
            if self._weights[near].sum() >= _LEAST_POINTS:
                break
        else:
            return None
        if len(near) > _MOST_POINTS:
            near = near[np.linspace(0, len(near) - 1, _MOST_POINTS).astype(np.int64)]
        points = self._points[near]
        return _low_plane(points[:, :2] - place, points[:, 2], self._weights[near], _SPREAD * self.unit, growth * reach)

    def _wheel_height(self) -> float:
        """How far the ground is below the recorded body's origin: between it and the nearest Gaussians around is nothing but road."""
        if not len(self._points):
            return 0.0
        tree = cKDTree(self._points[:, :2])
        some = self._ego[np.linspace(0, len(self._ego) - 1, min(len(self._ego), 40)).astype(np.int64)]
        _, near = tree.query(some[:, :2], k=min(_NEAREST_BELOW, len(self._points)))
        heights = self._points[near.reshape(len(some), -1), 2] - some[:, 2:3]
        # The road is the densest layer; trees and bridges are above the body, and few things are below the road.
        low = heights[heights < 0.25 * self.unit]
        return float(-np.median(low)) if len(low) > 0.1 * heights.size else 0.0

    def _below_actors(self, scene: Scene) -> np.ndarray:
        """Places on the ground below labelled bodies, `[N, 3]`."""
        out = [np.zeros((0, 3))]
        for actor in scene.actors.values():
            length, width, height = actor.track.size_m
            if actor.track.actor_class == "sign":
                continue
            wheels = 0.5 * np.array([[x * length, y * width, -height] for x in (-0.7, 0.7) for y in (-0.8, 0.8)])
            poses = actor.track.track.world_from_body
            poses = poses[_spread_out(poses[:, :3, 3], self.unit)]
            places = np.einsum("tij,kj->tki", poses[:, :3, :3], wheels) + poses[:, None, :3, 3]
            out.append(places.reshape(-1, 3) @ self.level_from_world.T - self._origin)
        return np.concatenate(out)


def _spread_out(places: np.ndarray, step: float) -> np.ndarray:
    """Indices of places on a way that are at least a step apart."""
    kept = [0]
    for index in range(1, len(places)):
        if np.linalg.norm(places[index] - places[kept[-1]]) >= step:
            kept.append(index)
    return np.asarray(kept)


def _low_plane(xy: np.ndarray, z: np.ndarray, weights: np.ndarray, spread: float, reach: float) -> np.ndarray:
    """Height at zero and slopes of the plane that low points lie on: first that with `_LOW_SHARE` of the points below it (quantile
    regression by reweighting), then Tukey's biweight around it, which leaves out what stands on the ground."""
    rows = np.concatenate([np.ones((len(xy), 1)), xy], axis=1)
    closeness = weights * np.exp(-0.5 * (np.hypot(*xy.T) / reach) ** 2)
    # Slopes are known from the start to be small, which also keeps points on one line from tilting the plane.
    prior = np.diag([0.0, 1.0, 1.0]) * (len(xy) * (spread / 0.05) ** 2 * 0.05)
    plane = np.array([np.quantile(z, _LOW_SHARE), 0.0, 0.0])
    for _ in range(8):
        off = z - rows @ plane
        weight = closeness * np.where(off > 0, _LOW_SHARE, 1 - _LOW_SHARE) / np.maximum(np.abs(off), 0.25 * spread)
        weight *= spread
        plane = np.linalg.solve((rows * weight[:, None]).T @ rows + prior, (rows * weight[:, None]).T @ z)
    for _ in range(6):
        off = z - rows @ plane
        limit = 3.0 * max(spread, 1.48 * float(np.median(np.abs(off[off < spread]))) if (off < spread).any() else spread)
        weight = closeness * np.square(np.clip(1 - np.square(off / min(limit, 4 * spread)), 0.0, None)) + 1e-9
        plane = np.linalg.solve((rows * weight[:, None]).T @ rows + prior, (rows * weight[:, None]).T @ z)
    plane[1:] = np.clip(plane[1:], -_MOST_TILT, _MOST_TILT)
    return plane
