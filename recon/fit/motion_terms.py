"""The term that keeps bodies which bend from moving more than they must, of all of them by one function with its gradients by hand.

Shape letters: n Gaussians of a body, N of all, B courses, T control values of a course.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatmend.recon.gaussians import joined


@dataclass(frozen=True, kw_only=True)
class MotionSizes:
    """What the term depends on beside tensors: of each body the numbers of Gaussians, of courses and of their control values, and its unit
    of length; the weights of motion and of its courses' bends."""

    shapes: tuple[tuple[int, int, int], ...]
    extents: tuple[float, ...]
    motion: float
    bend: float


def motion_term(
    sizes: MotionSizes, coefficients: Sequence[Float[Tensor, "n B 6"]], courses: Sequence[Float[Tensor, "B T"]]
) -> Float[Tensor, ""]:
    """Little motion, along smooth courses: sums over the bodies of the mean squares of turns, of shifts over the body's extent, and of the
    courses' second differences."""
    return _MotionTerm.apply(sizes, *coefficients, *courses)


class _MotionTerm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sizes: MotionSizes, *given: Tensor) -> Tensor:
        count = len(sizes.shapes)
        coefficients = joined([part.flatten() for part in given[:count]])
        courses = joined([part.flatten() for part in given[count:]])
        of_coefficients, of_bends = _weights(sizes, coefficients.dtype, coefficients.device)
        bends = torch.sub(courses[:-2] + courses[2:], courses[1:-1], alpha=2)
        weighed, bent = coefficients * of_coefficients, bends * of_bends
        ctx.sizes = sizes
        ctx.save_for_backward(weighed, bent)
        return coefficients.dot(weighed) + bends.dot(bent)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weighed, bent = ctx.saved_tensors
        twice = 2 * grad
        shapes = ctx.sizes.shapes
        back = bent * twice
        # Each course value is the middle of one difference and at the ends of two.
        by_courses = torch.nn.functional.pad(back, (2, 0))
        by_courses[:-2] += back
        by_courses[1:-1].sub_(back, alpha=2)
        by_coefficients = (weighed * twice).split_with_sizes([n * terms * 6 for n, terms, _ in shapes])
        of_bodies = by_courses.split_with_sizes([terms * length for _, terms, length in shapes])
        return (
            None,
            *(part.view(n, terms, 6) for part, (n, terms, _) in zip(by_coefficients, shapes)),
            *(part.view(terms, length) for part, (_, terms, length) in zip(of_bodies, shapes)),
        )


@functools.lru_cache(maxsize=16)
def _weights(sizes: MotionSizes, dtype: torch.dtype, device: torch.device) -> tuple[Float[Tensor, "N*B*6"], Float[Tensor, "M*B*T-2"]]:
    """What the square of each coefficient counts, and that of each second difference of the courses, all one after the other: nothing
    where it would reach from one course into the next."""
    of_coefficients, of_bends = [], []
    for (n, terms, length), extent in zip(sizes.shapes, sizes.extents, strict=True):
        share = sizes.motion / (n * terms * 3) if n else 0.0
        of_coefficients.append(torch.tensor([share] * 3 + [share / extent**2] * 3, dtype=torch.float64).repeat(n * terms))
        of_course = torch.zeros(length, dtype=torch.float64)
        of_course[: length - 2] = sizes.bend / (terms * (length - 2))
        of_bends.append(of_course.repeat(terms))
    joint = torch.cat(of_coefficients), torch.cat(of_bends)[:-2]
    return joint[0].to(device, dtype), joint[1].to(device, dtype)
