"""A line in the plane that bodies drive along or beside: places by distance along it, and how far along a body was at a time.

The plane is the level one: x and y of the world turned so that z is up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

_STEPS = 4
"""Points of the line per unit of length."""
_BLUR = 1.5
"""Standard deviation, in units of length, of the smoothing along the line: what is shorter is jitter of the recorded poses."""
_MOST_POINTS = 400_000


@dataclass(frozen=True, kw_only=True)
class Guide:
    """Points `xy [K, 2]` at distances `s [K]` that rise evenly; beyond its ends it goes straight on. `times_us [T]` and `s_at [T]` say how
    far along the recorded body was."""

    xy: np.ndarray
    s: np.ndarray
    times_us: np.ndarray
    s_at: np.ndarray

    @classmethod
    def through(cls, times_us: np.ndarray, xy: np.ndarray, heading_rad: np.ndarray, unit: float) -> Guide:
        """The smoothed line through recorded places `[T, 2]`; `heading_rad [T]` is its direction where the body stood. `unit`: scene units
        per unit of length."""
        kept = [0]
        for index in range(1, len(xy)):
            if np.hypot(*(xy[index] - xy[kept[-1]])) >= unit:
                kept.append(index)
        ahead = np.array([np.cos(heading_rad[0]), np.sin(heading_rad[0])])
        corners = xy[kept]
        if len(kept) == 1 or float(np.hypot(*(corners[-1] - corners[0]))) < unit:
            corners = np.stack([xy[0], xy[0] + unit * ahead])
            kept = [0]
        lengths = np.hypot(*np.diff(corners, axis=0).T)
        at_corner = np.concatenate([[0.0], np.cumsum(lengths)])
        s_at = _lengths_along(xy, kept, corners, at_corner)
        first, last = (corners[1] - corners[0]) / lengths[0], (corners[-1] - corners[-2]) / lengths[-1]
        longer = 6 * _BLUR * unit
        corners = np.concatenate([[corners[0] - longer * first], corners, [corners[-1] + longer * last]])
        at_corner = np.concatenate([[-longer], at_corner, [at_corner[-1] + longer]])
        count = int(min((at_corner[-1] - at_corner[0]) / unit * _STEPS, _MOST_POINTS)) + 2
        s = np.linspace(at_corner[0], at_corner[-1], count)
        line = np.stack([np.interp(s, at_corner, corners[:, axis]) for axis in (0, 1)], axis=1)
        # Far from zero the filter would round; and the ends, which go straight on, must not be drawn inwards.
        around = line - line[0]
        blurred = gaussian_filter1d(around, _BLUR * unit / (s[1] - s[0]), axis=0, mode="nearest", truncate=3.0)
        held = int(np.ceil(3.0 * _BLUR * unit / (s[1] - s[0])))
        blurred = blurred[held:-held]
        return cls(xy=line[0] + blurred, s=s[held:-held], times_us=times_us, s_at=s_at)

    def recorded_s(self, t_us: np.ndarray) -> np.ndarray:
        """How far along the recorded body was at times `[N]`; its ends are held."""
        start = self.times_us[0]
        return np.interp(np.asarray(t_us - start, dtype=np.float64), (self.times_us - start).astype(np.float64), self.s_at)

    def at(self, s: np.ndarray, left: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Places `[N, 2]` at distances along the line and to the left of it, and the line's headings `[N]` there in radians."""
        s = np.asarray(s, dtype=np.float64)
        step = self.s[1] - self.s[0]
        index = np.clip(((s - self.s[0]) / step).astype(np.int64), 0, len(self.s) - 2)
        slopes = np.gradient(self.xy, self.s, axis=0)
        share = np.clip((s - self.s[index]) / step, 0.0, 1.0)[:, None]
        direction = (1 - share) * slopes[index] + share * slopes[index + 1]
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        beyond = np.where(s < self.s[0], s - self.s[0], np.where(s > self.s[-1], s - self.s[-1], 0.0))
        places = (1 - share) * self.xy[index] + share * self.xy[index + 1] + beyond[:, None] * direction
        normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
        places = places + np.broadcast_to(np.asarray(left, dtype=np.float64), s.shape)[:, None] * normal
        return places, np.arctan2(direction[:, 1], direction[:, 0])


def _lengths_along(xy: np.ndarray, kept: list[int], corners: np.ndarray, at_corner: np.ndarray) -> np.ndarray:
    """How far along the corners' line each place is, never backwards: jitter of a body that stands is no way."""
    out = np.zeros(len(xy))
    for number, start in enumerate(kept):
        stop = kept[number + 1] if number + 1 < len(kept) else len(xy)
        a, b = corners[min(number, len(corners) - 2)], corners[min(number, len(corners) - 2) + 1]
        direction = (b - a) / np.hypot(*(b - a))
        base = at_corner[min(number, len(corners) - 2)]
        out[start:stop] = base + (xy[start:stop] - a) @ direction
    return np.maximum.accumulate(np.maximum(out, 0.0))
