"""What changes where a step of the optimiser takes several pictures: everything here is plain with one.

Iterations count pictures, whatever a step takes, so that schedules and the length of a fit mean the same. A step of W pictures then has to
do the work of W: learning rates grow with the square root of W and moments forget as much per picture as before, `beta^W` (Zhao et al.
2024, "On Scaling Up 3D Gaussian Splatting Training", arXiv 2406.18533, section 4.3; the rule of Malladi et al. 2022, arXiv 2205.10287, is
the same to first order and gives `eps / sqrt(W)`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

_BETAS = (0.9, 0.999)
_EPS = 1e-15


@dataclass(frozen=True)
class StepScaling:
    """Settings of a step that takes so many pictures."""

    pictures: int = 1
    """Pictures per step, whose gradients are averaged."""

    def rate(self, rate: float) -> float:
        """The learning rate of a step, from that of one picture."""
        return rate * math.sqrt(self.pictures)

    @property
    def adam(self) -> dict[str, Any]:
        """Adam's other settings."""
        first, second = (beta**self.pictures for beta in _BETAS)
        return {"betas": (first, second), "eps": _EPS / math.sqrt(self.pictures)}

    def due(self, every: int, iteration: int) -> bool:
        """Whether the step that ended at an iteration brought what comes every so many iterations."""
        return iteration % every < self.pictures


ONE_PICTURE = StepScaling()
