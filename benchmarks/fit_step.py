"""Where a step of a fit spends its time: `python benchmarks/fit_step.py LOG --out rows.jsonl` (CUDA, about two minutes).

Our fit and gsplat's bare one (`plain_gsplat.py`) take turns in one process, with as many Gaussians; ours along rays once with each size of
tile. Lines of JSON: milliseconds a step (median of the turns), the kernels that take the most of the GPU's time, and by how much
pictures differ between tile sizes. `--toy` is our fit of a small street on the CPU, where there are no tiles to choose.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from kernels import busiest, wait
from long_log import show
from measured_on import environment
from plain_gsplat import PlainFit
from recon_gpus import toy_log

from splatmend.datasets.readers.registry import open_log
from splatmend.recon.fit.config import DataConfig, DensifyConfig, FitConfig, InitConfig
from splatmend.recon.fit.data import prepared_log, recorded_shots
from splatmend.recon.fit.movers import log_with_movers
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.raster import gsplat_backend
from splatmend.recon.render import render

PACKAGES = ("splatmend", "torch", "gsplat")


def steps_of(trainer: Trainer, tile_px: int) -> Callable[[], object]:
    """Our step with tiles of a size."""

    def step() -> object:
        gsplat_backend.RAY_TILE_PX = tile_px
        return trainer.step()

    return step


def timed_turns(ways: dict[str, Callable[[], object]], turns: int, length: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds a step of each way, turn by turn."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, step in ways.items():
            step()  # what the turn before left behind is done
            wait(device)
            started = time.perf_counter()
            for _ in range(length):
                step()
            wait(device)
            found[name].append(1e3 * (time.perf_counter() - started) / length)
    return found


def differences(trainer: Trainer, tiles: Sequence[int], device: torch.device, views: int = 6) -> list[dict[str, Any]]:
    """Pictures and depths of recorded shots with each size of tile against those with the first."""
    scene = trainer.finished_scene().to(device)
    shots = [recorded.shot for recorded in scene.shots[:: max(len(scene.shots) // views, 1)]]

    def drawn(tile_px: int) -> list[torch.Tensor]:
        gsplat_backend.RAY_TILE_PX = tile_px
        with torch.no_grad():
            return [render(scene, shot, ("rgb", "depth")).rgb for shot in shots]

    first = drawn(tiles[0])
    rows = []
    for tile_px in tiles:
        apart = [(a - b).abs() for a, b in zip(first, drawn(tile_px))]
        rows.append(
            {
                "tile_px": tile_px,
                "greatest": max(float(one.max()) for one in apart),
                "mean": statistics.fmean(float(one.mean()) for one in apart),
                "share_above_1_of_255": statistics.fmean(float((one.amax(dim=-1) > 1 / 255).float().mean()) for one in apart),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, nargs="?", help="a driving log, as `splatmend fit` takes it")
    parser.add_argument("--model", choices=("ewa", "ray"), default="ray")
    parser.add_argument("--tiles", type=int, nargs="+", default=[16, 8], help="sides in pixels, along rays; differences are from the first")
    parser.add_argument("--warm", type=int, default=300, help="steps before anything is timed")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--length", type=int, default=50, help="steps of a turn")
    parser.add_argument("--cap", type=int, default=200_000, help="Gaussians of the background")
    parser.add_argument("--max-width", type=int)
    parser.add_argument("--out", type=Path, help="file that the lines are added to as well")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    parser.add_argument("--toy", action="store_true", help="a small street, on the CPU")
    chosen = parser.parse_args()
    if not (chosen.toy or torch.cuda.is_available()):
        raise SystemExit("fit_step: torch sees no CUDA device; give --toy for a trial on the CPU.")
    device = torch.device("cpu" if chosen.toy else "cuda")
    config = FitConfig(
        iterations=30_000,
        camera_model=chosen.model,
        data=DataConfig(max_width=chosen.max_width, cache_mib=8_192),
        init=InitConfig(point_count=chosen.cap * 3 // 4, ray_count=chosen.cap // 4),
        densify=DensifyConfig(cap=chosen.cap),
        device=device.type,
    )
    show({"kind": "environment", **environment(PACKAGES, cuda=not chosen.toy, commit=chosen.commit)}, chosen.out)
    given = toy_log(Path(tempfile.mkdtemp())) if chosen.toy else open_log(chosen.log)
    log = prepared_log(given, config.data, config.camera_model)
    shots = recorded_shots(log, config.data)
    trainer = Trainer(log_with_movers(log, config.movers), shots, config, device)
    tiles = chosen.tiles if chosen.model == "ray" and not chosen.toy else [gsplat_backend.RAY_TILE_PX]
    ways = {f"ours, tiles of {tile_px}": steps_of(trainer, tile_px) for tile_px in tiles}
    if not chosen.toy:
        bare = Trainer(log, shots, replace(config, movers="off"), device)
        plain = PlainFit(bare, log, config, chosen.cap, ray=chosen.model == "ray")
        ways["plain"] = plain.step
    for step in ways.values():
        for _ in range(chosen.warm):
            step()
    for name, all_ms in timed_turns(ways, chosen.turns, chosen.length, device).items():
        show({"kind": "step", "way": name, "ms": statistics.median(all_ms), "all_ms": all_ms}, chosen.out)
    # A multiple of the steps from one with depth to the next.
    length = 4 * trainer.depth_every
    for name, step in ways.items():
        show({"kind": "kernels", "way": name, **busiest(step, length, device)}, chosen.out)
    for row in differences(trainer, tiles, device):
        show({"kind": "pictures", "gaussians": trainer.gaussian_count, **row}, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
