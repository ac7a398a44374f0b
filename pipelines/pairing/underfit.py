"""Underfitting: copies of a scene from a part of its schedule, seen along the recorded path."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.workshop import PairPlan, Workshop, recorded_target, snapshots
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig


def plans(config: PairsConfig, source: PairSource, camera: str) -> list[PairPlan]:
    """A pair for each share of the schedule."""
    return [
        PairPlan(
            name=f"{camera}-underfit{iteration}",
            kind="underfit",
            target=recorded_target(camera),
            degrade=partial(degrade, camera=camera, iteration=iteration),
        )
        for iteration in snapshots(config)
    ]


def degrade(shop: Workshop, out: Path, *, camera: str, iteration: int) -> Trajectory:
    """The recorded path through the scene as it was after so many iterations."""
    return shop.render(shop.whole(iteration), TrajectoryConfig(camera=camera), out)
