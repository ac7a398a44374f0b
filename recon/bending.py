"""The Gaussians of all bodies that bend, moved by one function with its gradients by hand: operation by operation, body by body, the host
takes longer to ask for it each way than the device to answer.

Shape letters: M bodies, n Gaussians of one and N of all, B courses, T control values of a course.
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

from splatmend.recon.gaussians import body_of_each, joined, left_entries

Spline = tuple[int, tuple[float, ...]]
"""First of the four control values that a course passes by, and the share of each."""


@dataclass(frozen=True, kw_only=True)
class Bodies:
    """Numbers of Gaussians, first control values, and of each body the shares of four control values and its reach in metres."""

    counts: tuple[int, ...]
    segments: Sequence[int]
    splines: Float[Tensor, "M 5"]


def bent(
    bodies: Bodies,
    coefficients: Sequence[Float[Tensor, "n B 6"]],
    courses: Sequence[Float[Tensor, "B T"]],
    means: Sequence[Float[Tensor, "n 3"]],
    quats_wxyz: Sequence[Float[Tensor, "n 4"]],
) -> list[tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"]]]:
    """Means and quaternions of each body's Gaussians after their moves (see `splatmend.recon.motion.Motion`), in the graph."""
    moved = _Bending.apply(bodies, *coefficients, *courses, *means, *quats_wxyz)
    count = len(bodies.counts)
    return list(zip(moved[:count], moved[count:], strict=True))


class _Bending(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bodies: Bodies, *given: Tensor) -> tuple[Tensor, ...]:
        counts = bodies.counts
        coefficients, courses, means, quats = (given[start : start + len(counts)] for start in range(0, len(given), len(counts)))
        passed = torch.stack([course.narrow(1, first, 4) for course, first in zip(courses, bodies.segments, strict=True)])
        values = (passed * bodies.splines[:, None, :4]).sum(dim=2)
        body = body_of_each(counts, values.device)
        rows = torch.cat([values, bodies.splines[:, 4:]], dim=1).index_select(0, body)
        own, reach = rows[:, :-1], rows[:, -1:]
        terms = joined(coefficients)
        turns, shifts = (terms * own[:, :, None]).sum(dim=1).split(3, dim=1)
        # What the quaternion (1, turn / 2) adds to another one when it is multiplied with it from the left.
        turning = (turns @ _half_left(turns.dtype, turns.device)).view(-1, 4, 4)
        still = joined(quats)
        turned = (turning * still[:, None, :]).sum(dim=2).add_(still)
        bounded = torch.tanh(shifts / reach)
        moved = torch.addcmul(joined(means), reach, bounded)
        ctx.bodies, ctx.lengths = bodies, [course.shape[1] for course in courses]
        ctx.save_for_backward(body, own, terms, turning, still, bounded)
        return *moved.split_with_sizes(counts), *turned.split_with_sizes(counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        body, own, terms, turning, still, bounded = ctx.saved_tensors
        counts, splines = ctx.bodies.counts, ctx.bodies.splines
        g_means, g_quats = joined(grads[: len(counts)]), joined(grads[len(counts) :])
        by_turns = (g_quats[:, :, None] * still[:, None, :]).flatten(1) @ _half_left(still.dtype, still.device).T
        g_still = (turning * g_quats[:, :, None]).sum(dim=1).add_(g_quats)
        by_sums = torch.cat([by_turns, torch.ops.aten.tanh_backward(g_means, bounded)], dim=1)[:, None]
        g_terms = own[:, :, None] * by_sums
        by_values = own.new_zeros(len(counts), own.shape[1]).index_add_(0, body, (terms * by_sums).sum(dim=2))
        by_passed = by_values[:, :, None] * splines[:, None, :4]
        terms_count = own.shape[1]
        flat = own.new_zeros(terms_count * sum(ctx.lengths)).split_with_sizes([terms_count * length for length in ctx.lengths])
        g_courses = [part.view(terms_count, -1) for part in flat]
        places = [course.narrow(1, first, 4) for course, first in zip(g_courses, ctx.bodies.segments)]
        torch._foreach_copy_(places, list(by_passed.unbind(0)))
        by_body = (g_terms.split_with_sizes(counts), g_courses, g_means.split_with_sizes(counts), g_still.split_with_sizes(counts))
        return None, *(grad for kind in by_body for grad in kind)


@functools.lru_cache(maxsize=16)
def _half_left(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "3 16"]:
    return left_entries(dtype, device)[1:] / 2
