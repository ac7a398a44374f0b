"""Sparse views: a scene fitted to every n-th frame only, seen along the whole recorded path (source of the idea: Difix3D+, arXiv
2503.01774)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from splatmend.datasets.errors import UserError
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.workshop import PairPlan, Workshop, recorded_target
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig


def plans(config: PairsConfig, source: PairSource, camera: str) -> list[PairPlan]:
    """A pair for each number of `every`; `UserError` where one frame would be left to fit."""
    count = len(source.log.frames_of(camera))
    for every in config.every:
        if -(-count // every) < 2:
            raise UserError(
                f"{source.name}: of the {count} frames of {camera} every {every}th is one frame, and a fit needs 2; give a smaller "
                "--every, or a longer log."
            )
    return [
        PairPlan(
            name=f"{camera}-sparse{every}",
            kind="sparse",
            target=recorded_target(camera),
            degrade=partial(degrade, camera=camera, every=every),
        )
        for every in config.every
    ]


def degrade(shop: Workshop, out: Path, *, camera: str, every: int) -> Trajectory:
    """The recorded path through a fit to every n-th frame of each camera."""
    config = shop.fit_config
    scene = shop.fitted(f"sparse{every}", replace(config, data=replace(config.data, train_every=every)))
    return shop.render(scene, TrajectoryConfig(camera=camera), out)
