"""Where the sun stands, from what it does: shadows that fall, sides that it lights, warm light beside blue shade, and its glow in the sky.

For every candidate direction the light on each sample is predicted up to one number, the sun's strength over that of the sky, and its
logarithm compared with that of the colours within blocks of one material, whose albedo falls out of the difference. Of what remains
beside what the sky alone explains, the explained share R^2 is the likelihood of a direction: -n/2 log(1 - R^2) for n independent values.

Shape letters: N samples, D directions, B blocks, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from splatmend.recon.light.colour import LUMINANCE
from splatmend.recon.light.estimate_occlusion import Occluders
from splatmend.recon.light.estimate_samples import Samples

RATIOS = (0.7, 2.0, 6.0)
"""Sun over sky that are tried."""
_STRENGTHS = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0, 1.4, 2.0, 2.7, 3.5, 4.5, 6.0, 8.0)
CUES = ("ground", "walls", "sides", "warmth", "glow")
_LEAST_ELEVATION_DEG = 4.0
_BLOCK_SAMPLES = 6
_DARK = 0.004
"""Added to linear colours before logarithms: below it pictures of 8 bits say nothing."""
_CONTRAST = 1.5
"""Logarithm of luminance from its block's mean that a shadow can be; what is beyond is another material."""
_TINT = 0.5
"""Likewise of red over blue."""
_SOFT_DEG = 3.0
"""Standard deviation over directions of what reaches a sample."""
_LEANS = (0.3, 0.8)
_BETWEEN = 0.15
"""Share of the light from all around that reaches what sees no sky at all."""
_BAND_DEG = 4.0
_GLOWS = ((10.0, -3.0, 0.45), (16.0, -3.0, 0.3), (5.0, -2.5, 0.3), (2.0, -1.5, 0.15))
"""Scattering indicatrices of the CIE's general sky (ISO 15469:2004, c, d, e of its groups 2 to 5)."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What speaks for each of D directions: `shares [5, D]` explained by each of `CUES`, with the number of independent values `counts`
    that each stands for, and the sun's strength over the sky's at which they were."""

    shares: Float[np.ndarray, "5 D"]
    counts: Float[np.ndarray, "5"]
    ratio: Float[np.ndarray, "D"]

    @property
    def likelihood(self) -> Float[np.ndarray, "D"]:
        """Natural logarithm, 0 where nothing is explained."""
        return -0.5 * self.counts @ np.log1p(-self.shares.clip(0, 0.999))


@dataclass(frozen=True)
class _Groups:
    """Rows in the order of their groups, whose means are taken off."""

    rows: Int[np.ndarray, "R"]
    starts: Int[np.ndarray, "G"]
    sizes: Int[np.ndarray, "G"]

    @staticmethod
    def of(group: np.ndarray, rows: np.ndarray, least: int) -> _Groups:
        sizes = np.bincount(group[rows], minlength=int(group.max()) + 1 if len(group) else 1)
        rows = rows[sizes[group[rows]] >= least]
        rows = rows[np.argsort(group[rows], kind="stable")]
        _, starts, counts = np.unique(group[rows], return_index=True, return_counts=True)
        return _Groups(rows, starts, counts)

    def means(self, values: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "G D"]:
        if not len(self.rows):
            return values[:0]
        return np.add.reduceat(values[self.rows], self.starts, axis=0) / self.sizes[:, None]

    def within(self, values: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "R D"]:
        return values[self.rows] - np.repeat(self.means(values), self.sizes, axis=0)


class SunSearch:
    """Samples prepared for comparison with directions; `weights` make the numbers of blocks numbers of independent values.

    What reaches a sample is walked out once, for directions `step_deg` apart, and taken for others as a mean of those around: shadows with
    soft edges, as wide as fitted geometry is unsure of them.
    """

    def __init__(self, samples: Samples, occluders: Occluders, weights: Mapping[str, float], step_deg: float = 5.0) -> None:
        self.samples, self.occluders, self._weights = samples, occluders, weights
        self.directions, solid = hemisphere(step_deg)
        self._seen = occluders.seen(samples, self.directions)
        facing = (samples.normals @ self.directions.T).clip(min=0)
        # The share of what an open level place gets; the lowest degrees of the sky, behind houses everywhere, are left out.
        self.sky_share = ((self._seen * facing).sum(axis=1) * solid / math.pi).clip(0, 1)
        self.ambient = (_BETWEEN + (1 - _BETWEEN) * self.sky_share).astype(np.float32)
        linear = samples.linear + _DARK
        self._luminance = np.log(linear @ np.asarray(LUMINANCE))[:, None]
        self._warmth = np.log(linear[:, 0] / linear[:, 2])[:, None]
        every = np.arange(len(samples.points_m))
        self._ground = _Groups.of(samples.block, every[samples.ground], _BLOCK_SAMPLES)
        self._walls = _Groups.of(samples.block, every[~samples.ground], _BLOCK_SAMPLES)
        self._all = _Groups.of(samples.block, every, _BLOCK_SAMPLES)
        # Light from all around does not care which way a wall looks, but whether something looks up.
        lean = np.abs(self._all.means(samples.normals)[:, 2])
        kind = np.where(samples.ground[self._all.rows[self._all.starts]], 0, 1 + np.digitize(lean, _LEANS))
        self._sides = _Groups.of(kind, np.arange(len(kind)), 4)
        self._sky = _sky_left(samples)

    def evidence(self, directions: Float[np.ndarray, "D 3"] | None = None) -> Evidence:
        """What speaks for each direction (by default those of the whole sky) to be the sun's."""
        directions = self.directions if directions is None else directions
        counts = np.array(
            [
                self._weights["ground"] * len(self._ground.sizes),
                self._weights["walls"] * len(self._walls.sizes),
                self._weights["sides"] * len(self._all.sizes),
                self._weights["warmth"] * len(self._all.sizes),
                self._weights["glow"] * min(len(self._sky[1]) / 20, 60),
            ]
        )
        best = np.zeros((5, len(directions)))
        best_value, best_ratio = np.full(len(directions), -1.0), np.full(len(directions), RATIOS[0])
        glow = _glow_share(*self._sky, directions)
        for start in range(0, len(directions), 128):
            part = slice(start, min(start + 128, len(directions)))
            direct = self.direct(directions[part])
            for ratio in RATIOS:
                shares = np.concatenate([self._of_surfaces(direct, ratio), glow[None, part]])
                value = -0.5 * counts @ np.log1p(-shares.clip(0, 0.999))
                better = value > best_value[part]
                best[:, part][:, better] = shares[:, better]
                best_value[part][better] = value[better]
                best_ratio[part][better] = ratio
        return Evidence(shares=best, counts=counts, ratio=best_ratio)

    def direct(self, directions: Float[np.ndarray, "D 3"]) -> Float[np.ndarray, "N D"]:
        """Share of a sun's light from each direction that each sample takes, as a white surface gives it back."""
        angle = np.arccos((self.directions @ directions.T).clip(-1, 1))
        near = np.exp(-0.5 * (angle / math.radians(_SOFT_DEG)) ** 2)
        near /= near.sum(axis=0).clip(min=1e-12)
        return (self._seen @ near.astype(np.float32)) * (self.samples.normals @ directions.T).clip(min=0).astype(np.float32)

    def strength(self, direction: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
        """Red, green and blue of the sun over those of the ambient light of an open level place.

        By sunlit against shaded ground, within blocks and of the whole scene, and by what predicted logarithms leave the least with.
        Shadows that are misplaced make each of them too small, so the mean of the greater two counts.
        """
        direct = self.direct(direction[None])[:, 0]
        linear = np.concatenate([self.samples.linear, self.samples.linear @ np.asarray(LUMINANCE)[:, None]], axis=1) + _DARK
        found = [self._from_all(direct[:, None], np.log(linear))]
        blocks = np.split(self._ground.rows, self._ground.starts[1:])
        within = [ratio for rows in blocks if (ratio := self._brighter(direction, direct, linear, rows)) is not None]
        if len(within) >= 3:
            found.append(np.quantile(within, 0.75, axis=0))
        if (whole := self._brighter(direction, direct, linear, self._ground.rows)) is not None:
            found.append(whole)
        greater = sorted(found, key=lambda ratios: float(ratios[3]))[-2:]
        *colours, level = np.mean([ratios.clip(0, _STRENGTHS[-1]) for ratios in greater], axis=0)
        # A colour alone is less sure than the luminance: no tint beyond that of a low sun under a blue sky.
        return level * (np.array(colours) / max(level, 1e-6)).clip(0.5, 2.0) if level > 0 else np.zeros(3)

    def _brighter(
        self, direction: np.ndarray, direct: np.ndarray, linear: Float[np.ndarray, "N 4"], rows: np.ndarray
    ) -> Float[np.ndarray, "4"] | None:
        """The sun over the ambient light by the middles of sunlit and shaded samples; None where there are too few of either."""
        facing = (self.samples.normals[rows] @ direction).clip(min=0)
        lit, shaded = rows[direct[rows] > 0.9 * facing], rows[direct[rows] < 0.1 * facing]
        if min(len(lit), len(shaded)) < 4:
            return None
        brighter = np.median(linear[lit], axis=0) / np.median(linear[shaded], axis=0)
        return (brighter * np.median(self.ambient[shaded]) - np.median(self.ambient[lit])) / max(float(np.median(facing)), 0.05)

    def _from_all(self, direct: Float[np.ndarray, "N 1"], logarithms: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "4"]:
        predicted = [np.log(self.ambient[:, None] + ratio * direct) for ratio in _STRENGTHS]
        left = [[self._left(one, logarithms[:, c : c + 1]) for one in predicted] for c in range(4)]
        return np.array([_STRENGTHS[int(np.argmin(row))] for row in left])

    def _left(self, predicted: Float[np.ndarray, "N 1"], seen: Float[np.ndarray, "N 1"]) -> float:
        """What is left of the logarithms within blocks and of their means, each as likely as its middle deviation makes it."""
        difference = seen - predicted
        total = 0.0
        for name, group in (("ground", self._ground), ("walls", self._walls)):
            total += self._weights[name] * len(group.sizes) * _spread(group.within(difference), group.within(seen))
        means = [self._all.means(values) for values in (difference, seen)]
        return total + self._weights["sides"] * len(self._all.sizes) * _spread(*(self._sides.within(values) for values in means))

    def _of_surfaces(self, direct: Float[np.ndarray, "N D"], ratio: float) -> Float[np.ndarray, "4 D"]:
        ambient = self.ambient[:, None]
        total = ambient + ratio * direct
        predicted, warm = np.log(total), ratio * direct / total
        by_sky = np.log(ambient)
        shares = [_beside(g.within(predicted), g.within(self._luminance), g.within(by_sky)) for g in (self._ground, self._walls)]
        block_means = [self._all.means(values) for values in (predicted, self._luminance, by_sky)]
        shares.append(_beside(*(self._sides.within(values) for values in block_means)))
        shares.append(_explained(self._all.within(warm), self._all.within(self._warmth)[:, 0].clip(-_TINT, _TINT)))
        return np.stack(shares)


def _spread(left: np.ndarray, seen: np.ndarray) -> float:
    """Mean square of what is left over that of what was seen, without outliers of either."""
    if not len(seen):
        return 0.0
    squares = [(values.clip(-_CONTRAST, _CONTRAST) ** 2).mean() for values in (left, seen)]
    return float(squares[0] / max(squares[1], 1e-12))


def hemisphere(step_deg: float, least_deg: float = _LEAST_ELEVATION_DEG) -> tuple[Float[np.ndarray, "D 3"], float]:
    """Directions about `step_deg` apart, evenly over the sky from a height on (a Fibonacci spiral), and the solid angle of each."""
    least = math.sin(math.radians(least_deg))
    count = max(1, round(2 * math.pi * (1 - least) / math.radians(step_deg) ** 2))
    up = least + (1 - least) * (np.arange(count) + 0.5) / count
    around = np.arange(count) * math.pi * (3 - math.sqrt(5))
    flat = np.sqrt(1 - up**2)
    return np.stack([flat * np.cos(around), flat * np.sin(around), up], axis=1), 2 * math.pi * (1 - least) / count


def _beside(predicted: np.ndarray, seen: np.ndarray, by_sky: np.ndarray) -> Float[np.ndarray, "D"]:
    """Share explained of what the sky alone does not explain."""
    seen, sky = seen[:, 0].clip(-_CONTRAST, _CONTRAST), by_sky[:, 0]
    norm = max(float(sky @ sky), 1e-9)
    return _explained(predicted - np.outer(sky, sky @ predicted / norm), seen - sky * max(float(sky @ seen) / norm, 0.0))


def _explained(predicted: Float[np.ndarray, "R D"], seen: Float[np.ndarray, "R"]) -> Float[np.ndarray, "D"]:
    """Shares of the variance that each prediction explains with a positive slope."""
    squares, product = (predicted**2).sum(axis=0), (seen @ predicted).clip(min=0)
    enough = squares > 1e-5 * max(len(seen), 1)
    return np.where(enough, product**2 / np.maximum(squares, 1e-12), 0.0) / max(float(seen @ seen), 1e-9)


def _sky_left(samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions, luminances (logarithm less the mean of the band of heights) and bands of the sky's pixels."""
    directions, linear = samples.sky_directions, samples.sky_linear
    high = directions[:, 2] > math.sin(math.radians(3))
    directions, linear = directions[high], linear[high]
    band = np.floor(np.degrees(np.arcsin(directions[:, 2].clip(-1, 1))) / _BAND_DEG).astype(np.int64)
    if not len(band):
        return directions, np.zeros(0), band
    left = _less_mean(np.log(linear @ np.asarray(LUMINANCE) + _DARK)[:, None], band)[:, 0]
    return directions, left.clip(-0.7, 1.5), band


def _less_mean(values: Float[np.ndarray, "M D"], group: np.ndarray) -> Float[np.ndarray, "M D"]:
    order = np.argsort(group, kind="stable")
    _, starts, inverse, counts = np.unique(group[order], return_index=True, return_inverse=True, return_counts=True)
    out = np.empty_like(values)
    out[order] = values[order] - (np.add.reduceat(values[order], starts, axis=0) / counts[:, None])[inverse]
    return out


def _glow_share(directions: np.ndarray, seen: np.ndarray, band: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The share of the sky's luminance at equal heights that the sun's glow explains."""
    best = np.zeros(len(candidates))
    if len(seen) < 50:
        return best
    thin = slice(None, None, max(1, len(seen) // 1500))
    angle = np.arccos((directions[thin] @ candidates.T).clip(-1, 1))
    for c, d, e in _GLOWS:
        glow = 1 + c * (np.exp(d * angle) - math.exp(d * math.pi / 2)) + e * np.cos(angle) ** 2
        best = np.maximum(best, _explained(_less_mean(np.log(glow), band[thin]), seen[thin]))
    return best
