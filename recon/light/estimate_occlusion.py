"""What keeps the sun off: the scene's own Gaussians as cells of optical depth, marched through towards the light.

A search looks at hundreds of directions. One walk through cells for each point and direction costs a hundredth of drawing the scene from
that direction, and fine enough cells (20 cm) blur the edge of a shadow by less than its caster's own Gaussians do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from scipy.ndimage import binary_closing, distance_transform_edt
from scipy.spatial.transform import Rotation

from splatmend.recon.gaussians import Gaussians
from splatmend.recon.light.estimate_samples import Samples
from splatmend.recon.scene import Scene

_SIGMAS = 1.3
"""How far a Gaussian reaches."""
_MOST_PER_GAUSSIAN = 256
_MOST_CELLS = 40_000_000
_FREE_M = 0.3
"""Ground has no cells so far up, since its Gaussians would shadow it under low suns."""
_AROUND_M = 12.0
_TOP_M = 25.0
_FAR_M = 60.0
_WALL_M = 2.5
_DOORS_M = 3.0
"""What is lower is as cameras and LiDAR saw it."""
_GAP_M = 7.0
_COLUMN = 5
_FAINT = 0.02
_OPAQUE = 5.0
"""Optical depth at which a walk ends."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """`depth [X, Y, Z]` float32, the optical depth of a cell's crossing; the first cell's corner is at `low_m` of the level frame."""

    depth: Float[np.ndarray, "X Y Z"]
    low_m: Float[np.ndarray, "3"]
    side_m: float


@dataclass(frozen=True, kw_only=True)
class Occluders:
    """The standing scene's cells, and those (flat numbers, optical depths) of what is an actor in each of the samples' pictures; over each
    column of five by five cells the height of the ground."""

    cells: Cells
    moving: tuple[tuple[Int[np.ndarray, "K"], Float[np.ndarray, "K"]], ...]
    ground_m: Float[np.ndarray, "X5 Y5"]

    @staticmethod
    def of(scene: Scene, samples: Samples, side_m: float) -> Occluders:
        """Of a scene around samples, in cells of `side_m`, larger where there would be too many."""
        unit = samples.unit_m
        low, high = np.percentile(samples.points_m, [1, 99], axis=0)
        low -= np.array([_AROUND_M, _AROUND_M, 2.0]) * unit
        high += np.array([_AROUND_M, _AROUND_M, 0.0]) * unit
        high[2] = max(high[2], np.percentile(samples.points_m[:, 2], 5) + _TOP_M * unit)
        side = max(side_m * unit, float(np.prod(high - low) / _MOST_CELLS) ** (1 / 3))
        shape = np.ceil((high - low) / side).astype(np.int64)
        cells = Cells(depth=np.zeros(shape, dtype=np.float32), low_m=low, side_m=side)
        turn = samples.level_from_world
        numbers, depths = _filled(cells, scene.background.gaussians, turn, np.zeros(3))
        np.maximum.at(cells.depth.reshape(-1), numbers, depths)
        ground = _ground(cells, samples)
        _clear_ground(cells, ground, _FREE_M * samples.unit_m)
        moving = []
        for t_us in samples.times_us:
            parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))]
            for actor in scene.actors.values():
                pose = actor.world_from_node(t_us)
                if pose is not None:
                    shift = turn @ (pose[:3, 3] - scene.origin_world_m)
                    parts.append(_filled(cells, actor.gaussians_at(t_us), turn @ pose[:3, :3], shift))
            moving.append((np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])))
        return Occluders(cells=cells, moving=tuple(moving), ground_m=ground)

    def with_roofs(self, height_m: float, unit_m: float) -> Occluders:
        """With houses up to a height above the ground: cameras look below the roofs that shadow the street, and what they show of upper
        floors is full of holes. A house stands wherever the scene has walls, and in gaps between them that are narrower than a side street.
        """
        depth, side = self.cells.depth, self.cells.side_m
        filled = _coarse(depth > 0.5)
        top_m = self.cells.low_m[2] + side * np.where(filled.any(axis=2), depth.shape[2] - np.argmax(filled[:, :, ::-1], axis=2), 0)
        # Walls are occupied for much of their height, wires and crowns are not.
        walls = (filled.sum(axis=2) * side > _WALL_M * unit_m) & (top_m > self.ground_m + _WALL_M * unit_m)
        gap = max(1, round(_GAP_M * unit_m / (_COLUMN * side)))
        walls = binary_closing(np.pad(walls, gap), np.ones((gap, gap)))[gap:-gap, gap:-gap]
        heights = self.cells.low_m[2] + side * (np.arange(depth.shape[2]) + 0.5)
        over_m = heights - self.ground_m[..., None]
        added = walls[..., None] & (over_m > _DOORS_M * unit_m) & (over_m < height_m)
        return replace(self, cells=replace(self.cells, depth=np.where(_fine(added, self.cells), np.float32(_OPAQUE), depth)))

    def seen(self, samples: Samples, directions: Float[np.ndarray, "D 3"]) -> Float[np.ndarray, "N D"]:
        """The share of the light from each direction that reaches each sample."""
        out = np.empty((len(samples.points_m), len(directions)), dtype=np.float32)
        side, far = self.cells.side_m, float(_FAR_M * samples.unit_m / self.cells.side_m)
        # Off walls, whose own Gaussians fill cells to both sides. Over the ground they are empty, and a higher start would shorten shadows.
        starts = samples.points_m + np.where(samples.ground, 1, 4)[:, None] * side * samples.normals
        starts = (starts - self.cells.low_m) / side
        flat = self.cells.depth.reshape(-1)
        for number, (places, depths) in enumerate(self.moving):
            rows = np.flatnonzero(samples.shot == number)
            before = flat[places].copy()
            np.maximum.at(flat, places, depths)
            out[rows] = _walk(
                self.cells.depth,
                _blocks_filled(self.cells.depth),
                starts[rows].astype(np.float32),
                directions.astype(np.float32),
                far,
            )
            flat[places] = before
        return out


def _filled(
    cells: Cells, gaussians: Gaussians, level_from_node: np.ndarray, shift_m: np.ndarray
) -> tuple[Int[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """Flat numbers of the cells that Gaussians fill, and their optical depths there."""
    with torch.no_grad():
        means, quats = gaussians.means.double().cpu().numpy(), gaussians.quats_wxyz.double().cpu().numpy()
        scales, opacities = gaussians.scales.double().cpu().numpy(), gaussians.opacities.double().cpu().numpy()
    kept = opacities > 0.05
    means, quats, scales, opacities = means[kept], quats[kept], scales[kept], opacities[kept]
    if not len(means):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    generator = np.random.default_rng(11)
    counts = np.prod(np.ceil(2 * _SIGMAS * scales / cells.side_m), axis=1)
    counts = np.clip(2 * counts, 1, _MOST_PER_GAUSSIAN).astype(np.int64)
    # Evenly over the ball; the first place of each is its middle, so that small ones are where they are.
    owner = np.repeat(np.arange(len(means)), counts)
    ball = generator.normal(size=(len(owner), 3))
    ball *= (generator.random(len(owner)) ** (1 / 3) / np.maximum(np.linalg.norm(ball, axis=1), 1e-9))[:, None]
    ball[np.concatenate([[0], np.cumsum(counts)[:-1]])] = 0
    rotations = Rotation.from_quat(quats, scalar_first=True).as_matrix()
    places = means[owner] + np.einsum("nij,nj->ni", rotations[owner], ball * _SIGMAS * scales[owner])
    places = places @ level_from_node.T + shift_m
    index = np.floor((places - cells.low_m) / cells.side_m).astype(np.int64)
    inside = ((index >= 0) & (index < cells.depth.shape)).all(axis=1)
    numbers = np.ravel_multi_index(tuple(index[inside].T), cells.depth.shape)
    return numbers, -np.log1p(-0.99 * opacities[owner[inside]]).astype(np.float32)


def _ground(cells: Cells, samples: Samples) -> Float[np.ndarray, "X Y"]:
    """Height of the nearest ground over every column; that of the lowest cells where there is none at all."""
    ground = samples.points_m[samples.ground]
    shape = _columns(cells)
    column = np.floor((ground[:, :2] - cells.low_m[:2]) / (_COLUMN * cells.side_m)).astype(np.int64)
    inside = ((column >= 0) & (column < shape)).all(axis=1)
    if not inside.any():
        return np.full(shape, cells.low_m[2])
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, tuple(column[inside].T), ground[inside, 2])
    np.add.at(counts, tuple(column[inside].T), 1)
    nearest = distance_transform_edt(counts == 0, return_distances=False, return_indices=True)
    return (sums / np.maximum(counts, 1))[tuple(nearest)]


def _columns(cells: Cells) -> tuple[int, int]:
    return -(-cells.depth.shape[0] // _COLUMN), -(-cells.depth.shape[1] // _COLUMN)


def _coarse(filled: np.ndarray) -> np.ndarray:
    """Which heights of each column any of its cells fills."""
    for axis in (0, 1):
        filled = np.logical_or.reduceat(filled, np.arange(0, filled.shape[axis], _COLUMN), axis)
    return filled


def _fine(columns: np.ndarray, cells: Cells) -> np.ndarray:
    return np.repeat(np.repeat(columns, _COLUMN, 0), _COLUMN, 1)[: cells.depth.shape[0], : cells.depth.shape[1]]


def _clear_ground(cells: Cells, ground_m: np.ndarray, free_m: float) -> None:
    """Empty the cells at and little above the ground."""
    bottoms = cells.low_m[2] + cells.side_m * np.arange(cells.depth.shape[2])
    cells.depth[bottoms[None, None] < _fine(ground_m, cells)[..., None] + free_m] = 0


def _blocks_filled(depth: Float[np.ndarray, "X Y Z"]) -> np.ndarray:
    """Which blocks of four by four by four cells hold anything, uint8."""
    filled = depth > _FAINT
    for axis in range(3):
        filled = np.logical_or.reduceat(filled, np.arange(0, filled.shape[axis], 4), axis)
    return filled.astype(np.uint8)


@njit(cache=True, nogil=True, error_model="numpy")
def _walk(depth: np.ndarray, filled: np.ndarray, starts: np.ndarray, directions: np.ndarray, far: float) -> np.ndarray:
    """Transmittance from starts (in cells) along directions: steps of one cell, of two behind sixteen, of three in empty blocks."""
    nx, ny, nz = depth.shape
    out = np.empty((len(starts), len(directions)), np.float32)
    for i in range(len(starts)):
        for j in range(len(directions)):
            x, y, z = starts[i, 0], starts[i, 1], starts[i, 2]
            dx, dy, dz = directions[j, 0], directions[j, 1], directions[j, 2]
            gone, total, step = np.float32(0), np.float32(0), np.float32(1)
            while gone < far:
                x += dx * step
                y += dy * step
                z += dz * step
                gone += step
                if x < 0 or y < 0 or z < 0 or x >= nx or y >= ny or z >= nz:
                    break
                a, b, c = int(x), int(y), int(z)
                if filled[a >> 2, b >> 2, c >> 2] == 0:
                    step = np.float32(3)
                    continue
                total += depth[a, b, c] * min(step, np.float32(2))
                if total > _OPAQUE:
                    break
                step = np.float32(2) if gone >= 16 else np.float32(1)
            out[i, j] = np.exp(-total)
    return out
