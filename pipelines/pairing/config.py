"""Which pairs to make."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from splatmend.datasets.clip import Encoding
from splatmend.datasets.errors import UserError
from splatmend.datasets.street.config import StreetConfig
from splatmend.recon.fit.config import FitConfig

Strategy = Literal["sparse", "underfit", "shift", "cycle", "cross-camera", "low-resolution", "inpaint", "reinsert", "insert"]
Hole = Literal["actor", "region"]
Reinsertion = Literal["naive", "relit"]
Ground = Literal["truth", "fit"]


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which pairs to make."""

    strategies: tuple[Strategy, ...] = ("sparse", "underfit")
    """sparse, underfit, cycle, cross-camera, low-resolution, inpaint, reinsert, and for procedural streets shift and insert."""
    every: tuple[int, ...] = (8,)
    """sparse: fit only every n-th frame; one fit for each number."""
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    """underfit: shares of the schedule after which the scene is taken."""
    shifts: tuple[float, ...] = (2.0, -2.0)
    """shift: metres to the left (negative: right)."""
    cycle_shifts: tuple[float, ...] = (2.0,)
    """cycle: metres to the left (negative: right; median camera steps in logs without a scale) of the path that is rendered and fitted
    again; one more fit for each."""
    reductions: tuple[float, ...] = (3.0,)
    """low-resolution: how many times narrower the fitted pictures are; one fit for each."""
    holes: tuple[Hole, ...] = ("actor", "region")
    """inpaint: what is cut out, an actor (in the cameras that see one) or a region that drifts over the picture."""
    reinsertions: tuple[Reinsertion, ...] = ("naive", "relit")
    """reinsert: how vehicles are put back, under quite another light and without a shadow (naive), or under an almost right light with the
    shadow that it casts (relit)."""
    grounds: tuple[Ground, ...] = ("truth",)
    """reinsert: what vehicles are put back into, the true frames without them (truth) or a fit to those (fit; one fit for each camera); in
    recorded logs the recorded frames, mended around them (truth), or the scene's own pictures (fit)."""
    insertions: int = 2
    """insert: pairs for each camera, each with another vehicle or place."""
    cameras: tuple[str, ...] = ()
    """Cameras to render; none means all."""
    validation_share: float = 0.1
    """Share of scenes that go into the split "validation"; which ones follows from the scene's name alone."""
    references: int = 2
    """Layers of recorded frames, warped into the view, beside every degraded frame; those that its own fit was shown. Holes have none."""
    encoding: Encoding = "png"
    """How clips are stored."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How scenes are fitted."""
    street: StreetConfig = field(default_factory=StreetConfig)
    """What the streets of `street:SEED` are like; the seed comes from there."""

    def __post_init__(self) -> None:
        if not self.strategies:
            raise UserError("strategies: none is given; choose one or more.")
        for name in ("every", "shares", "shifts", "cycle_shifts", "reductions", "holes", "reinsertions", "grounds"):
            if not getattr(self, name):
                raise UserError(f"{name}: none is given; give one or more, or leave the option out.")
        if any(n < 2 for n in self.every):
            raise UserError(f"every: {min(self.every)} leaves no frame out; give 2 or more.")
        if any(not 0 < share < 1 for share in self.shares):
            raise UserError("shares: each must lie between 0 and 1, both excluded.")
        for name in ("shifts", "cycle_shifts"):
            lengths = getattr(self, name)
            if 0 in lengths or not all(map(math.isfinite, lengths)):
                raise UserError(f"{name}: {' '.join(map(str, lengths))} must be metres and not 0, the recorded path; give other numbers.")
        if any(not 1 < n < math.inf for n in self.reductions):
            raise UserError(f"reductions: {' '.join(map(str, self.reductions))} must be numbers above 1; give others.")
        for name in ("strategies", "every", "shifts", "cycle_shifts", "reductions", "holes", "reinsertions", "grounds", "cameras"):
            # As numbers stand in the names of pairs.
            named = [f"{value:g}" if isinstance(value, float) else value for value in getattr(self, name)]
            if len(set(named)) < len(named):
                raise UserError(f"{name}: {' '.join(map(str, getattr(self, name)))} names something twice; give each once.")
        if self.insertions < 1:
            raise UserError(f"insertions: {self.insertions} makes no pair; give 1 or more.")
        if self.references < 0:
            raise UserError(f"references: {self.references} is no number of layers; give 0 or more.")
        if not 0 <= self.validation_share <= 1:
            raise UserError(f"validation_share: {self.validation_share} is not between 0 and 1; change it.")
