"""Colours of several nodes whose harmonics are kept in two parts, as a fit keeps them: those of degree 0, and all above.

To join them node by node, and then the nodes, copies the most numerous parameters of a scene twice each way.

Shape letters: N Gaussians of all nodes, n of one, K harmonics per colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatmend.recon.gaussians import joined
from splatmend.recon.harmonics import colours


def split_colours(
    lowest: Sequence[Float[Tensor, "n 1 3"]],
    higher: Sequence[Float[Tensor, "n K-1 3"]],
    directions: Float[Tensor, "N 3"],
    degree: int | None,
) -> Float[Tensor, "N 3"]:
    """sRGB as in `splatmend.recon.harmonics.colours`, of nodes that follow each other. Harmonics above `degree` take gradients of zero."""
    join = _Unused if degree == 0 else _Joined
    return colours(join.apply(len(lowest), *lowest, *higher), directions, degree)


class _Joined(torch.autograd.Function):
    """All harmonics `[N, K, 3]`."""

    @staticmethod
    def forward(ctx: Any, nodes: int, *parts: Tensor) -> Float[Tensor, "N K 3"]:
        ctx.counts = [len(part) for part in parts[:nodes]]
        return torch.cat([joined(parts[:nodes]), joined(parts[nodes:])], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "N K 3"]) -> tuple[Tensor | None, ...]:
        # Rows of what lies in one piece are gradients that nobody has to copy.
        lowest, higher = (part.contiguous().split_with_sizes(ctx.counts) for part in (grad[:, :1], grad[:, 1:]))
        return None, *lowest, *higher


class _Unused(torch.autograd.Function):
    """Those of degree 0 `[N, 1, 3]`."""

    @staticmethod
    def forward(ctx: Any, nodes: int, *parts: Tensor) -> Float[Tensor, "N 1 3"]:
        ctx.counts, ctx.width = [len(part) for part in parts[:nodes]], parts[nodes].shape[1]
        return torch.cat(parts[:nodes])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "N 1 3"]) -> tuple[Tensor | None, ...]:
        none = grad.new_zeros(len(grad), ctx.width, 3)
        return None, *grad.split_with_sizes(ctx.counts), *none.split_with_sizes(ctx.counts)
