"""Finds what moves in a log: vehicles that were followed, and what came or went but could not be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from splatmend.datasets.geometry import inverse, transform
from splatmend.datasets.log import ActorTrack, LidarSweep
from splatmend.recon.movers.boxes import actors_of
from splatmend.recon.movers.clusters import FEWEST_RETURNS, Detection, Detections, clusters
from splatmend.recon.movers.obstacles import TurnReturns, read_turns
from splatmend.recon.movers.stitching import stitched
from splatmend.recon.movers.tracking import is_seed, paths
from splatmend.recon.movers.visibility import MOST_TURNS, emptied_returns, held_against
from splatmend.recon.spool import Recent, Spool

BOX_MARGIN_M = 0.3
SAME_PLACE_M = 0.4
PASSING_US = 700_000
"""After this a thing that moves has left its place."""


@dataclass(frozen=True, kw_only=True)
class Movers:
    """`actors` are vehicles with boxes and smooth poses. `transient` gives, for each sensor and start of a sweep, what else was not there
    at other times: one array `[N, 3]` of returns (world, metres) per thing."""

    actors: tuple[ActorTrack, ...]
    transient: Mapping[tuple[str, int], tuple[np.ndarray, ...]]

    @property
    def transient_count(self) -> int:
        """Number of transient returns of all sweeps."""
        return sum(len(xyz) for things in self.transient.values() for xyz in things)


def find_movers(sweeps: Sequence[LidarSweep]) -> Movers:
    """What moves, by motion-compensated sweeps of a metric log whose world has z up. The scanner with the most returns is searched;
    nothing is found in fewer than three of its sweeps."""
    spool = Spool()
    turns, ground = read_turns(sweeps, spool)
    if ground is None or len(turns) < 3:
        return Movers(actors=(), transient={})
    found = Detections(clusters(turns, emptied_returns(turns, spool), spool), spool)
    actors = actors_of(stitched(paths(found)), ground)
    times_us = np.array([turn.mean_us for turn in turns])

    def obstacle_tree(number: int) -> cKDTree:
        returns = turns[number].read()
        return cKDTree(returns.xyz_world_m[returns.obstacle])

    trees = Recent(obstacle_tree, MOST_TURNS)
    transient = {}
    for number, turn in enumerate(turns):
        returns = turn.read()
        seeds = [found.one(number, which) for which in np.flatnonzero(is_seed(found.outlines(number))).tolist()]
        candidates = [xyz for seed in seeds if len(xyz := _outside(seed, returns, actors)) >= FEWEST_RETURNS]
        if not candidates:
            continue
        other_times = [tree for other in held_against(times_us, number, PASSING_US) if (tree := trees(other)).n]
        left = tuple(xyz for xyz in candidates if not _stands(xyz, other_times))
        if left:
            transient[turn.key] = left
    return Movers(actors=actors, transient=transient)


def in_boxes(actors: Sequence[ActorTrack], xyz_world_m: np.ndarray, time_us: np.ndarray, margin_m: float = BOX_MARGIN_M) -> np.ndarray:
    """Which returns `[N]` lie in an actor's box at their own times."""
    inside = np.zeros(len(xyz_world_m), dtype=bool)
    for actor in actors:
        if len(time_us) and actor.is_labelled(int(np.median(time_us))):
            in_actor = transform(inverse(actor.track.at(time_us)), xyz_world_m)
            inside |= (np.abs(in_actor) <= np.asarray(actor.size_m) / 2 + margin_m).all(axis=1)
    return inside


def _stands(xyz_world_m: np.ndarray, sweeps: Sequence[cKDTree]) -> bool:
    """Whether most of a thing's places are taken in a quarter of the sweeps of other times: a post or a railing, which is often looked
    past."""
    taken = [float((tree.query(xyz_world_m, distance_upper_bound=SAME_PLACE_M)[0] < SAME_PLACE_M).mean()) > 0.5 for tree in sweeps]
    return bool(taken) and float(np.mean(taken)) > 0.25


def _outside(detection: Detection, returns: TurnReturns, actors: Sequence[ActorTrack]) -> np.ndarray:
    xyz_world_m = detection.xyz_world_m
    free = ~in_boxes(actors, xyz_world_m, returns.time_us[detection.rows])
    return xyz_world_m[free] if free.mean() > 0.5 else np.zeros((0, 3))
