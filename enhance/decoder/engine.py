"""Which layers run the model: its own modules, or the fast ones."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias

import torch

from splatmend.enhance.decoder.wan_blocks import ReferenceOperations

Engine: TypeAlias = Literal["auto", "reference", "fast"]
"""reference: the model's own modules; fast: layers that give the same to rounding, in less time and memory on a GPU; auto: fast on
CUDA devices, reference elsewhere."""


def operations_for(engine: Engine, x: torch.Tensor) -> ReferenceOperations:
    """The operations that run `x`."""
    return _fast() if engine == "fast" or (engine == "auto" and x.is_cuda) else _reference()


def forget_packed_weights() -> None:
    """Make the fast layers look at all weights again, after frozen ones were changed in a way that PyTorch does not count.

    Only needed after writes past the parameters themselves: `p.data.mul_(2)`, through NumPy, or by a captured graph. Optimisers,
    `load_state_dict`, moves, `p.data = x` and operations under `torch.no_grad()` are seen without it.
    """
    _fast().forget_weights()


@lru_cache(maxsize=1)
def _fast() -> ReferenceOperations:
    from splatmend.enhance.decoder.fast.operations import FastOperations

    # One for all: it holds weights in the fast layers' layout for as long as their modules live.
    return FastOperations()


@lru_cache(maxsize=1)
def _reference() -> ReferenceOperations:
    return ReferenceOperations()
