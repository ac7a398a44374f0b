"""Low resolution: a scene fitted to small pictures, drawn at the full size. What is finer than their pixels was never seen."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from splatmend.datasets.errors import UserError
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.workshop import PairPlan, Workshop, recorded_target
from splatmend.recon.fit.config import SMALLEST_SIDE
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig, build_trajectory


def plans(config: PairsConfig, source: PairSource, camera: str) -> list[PairPlan]:
    """A pair for each reduction; `UserError` where pictures would become too small to be fitted."""
    for reduction in config.reductions:
        for name in config.fit.data.cameras or source.log.cameras:
            of = source.log.cameras[name]
            width = _narrow_width(config, source, reduction)
            height = round(of.height * min(1.0, width / of.width))
            if min(width, of.width, height) < SMALLEST_SIDE:
                raise UserError(
                    f"{source.name}: pictures of {name} reduced {reduction:g} times would have {min(width, of.width)}x{height} pixels, "
                    f"where {SMALLEST_SIDE} rows and columns are needed; give a smaller --reductions."
                )
    return [
        PairPlan(
            name=f"{camera}-low{reduction:g}",
            kind="low-resolution",
            target=recorded_target(camera),
            degrade=partial(degrade, camera=camera, reduction=reduction),
        )
        for reduction in config.reductions
    ]


def degrade(shop: Workshop, out: Path, *, camera: str, reduction: float) -> Trajectory:
    """The recorded path at full size through a fit to pictures so many times narrower."""
    config = shop.fit_config
    width = _narrow_width(shop.config, shop.source, reduction)
    scene = shop.fitted(f"low{reduction:g}", replace(config, data=replace(config.data, max_width=width)))
    narrow = build_trajectory(scene, TrajectoryConfig(camera=camera))
    full = shop.recorded(camera)[0].camera
    return shop.render(scene, replace(narrow, shots=tuple(replace(shot, camera=full) for shot in narrow.shots)), out)


def _narrow_width(config: PairsConfig, source: PairSource, reduction: float) -> int:
    """Width of the fitted pictures of the widest camera; narrower cameras than that keep theirs."""
    widest = max(source.log.cameras[name].width for name in config.fit.data.cameras or source.log.cameras)
    return max(1, round(min(widest, config.fit.data.max_width or widest) / reduction))
