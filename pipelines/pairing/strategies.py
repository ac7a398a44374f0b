"""The strategies by name. Another one is a module with a function `plans` like these, its name in `config.Strategy`, and a line
here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing import cross_camera, cycle, inpaint, insert, low_resolution, reinsert, shift, sparse, underfit
from splatmend.pipelines.pairing.config import PairsConfig, Strategy
from splatmend.pipelines.pairing.workshop import PairPlan

Planner = Callable[[PairsConfig, PairSource, str], list[PairPlan]]
"""`(config, source, camera)`: the pairs that show a camera; `UserError` where the source cannot serve the strategy."""

STRATEGIES: Mapping[Strategy, Planner] = {
    "sparse": sparse.plans,
    "underfit": underfit.plans,
    "shift": shift.plans,
    "cycle": cycle.plans,
    "cross-camera": cross_camera.plans,
    "low-resolution": low_resolution.plans,
    "inpaint": inpaint.plans,
    "reinsert": reinsert.plans,
    "insert": insert.plans,
}
