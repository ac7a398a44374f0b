"""Small corrections of measured poses, one per body and time, learnt while a scene is fitted.

A correction is six numbers in the body's own frame: a rotation vector (radians) and a shift (scene units); the body really stands at
`world_from_body @ matrix(correction)`. Two priors hold corrections: towards zero, and towards the mean of those before and after.
Each is moved by an Adam of its own (Kingma and Ba 2015) whose moments wait while its picture is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import pose
from splatmend.recon.fit.config import CorrectionConfig

_BETAS = (0.9, 0.99)
"""A picture is shown some thirty times per fit, so the moments have to be short."""
_RATE_END = 0.02
"""Share of the learning rate that is left at the end."""


def matrix(correction: Float[np.ndarray, "6"]) -> Float[np.ndarray, "4 4"]:
    """`measured_from_true` of a body."""
    return pose(Rotation.from_rotvec(correction[:3]).as_matrix(), correction[3:])


class Corrections:
    """Corrections of several bodies: `values [R, 6]` float64 in the order of bodies and, within one, of times.

    Args:
        times_us: per body the times that are learnt, rising; between them corrections are interpolated, beyond them held.
        unit: scene units per unit of length of the configuration.
    """

    def __init__(self, times_us: Mapping[str, Sequence[int]], config: CorrectionConfig, unit: float) -> None:
        self.config = config
        self.times_us = {name: np.asarray(times, dtype=np.int64) for name, times in times_us.items()}
        self.first = dict(zip(self.times_us, np.cumsum([0, *map(len, self.times_us.values())]).tolist()))
        count = sum(map(len, self.times_us.values()))
        self.values = np.zeros((count, 6))
        self.moments = np.zeros((2, count, 6))
        self.visits = np.zeros(count, dtype=np.int64)
        self.rate = np.repeat([np.radians(config.rate_deg), config.rate_m * unit], 3)
        self.spread = np.repeat([np.radians(config.spread_deg), config.spread_m * unit], 3)
        self._rows = lru_cache(maxsize=8192)(self._found_rows)

    def rows(self, name: str, t_us: int) -> tuple[tuple[int, float], ...]:
        """Rows that make up a body's correction at a time, with their shares; none of a body that is not corrected."""
        return self._rows(name, t_us)

    def _found_rows(self, name: str, t_us: int) -> tuple[tuple[int, float], ...]:
        times = self.times_us.get(name, np.zeros(0, dtype=np.int64))
        if not len(times):
            return ()
        right = min(int(np.searchsorted(times, t_us)), len(times) - 1)
        left = max(right - 1, 0)
        first = self.first[name]
        if left == right or t_us >= times[right]:
            return ((first + right, 1.0),)
        share = min(max(float((t_us - times[left]) / (times[right] - times[left])), 0.0), 1.0)
        return tuple((first + row, part) for row, part in ((left, 1.0 - share), (right, share)) if part > 0)

    def at(self, name: str, t_us: int) -> Float[np.ndarray, "4 4"]:
        """`measured_from_true` of a body at a time; identity for a body that is not corrected."""
        return matrix(sum((part * self.values[row] for row, part in self.rows(name, t_us)), np.zeros(6)))

    def prior(self, row: int) -> tuple[float, Float[np.ndarray, "6"]]:
        """Value and gradient of a row's prior, the rows beside it taken as given."""
        away = self.values[row] / self.spread
        value, gradient = float(away @ away), 2 * away / self.spread
        beside = self._beside(row)
        if beside:
            width = self.spread * self.config.smooth_share
            bend = (self.values[row] - self.values[beside].mean(axis=0)) / width
            value, gradient = value + float(bend @ bend), gradient + 2 * bend / width
        return self.config.weight * value, self.config.weight * gradient

    def prior_value(self, name: str, t_us: int) -> float:
        """What the priors of a body's rows at a time add to the loss."""
        return sum((part * self.prior(row)[0] for row, part in self.rows(name, t_us)), 0.0)

    def step(self, name: str, t_us: int, gradient: Float[np.ndarray, "6"], progress: float) -> None:
        """Move what a picture has shown.

        Args:
            gradient: of the loss with respect to a turn of the body about its own axes and a shift along them.
            progress: share of the fit that is done.

        Raises:
            ValueError: for a gradient that is not finite.
        """
        if not np.isfinite(gradient).all():
            raise ValueError(f"the gradient of the pose of {name} at {t_us} us is not finite")
        if progress < self.config.start_share:
            return
        for row, part in self.rows(name, t_us):
            self._move(row, part * (gradient + self.prior(row)[1]), progress)

    def _move(self, row: int, gradient: np.ndarray, progress: float) -> None:
        self.visits[row] += 1
        for moment, beta, value in zip(self.moments, _BETAS, (gradient, gradient**2)):
            moment[row] = beta * moment[row] + (1 - beta) * value
        mean, square = (moment[row] / (1 - beta ** self.visits[row]) for moment, beta in zip(self.moments, _BETAS))
        # A gradient far below the prior's at one spread is noise, which plain Adam would blow up to a full step.
        floor = self.config.weight / self.spread
        since = (progress - self.config.start_share) / max(1 - self.config.start_share, 1e-9)
        self.values[row] -= self.rate * _RATE_END**since * mean / (np.sqrt(square) + floor + 1e-15)

    def _beside(self, row: int) -> list[int]:
        for name, first in self.first.items():
            last = first + len(self.times_us[name]) - 1
            if first <= row <= last:
                return [other for other in (row - 1, row + 1) if first <= other <= last]
        raise IndexError(row)

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on."""
        arrays = {"values": self.values, "moments": self.moments, "visits": self.visits}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.values, self.moments, self.visits = (state[name].cpu().numpy().copy() for name in ("values", "moments", "visits"))
