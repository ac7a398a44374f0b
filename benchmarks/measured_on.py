"""What figures were measured on: processor or accelerator, versions, commit."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from splatmend.pipelines.code_state import code_state


def environment(packages: Sequence[str], *, cuda: bool, commit: str | None = None) -> dict[str, Any]:
    """Facts for a record: hardware, Python, the packages' versions (None where one is not installed), commit (that of the checkout
    unless it is given) and, with `cuda`, what decides speed and memory there."""
    facts: dict[str, Any] = {"hardware": hardware(cuda=cuda), "python": platform.python_version()}
    facts |= {name: _version(name) for name in packages}
    facts["commit"] = commit or checked_out()
    if cuda:
        facts |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or os.environ.get("PYTORCH_ALLOC_CONF") or "default",
        }
    return facts


def hardware(*, cuda: bool) -> str:
    """Name of the accelerator with its memory, or of the processor with the threads that work."""
    if cuda:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def checked_out() -> str:
    """The commit of the checkout, with a + where its sources have changed since; "unknown" where there is none."""
    state = code_state()
    return "unknown" if state.commit is None else state.commit[:12] + ("+" if state.changed else "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
