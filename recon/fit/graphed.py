"""Picture terms whose kernels start together: on CUDA a step would otherwise wait for the host to start hundreds of small ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splatmend.recon.fit.picture_terms import DEPTH_TERMS, PicturePlan, PictureTensors, picture_terms

_MOST_KINDS = 12
"""Kinds of pictures (sizes, masks, channels) with a graph of their own; each holds the memory of a picture's terms."""


@dataclass(frozen=True, kw_only=True)
class PictureLoss:
    """`total` is what to go back from; `terms` are the weighted terms in the order of `names`, outside the graph."""

    total: Tensor
    names: tuple[str, ...]
    terms: Tensor
    squared_error: Tensor


@dataclass(frozen=True, kw_only=True)
class _Captured:
    call: Callable[..., tuple[Tensor, Tensor, Tensor]]
    names: tuple[str, ...]


class PictureLosses:
    """Computes picture terms: as one CUDA graph each way where `graphs` says so and the tensors lie on CUDA, else kernel by kernel, which
    is the same. The values of a graph stand until the next picture's are computed."""

    def __init__(self, *, graphs: bool) -> None:
        self.graphs = graphs
        self._captured: dict[object, _Captured] = {}

    def forget(self) -> None:
        """Give back the memory of graphs, where pictures of their kinds will not come again."""
        self._captured.clear()

    def __call__(self, plan: PicturePlan, given: PictureTensors) -> PictureLoss:
        present = given.present()
        names: list[str] = []

        def together(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            held = dict.fromkeys(PictureTensors.__dataclass_fields__) | dict(zip(present, tensors))
            terms, squared_error = picture_terms(plan, PictureTensors(**held))  # type: ignore[arg-type]
            names[:] = terms
            stacked = torch.stack(list(terms.values()))
            if plan.depth_factor == 1:
                return stacked.sum(), stacked.detach(), squared_error
            weighed = [plan.depth_factor * value if name in DEPTH_TERMS else value for name, value in terms.items()]
            return torch.stack(weighed).sum(), stacked.detach(), squared_error

        tensors = tuple(present.values())
        if not (self.graphs and given.blended.is_cuda):
            total, terms, squared_error = together(*tensors)
            return PictureLoss(total=total, names=tuple(names), terms=terms, squared_error=squared_error)
        key = (plan, tuple((name, t.shape, t.dtype, t.requires_grad) for name, t in present.items()))
        if key not in self._captured:
            if len(self._captured) >= _MOST_KINDS:
                self._captured.clear()
            examples = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in tensors)
            with warnings.catch_warnings():
                # Of the examples, whose warm-up runs on a stream of its own.
                warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
                call: Any = torch.cuda.make_graphed_callables(together, examples, allow_unused_input=True)
            self._captured[key] = _Captured(call=call, names=tuple(names))
        captured = self._captured[key]
        total, terms, squared_error = captured.call(*tensors)
        return PictureLoss(total=total, names=captured.names, terms=terms.clone(), squared_error=squared_error.clone())
