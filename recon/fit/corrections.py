"""Small corrections of measured poses, one per body and time, learnt while a scene is fitted.

A correction is six numbers in the body's own frame: a rotation vector (radians) and a shift (scene units); the body really stands at
`world_from_body @ matrix(correction)`. Two priors hold corrections: towards zero, and towards what lies between those before and after.
The second one either takes a correction itself to change little, as where a whole drive was measured a little off, or the corrected course
of the body to bend little, as where every pose was measured on its own: then corrections begin where the priors alone would have them, and
those that no picture has shown end where the priors and their neighbours would.
Each is moved by an Adam of its own (Kingma and Ba 2015) whose moments wait while its picture is not shown.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import PoseTrack
from splatmend.recon.fit.config import CorrectionConfig

_BETAS = (0.9, 0.99)
"""A picture is shown some thirty times per fit, so the moments have to be short."""
_RATE_END = 0.02
"""Share of the learning rate that is left at the end."""


class NotFiniteError(ValueError):
    """A gradient that no step can be made of."""


def matrix(correction: Float[np.ndarray, "6"]) -> Float[np.ndarray, "4 4"]:
    """`measured_from_true` of a body."""
    return matrices(correction[None])[0]


def matrices(corrections: Float[np.ndarray, "B 6"]) -> Float[np.ndarray, "B 4 4"]:
    """`matrix` of several corrections."""
    out = np.zeros((len(corrections), 4, 4))
    out[:] = np.eye(4)
    if corrections.any():
        out[:, :3, :3] = Rotation.from_rotvec(corrections[:, :3]).as_matrix()
        out[:, :3, 3] = corrections[:, 3:]
    return out


class Corrections:
    """Corrections of several bodies: `values [R, 6]` float64 in the order of bodies and, within one, of times.

    Args:
        times_us: per body the times that are learnt, rising; between them corrections are interpolated, beyond them held.
        unit: scene units per unit of length of the configuration.
        courses: the measured poses of bodies, at least at those times, where it is their courses that are smooth.
    """

    def __init__(
        self,
        times_us: Mapping[str, Sequence[int]],
        config: CorrectionConfig,
        unit: float,
        courses: Mapping[str, PoseTrack] | None = None,
    ) -> None:
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
        self._places = lru_cache(maxsize=8192)(self._found_places)
        self._touched = lru_cache(maxsize=8192)(
            lambda names, t_us: frozenset(row for _, rows, _ in self._places(names, t_us) for row in rows.tolist())
        )
        self._before, self._after = self._neighbours()
        self._share_after = np.full(count, 0.5)
        self._bends = np.zeros((count, 6))
        self._bend_spread = np.broadcast_to(self.spread * config.smooth_share, (count, 6))
        self.of_course = config.smooth == "course" and courses is not None
        if courses is not None and self.of_course:
            accelerations = np.repeat([np.radians(config.acceleration_deg_s2), config.acceleration_m_s2 * unit], 3)
            self._measure(courses, accelerations)
            self.values = self._settled(np.ones(count, dtype=bool))

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
        return matrix(self.values_at((name,), t_us)[0])

    def values_at(self, names: tuple[str, ...], t_us: int) -> Float[np.ndarray, "B 6"]:
        """Corrections of several bodies at a time; zeros for one that is not corrected."""
        out = np.zeros((len(names), 6))
        for bodies, rows, parts in self._places(names, t_us):
            out[bodies] += parts * self.values[rows]
        return out

    def touched(self, names: tuple[str, ...], t_us: int) -> frozenset[int]:
        """All rows that make up the corrections of bodies at a time."""
        return self._touched(names, t_us)

    def prior(self, row: int) -> tuple[float, Float[np.ndarray, "6"]]:
        """Value and gradient of a row's prior, the rows beside it taken as given."""
        away, bend = (part[0] for part in self._strains(np.array([row])))
        return self.config.weight * (float(away @ away) + float(bend @ bend)), self._prior_gradients(np.array([row]))[0]

    def _strains(self, rows: Int[np.ndarray, "R"]) -> tuple[Float[np.ndarray, "R 6"], Float[np.ndarray, "R 6"]]:
        """How far rows are from zero and from the mean of those beside them, over how far that is expected."""
        values, share = self.values[rows], self._share_after[rows, None]
        beside = (1 - share) * self.values[self._before[rows]] + share * self.values[self._after[rows]]
        return values / self.spread, (values - beside + self._bends[rows]) / self._bend_spread[rows]

    def _prior_gradients(self, rows: Int[np.ndarray, "R"]) -> Float[np.ndarray, "R 6"]:
        away, bend = self._strains(rows)
        return self.config.weight * (2 * away / self.spread + 2 * bend / self._bend_spread[rows])

    def _measure(self, courses: Mapping[str, PoseTrack], accelerations: Float[np.ndarray, "6"]) -> None:
        """How far measured poses lie from what lies between those before and after, and how far a body that changes its motion would."""
        for name, times in self.times_us.items():
            first = self.first[name]
            for row in range(first + 1, first + len(times) - 1):
                t_us = [int(t) for t in times[row - first - 1 : row - first + 2]]
                before, now, after = (courses[name].at(t) for t in t_us)
                between = PoseTrack(times_us=np.array([t_us[0], t_us[2]]), world_from_body=np.stack([before, after])).at(t_us[1])
                bend = np.linalg.inv(between) @ now
                self._share_after[row] = (t_us[1] - t_us[0]) / (t_us[2] - t_us[0])
                self._bends[row, :3] = Rotation.from_matrix(bend[:3, :3]).as_rotvec()
                self._bends[row, 3:] = now[:3, :3].T @ (now[:3, 3] - between[:3, 3])
        # The ends of a course say nothing of its bending. One of two poses has none; there corrections hold each other.
        spread = np.full_like(self._bends, np.inf)
        for name, times in self.times_us.items():
            if len(times) < 3:
                spread[self.first[name] : self.first[name] + len(times)] = self.spread * self.config.smooth_share
                continue
            steps_s = np.diff(times) * 1e-6
            rows = slice(self.first[name] + 1, self.first[name] + len(times) - 1)
            spread[rows] = 0.5 * (steps_s[:-1] * steps_s[1:])[:, None] * accelerations
        self._bend_spread = spread

    def with_unseen_settled(self) -> Corrections:
        """A copy in which, where courses are smooth, corrections that no picture has shown are where the priors and the others would have
        them. The fit goes on from what there is, so that looking at a scene on the way changes nothing."""
        other = copy.copy(self)
        if self.of_course:
            other.values = self._settled(self.visits == 0)
        return other

    def _settled(self, free: np.ndarray) -> Float[np.ndarray, "R 6"]:
        """`values` with the rows that are free where the priors are least, the others as they are."""
        values = self.values.copy()
        for name, times in self.times_us.items():
            rows = np.arange(self.first[name], self.first[name] + len(times))
            moved = free[rows]
            if not moved.any():
                continue
            bending = np.eye(len(rows))
            here = np.arange(len(rows))
            np.add.at(bending, (here, self._before[rows] - rows[0]), -(1 - self._share_after[rows]))
            np.add.at(bending, (here, self._after[rows] - rows[0]), -self._share_after[rows])
            for number in range(6):
                weighted = bending / self._bend_spread[rows, number, None]
                pull = weighted.T @ (self._bends[rows, number] / self._bend_spread[rows, number])
                normal = weighted.T @ weighted + np.eye(len(rows)) / self.spread[number] ** 2
                held = normal[:, ~moved] @ values[rows[~moved], number]
                values[rows[moved], number] = np.linalg.solve(normal[np.ix_(moved, moved)], -(pull + held)[moved])
        return values

    def prior_value(self, name: str, t_us: int) -> float:
        """What the priors of a body's rows at a time add to the loss."""
        return sum((part * self.prior(row)[0] for row, part in self.rows(name, t_us)), 0.0)

    def step(self, name: str, t_us: int, gradient: Float[np.ndarray, "6"], progress: float) -> None:
        """Move what a picture has shown; see `step_all`."""
        self.step_all((name,), t_us, gradient[None], progress)

    def step_all(self, names: tuple[str, ...], t_us: int, gradients: Float[np.ndarray, "B 6"], progress: float) -> None:
        """Move what a picture has shown of several bodies.

        Args:
            gradients: of the loss with respect to a turn of each body about its own axes and a shift along them.
            progress: share of the fit that is done.

        Raises:
            NotFiniteError: for a gradient that is not finite.
        """
        if not np.isfinite(gradients).all():
            name = names[int(np.isfinite(gradients).all(axis=1).argmin())]
            raise NotFiniteError(f"the gradient of the pose of {name} at {t_us} us is not finite")
        if progress < self.config.start_share:
            return
        for bodies, rows, parts in self._places(names, t_us):
            self._move(rows, parts * (gradients[bodies] + self._prior_gradients(rows)), progress)

    def _move(self, rows: Int[np.ndarray, "R"], gradients: Float[np.ndarray, "R 6"], progress: float) -> None:
        self.visits[rows] += 1
        visits = self.visits[rows, None]
        means = []
        for moment, beta, value in zip(self.moments, _BETAS, (gradients, gradients**2)):
            moment[rows] = now = beta * moment[rows] + (1 - beta) * value
            means.append(now / (1 - beta**visits))
        mean, square = means
        # A gradient far below the prior's at one spread is noise, which plain Adam would blow up to a full step.
        floor = self.config.weight / self.spread
        since = (progress - self.config.start_share) / max(1 - self.config.start_share, 1e-9)
        self.values[rows] -= self.rate * _RATE_END**since * mean / (np.sqrt(square) + floor + 1e-15)

    def _found_places(self, names: tuple[str, ...], t_us: int) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
        """`rows` of several bodies as arrays: the numbers of bodies `[R]`, a row of each `[R]` and its share `[R, 1]`; the first rows
        of all come together, then the second ones of those that have two. So a row is moved before the one after it looks at it."""
        found = [self.rows(name, t_us) for name in names]
        turns = []
        for turn in range(max(map(len, found), default=0)):
            bodies = [body for body, rows in enumerate(found) if len(rows) > turn]
            rows, parts = zip(*(found[body][turn] for body in bodies))
            turns.append((np.array(bodies), np.array(rows), np.array(parts)[:, None]))
        return tuple(turns)

    def _neighbours(self) -> tuple[Int[np.ndarray, "R"], Int[np.ndarray, "R"]]:
        """Per row those before and after it in its body: at an end the other one twice, of one alone itself, so that half their sum is the
        mean of those that there are."""
        before, after = [], []
        for name, first in self.first.items():
            last = first + len(self.times_us[name]) - 1
            for row in range(first, last + 1):
                beside = [other for other in (row - 1, row + 1) if first <= other <= last] or [row]
                before.append(beside[0])
                after.append(beside[-1])
        return np.array(before, dtype=np.int64), np.array(after, dtype=np.int64)

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on."""
        arrays = {"values": self.values, "moments": self.moments, "visits": self.visits}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.values, self.moments, self.visits = (state[name].cpu().numpy().copy() for name in ("values", "moments", "visits"))
