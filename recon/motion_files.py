"""Motion of an actor's Gaussians as a safetensors file beside their .ply, rows in the same order."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from splatmend.datasets.errors import UserError
from splatmend.recon.motion import Motion


def save_motion(motion: Motion, path: Path) -> None:
    """Tensors `coefficients [N, B, 6]`, `courses [B, T]`, `times_us [2]` (first, step; int64), `reach_m [1]` (float64)."""
    tensors = {
        "coefficients": motion.coefficients.detach().cpu().contiguous(),
        "courses": motion.courses.detach().cpu().contiguous(),
        "times_us": torch.tensor([motion.first_us, motion.step_us], dtype=torch.int64),
        "reach_m": torch.tensor([motion.reach_m], dtype=torch.float64),
    }
    save_file(tensors, str(path))


def load_motion(path: Path, count: int) -> Motion:
    """What `save_motion` wrote for `count` Gaussians.

    Raises:
        UserError: where the file is missing, broken, or of other Gaussians.
    """
    try:
        tensors = load_file(str(path))
        first_us, step_us = tensors["times_us"].tolist()
        motion = Motion(
            coefficients=tensors["coefficients"],
            courses=tensors["courses"],
            first_us=first_us,
            step_us=step_us,
            reach_m=float(tensors["reach_m"]),
        )
    except FileNotFoundError:
        raise UserError(f"{path}: the motion of an actor is missing; copy the whole folder again, or fit the scene again.") from None
    except (SafetensorError, KeyError, ValueError) as fault:
        raise UserError(f"{path}: the motion of an actor cannot be read ({fault}); fit the scene again.") from None
    if len(motion.coefficients) != count:
        raise UserError(f"{path}: motion of {len(motion.coefficients)} Gaussians for an actor that has {count}; fit the scene again.")
    if not (bool(torch.isfinite(motion.coefficients).all()) and bool(torch.isfinite(motion.courses).all())):
        raise UserError(f"{path}: the motion holds values that are no finite numbers; fit the scene again.")
    return motion
