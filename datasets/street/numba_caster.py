"""A ray caster for CPUs without Open3D: a tree of boxes (`numba_tree`), walked by a compiled kernel.

Every ray walks the tree by itself, the nearer child first, and leaves out boxes behind its best hit. Triangle test: Möller and Trumbore,
"Fast, minimum storage ray/triangle intersection", 1997, without culling of back faces.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import torch
from numba import njit

from splatmend.datasets.street.casters import NO_HIT, RayHits
from splatmend.datasets.street.numba_tree import DEEPEST, tree_of

# Barycentric slack, so that rays do not slip between neighbouring triangles in float32.
_EDGE = 1e-6


class NumbaCaster:
    """Casts against triangles `[F, 3]` over vertices `[V, 3]` on the CPU, on as many threads as torch may use."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        self.device = torch.device("cpu")
        corners = np.asarray(vertices, dtype=np.float64)[triangles]
        self._tree = tree_of(corners)
        packed = corners[self._tree.order]
        packed[:, 1:] -= packed[:, :1]
        self._packed = packed.reshape(len(corners), 9).astype(np.float32)

    def cast(self, origins: torch.Tensor, directions: torch.Tensor) -> RayHits:
        distance, triangle, weights = self._walk(origins, directions, any_hit=False)
        return RayHits(torch.from_numpy(distance), torch.from_numpy(triangle), torch.from_numpy(weights))

    def occluded(self, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self._walk(origins, directions, any_hit=True)[1] != NO_HIT)

    def _walk(self, origins: torch.Tensor, directions: torch.Tensor, *, any_hit: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count, tree = len(origins), self._tree
        o, d = (np.ascontiguousarray(rays.numpy(), dtype=np.float32) for rays in (origins, directions))
        distance, slot, weights = np.full(count, np.inf, np.float32), np.full(count, NO_HIT), np.zeros((count, 2), np.float32)
        shares = np.array_split(np.arange(count), torch.get_num_threads())
        spans = [(int(share[0]), int(share[-1]) + 1) for share in shares if len(share)]

        def walk(span: tuple[int, int]) -> None:
            _walk_rays(*span, o, d, self._packed, tree.children, tree.spans, tree.boxes, any_hit, distance, slot, weights)

        if len(spans) <= 1:
            for span in spans:
                walk(span)
        else:
            with ThreadPoolExecutor(len(spans)) as pool:
                list(pool.map(walk, spans))
        return distance, np.where(slot == NO_HIT, NO_HIT, tree.order[slot]), weights


_Number: TypeAlias = float | np.floating[Any]


@njit(cache=True, nogil=True, error_model="numpy")
def _enters(
    boxes: np.ndarray, node: int, ox: _Number, oy: _Number, oz: _Number, ix: _Number, iy: _Number, iz: _Number, best: _Number
) -> _Number:
    """The distance at which a ray enters a node's box, infinite where it misses it or enters behind the best hit. `ix`, `iy`, `iz`:
    1 / direction."""
    ax, bx = (boxes[node, 0] - ox) * ix, (boxes[node, 3] - ox) * ix
    ay, by = (boxes[node, 1] - oy) * iy, (boxes[node, 4] - oy) * iy
    az, bz = (boxes[node, 2] - oz) * iz, (boxes[node, 5] - oz) * iz
    near = max(max(min(ax, bx), min(ay, by)), max(min(az, bz), np.float32(0)))
    far = min(min(max(ax, bx), max(ay, by)), max(az, bz))
    return near if near <= far and near < best else np.float32(np.inf)


@njit(cache=True, nogil=True, error_model="numpy")
def _walk_rays(
    first: int,
    stop: int,
    origins: np.ndarray,
    directions: np.ndarray,
    packed: np.ndarray,
    children: np.ndarray,
    spans: np.ndarray,
    boxes: np.ndarray,
    any_hit: bool,
    distance: np.ndarray,
    slot: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Fills distance, slot of the triangle and weights of the rays from `first` to `stop`."""
    tiny, edge = np.float32(1e-12), np.float32(_EDGE)
    nodes, entries = np.empty(DEEPEST, np.int32), np.empty(DEEPEST, np.float32)
    for ray in range(first, stop):
        ox, oy, oz = origins[ray, 0], origins[ray, 1], origins[ray, 2]
        dx, dy, dz = directions[ray, 0], directions[ray, 1], directions[ray, 2]
        ix = np.float32(1) / (dx if abs(dx) > tiny else tiny)
        iy = np.float32(1) / (dy if abs(dy) > tiny else tiny)
        iz = np.float32(1) / (dz if abs(dz) > tiny else tiny)
        best, found = np.float32(np.inf), -1
        depth, nodes[0], entries[0] = 1, 0, np.float32(0)
        while depth > 0:
            depth -= 1
            node = nodes[depth]
            if entries[depth] >= best:
                continue
            left = children[node, 0]
            if left >= 0:
                right = children[node, 1]
                a = _enters(boxes, left, ox, oy, oz, ix, iy, iz, best)
                b = _enters(boxes, right, ox, oy, oz, ix, iy, iz, best)
                if a > b:
                    left, right, a, b = right, left, b, a
                if b < np.inf:
                    nodes[depth], entries[depth] = right, b
                    depth += 1
                if a < np.inf:
                    nodes[depth], entries[depth] = left, a
                    depth += 1
                continue
            for index in range(spans[node, 0], spans[node, 1]):
                ax, ay, az = packed[index, 3], packed[index, 4], packed[index, 5]
                bx, by, bz = packed[index, 6], packed[index, 7], packed[index, 8]
                px, py, pz = dy * bz - dz * by, dz * bx - dx * bz, dx * by - dy * bx
                determinant = ax * px + ay * py + az * pz
                if determinant == 0:
                    continue
                inverse = np.float32(1) / determinant
                sx, sy, sz = ox - packed[index, 0], oy - packed[index, 1], oz - packed[index, 2]
                u = (sx * px + sy * py + sz * pz) * inverse
                if not (u >= -edge and u <= 1 + edge):
                    continue
                qx, qy, qz = sy * az - sz * ay, sz * ax - sx * az, sx * ay - sy * ax
                v = (dx * qx + dy * qy + dz * qz) * inverse
                t = (bx * qx + by * qy + bz * qz) * inverse
                if v >= -edge and u + v <= 1 + edge and t > 0 and t < best:
                    best, found = t, index
                    weights[ray, 0], weights[ray, 1] = u, v
                    if any_hit:
                        depth = 0
                        break
        distance[ray], slot[ray] = best, found
