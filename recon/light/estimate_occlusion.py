"""What keeps the sun off: the scene's own Gaussians as cells of optical depth, marched through towards the light.

A search looks at hundreds of directions. One walk through cells for each point and direction costs a hundredth of drawing the scene from
that direction, and fine enough cells (20 cm) blur the edge of a shadow by less than its caster's own Gaussians do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from scipy.ndimage import distance_transform_edt
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
    """The standing scene's cells, and those (flat numbers, optical depths) of what is an actor in each of the samples' pictures."""

    cells: Cells
    moving: tuple[tuple[Int[np.ndarray, "K"], Float[np.ndarray, "K"]], ...]

    @staticmethod
    def of(scene: Scene, samples: Samples, side_m: float) -> Occluders:
        """Of a scene around samples, in cells of `side_m`, larger where there would be too many."""
        unit = samples.unit_m
        low = np.percentile(samples.points_m, 1, axis=0) - [_AROUND_M * unit, _AROUND_M * unit, 2 * unit]
        high = np.percentile(samples.points_m, 99, axis=0) + [_AROUND_M * unit, _AROUND_M * unit, 0.0]
        high[2] = max(high[2], np.percentile(samples.points_m[:, 2], 5) + _TOP_M * unit)
        side = max(side_m * unit, float(np.prod(high - low) / _MOST_CELLS) ** (1 / 3))
        shape = np.ceil((high - low) / side).astype(np.int64)
        cells = Cells(depth=np.zeros(shape, dtype=np.float32), low_m=low, side_m=side)
        turn = samples.level_from_world
        numbers, depths = _filled(cells, scene.background.gaussians, turn, np.zeros(3))
        np.maximum.at(cells.depth.reshape(-1), numbers, depths)
        _clear_ground(cells, samples)
        moving = []
        for t_us in samples.times_us:
            parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))]
            for actor in scene.actors.values():
                pose = actor.world_from_node(t_us)
                if pose is not None:
                    shift = turn @ (pose[:3, 3] - scene.origin_world_m)
                    parts.append(_filled(cells, actor.gaussians_at(t_us), turn @ pose[:3, :3], shift))
            moving.append((np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])))
        return Occluders(cells=cells, moving=tuple(moving))

    def seen(self, samples: Samples, directions: Float[np.ndarray, "D 3"]) -> Float[np.ndarray, "N D"]:
        """The share of the light from each direction that reaches each sample."""
        out = np.empty((len(samples.points_m), len(directions)), dtype=np.float32)
        # Off the surface by two cells, for its own Gaussians fill some to both sides.
        starts = samples.points_m + 2 * self.cells.side_m * samples.normals
        flat = self.cells.depth.reshape(-1)
        for number, (places, depths) in enumerate(self.moving):
            rows = np.flatnonzero(samples.shot == number)
            if not len(rows):
                continue
            before = flat[places].copy()
            np.maximum.at(flat, places, depths)
            out[rows] = _walk(self.cells.depth, (starts[rows] - self.cells.low_m) / self.cells.side_m, directions, _FAR_M * samples.unit_m / self.cells.side_m)
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


def _clear_ground(cells: Cells, samples: Samples) -> None:
    """Empty the cells at and little above the ground."""
    ground = samples.points_m[samples.ground]
    if not len(ground):
        return
    coarse = 5
    shape = tuple(-(-side // coarse) for side in cells.depth.shape[:2])
    column = np.floor((ground[:, :2] - cells.low_m[:2]) / (coarse * cells.side_m)).astype(np.int64)
    inside = ((column >= 0) & (column < shape)).all(axis=1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, tuple(column[inside].T), ground[inside, 2])
    np.add.at(counts, tuple(column[inside].T), 1)
    nearest = distance_transform_edt(counts == 0, return_distances=False, return_indices=True)
    height = (sums / np.maximum(counts, 1))[tuple(nearest)]
    height = np.repeat(np.repeat(height, coarse, 0), coarse, 1)[: cells.depth.shape[0], : cells.depth.shape[1]]
    tops = cells.low_m[2] + cells.side_m * np.arange(cells.depth.shape[2])
    cells.depth[tops[None, None] < height[..., None] + _FREE_M * samples.unit_m] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def _walk(depth: np.ndarray, starts: np.ndarray, directions: np.ndarray, far: float) -> np.ndarray:
    """Transmittance from starts (in cells) along directions: steps of one cell, of two behind sixteen."""
    nx, ny, nz = depth.shape
    out = np.empty((len(starts), len(directions)), np.float32)
    for i in range(len(starts)):
        for j in range(len(directions)):
            x, y, z = starts[i, 0], starts[i, 1], starts[i, 2]
            dx, dy, dz = directions[j, 0], directions[j, 1], directions[j, 2]
            gone, total, step = 0.0, 0.0, 1.0
            while gone < far:
                x += dx * step
                y += dy * step
                z += dz * step
                gone += step
                if x < 0 or y < 0 or z < 0 or x >= nx or y >= ny or z >= nz:
                    break
                total += depth[int(x), int(y), int(z)] * step
                if total > _OPAQUE:
                    break
                if gone >= 16:
                    step = 2.0
            out[i, j] = np.exp(-total)
    return out
