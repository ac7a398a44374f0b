"""Beside the lane: a finished scene seen from beside the recorded path, against a truth that knows these shots."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from splatmend.datasets.errors import UserError
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.workshop import PairPlan, Workshop
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig


def plans(config: PairsConfig, source: PairSource, camera: str) -> list[PairPlan]:
    """A pair for each shift; `UserError` for a source whose truth ends at the recorded path."""
    if not source.sees_everything:
        raise UserError(
            f"{source.name}: the strategy shift needs a truth beside the path, which only streets have (street:SEED, or a folder that "
            "`splatmend street` wrote); leave it out."
        )
    made = []
    for metres in config.shifts:
        name = f"{camera}-{side(metres)}"
        made.append(PairPlan(name=name, kind="shift", target=name, degrade=partial(degrade, camera=camera, metres=metres)))
    return made


def degrade(shop: Workshop, out: Path, *, camera: str, metres: float) -> Trajectory:
    """The path so many metres to the left of the recorded one through an ordinary fit."""
    return shop.render(shop.whole(), TrajectoryConfig(camera=camera, left=metres, ease_s=0.5), out)


def side(metres: float) -> str:
    """A shift in a name: `left2`, `right0.5`."""
    return f"{'left' if metres > 0 else 'right'}{abs(metres):g}"
