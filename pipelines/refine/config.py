"""Settings of the progressive loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from tyro.conf import arg

from splatmend.datasets.errors import UserError
from splatmend.enhance.strength import check_strength
from splatmend.recon.fit.continuing import ContinueConfig


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """How a scene is refined. Lengths are metres (median camera steps in scenes without a scale)."""

    shifts: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    """How far beside the recorded path each round looks, to both sides; rising."""
    iterations: int = 300
    """Iterations of each round."""
    how: Annotated[ContinueConfig, arg(name="")] = field(default_factory=ContinueConfig)
    """How the fit goes on."""
    observed_deg: float = 8.0
    """Angle between the lines of sight of a recorded camera and an extra view over which what the recorded one saw comes to count little:
    a surface seen from this far aside holds an extra view's pixel to 63 per cent of its weight."""
    earlier_views: Literal["replaced", "kept"] = "replaced"
    """What becomes of the extra views of a round when the next one begins."""
    cameras: tuple[str, ...] = ()
    """Recorded cameras whose paths are shifted; empty means all."""
    frames: int | None = None
    """At most so many frames of each path."""
    strength: float | None = None
    """0 leaves renders as they are, 1 takes all of the enhancer's change; None: as the enhancer advises."""
    references: bool = True
    """Give renders what recorded frames show of them, where the enhancer takes it."""
    keep_clips: bool = False
    """Keep the renders, enhanced pictures and weights of every round in the scene's folder."""

    def __post_init__(self) -> None:
        check_strength(self.strength)
        rising = bool(self.shifts) and np.isfinite(self.shifts).all() and min(self.shifts) > 0 and bool((np.diff(self.shifts) > 0).all())
        faults = {
            f"shifts must be rising numbers above 0, not {' '.join(f'{s:g}' for s in self.shifts) or 'none'}": not rising,
            f"iterations must be at least 1, not {self.iterations}": self.iterations < 1,
            f"observed-deg must lie above 0 and below 180, not {self.observed_deg}": not 0 < self.observed_deg < 180,
            f"frames must be at least 1, not {self.frames}": self.frames is not None and self.frames < 1,
            "a camera is there twice; give each once": len(set(self.cameras)) < len(self.cameras),
        }
        for sentence, wrong in faults.items():
            if wrong:
                raise UserError(f"refine settings: {sentence}.")
