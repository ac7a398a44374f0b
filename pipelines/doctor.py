"""What works on this machine, one check a line, each with what to do where it does not.

Nothing here imports gsplat: on a machine with a compiler but no GPU that starts a long build.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from splatmend.pipelines.missing_modules import INSTALL, missing_module
from splatmend.pipelines.report.machine import package_version

State = Literal["works", "absent", "broken"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line. "absent" is something that only some commands need, "broken" something that every one does."""

    what: str
    state: State
    found: str
    advice: str = ""


def examine(folder: Path = Path(".")) -> list[Check]:
    """All checks, in the order in which a person would mend them."""
    checks: list[Callable[[], Check]] = [
        python,
        torch_and_cuda,
        gsplat,
        numba_threads,
        lambda: video_codec("h264"),
        lambda: video_codec("av1"),
        open3d,
        waymo_protobufs,
        lambda: lpips_weights("squeeze"),
        lambda: lpips_weights("alex"),
        lambda: lpips_weights("vgg"),
        bundled_enhancer,
        lambda: disk(folder),
        memory,
    ]
    answers: dict[str, Check] = {}
    for check in checks:
        answer = _answer(check)
        answers.setdefault(answer.what, answer)
    return list(answers.values())


def _answer(check: Callable[[], Check]) -> Check:
    """What a check says, or that a module which it needs is not installed."""
    try:
        return check()
    except ModuleNotFoundError as fault:
        if (module := missing_module(fault)) is None:
            raise
        return Check(what=module, state="broken", found="not installed", advice=INSTALL)


def python() -> Check:
    good = sys.version_info >= (3, 11)
    return Check(
        what="Python", state="works" if good else "broken", found=platform.python_version(), advice="" if good else "use 3.11 or newer"
    )


def torch_and_cuda() -> Check:
    try:
        import torch
    except (ImportError, OSError) as fault:
        return Check(what="torch", state="broken", found=str(fault), advice="install torch 2.8 or newer")
    if not torch.cuda.is_available():
        advice = "fitting and enhancing run on the processor: use --preset cpu; a CUDA device makes them 20 to 100 times faster"
        return Check(what="torch, CUDA", state="absent", found=f"torch {torch.__version__}, no CUDA device", advice=advice)
    try:
        total = float(torch.ones(256, device="cuda").sum())
    except RuntimeError as fault:
        return Check(what="torch, CUDA", state="broken", found=str(fault).splitlines()[0], advice="install a torch built for this driver")
    name = torch.cuda.get_device_name(0)
    state: State = "works" if total == 256 else "broken"
    return Check(what="torch, CUDA", state=state, found=f"torch {torch.__version__}, {torch.cuda.device_count()} x {name}")


def gsplat() -> Check:
    version = package_version("gsplat")
    try:
        import torch
    except (ImportError, OSError):
        return Check(what="gsplat", state="absent", found=version or "not installed", advice="mend torch first")
    if not torch.cuda.is_available():
        found = "not installed" if version is None else f"{version}, not used without CUDA"
        return Check(what="gsplat", state="absent", found=found, advice="the CPU rasteriser is used; nothing to do")
    if version is None:
        return Check(what="gsplat", state="absent", found="not installed", advice="pip install gsplat")
    return Check(what="gsplat", state="works", found=version, advice="its first use may compile for some minutes")


def numba_threads() -> Check:
    import numba

    import splatmend.recon.raster.cpu  # noqa: F401  (compiles or loads the kernels)

    advice = "" if numba.get_num_threads() > 1 else "set NUMBA_NUM_THREADS to the number of cores"
    return Check(what="CPU rasteriser", state="works", found=f"numba {numba.__version__}, {numba.get_num_threads()} threads", advice=advice)


def video_codec(codec: Literal["h264", "av1"]) -> Check:
    """Writes two frames and reads them back."""
    from splatmend.datasets.errors import UserError
    from splatmend.datasets.video import VideoWriter, iter_video

    needed_for = "reports" if codec == "h264" else "clips with --encoding av1"
    advice = f"install PyAV from its own wheels (pip install --only-binary av av); {needed_for} need it"
    if importlib.util.find_spec("av") is None:
        return Check(what=f"video, {codec}", state="absent", found="PyAV is not installed", advice=advice)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "two.mp4"
        try:
            with VideoWriter(path, 10.0, codec) as writer:
                for level in (40, 200):
                    writer.write(np.full((64, 64, 3), level, dtype=np.uint8))
            means = [float(rgb.mean()) for rgb in iter_video(path)]
        except (UserError, OSError, ValueError) as fault:
            return Check(what=f"video, {codec}", state="absent", found=str(fault), advice=advice)
    good = len(means) == 2 and abs(means[0] - 40) < 12 and abs(means[1] - 200) < 12
    return Check(
        what=f"video, {codec}", state="works" if good else "absent", found=f"2 frames, means {means}" if not good else "encodes and decodes"
    )


def open3d() -> Check:
    version = package_version("open3d-cpu") or package_version("open3d")
    if version is None:
        advice = "pip install open3d (or open3d-cpu); procedural streets are cast by torch until then, more slowly"
        return Check(what="Open3D", state="absent", found="not installed", advice=advice)
    if (fault := import_fault("open3d")) is not None:
        advice = (
            "sudo apt-get install libegl1 libgl1 libx11-6 libudev1 libusb-1.0-0 libidn2-0 libgomp1; until then streets are cast by torch"
        )
        return Check(what="Open3D", state="absent", found=f"{version}, but {fault}", advice=advice)
    return Check(what="Open3D", state="works", found=version)


def import_fault(module: str) -> str | None:
    """Why a module cannot be imported, in a process of its own, for a library may end that; None where it can."""
    try:
        done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        return "its import does not end"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"its import is ended by signal {-done.returncode}"
    return (done.stderr.strip().splitlines() or ["its import fails"])[-1]


def waymo_protobufs() -> Check:
    for name in ("waymo_open_dataset", "google.protobuf"):
        try:
            there = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            there = False
        if not there and name == "google.protobuf":
            return Check(what="Waymo v1 logs", state="absent", found="protobuf is not installed", advice="pip install protobuf")
        if not there:
            advice = "pip install --no-deps waymo-open-dataset-tf-2-12-0 (its pins cannot be met); v2 Parquet logs need nothing"
            return Check(what="Waymo v1 logs", state="absent", found="the protobuf definitions are not installed", advice=advice)
    if (fault := import_fault("waymo_open_dataset.dataset_pb2")) is not None:
        advice = "install a protobuf of requirements.lock's version; v2 Parquet logs need nothing"
        return Check(what="Waymo v1 logs", state="absent", found=f"the protobuf definitions do not load: {fault}", advice=advice)
    return Check(what="Waymo v1 logs", state="works", found="the protobuf definitions load")


def lpips_weights(net: Literal["squeeze", "alex", "vgg"]) -> Check:
    from splatmend.datasets.image_metrics import BACKBONE_FILES, hub_checkpoints, lpips_available

    path = hub_checkpoints() / BACKBONE_FILES[net]
    if lpips_available(net):
        return Check(what=f"LPIPS {net}", state="works", found=str(path))
    return Check(
        what=f"LPIPS {net}",
        state="absent",
        found="network missing",
        advice=f"put {path.name} into {path.parent}; its row stays empty until then",
    )


def bundled_enhancer() -> Check:
    from splatmend.datasets.errors import UserError

    try:
        from splatmend.enhance.artifact import load_enhancer

        load_enhancer("bundled")
    except UserError as fault:
        return Check(what="bundled enhancer", state="absent", found=str(fault), advice="train one: splatmend pairs, then splatmend train")
    return Check(what="bundled enhancer", state="works", found="loads")


def disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 2**30
    advice = "" if free > 10 else "free some space: a full-size run writes 5 to 50 GiB"
    return Check(what="disk", state="works" if free > 10 else "absent", found=f"{free:.0f} GiB free in {folder.resolve()}", advice=advice)


def memory() -> Check:
    found = psutil.virtual_memory()
    free = found.available / 2**30
    advice = "" if free > 8 else "the demo needs up to 8 GiB; close other programs"
    return Check(
        what="memory", state="works" if free > 8 else "absent", found=f"{free:.0f} of {found.total / 2**30:.0f} GiB free", advice=advice
    )
