"""Where a body is, from returns that see part of it: robust registration over x, y and yaw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from splatmend.datasets.geometry import inverse, transform

TRUNCATE_M = 0.4
_ROUNDS_M = (1.0, 1.0, 0.6, 0.6, 0.4, 0.4, 0.25, 0.25, 0.25)
"""Distances beyond which a pair of points counts little, round by round."""
_ALONG_SURFACE = 0.15
"""Weight of distances along a surface beside 1 across it: a scanner's rings slide over a body without its moving."""
_MOST_POINTS = 400


class Shape:
    """Points `[M, 3]` of a body in its own frame with the normals `[M, 3]` of the surface around each."""

    def __init__(self, xyz_body_m: np.ndarray) -> None:
        _, first = np.unique(np.floor(xyz_body_m / 0.1).astype(np.int64), axis=0, return_index=True)
        self.xyz_m = xyz_body_m[np.sort(first)]
        self.tree = cKDTree(self.xyz_m)
        around = self.xyz_m[self.tree.query(self.xyz_m, k=min(10, len(self.xyz_m)))[1].reshape(len(self.xyz_m), -1)]
        spread = around - around.mean(axis=1, keepdims=True)
        self.normals = np.linalg.eigh(np.einsum("nki,nkj->nij", spread, spread))[1][:, :, 0]

    def registered(self, xyz_world_m: np.ndarray, guesses: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        """The pose `[4, 4]` (world_from_body) that lays returns onto the shape, begun at each guess, and the mean distance in metres that
        is left (each distance held to `TRUNCATE_M`)."""
        xyz = xyz_world_m[np.unique(np.linspace(0, len(xyz_world_m) - 1, min(len(xyz_world_m), _MOST_POINTS)).astype(int))]
        fits = [self._refined(xyz, guess) for guess in guesses]
        return min(fits, key=lambda fit: fit[1])

    def _refined(self, xyz: np.ndarray, world_from_body: np.ndarray) -> tuple[np.ndarray, float]:
        body_from_world = inverse(world_from_body)
        for scale in _ROUNDS_M:
            body = transform(body_from_world, xyz)
            distance, nearest = self.tree.query(body)
            weight = 1.0 / (1.0 + (distance / scale) ** 2) ** 2
            offset = body - self.xyz_m[nearest]
            normal = self.normals[nearest]
            # Rows: distance across the surface, then along x and y with little weight.
            centre = body.mean(axis=0)
            arm = body - centre
            across = np.stack([normal[:, 0], normal[:, 1], normal[:, 1] * arm[:, 0] - normal[:, 0] * arm[:, 1]], axis=1)
            zero, one = np.zeros(len(xyz)), np.ones(len(xyz))
            rows = np.concatenate([across, np.stack([one, zero, -arm[:, 1]], axis=1), np.stack([zero, one, arm[:, 0]], axis=1)])
            left = np.concatenate([(offset * normal).sum(axis=1), offset[:, 0], offset[:, 1]])
            weights = np.concatenate([weight, _ALONG_SURFACE * weight, _ALONG_SURFACE * weight])
            # A turn must pay: 3 degrees a sweep is what the damping allows without good reason.
            normal_matrix = (rows * weights[:, None]).T @ rows + np.diag([1e-3, 1e-3, 0.05 * weight.sum() + 1e-3])
            step = -np.linalg.solve(normal_matrix, (rows * weights[:, None]).T @ left)
            turn = np.eye(4)
            turn[:2, :2] = [[np.cos(step[2]), -np.sin(step[2])], [np.sin(step[2]), np.cos(step[2])]]
            turn[:3, 3] = centre - turn[:3, :3] @ centre + [step[0], step[1], 0.0]
            body_from_world = turn @ body_from_world
        distance = self.tree.query(transform(body_from_world, xyz))[0]
        return inverse(body_from_world), float(np.minimum(distance, TRUNCATE_M).mean())
