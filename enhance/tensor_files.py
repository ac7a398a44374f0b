"""Safetensors files in, checked: a weight that is no number would make every frame garbage without a word."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from splatmend.datasets.errors import UserError


def load_tensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    """Name -> tensor; `what` names them in the `UserError` for a file that is missing, broken, or holds nan or inf."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as fault:
        raise UserError(f"{path}: {what} cannot be read ({fault}); copy the whole folder again.") from None
    check_finite(tensors.items(), path)
    return tensors


def check_finite(tensors: Iterable[tuple[str, torch.Tensor]], path: Path) -> None:
    """`UserError` for the first tensor that holds nan or inf."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: {name} holds values that are no finite numbers; copy the whole folder again, or train again.")
