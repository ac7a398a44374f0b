"""A drive of 20 s with three cameras of 1920x1280, fitted as the recipe `waymo` does at full size: how long it takes until it is scored.

    python benchmarks/long_log.py --logs FOLDER --render         # where Open3D is installed: 17 min of one core
    python benchmarks/long_log.py --logs FOLDER --out rows.jsonl --rows ewa ewa-coarse --budget-s 560

Pictures are rendered at 384x256 and enlarged (see `large_street.py`); LiDAR turns of 64 beams are cast by as many processes. Each row is a
fit in a process of its own: seconds from its start until the first iteration, of the iterations, and from the last one until the scene is
scored and written. A row that the budget cuts short goes on when the same line is given again: parts of an interrupted fit are put
together, and what it did before its first iteration counts once. `-coarse` is `--coarse.until 0.5`, `-little-cache` has
the default's room for pictures in place of the recipe's. `--toy` is a small street on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from fit_memory import peak_mib
from large_street import render_pictures, write_large_street
from measured_on import environment

from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.street.config import StreetConfig
from splatmend.pipelines.recipes import RecipeOptions, fit_config
from splatmend.recon.fit.config import CoarseConfig, DataConfig, FitConfig
from splatmend.recon.fit.fit import fit

ROWS = tuple(model + change for model in ("ewa", "ray") for change in ("", "-coarse", "-little-cache"))
PACKAGES = ("splatmend", "torch", "gsplat")
STREET = StreetConfig(seed=41, duration_s=20.0, width=384, height=256, readout_us=30_000, pedestrians=4)
TOY_STREET = replace(STREET, duration_s=0.8, width=96, height=64, lidar_beams=16, lidar_columns=256)
ENLARGED = 5
_GRACE_S = 60
"""A fit that is stopped may take so long to write its checkpoint."""


def make_log(chosen: argparse.Namespace) -> None:
    """The pictures and, but where they alone are asked for, the log; what is there stays."""
    street = TOY_STREET if chosen.toy else STREET
    pictures, log = chosen.logs / "pictures.zip", chosen.logs / "log"
    if not (pictures.is_file() or log.is_dir()):
        started = time.perf_counter()
        render_pictures(street, pictures, chosen.processes)
        print(f"{pictures}: rendered in {time.perf_counter() - started:.0f} s", flush=True)
    if not (log.is_dir() or chosen.render):
        started = time.perf_counter()
        write_large_street(street, pictures, log, ENLARGED, chosen.processes)
        print(f"{log}: written in {time.perf_counter() - started:.0f} s", flush=True)


def config_of(row: str, chosen: argparse.Namespace) -> FitConfig:
    """The recipe's fit with what the row changes."""
    model, _, change = row.partition("-")
    config = fit_config("waymo", RecipeOptions(preset="cpu" if chosen.toy else "gpu", iterations=chosen.iterations))
    if change == "coarse":
        config = replace(config, coarse=CoarseConfig(until=0.5))
    elif change == "little-cache":
        config = replace(config, data=replace(config.data, cache_mib=DataConfig().cache_mib))
    return replace(config, camera_model=model, device="cpu" if chosen.toy else "cuda")


def measure(row: str, chosen: argparse.Namespace) -> None:
    """A row's fit, or the rest of it, in this process. Moments go into the row's file as they come, seconds since the process began."""
    part = os.getpid()

    def note(**facts: Any) -> None:
        with (chosen.logs / f"{row}.jsonl").open("a") as file:
            passed = round(time.time() - chosen.began, 3)
            device_gb = 0.0 if chosen.toy else torch.cuda.max_memory_allocated() / 1e9
            file.write(json.dumps({"part": part, "s": passed, "host_mib": peak_mib(), "device_gb": device_gb, **facts}) + "\n")

    scene = fit(
        open_log(chosen.logs / "log"),
        chosen.logs / row,
        config_of(row, chosen),
        resume=True,
        on_progress=lambda shown: note(iteration=shown["iteration"], gaussians=shown["gaussians"]),
    )
    note(held_out=json.loads((scene / "manifest.json").read_text())["facts"]["held_out"])


def summary(moments: list[dict[str, Any]]) -> dict[str, Any]:
    """What the moments of a whole fit, by one process or several, come to."""
    rows, end = moments[:-1], moments[-1]
    # A part that was killed goes on from an earlier iteration: the later part's account of it stands.
    passed = {later["iteration"]: (earlier, later) for earlier, later in pairwise(rows) if earlier["part"] == later["part"]}
    spans = [(b["iteration"] - a["iteration"], b["s"] - a["s"]) for a, b in passed.values() if b["iteration"] > a["iteration"]]
    counted, seconds = (sum(column) for column in zip(*spans))
    last = rows[-1]
    # Iterations that no part timed, around an interruption, took as long as the others.
    fitting_s = seconds / counted * (last["iteration"] - 1)
    settled = [s / count for (_, later), (count, s) in zip(passed.values(), spans) if later["iteration"] > 0.8 * last["iteration"]]
    before_s, after_s = rows[0]["s"], end["s"] - last["s"]
    return {
        "before_first_s": round(before_s, 1),
        "fitting_s": round(fitting_s, 1),
        "scores_s": round(after_s, 1),
        "whole_s": round(before_s + fitting_s + after_s, 1),
        "ms_per_iteration": 1e3 * seconds / counted,
        "ms_at_full_number": 1e3 * statistics.median(settled),
        "iterations": last["iteration"],
        "gaussians": last["gaussians"],
        "host_mib": round(max(moment["host_mib"] for moment in moments)),
        "device_gb": max(moment["device_gb"] for moment in moments),
        "parts": len({moment["part"] for moment in moments}),
        "held_out": end["held_out"],
    }


def moments_of(row: str, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    file = chosen.logs / f"{row}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def run_part(row: str, chosen: argparse.Namespace, until: float) -> bool:
    """Let a row's fit go on in a process of its own until a moment (`time.monotonic`); whether it was whole by then.

    Raises:
        SystemExit: where the fit failed.
    """
    settings = [f"--logs={chosen.logs}", f"--measure={row}", f"--began={time.time()}"]
    settings += ["--toy"] if chosen.toy else []
    settings += [] if chosen.iterations is None else [f"--iterations={chosen.iterations}"]
    process = subprocess.Popen([sys.executable, __file__, *settings])
    try:
        done = process.wait(max(until - time.monotonic(), 1.0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False
    if done:
        raise SystemExit(f"long_log: the fit {row} failed; its message stands above.")
    return True


def show(line: dict[str, Any], out: Path | None) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    if out is not None:
        with out.open("a") as file:
            file.write(text + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, required=True, help="folder of the log, the scenes and what is known of rows so far")
    parser.add_argument("--render", action="store_true", help="render pictures.zip into that folder and end; it can be copied elsewhere")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that render, or cast LiDAR turns")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["ewa", "ewa-coarse"])
    parser.add_argument("--iterations", type=int, help="in place of the preset's")
    parser.add_argument("--budget-s", type=float, default=3_600.0, help="seconds after which a fit is interrupted")
    parser.add_argument("--out", type=Path, help="file that the lines are added to as well")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    parser.add_argument("--toy", action="store_true", help="a small street, on the CPU")
    parser.add_argument("--measure", choices=ROWS, help="go on with this row's fit in this process and end")
    parser.add_argument("--began", type=float, help="when that process was started (seconds since 1970)")
    chosen = parser.parse_args()
    until = time.monotonic() + chosen.budget_s
    if chosen.measure is not None:
        measure(chosen.measure, chosen)
        return 0
    if not (chosen.toy or chosen.render or torch.cuda.is_available()):
        raise SystemExit("long_log: torch sees no CUDA device; give --toy for a trial on the CPU.")
    chosen.logs.mkdir(parents=True, exist_ok=True)
    make_log(chosen)
    if chosen.render:
        return 0
    show({"kind": "environment", **environment(PACKAGES, cuda=not chosen.toy, commit=chosen.commit)}, chosen.out)
    for row in chosen.rows:
        if (chosen.logs / row).is_dir():
            continue
        if time.monotonic() > until or not run_part(row, chosen, until):
            print(f"long_log: {row} is not whole; give the same line again to go on.", file=sys.stderr)
            return 0
        show({"kind": "row", "row": row, **summary(moments_of(row, chosen))}, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
