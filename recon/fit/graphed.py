"""Picture terms whose kernels start together: on CUDA a step would otherwise wait for the host to start hundreds of small ones."""

from __future__ import annotations

import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
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


class PictureLosses:
    """Computes picture terms: as one CUDA graph each way where `graphs` says so and the tensors lie on CUDA, else kernel by kernel, which
    is the same."""

    def __init__(self, *, graphs: bool) -> None:
        self.graphs = graphs
        self._captured: dict[object, _Captured] = {}

    def forget(self) -> None:
        """Give back the memory of graphs, where pictures of their kinds will not come again."""
        self._captured.clear()

    def __call__(self, plan: PicturePlan, given: PictureTensors) -> PictureLoss:
        present = given.present()
        if not (self.graphs and given.blended.is_cuda):
            total, names, values = _sums(plan, given)
            return PictureLoss(total=total, names=names, terms=values[:-1], squared_error=values[-1])
        key = (plan, tuple((name, t.shape, t.dtype, t.requires_grad, _standing(t)) for name, t in present.items()))
        if key not in self._captured:
            if len(self._captured) >= _MOST_KINDS:
                self._captured.clear()
            self._captured[key] = _capture(plan, present)
        captured = self._captured[key]
        total = captured.call(*captured.inputs.filled(tuple(present.values())))
        values = captured.values[0].clone()  # of this picture; the next one writes over them
        return PictureLoss(total=total, names=tuple(captured.names), terms=values[:-1], squared_error=values[-1])


def _sums(plan: PicturePlan, given: PictureTensors) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """The loss, the names of its terms, and outside the graph the values of these with the squared error behind them."""
    terms, squared_error = picture_terms(plan, given)
    stacked = torch.stack(list(terms.values()))
    values = torch.cat([stacked.detach(), squared_error[None]])
    if plan.depth_factor == 1:
        return stacked.sum(), tuple(terms), values
    weighed = [plan.depth_factor * value if name in DEPTH_TERMS else value for name, value in terms.items()]
    return torch.stack(weighed).sum(), tuple(terms), values


@dataclass(frozen=True, kw_only=True)
class _Captured:
    """A graph. Each replay writes into `values[0]` what `_sums` says of them: as outputs of the graph, which go back as well, they would
    be given zeros for gradients, kernel by kernel."""

    call: Callable[..., Tensor]
    inputs: StaticInputs
    names: list[str]
    values: list[Tensor]


def _capture(plan: PicturePlan, present: dict[str, Tensor]) -> _Captured:
    names: list[str] = []
    held: list[Tensor] = []

    def together(*tensors: Tensor) -> Tensor:
        everything = dict.fromkeys(PictureTensors.__dataclass_fields__) | dict(zip(present, tensors))
        total, names[:], values = _sums(plan, PictureTensors(**everything))  # type: ignore[arg-type]
        if not held:  # in the warm-up: not of the graph's own memory
            held.append(torch.empty_like(values))
        held[0].copy_(values)
        return total

    examples = tuple(t.detach() if _standing(t) else t.detach().clone() for t in present.values())
    for example, given in zip(examples, present.values()):
        example.requires_grad_(given.requires_grad)
    with warnings.catch_warnings():
        # Of the examples, whose warm-up runs on a stream of its own.
        warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
        call: Any = torch.cuda.make_graphed_callables(together, examples, allow_unused_input=True)
    return _Captured(call=call, inputs=StaticInputs(examples), names=names, values=held)


def _standing(tensor: Tensor) -> int:
    """Where the memory of a parameter is, 0 for what is no parameter. A graph reads parameters where they are; others would be copied over
    them, so they have graphs of their own."""
    return tensor.data_ptr() if tensor.requires_grad and tensor.is_leaf else 0


class StaticInputs:
    """The tensors that a graph reads. What takes no gradient is copied into them by one call for each type of number; what lies there
    already, as the lens of a camera does, stays."""

    def __init__(self, held: Sequence[Tensor]) -> None:
        self.held = tuple(held)
        self._sources: list[tuple[weakref.ref[Tensor], int] | None] = [None] * len(self.held)

    def filled(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What to call the graph with: for tensors that take gradients themselves, for others those that are held, with their values."""
        copies: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for place, (held, tensor) in enumerate(zip(self.held, given, strict=True)):
            source = self._sources[place]
            if tensor.requires_grad or (source is not None and source[0]() is tensor and source[1] == tensor._version):
                continue
            for kept, one in zip(copies[tensor.dtype], (held, tensor)):
                kept.append(one)
            self._sources[place] = (weakref.ref(tensor), tensor._version)
        for places, values in copies.values():
            torch._foreach_copy_(places, values)
        return tuple(tensor if tensor.requires_grad else held for held, tensor in zip(self.held, given))
