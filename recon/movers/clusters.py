"""Returns of one sweep that hang together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from splatmend.recon.movers.obstacles import Turn
from splatmend.recon.spool import Kept, Recent, Spool

REACH_M = 0.6
"""Returns nearer than this hang together; heights count half, since a scanner's rings lie apart."""
_VOXEL_M = 0.2
FEWEST_RETURNS = 10
LONGEST_M = 22.0
"""What is longer is a wall or a hedge."""
_HELD_TURNS = 16


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One cluster: number of its sweep and its own among those of the sweep, mean time, the rows `[N]` of the sweep's returns, their places
    `[N, 3]`, and the share of them that is emptied."""

    turn: int
    number: int
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


class Detections(Sequence[Sequence[Detection]]):
    """Clusters of each sweep that are no longer than a lorry; what moves may be among them without being emptied everywhere (a car that
    stops hid the place where it comes to stand). They lie in a file, and those of a few sweeps in memory."""

    def __init__(self, turns: Sequence[Turn], emptied: Iterable[np.ndarray], spool: Spool) -> None:
        self._origins_world_m = [turn.origin_world_m for turn in turns]
        self._kept = [_keep(_of_turn(number, turn, which), spool) for number, (turn, which) in enumerate(zip(turns, emptied, strict=True))]
        self._recent = Recent(self._load, _HELD_TURNS)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, turn: Any) -> Any:
        if isinstance(turn, slice):
            return [self._recent(number) for number in range(*turn.indices(len(self)))]
        return self._recent(range(len(self))[turn])

    def _load(self, turn: int) -> list[Detection]:
        counts, times_us, shares, rows, xyz = self._kept[turn].load()
        ends = np.cumsum(counts)
        # Copies, so that one detection that is remembered does not hold on to all of its sweep.
        return [
            Detection(
                turn=turn,
                number=number,
                time_us=int(times_us[number]),
                rows=rows[end - count : end].copy(),
                xyz_world_m=xyz[end - count : end].copy(),
                origin_world_m=self._origins_world_m[turn],
                emptied_share=float(shares[number]),
            )
            for number, (count, end) in enumerate(zip(counts.tolist(), ends.tolist()))
        ]


def _keep(found: Sequence[Detection], spool: Spool) -> Kept:
    return spool.keep(
        np.array([len(d.rows) for d in found], dtype=np.int64),
        np.array([d.time_us for d in found], dtype=np.int64),
        np.array([d.emptied_share for d in found]),
        np.concatenate([np.zeros(0, np.int64), *(d.rows for d in found)]),
        np.concatenate([np.zeros((0, 3)), *(d.xyz_world_m for d in found)]),
    )


def _of_turn(number: int, turn: Turn, emptied: np.ndarray) -> list[Detection]:
    returns = turn.read()
    rows = np.flatnonzero(returns.obstacle)
    if not rows.size:
        return []
    label = cluster_labels(returns.xyz_world_m[rows])
    found: list[Detection] = []
    order = np.argsort(label, kind="stable")
    for members in np.split(rows[order], np.cumsum(np.bincount(label))[:-1]):
        xyz = returns.xyz_world_m[members]
        share = float(emptied[members].mean())
        if len(members) < FEWEST_RETURNS or np.linalg.norm(np.ptp(xyz[:, :2], axis=0)) > LONGEST_M:
            continue
        found.append(
            Detection(
                turn=number,
                number=len(found),
                time_us=int(returns.time_us[members].mean()),
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
