"""Returns of one sweep that hang together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from splatmend.recon.movers.obstacles import Turn

REACH_M = 0.6
"""Returns nearer than this hang together; heights count half, since a scanner's rings lie apart."""
_VOXEL_M = 0.2
FEWEST_RETURNS = 10
LONGEST_M = 22.0
"""What is longer is a wall or a hedge."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One cluster: number of its sweep, mean time, the rows `[N]` of the sweep's returns, their places `[N, 3]`, and the
    share of them that is emptied."""

    turn: int
    time_us: int
    rows: np.ndarray
    xyz_world_m: np.ndarray
    origin_world_m: np.ndarray
    emptied_share: float

    @cached_property
    def rectangle_m(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest x and y, `[2]` each."""
        return self.xyz_world_m[:, :2].min(axis=0), self.xyz_world_m[:, :2].max(axis=0)

    @property
    def centre_xy_m(self) -> np.ndarray:
        """Middle `[2]` of the cluster's rectangle."""
        return 0.5 * (self.rectangle_m[0] + self.rectangle_m[1])


def detections(turns: Sequence[Turn], emptied: Sequence[np.ndarray]) -> list[list[Detection]]:
    """Clusters of each sweep that are no longer than a lorry; what moves may be among them without being emptied everywhere (a car that
    stops hid the place where it comes to stand)."""
    return [_of_turn(number, turn, which) for number, (turn, which) in enumerate(zip(turns, emptied))]


def _of_turn(number: int, turn: Turn, emptied: np.ndarray) -> list[Detection]:
    rows = np.flatnonzero(turn.obstacle)
    if not rows.size:
        return []
    label = cluster_labels(turn.xyz_world_m[rows])
    found = []
    order = np.argsort(label, kind="stable")
    for members in np.split(rows[order], np.cumsum(np.bincount(label))[:-1]):
        xyz = turn.xyz_world_m[members]
        share = float(emptied[members].mean())
        if len(members) < FEWEST_RETURNS or np.linalg.norm(np.ptp(xyz[:, :2], axis=0)) > LONGEST_M:
            continue
        found.append(
            Detection(
                turn=number,
                time_us=int(turn.time_us[members].mean()),
                rows=members,
                xyz_world_m=xyz,
                origin_world_m=turn.origin_world_m,
                emptied_share=share,
            )
        )
    return found


def cluster_labels(xyz_m: np.ndarray) -> np.ndarray:
    """Number `[N]` of the cluster of each place `[N, 3]`."""
    voxels, voxel = np.unique(np.floor(xyz_m / _VOXEL_M).astype(np.int64), axis=0, return_inverse=True)
    middles = (voxels + 0.5) * _VOXEL_M * np.array([1.0, 1.0, 0.5])
    pairs = cKDTree(middles).query_pairs(REACH_M, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(voxels), len(voxels)))
    return connected_components(links, directed=False)[1][voxel.reshape(-1)]
