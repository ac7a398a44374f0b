"""Full-state checkpoints: everything a loop needs to go on, written whole or not at all, read without pickle."""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatmend.datasets.errors import UserError

_NEARLY_FULL_BYTES = 1 << 20


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """A dict of tensors, numbers, strings, lists and dicts to a file; an interruption leaves the former one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as fault:
        full = shutil.disk_usage(path.parent).free < _NEARLY_FULL_BYTES
        beside.unlink(missing_ok=True)
        # torch turns the system's error into a RuntimeError without its number.
        if full and not isinstance(fault, OSError):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from fault
        raise


def load_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The inverse of `save_checkpoint`; `UserError` where the file is missing, broken or not of our making."""
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint; run without --resume.") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as fault:
        raise UserError(f"{path}: this is no whole checkpoint; delete it and run again.") from fault


def random_state() -> dict[str, Any]:
    """State of Python's, NumPy's and torch's global generators, as plain tensors and numbers."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (the global generator is what libraries use)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(np.array(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the global generators back where `random_state` saw them."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
