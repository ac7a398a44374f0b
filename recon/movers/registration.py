"""Where a body is, from returns that see part of it: robust registration over x, y and yaw."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numba import njit
from scipy.spatial import cKDTree

TRUNCATE_M = 0.4
_ROUNDS_M = (1.0, 1.0, 0.6, 0.6, 0.4, 0.4, 0.25, 0.25, 0.25)
"""Distances beyond which a pair of points counts little, round by round."""
_ALONG_SURFACE = 0.15
"""Weight of distances along a surface beside 1 across it: a scanner's rings slide over a body without its moving."""
_MOST_POINTS = 400


class Shape:
    """Points `[M, 3]` of a body in its own frame with the normals `[M, 3]` of the surface around each. They are in the order of their
    coordinates along `axis`, the longest one of the body."""

    def __init__(self, xyz_body_m: np.ndarray) -> None:
        cells = np.floor(xyz_body_m / 0.1).astype(np.int64)
        cells -= cells.min(axis=0)
        _, first = np.unique(cells[:, 0] << 42 | cells[:, 1] << 21 | cells[:, 2], return_index=True)
        xyz = xyz_body_m[np.sort(first)]
        self.axis = int(np.argmax(np.ptp(xyz, axis=0)))
        self.xyz_m = np.ascontiguousarray(xyz[np.argsort(xyz[:, self.axis], kind="stable")])
        neighbours = cKDTree(self.xyz_m).query(self.xyz_m, k=min(10, len(xyz)))[1].reshape(len(xyz), -1)
        around = self.xyz_m[neighbours]
        spread = around - around.mean(axis=1, keepdims=True)
        self.normals = np.ascontiguousarray(np.linalg.eigh(np.einsum("nki,nkj->nij", spread, spread))[1][:, :, 0])

    def registered(self, xyz_world_m: np.ndarray, guesses: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        """The pose `[4, 4]` (world_from_body) that lays returns onto the shape, begun at each guess, and the mean distance in metres that
        is left (each distance held to `TRUNCATE_M`)."""
        xyz = xyz_world_m[_spread(len(xyz_world_m))]
        fits = [_registered(xyz, guess, self.xyz_m, self.normals, self.axis) for guess in guesses]
        return min(fits, key=lambda fit: fit[1])


@lru_cache(maxsize=1024)
def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(int))


@njit(cache=True, nogil=True, error_model="numpy")
def _registered(
    xyz: np.ndarray, world_from_body: np.ndarray, shape: np.ndarray, normals: np.ndarray, axis: int
) -> tuple[np.ndarray, float]:
    """The pose (world_from_body) after all rounds, and the mean truncated distance that is left."""
    body_from_world = _inverse(world_from_body)
    nearest = np.full(len(xyz), -1)
    distance = np.empty(len(xyz))
    for scale_m in _ROUNDS_M:
        body = _moved(body_from_world, xyz)
        _find_nearest(body, shape, axis, nearest, distance)
        body_from_world = _step(body, shape, normals, nearest, distance, scale_m) @ body_from_world
    _find_nearest(_moved(body_from_world, xyz), shape, axis, nearest, distance)
    return _inverse(body_from_world), np.minimum(distance, TRUNCATE_M).mean()


@njit(cache=True, nogil=True, error_model="numpy")
def _inverse(a_from_b: np.ndarray) -> np.ndarray:
    out = np.eye(4)
    for row in range(3):
        for column in range(3):
            out[row, column] = a_from_b[column, row]
            out[row, 3] -= a_from_b[column, row] * a_from_b[column, 3]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _moved(a_from_b: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    out = np.empty((len(xyz), 3))
    for i in range(len(xyz)):
        for row in range(3):
            out[i, row] = a_from_b[row, 0] * xyz[i, 0] + a_from_b[row, 1] * xyz[i, 1] + a_from_b[row, 2] * xyz[i, 2] + a_from_b[row, 3]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _find_nearest(body: np.ndarray, shape: np.ndarray, axis: int, nearest: np.ndarray, distance: np.ndarray) -> None:
    """Set the number of the shape's point that is nearest to each place, and its distance. The search goes from the place both ways along
    the axis in which the shape is sorted, no farther than the best found; it begins with the answer of the round before (-1: none)."""
    count = len(shape)
    for i in range(len(body)):
        x, y, z = body[i, 0], body[i, 1], body[i, 2]
        at = body[i, axis]
        which, best = nearest[i], np.inf
        if which >= 0:
            best = (x - shape[which, 0]) ** 2 + (y - shape[which, 1]) ** 2 + (z - shape[which, 2]) ** 2
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            if shape[middle, axis] < at:
                low = middle + 1
            else:
                high = middle
        after, before = low, low - 1
        while after < count or before >= 0:
            if after < count:
                if (shape[after, axis] - at) ** 2 >= best:
                    after = count
                else:
                    square = (x - shape[after, 0]) ** 2 + (y - shape[after, 1]) ** 2 + (z - shape[after, 2]) ** 2
                    if square < best:
                        best, which = square, after
                    after += 1
            if before >= 0:
                if (at - shape[before, axis]) ** 2 >= best:
                    before = -1
                else:
                    square = (x - shape[before, 0]) ** 2 + (y - shape[before, 1]) ** 2 + (z - shape[before, 2]) ** 2
                    if square < best:
                        best, which = square, before
                    before -= 1
        nearest[i], distance[i] = which, np.sqrt(best)


@njit(cache=True, nogil=True, error_model="numpy")
def _step(
    body: np.ndarray, shape: np.ndarray, normals: np.ndarray, nearest: np.ndarray, distance: np.ndarray, scale_m: float
) -> np.ndarray:
    """The move `[4, 4]` over x, y and yaw that brings places `[N, 3]` nearer to the points of the shape that are nearest to them: one step
    of weighted least squares, of the distance across the surface and, with little weight, those along x and y."""
    count = len(body)
    centre = np.zeros(3)
    for i in range(count):
        centre += body[i]
    centre /= count
    matrix, right = np.zeros((3, 3)), np.zeros(3)
    total = 0.0
    for i in range(count):
        j = nearest[i]
        weight = 1.0 / (1.0 + (distance[i] / scale_m) ** 2) ** 2
        along = _ALONG_SURFACE * weight
        total += weight
        x, y = body[i, 0] - shape[j, 0], body[i, 1] - shape[j, 1]
        arm_x, arm_y = body[i, 0] - centre[0], body[i, 1] - centre[1]
        n_x, n_y = normals[j, 0], normals[j, 1]
        n_turn = n_y * arm_x - n_x * arm_y
        left = n_x * x + n_y * y + normals[j, 2] * (body[i, 2] - shape[j, 2])
        matrix[0, 0] += weight * n_x * n_x + along
        matrix[0, 1] += weight * n_x * n_y
        matrix[0, 2] += weight * n_x * n_turn - along * arm_y
        matrix[1, 1] += weight * n_y * n_y + along
        matrix[1, 2] += weight * n_y * n_turn + along * arm_x
        matrix[2, 2] += weight * n_turn * n_turn + along * (arm_x * arm_x + arm_y * arm_y)
        right[0] += weight * n_x * left + along * x
        right[1] += weight * n_y * left + along * y
        right[2] += weight * n_turn * left + along * (arm_x * y - arm_y * x)
    # A turn must pay: 3 degrees a sweep is what the damping allows without good reason.
    a, b, c = matrix[0, 0] + 1e-3, matrix[0, 1], matrix[0, 2]
    d, e, f = matrix[1, 1] + 1e-3, matrix[1, 2], matrix[2, 2] + 0.05 * total + 1e-3
    # Elimination: the matrix is symmetric and positive.
    d_left, e_left = d - b * b / a, e - b * c / a
    second, third = right[1] - b / a * right[0], right[2] - c / a * right[0]
    angle = -(third - e_left / d_left * second) / (f - c * c / a - e_left * e_left / d_left)
    step_y = (-second - e_left * angle) / d_left
    step_x = (-right[0] - b * step_y - c * angle) / a
    turn = np.eye(4)
    turn[0, 0] = turn[1, 1] = np.cos(angle)
    turn[1, 0] = np.sin(angle)
    turn[0, 1] = -turn[1, 0]
    turn[0, 3] = centre[0] - turn[0, 0] * centre[0] - turn[0, 1] * centre[1] + step_x
    turn[1, 3] = centre[1] - turn[1, 0] * centre[0] - turn[1, 1] * centre[1] + step_y
    return turn
