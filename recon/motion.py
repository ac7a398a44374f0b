"""How the Gaussians of a body that bends move in its frame: few courses over time, which each Gaussian follows in its own measure.

A trajectory as a sum of shared courses with a Gaussian's own coefficients is that of Kratimenos et al. 2023, "DynMF"
(arXiv 2312.00112), and of Wang et al. 2024, "Shape of Motion" (arXiv 2407.13764). Courses are uniform cubic B-splines.

Shape letters: N Gaussians, B courses, T control values of a course, M bodies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.recon.bending import Bodies, Spline, bent
from splatmend.recon.gaussians import Gaussians

_SPLINE = ((1.0, 4.0, 1.0, 0.0), (-3.0, 0.0, 3.0, 0.0), (3.0, -6.0, 3.0, 0.0), (-1.0, 3.0, -3.0, 1.0))
"""Rows: coefficients of 1, u, u^2, u^3, in sixths, of four neighbouring control values (de Boor 1978, uniform knots)."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Moves of N Gaussians away from where they are stored.

    `coefficients`: per course the turn (twice the tangent of half the angle along the axis) and the shift (metres) in the body's axes.
    `courses`: control values. The first segment begins at `first_us` and each takes `step_us`; before the first and after the last the
    ends are held. No Gaussian goes farther than `reach_m` along an axis, whatever the coefficients are.
    """

    coefficients: Float[Tensor, "N B 6"]
    courses: Float[Tensor, "B T"]
    first_us: int
    step_us: int
    reach_m: float

    def __post_init__(self) -> None:
        count, terms, numbers = self.coefficients.shape
        if numbers != 6 or self.courses.shape[0] != terms or self.courses.shape[1] < 4 or self.step_us < 1 or not self.reach_m > 0:
            raise ValueError(
                f"motion: coefficients {(count, terms, numbers)}, courses {tuple(self.courses.shape)}, step {self.step_us} us and reach "
                f"{self.reach_m} m do not go together"
            )

    def spline_at(self, t_us: int) -> Spline:
        """Which control values the courses pass by at a time, and the share of each."""
        segments = self.courses.shape[1] - 3
        at = min(max((t_us - self.first_us) / self.step_us, 0.0), float(segments))
        segment = min(int(at), segments - 1)
        u = at - segment
        return segment, tuple(sum(row[i] * u**power for power, row in enumerate(_SPLINE)) / 6 for i in range(4))

    def course_at(self, t_us: int) -> Float[Tensor, "B"]:
        """Values of all courses at a time."""
        segment, shares = self.spline_at(t_us)
        return sum(share * self.courses[:, segment + i] for i, share in enumerate(shares))  # type: ignore[return-value]

    def moved(self, gaussians: Gaussians, t_us: int) -> Gaussians:
        """The Gaussians where they are at a time, in the graph; bits unchanged where the coefficients are zero."""
        (found,) = moved_together([(self, gaussians)], t_us)
        return found

    def to(self, device: str | torch.device) -> Motion:
        """The same motion on another device."""
        return replace(self, coefficients=self.coefficients.to(device), courses=self.courses.to(device))

    def detached(self) -> Motion:
        """The same values outside every graph."""
        return replace(self, coefficients=self.coefficients.detach(), courses=self.courses.detach())


def still(count: int, *, start_us: int, end_us: int, step_us: int, reach_m: float, cadences_hz: Sequence[float]) -> Motion:
    """A motion to begin with, from `start_us` to `end_us` at least: a cosine and a sine per cadence as courses, which no Gaussian follows
    yet."""
    segments = max(-(-(end_us - start_us) // step_us), 1)
    turns = torch.arange(-1, segments + 2, dtype=torch.float64) * step_us * 1e-6 * torch.tensor(cadences_hz, dtype=torch.float64)[:, None]
    courses = torch.stack([torch.cos(2 * torch.pi * turns), torch.sin(2 * torch.pi * turns)], dim=1).flatten(0, 1)
    return Motion(
        coefficients=torch.zeros(count, len(courses), 6),
        courses=courses.float(),
        first_us=start_us,
        step_us=step_us,
        reach_m=reach_m,
    )


def splines_at(motions: Sequence[Motion], t_us: int) -> Float[np.ndarray, "M 5"]:
    """Of each motion the shares of the four control values that its courses pass by at a time, and its reach: what `moved_together` needs
    on the device."""
    return np.array([(*motion.spline_at(t_us)[1], motion.reach_m) for motion in motions]).reshape(-1, 5)


def moved_together(bodies: Sequence[tuple[Motion, Gaussians]], t_us: int, splines: Float[Tensor, "M 5"] | None = None) -> list[Gaussians]:
    """The Gaussians of M bodies where they are at a time: where all have as many courses, as those of one fit do, by one piece of work.
    `splines` are those of `splines_at`, where they are on the device already."""
    if len({motion.courses.shape[0] for motion, _ in bodies}) > 1:  # of different fits
        return [motion.moved(gaussians, t_us) for motion, gaussians in bodies]
    motions = [motion for motion, _ in bodies]
    if splines is None:
        like = motions[0].courses
        splines = torch.tensor(splines_at(motions, t_us), dtype=like.dtype).to(like.device)
    counts = tuple(len(gaussians) for _, gaussians in bodies)
    joint = Bodies(counts=counts, segments=[motion.spline_at(t_us)[0] for motion in motions], splines=splines)
    moved = bent(
        joint,
        [motion.coefficients for motion in motions],
        [motion.courses for motion in motions],
        [gaussians.means for _, gaussians in bodies],
        [gaussians.quats_wxyz for _, gaussians in bodies],
    )
    return [replace(gaussians, means=means, quats_wxyz=quats) for (_, gaussians), (means, quats) in zip(bodies, moved, strict=True)]
