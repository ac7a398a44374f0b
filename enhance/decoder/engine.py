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


@lru_cache(maxsize=1)
def _fast() -> ReferenceOperations:
    from splatmend.enhance.decoder.fast.operations import FastOperations

    # One for all: it holds weights in the fast layers' layout for as long as their modules live.
    return FastOperations()


@lru_cache(maxsize=1)
def _reference() -> ReferenceOperations:
    return ReferenceOperations()
