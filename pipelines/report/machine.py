"""Versions and hardware, as a report and the doctor name them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("torch", "gsplat", "diffusers", "numba", "numpy", "av", "opencv-python-headless")


def package_version(name: str) -> str | None:
    """The installed version, without importing the package; None where it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor_name() -> str:
    """The processor's model name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine_facts() -> list[tuple[str, str]]:
    """Names and values for a table."""
    import torch

    from splatmend.pipelines.code_state import code_state

    facts = [("splatmend", str(code_state())), ("Python", platform.python_version()), ("system", platform.platform())]
    facts += [(name, found) for name in PACKAGES if (found := package_version(name)) is not None]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts.append(("processor", f"{processor_name()}, {cores} cores"))
    facts.append(("memory", f"{psutil.virtual_memory().total / 2**30:.0f} GiB"))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            facts.append((f"GPU {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"))
    else:
        facts.append(("GPU", "none"))
    return facts
