"""A ray caster in torch operations alone, for GPUs without Embree and machines without Open3D.

Triangles are gathered in clusters of up to 32 by median splits. Every ray is tested against every cluster's box (slabs), then rays
visit their clusters from the nearest on, all rays one cluster a round, and leave when the next box begins behind their best hit.
Triangle test: Möller and Trumbore, "Fast, minimum storage ray/triangle intersection", 1997, without culling of back faces.
"""

from __future__ import annotations

import numpy as np
import torch

from splatmend.datasets.street.casters import NO_HIT, RayHits

CLUSTER_SIZE = 32
_BOX_TESTS_IN_FLIGHT = {"cuda": 1 << 26, "cpu": 1 << 22}
# Barycentric slack, so that rays do not slip between neighbouring triangles in float32.
_EDGE = 1e-6


def clusters_of(centres: np.ndarray, size: int = CLUSTER_SIZE) -> list[np.ndarray]:
    """Indices of points `[F, 3]` in groups of at most `size`, split at the median of the widest axis."""
    pending, done = [np.arange(len(centres))], []
    while pending:
        group = pending.pop()
        if len(group) <= size:
            done.append(group)
            continue
        points = centres[group]
        axis = int(np.argmax(points.max(0) - points.min(0)))
        # Multiples of the size on the left fill the clusters.
        left = max(size, round(len(group) / 2 / size) * size) if len(group) > size else len(group)
        order = np.argsort(points[:, axis], kind="stable")
        pending += [group[order[left:]], group[order[:left]]]
    return done


class TorchCaster:
    """Casts against triangles `[F, 3]` over vertices `[V, 3]` on a torch device."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray, device: torch.device) -> None:
        self.device = device
        corners = np.asarray(vertices, dtype=np.float64)[triangles]
        groups = clusters_of(corners.mean(1))
        width = max(len(group) for group in groups)
        ids = np.full((len(groups), width), NO_HIT, dtype=np.int64)
        # A padding triangle has no area: its determinant is zero and nothing hits it.
        packed = np.zeros((len(groups), width, 3, 3))
        low, high = np.zeros((len(groups), 3)), np.zeros((len(groups), 3))
        for row, group in enumerate(groups):
            ids[row, : len(group)] = group
            packed[row, : len(group)] = corners[group]
            low[row], high[row] = corners[group].min((0, 1)), corners[group].max((0, 1))
        packed[:, :, 1:] -= packed[:, :, :1]
        margin = 1e-4
        self._ids = torch.from_numpy(ids).to(device)
        # [clusters, 9, width]: first corner and two edges, coordinate by coordinate.
        self._packed = torch.from_numpy(packed.reshape(len(groups), width, 9).transpose(0, 2, 1).copy()).float().to(device)
        self._low = torch.from_numpy(low - margin).float().to(device)
        self._high = torch.from_numpy(high + margin).float().to(device)

    def cast(self, origins: torch.Tensor, directions: torch.Tensor) -> RayHits:
        parts = [self._cast(o, d, any_hit=False) for o, d in self._chunks(origins, directions)]
        return RayHits(*(torch.cat(columns) for columns in zip(*parts)))

    def occluded(self, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._cast(o, d, any_hit=True)[1] >= 0 for o, d in self._chunks(origins, directions)])

    def _chunks(self, origins: torch.Tensor, directions: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rays = max(1, _BOX_TESTS_IN_FLIGHT["cuda" if self.device.type == "cuda" else "cpu"] // max(len(self._ids), 32))
        return list(zip(origins.split(rays), directions.split(rays)))

    def _box_entries(self, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """Distance `[N, clusters]` at which each ray enters each box, infinite where it misses."""
        inverse = 1.0 / torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
        near = torch.zeros((len(origins), len(self._low)), device=self.device)
        far = torch.full_like(near, float("inf"))
        for axis in range(3):
            scale, start = inverse[:, axis, None], (origins * inverse)[:, axis, None]
            a = self._low[None, :, axis] * scale - start
            b = self._high[None, :, axis] * scale - start
            near = torch.maximum(near, torch.minimum(a, b))
            far = torch.minimum(far, torch.maximum(a, b))
        return near.masked_fill_(near > far, float("inf"))

    def _cast(self, origins: torch.Tensor, directions: torch.Tensor, any_hit: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        count = len(origins)
        best = torch.full((count,), float("inf"), device=self.device)
        triangle = torch.full((count,), NO_HIT, dtype=torch.int64, device=self.device)
        weights = torch.zeros((count, 2), device=self.device)
        if count == 0:
            return best, triangle, weights
        entries = self._box_entries(origins, directions)
        rays = torch.arange(count, device=self.device)
        while True:
            entry, cluster = entries.min(dim=1)
            reach = best[rays]
            alive = entry < (torch.where(triangle[rays] >= 0, torch.zeros_like(reach), reach) if any_hit else reach)
            kept = alive.nonzero()[:, 0]
            if len(kept) == 0:
                return best, triangle, weights
            # Copying the table is dearer than testing dead rays again, so it shrinks only when a good part has left.
            if len(kept) < 0.7 * len(rays):
                rays, entries, cluster = rays[kept], entries[kept], cluster[kept]
                kept = torch.arange(len(rays), device=self.device)
            entries.scatter_(1, cluster[:, None], float("inf"))
            active, cluster = rays[kept], cluster[kept]
            t, u, v, slot = self._nearest(origins[active], directions[active], cluster)
            better = t < best[active]
            hit = active[better]
            best[hit] = t[better]
            triangle[hit] = self._ids[cluster[better], slot[better]]
            weights[hit, 0], weights[hit, 1] = u[better], v[better]

    def _nearest(
        self, o: torch.Tensor, d: torch.Tensor, cluster: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Nearest hit of each ray within one cluster: distance, two weights, slot, each `[N]`."""
        x0, y0, z0, ax, ay, az, bx, by, bz = self._packed[cluster].unbind(1)
        dx, dy, dz = (d[:, axis, None] for axis in range(3))
        px, py, pz = dy * bz - dz * by, dz * bx - dx * bz, dx * by - dy * bx
        determinant = ax * px + ay * py + az * pz
        inverse = 1.0 / determinant  # infinite for padding and rays in the plane: the comparisons below are then false
        sx, sy, sz = o[:, 0, None] - x0, o[:, 1, None] - y0, o[:, 2, None] - z0
        u = (sx * px + sy * py + sz * pz) * inverse
        qx, qy, qz = sy * az - sz * ay, sz * ax - sx * az, sx * ay - sy * ax
        v = (dx * qx + dy * qy + dz * qz) * inverse
        t = (bx * qx + by * qy + bz * qz) * inverse
        inside = (u >= -_EDGE) & (v >= -_EDGE) & (u + v <= 1 + _EDGE) & (t > 0) & (determinant != 0)
        t, slot = torch.where(inside, t, float("inf")).min(dim=1)
        pick = slot[:, None]
        return t, u.gather(1, pick)[:, 0], v.gather(1, pick)[:, 0], slot
