"""What cameras made of colours, as it is learnt in a fit: a map, or a grid of maps, for each training picture (see
`splatmend.recon.exposure`).

A picture is drawn with its own map less what all maps have in common, but its loss moves its own alone, and only when it is shown.
Gradients through the mean would move all others the other way, and an optimiser that scales gradients to steps makes as much of the
thousandth part of one as of the whole: maps that no picture has spoken for would drift for as long as a round over the pictures takes.
Now they move with the mean, by a step at most.

Shape letters: F training pictures, P pictures of a step, G the axes of a grid, none for one map per picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from splatmend.recon.exposure import ExposureTable, common
from splatmend.recon.fit.lean_adam import LeanAdam

_BETAS = (0.9, 0.99)
"""Of the showings of one picture."""
RATE_END = 0.1
"""Learning rates fall to this share."""


class PictureExposures:
    """Maps of training pictures by the numbers of their frames; `rate` is the learning rate (Adam) each time that one is shown."""

    def __init__(self, table: ExposureTable, numbers: Sequence[int], rate: float, device: torch.device) -> None:
        self._table = table
        self.rate = rate
        self.deltas = table.deltas.detach().to(device).clone()
        # Each a view of the table, with a count of steps of its own.
        self._maps = dict(zip(numbers, map(Parameter, self.deltas), strict=True))
        self.optimizer = LeanAdam([{"params": list(self._maps.values()), "lr": rate}], betas=_BETAS)

    @property
    def table(self) -> ExposureTable:
        """All maps as they are, outside the graph."""
        return self._table.with_deltas(self.deltas)

    def of(self, number: int) -> Float[Tensor, "*G 3 4"]:
        """The map of a picture less the identity and what all have in common, in the graph of its own."""
        return self._maps[number] - common(self.deltas)[0]

    def gradient(self, number: int) -> Float[Tensor, "*G 3 4"]:
        """That of the loss of a picture, after the backward pass; it is taken from here."""
        shown = self._maps[number]
        gradient, shown.grad = shown.grad, None
        return torch.zeros_like(shown) if gradient is None else gradient

    def step(self, numbers: Sequence[int], gradients: Float[Tensor, "P *G 3 4"], progress: float) -> None:
        """Move the maps of a step's pictures; `progress` is the share of the fit that is done."""
        for number, gradient in zip(numbers, gradients, strict=True):
            shown = self._maps[number]
            # One step may show the last picture of a round and the same as the first of the next.
            shown.grad = gradient if shown.grad is None else shown.grad + gradient
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * RATE_END**progress
        self.optimizer.step()
        for number in numbers:
            self._maps[number].grad = None

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on."""
        return {"deltas": self.deltas, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.deltas.copy_(state["deltas"])
        self.optimizer.load_state_dict(state["optimizer"])
