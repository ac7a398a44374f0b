"""The term that keeps bodies which bend from moving more than they must, of all of them by one function with its gradients by hand.

Shape letters: M bodies, n Gaussians of one, N of all, B courses of each, T control values of a course.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatmend.recon.gaussians import body_of_each, joined
from splatmend.recon.transfer import upload


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
        coefficients = joined(given[:count]).unflatten(2, (2, 3))
        courses = joined([part.flatten() for part in given[count:]])
        of_turns_and_shifts, of_bends = _weights(sizes, courses.dtype, courses.device)
        bends = torch.sub(courses[:-2] + courses[2:], courses[1:-1], alpha=2)
        weighed, bent = coefficients * of_turns_and_shifts, bends * of_bends
        ctx.sizes = sizes
        ctx.save_for_backward(weighed, bent)
        return coefficients.flatten().dot(weighed.flatten()) + bends.dot(bent)

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
        by_coefficients = (weighed * twice).flatten(2).split_with_sizes([n for n, _, _ in shapes])
        of_bodies = by_courses.split_with_sizes([terms * length for _, terms, length in shapes])
        return None, *by_coefficients, *(part.view(terms, length) for part, (_, terms, length) in zip(of_bodies, shapes))


@functools.lru_cache(maxsize=32)
def _weights(sizes: MotionSizes, dtype: torch.dtype, device: torch.device) -> tuple[Float[Tensor, "N 1 2 1"], Float[Tensor, "M*B*T-2"]]:
    """What the square of each Gaussian's turns and shifts counts, and that of each second difference of the courses, all one after the
    other: nothing where it would reach from one course into the next."""
    by_body, of_bends = [], []
    for (n, terms, length), extent in zip(sizes.shapes, sizes.extents, strict=True):
        share = sizes.motion / max(n * terms * 3, 1)
        by_body.append((share, share / extent**2))
        of_course = np.zeros(length)
        of_course[: length - 2] = sizes.bend / (terms * (length - 2))
        of_bends.append(np.tile(of_course, terms))
    body = body_of_each(tuple(n for n, _, _ in sizes.shapes), device)
    of_gaussians = upload(np.array(by_body), device, dtype).index_select(0, body)[:, None, :, None]
    return of_gaussians, upload(np.concatenate(of_bends)[:-2], device, dtype)
