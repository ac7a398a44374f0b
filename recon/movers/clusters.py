"""Returns of one sweep that hang together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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
    """One cluster: number of its sweep and its own among those of the sweep, mean time, number of its returns, least and greatest x and y
    of these (`rectangle_m [2, 2]`), and the share of them that is emptied. The returns lie in a file until they are read."""

    turn: int
    number: int
    time_us: int
    count: int
    rectangle_m: np.ndarray
    origin_world_m: np.ndarray
    emptied_share: float
    returns: tuple[Kept, ...]

    @property
    def rows(self) -> np.ndarray:
        """Which of the sweep's returns it has, `[N]`."""
        return np.concatenate([kept.load_one(0) for kept in self.returns])

    @property
    def xyz_world_m(self) -> np.ndarray:
        """Places of its returns, `[N, 3]`."""
        return np.concatenate([kept.load_one(1) for kept in self.returns])

    @property
    def centre_xy_m(self) -> np.ndarray:
        """Middle `[2]` of the cluster's rectangle."""
        return 0.5 * (self.rectangle_m[0] + self.rectangle_m[1])


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """What is known of all detections of a sweep before the returns of one are read: mean times `[C]`, rectangles `[C, 2, 2]` (least and
    greatest x and y), numbers of returns `[C]`, shares that are emptied `[C]`."""

    time_us: np.ndarray
    rectangle_m: np.ndarray
    count: np.ndarray
    emptied_share: np.ndarray


class Detections:
    """Detections of each sweep, in order, whose returns lie in one spool, and so do their outlines: of a sweep little more stays in memory
    than where these are."""

    def __init__(self, found: Iterable[Sequence[Detection]], spool: Spool) -> None:
        self._spool = spool
        self._kept = [_keep_outlines(of_turn, spool) for of_turn in found]
        self._recent = Recent(self._load, _HELD_TURNS)

    def __len__(self) -> int:
        return len(self._kept)

    def outlines(self, turn: int) -> Outlines:
        """Outlines of a sweep's detections."""
        return self._recent(turn)[0]

    def one(self, turn: int, number: int) -> Detection:
        """A sweep's detection of a number."""
        outlines, origins_world_m, offsets = self._recent(turn)
        count = int(outlines.count[number])
        return Detection(
            turn=turn,
            number=number,
            time_us=int(outlines.time_us[number]),
            count=count,
            # Copies, so that a detection that is remembered does not hold on to those beside it.
            rectangle_m=outlines.rectangle_m[number].copy(),
            origin_world_m=origins_world_m[number].copy(),
            emptied_share=float(outlines.emptied_share[number]),
            returns=(Kept(spool=self._spool, offset=int(offsets[number]), layout=_layout(count)),),
        )

    def _load(self, turn: int) -> tuple[Outlines, np.ndarray, np.ndarray]:
        times_us, rectangles, counts, shares, origins, offsets = self._kept[turn].load()
        return Outlines(time_us=times_us, rectangle_m=rectangles, count=counts, emptied_share=shares), origins, offsets


def detection(
    turn: int,
    number: int,
    rows: np.ndarray,
    xyz_world_m: np.ndarray,
    *,
    time_us: int,
    origin_world_m: np.ndarray,
    emptied_share: float,
    spool: Spool,
) -> Detection:
    """A detection of returns `[N, 3]` in the given rows `[N]` of its sweep; they are put into the spool."""
    return Detection(
        turn=turn,
        number=number,
        time_us=time_us,
        count=len(rows),
        rectangle_m=np.stack([xyz_world_m[:, :2].min(axis=0), xyz_world_m[:, :2].max(axis=0)]),
        origin_world_m=origin_world_m,
        emptied_share=emptied_share,
        returns=(spool.keep(rows.astype(np.int64), xyz_world_m.astype(np.float64)),),
    )


def clusters(turns: Sequence[Turn], emptied: Iterable[np.ndarray], spool: Spool) -> Iterator[list[Detection]]:
    """Clusters of each sweep that are no longer than a lorry; what moves may be among them without being emptied everywhere (a car that
    stops hid the place where it comes to stand). `emptied` gives `[N]` bool for each sweep: which of its returns are."""
    for number, (turn, which) in enumerate(zip(turns, emptied, strict=True)):
        yield _of_turn(number, turn, which, spool)


def _layout(count: int) -> tuple[tuple[np.dtype, tuple[int, ...]], ...]:
    return ((np.dtype(np.int64), (count,)), (np.dtype(np.float64), (count, 3)))


def _keep_outlines(found: Sequence[Detection], spool: Spool) -> Kept:
    return spool.keep(
        np.array([d.time_us for d in found], dtype=np.int64),
        np.array([d.rectangle_m for d in found]).reshape(-1, 2, 2),
        np.array([d.count for d in found], dtype=np.int64),
        np.array([d.emptied_share for d in found], dtype=np.float64),
        np.array([d.origin_world_m for d in found]).reshape(-1, 3),
        np.array([d.returns[0].offset for d in found], dtype=np.int64),
    )


def _of_turn(number: int, turn: Turn, emptied: np.ndarray, spool: Spool) -> list[Detection]:
    returns = turn.read()
    rows = np.flatnonzero(returns.obstacle)
    if not rows.size:
        return []
    label = cluster_labels(returns.xyz_world_m[rows])
    found: list[Detection] = []
    order = np.argsort(label, kind="stable")
    for members in np.split(rows[order], np.cumsum(np.bincount(label))[:-1]):
        xyz = returns.xyz_world_m[members]
        if len(members) < FEWEST_RETURNS or np.linalg.norm(np.ptp(xyz[:, :2], axis=0)) > LONGEST_M:
            continue
        found.append(
            detection(
                number,
                len(found),
                members,
                xyz,
                time_us=int(returns.time_us[members].mean()),
                origin_world_m=turn.origin_world_m,
                emptied_share=float(emptied[members].mean()),
                spool=spool,
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
