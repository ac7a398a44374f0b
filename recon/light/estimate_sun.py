"""Where the sun stands, from what it does: shadows that fall, sides that it lights, warm light beside blue shade, and its glow in the sky.

For every candidate direction the light on each sample is predicted up to one number, the sun's strength over that of the sky, and its
logarithm compared with that of the colours within blocks of one material, whose albedo falls out of the difference. Of what remains
beside what the sky alone explains, the explained share R^2 is the likelihood of a direction: -n/2 log(1 - R^2) for n independent values.

Shape letters: N samples, D directions, B blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from splatmend.recon.light.colour import LUMINANCE
from splatmend.recon.light.estimate_occlusion import Occluders
from splatmend.recon.light.estimate_samples import Samples

RATIOS = (0.7, 2.0, 6.0)
"""Sun over sky that are tried."""
_LEAST_ELEVATION_DEG = 4.0
_BLOCK_SAMPLES = 8
_DARK = 0.004
"""Added to linear colours before logarithms: below it pictures of 8 bits say nothing."""
_BETWEEN = 0.15
"""Share of the light from all around that reaches what sees no sky at all."""
_BAND_DEG = 4.0
_GLOWS = ((10.0, -3.0, 0.45), (16.0, -3.0, 0.3), (5.0, -2.5, 0.3), (2.0, -1.5, 0.15))
"""Scattering indicatrices of the CIE's general sky (ISO 15469:2004, c, d, e of its groups 2 to 5)."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Explained shares for D directions: of luminance on surfaces, of their colour (red over blue), and of the sky's luminance, with the
    numbers of independent values that each stands for; `ratio` is the best of `RATIOS`, `slope` what predicted logarithms are multiplied
    by."""

    surface: Float[np.ndarray, "D"]
    colour: Float[np.ndarray, "D"]
    sky: Float[np.ndarray, "D"]
    counts: tuple[float, float, float]
    ratio: Float[np.ndarray, "D"]
    slope: Float[np.ndarray, "D"]

    @property
    def likelihood(self) -> Float[np.ndarray, "D"]:
        """Natural logarithm, 0 where nothing is explained."""
        shares = (self.surface, self.colour, self.sky)
        return sum((-0.5 * n * np.log1p(-np.clip(r, 0, 0.999)) for n, r in zip(self.counts, shares)), np.zeros(len(self.surface)))


class SunSearch:
    """Samples prepared for comparison with directions."""

    def __init__(self, samples: Samples, occluders: Occluders, counts: tuple[float, float, float]) -> None:
        self.occluders, self._weights = occluders, counts
        sizes = np.bincount(samples.block, minlength=1)
        rows = np.flatnonzero(sizes[samples.block] >= _BLOCK_SAMPLES) if len(samples.block) else np.zeros(0, dtype=np.int64)
        rows = rows[np.argsort(samples.block[rows], kind="stable")]
        self.samples = _select(samples, rows)
        _, self._starts, self._sizes = np.unique(self.samples.block, return_index=True, return_counts=True)
        linear = self.samples.linear + _DARK
        self._luminance = _clipped(self.within(np.log(linear @ np.asarray(LUMINANCE))[:, None])[:, 0])
        self._warmth = _clipped(self.within(np.log(linear[:, 0] / linear[:, 2])[:, None])[:, 0])
        self.whole, solid = hemisphere(9.0, least_deg=0.0)
        self.whole_seen = occluders.seen(self.samples, self.whole)
        facing = (self.samples.normals @ self.whole.T).clip(min=0)
        self.sky_share = (self.whole_seen * facing).sum(axis=1) * solid / math.pi
        self.ambient = _BETWEEN + (1 - _BETWEEN) * self.sky_share
        self._by_sky = self.within(np.log(self.ambient)[:, None])[:, 0]
        self._luminance_left = _residual(self._luminance, self._by_sky)
        self._sky = _sky_left(self.samples)

    @property
    def blocks(self) -> int:
        return len(self._sizes)

    def within(self, values: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """Values less the means of their blocks."""
        if not len(values):
            return values
        means = np.add.reduceat(values, self._starts, axis=0) / self._sizes[:, None]
        return values - np.repeat(means, self._sizes, axis=0)

    def evidence(self, directions: Float[np.ndarray, "D 3"]) -> Evidence:
        """What speaks for each direction to be the sun's."""
        count = len(directions)
        surface, colour, ratio, slope = np.zeros(count), np.zeros(count), np.full(count, RATIOS[0]), np.zeros(count)
        if len(self.samples.points_m):
            for start in range(0, count, 64):
                part = slice(start, start + 64)
                direct = self.occluders.seen(self.samples, directions[part]) * (self.samples.normals @ directions[part].T).clip(min=0)
                surface[part], colour[part], ratio[part], slope[part] = self._of_surfaces(direct)
        n = np.asarray(self._weights) * [self.blocks, self.blocks, min(len(self._sky[0]) / 40, 60)]
        return Evidence(
            surface=surface, colour=colour, sky=_glow_share(*self._sky, directions), counts=tuple(n), ratio=ratio, slope=slope
        )

    def _of_surfaces(self, direct: np.ndarray) -> tuple[np.ndarray, ...]:
        best = [np.zeros(direct.shape[1]) for _ in range(4)]
        best[2] += RATIOS[0]
        for ratio in RATIOS:
            predicted = self.within(np.log(self.ambient[:, None] + ratio * direct))
            left = predicted - np.outer(self._by_sky, self._by_sky @ predicted / max(float(self._by_sky @ self._by_sky), 1e-9))
            surface, slope = _explained(left, self._luminance_left)
            warm, _ = _explained(self.within(ratio * direct / (self.ambient[:, None] + ratio * direct)), self._warmth)
            better = surface > best[0]
            for kept, new in zip(best, (surface, warm, np.full(len(surface), ratio), slope)):
                kept[better] = new[better]
        return tuple(best)


def hemisphere(step_deg: float, least_deg: float = _LEAST_ELEVATION_DEG) -> tuple[Float[np.ndarray, "D 3"], float]:
    """Directions about `step_deg` apart, evenly over the sky from a height on (a Fibonacci spiral), and the solid angle of each."""
    least = math.sin(math.radians(least_deg))
    count = max(1, round(2 * math.pi * (1 - least) / math.radians(step_deg) ** 2))
    up = least + (1 - least) * (np.arange(count) + 0.5) / count
    around = np.arange(count) * math.pi * (3 - math.sqrt(5))
    flat = np.sqrt(1 - up**2)
    return np.stack([flat * np.cos(around), flat * np.sin(around), up], axis=1), 2 * math.pi * (1 - least) / count


def around(direction: Float[np.ndarray, "3"], step_deg: float, rings: int = 3) -> Float[np.ndarray, "D 3"]:
    """Directions on a square lattice about one, above the least height."""
    east = np.cross([0, 0, 1.0], direction)
    east = east / np.linalg.norm(east) if np.linalg.norm(east) > 1e-6 else np.array([1.0, 0, 0])
    over = np.cross(direction, east)
    offsets = np.radians(step_deg) * np.arange(-rings, rings + 1)
    out = np.stack([direction + a * east + b * over for a in offsets for b in offsets])
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return out[out[:, 2] > math.sin(math.radians(_LEAST_ELEVATION_DEG))]


def _select(samples: Samples, rows: np.ndarray) -> Samples:
    from dataclasses import replace

    names = ("points_m", "normals", "linear", "shot", "ground", "block")
    return replace(samples, **{name: getattr(samples, name)[rows] for name in names})


def _clipped(values: np.ndarray) -> np.ndarray:
    """Within three times the middle deviation."""
    if not len(values):
        return values
    reach = 3 * 1.4826 * float(np.median(np.abs(values))) + 1e-6
    return values.clip(-reach, reach)


def _residual(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    return values - by * float(by @ values) / max(float(by @ by), 1e-9)


def _explained(predicted: Float[np.ndarray, "N D"], seen: Float[np.ndarray, "N"]) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the variance that each prediction explains with a positive slope, and the slopes."""
    squares, product = (predicted**2).sum(axis=0), seen @ predicted
    slope = np.where(squares > 1e-6 * max(len(seen), 1), product / np.maximum(squares, 1e-12), 0.0).clip(min=0)
    return slope * product / max(float(seen @ seen), 1e-9), slope


def _sky_left(samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions, luminances (logarithm less the mean of the band of heights) and bands of the sky's pixels."""
    directions, linear = samples.sky_directions, samples.sky_linear
    high = directions[:, 2] > math.sin(math.radians(3))
    directions, linear = directions[high], linear[high]
    band = np.floor(np.degrees(np.arcsin(directions[:, 2].clip(-1, 1))) / _BAND_DEG).astype(np.int64)
    if not len(band):
        return directions, np.zeros(0), band
    return directions, _clipped_high(_less_mean(np.log(linear @ np.asarray(LUMINANCE) + _DARK)[:, None], band)[:, 0]), band


def _clipped_high(values: np.ndarray) -> np.ndarray:
    return values.clip(-0.7, 1.5)


def _less_mean(values: Float[np.ndarray, "M D"], group: np.ndarray) -> Float[np.ndarray, "M D"]:
    sums = np.zeros((int(group.max()) + 1, values.shape[1]))
    np.add.at(sums, group, values)
    return values - (sums / np.maximum(np.bincount(group), 1)[:, None])[group]


def _glow_share(directions: np.ndarray, seen: np.ndarray, band: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The share of the sky's luminance at equal heights that the sun's glow explains."""
    best = np.zeros(len(candidates))
    if len(seen) < 50:
        return best
    angle = np.arccos((directions @ candidates.T).clip(-1, 1))
    for c, d, e in _GLOWS:
        glow = 1 + c * (np.exp(d * angle) - math.exp(d * math.pi / 2)) + e * np.cos(angle) ** 2
        best = np.maximum(best, _explained(_less_mean(np.log(glow), band), seen)[0])
    return best
