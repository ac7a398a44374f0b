"""Functional checkpointing: keep a block's inputs, compute its insides again in the backward pass.

`torch.utils.checkpoint` over diffusers' own decoder breaks, because the feature list it walks has moved on by the time the block is
computed again. The functions of `wan_blocks` take their cache as an argument and return a new one, so computing them again gives the
same values, bit for bit on the same hardware, and every kept graph can be walked several times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def run(function: Callable[..., T], *args: Any, recompute: bool, **kwargs: Any) -> T:
    """Call `function(*args, **kwargs)`, with its saved activations recomputed in the backward pass where `recompute` is set.

    `function` must be pure: tensors in, tensors out, nothing changed in place. Without gradients the call is made as it is.
    """
    if not recompute or not torch.is_grad_enabled():
        return function(*args, **kwargs)
    return checkpoint(function, *args, use_reentrant=False, **kwargs)
