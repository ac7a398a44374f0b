"""Across cameras: a scene fitted without one camera, seen through that one.

The left-out camera stands where the log says, and has no exposure of its own: where cameras of a log differ in colour, so do its pairs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from splatmend.datasets.errors import UserError
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.workshop import PairPlan, Workshop, recorded_target
from splatmend.recon.scene_files import file_name
from splatmend.recon.trajectory import Trajectory


def plans(config: PairsConfig, source: PairSource, camera: str) -> list[PairPlan]:
    """One pair; `UserError` where no other camera is there to be fitted."""
    if not others(config, source, camera):
        raise UserError(
            f"{source.name}: cross-camera fits the other cameras to show {camera}, and there is no other; leave the strategy out, or give "
            "a log of several cameras."
        )
    return [
        PairPlan(name=f"{camera}-cross", kind="cross-camera", target=recorded_target(camera), degrade=partial(degrade, camera=camera)),
    ]


def degrade(shop: Workshop, out: Path, *, camera: str) -> Trajectory:
    """The recorded path of a camera through a fit to all other cameras."""
    config = shop.fit_config
    kept = others(shop.config, shop.source, camera)
    scene = shop.fitted(f"cross-{file_name(camera)}", replace(config, data=replace(config.data, cameras=kept)))
    return shop.render(scene, shop.recorded(camera), out)


def others(config: PairsConfig, source: PairSource, camera: str) -> tuple[str, ...]:
    """The cameras that are fitted where one is left out."""
    return tuple(name for name in config.fit.data.cameras or source.log.cameras if name != camera)
