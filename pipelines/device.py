"""Where work runs: the one meaning of `--device`."""

from __future__ import annotations

from typing import Literal

from splatmend.datasets.errors import UserError


def torch_device(device: str) -> Literal["cpu", "cuda"]:
    """The device that "auto" stands for, or the one that is named; `UserError` where there is none of that name."""
    import torch

    if device == "cpu":
        return "cpu"
    if device not in ("auto", "cuda"):
        raise UserError(f"device: {device} is none of auto, cpu and cuda; change it.")
    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise UserError("device: PyTorch sees no CUDA device here; use --device cpu.")
    return "cpu"
