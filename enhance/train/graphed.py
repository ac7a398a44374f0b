"""One training micro-step as a CUDA graph: for small models, whose eager steps wait for kernel launches more than for kernels.

A graph replays the same kernels on the same memory, so shapes are fixed, inputs are copied into the captured ones, and gradients and
metrics are read where the capture left them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from splatmend.enhance.train.config import LoopConfig
from splatmend.enhance.train.data import Batch

AddGradients = Callable[[Batch, float], dict[str, torch.Tensor]]
"""`add_gradients(batch, loss_scale)` adds the gradients of a batch to `.grad` and returns metrics."""
_WARM_UP_STEPS = 3


def graphed(
    add_gradients: AddGradients, parameters: Iterable[torch.nn.Parameter], config: LoopConfig, device: torch.device
) -> AddGradients:
    """The same step, replayed from a graph where the configuration asks for it and the device can."""
    return GraphedStep(add_gradients, parameters) if config.cuda_graph and device.type == "cuda" else add_gradients


class GraphedStep:
    """Captures `add_gradients` on its first call and replays it from then on. One call makes the whole gradient: no accumulation."""

    def __init__(self, add_gradients: AddGradients, parameters: Iterable[torch.nn.Parameter]) -> None:
        self.add_gradients = add_gradients
        self.parameters = list(parameters)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch, loss_scale: float) -> dict[str, torch.Tensor]:
        """Metrics of the batch; `.grad` of every parameter holds its gradient alone, whatever was there before."""
        if self._graph is None:
            self._capture(batch, loss_scale)
        elif loss_scale != self._loss_scale or batch.target.shape != self._batch.target.shape:
            raise ValueError("a captured step always has the same loss scale and batch shape")
        for held, given in zip(_tensors(self._batch), _tensors(batch), strict=True):
            held.copy_(given)
        assert self._graph is not None
        self._graph.replay()
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return {name: value.clone() for name, value in self._metrics.items()}

    def _capture(self, batch: Batch, loss_scale: float) -> None:
        # By key nothing could be looked up in a graph.
        opacity, flow, references, inserted = (
            None if more is None else more.clone() for more in (batch.opacity, batch.flow, batch.references, batch.inserted)
        )
        clips = (batch.degraded.clone(), batch.target.clone())
        self._batch = Batch(*clips, batch.kinds, opacity=opacity, flow=flow, references=references, inserted=inserted)
        self._loss_scale = loss_scale
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                self._clear_gradients()
                self.add_gradients(self._batch, loss_scale)
        torch.cuda.current_stream().wait_stream(stream)
        self._clear_gradients()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            metrics = self.add_gradients(self._batch, loss_scale)
        self._metrics = {name: value.detach() for name, value in metrics.items()}
        self._gradients = [parameter.grad for parameter in self.parameters]
        self._graph = graph

    def _clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def _tensors(batch: Batch) -> list[torch.Tensor]:
    parts = (batch.degraded, batch.target, batch.opacity, batch.flow, batch.references, batch.inserted)
    return [part for part in parts if part is not None]
