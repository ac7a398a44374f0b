"""Where graphs end: pulling gradients back without holding the tensors they start from, nor the gradients themselves.

Whoever starts a backward pass usually holds both until it is over. Here both are caches, as large as all activations of a lean walk: a
group's outgoing cache need not exist while its graph is walked, and each tensor of a cache's gradient can go as soon as the layer
it belongs to is through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

from splatmend.enhance.decoder.gradients import without_autocast


class _TakenFrom(torch.autograd.Function):
    """The identity. Backwards it gives what lies in a box, and leaves the box empty."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, box: list[torch.Tensor]) -> torch.Tensor:
        ctx.box = box
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.box.pop(), None


class GraphEnd:
    """The place of a tensor in its graph, which is held while the tensor is not."""

    def __init__(self, x: torch.Tensor) -> None:
        self.box: list[torch.Tensor] = []
        self.edge = None
        # Of the tensor's shape, and of no size in memory: what counts comes out of the box.
        self.nothing = torch.zeros((), dtype=x.dtype, device=x.device).expand(x.shape)
        if x.requires_grad:
            with torch.enable_grad():
                self.edge = get_gradient_edge(_TakenFrom.apply(x, self.box))


def pull_back(
    ends: Sequence[GraphEnd], cotangents: list[torch.Tensor | None], inputs: Sequence[torch.Tensor], *, keep: bool
) -> tuple[torch.Tensor | None, ...] | None:
    """Gradients of `inputs` for the gradients `cotangents` of `ends`, and None where none of these takes part. Empties `cotangents`.

    `keep` keeps the graph for another walk.
    """
    edges, nothings = [], []
    for end, cotangent in zip(ends, cotangents, strict=True):
        if cotangent is not None and end.edge is not None:
            end.box.append(cotangent)
            edges.append(end.edge)
            nothings.append(end.nothing)
        del cotangent
    cotangents.clear()
    if not edges:
        return None
    with without_autocast(nothings[0].device):
        return torch.autograd.grad(edges, inputs, nothings, retain_graph=keep, allow_unused=True)
