"""Fits one log with all processes it is launched with: `torchrun --nproc-per-node N benchmarks/recon_gpus.py LOG --out rows.jsonl`.

One line of JSON: milliseconds a step and pictures a second (over the steps at the full number of Gaussians), what of a step the exchange
between processes takes, seconds of fitting alone, the allocator's peak in the first process, held-out PSNR, SSIM and LPIPS. Run it with
1, 2 and 4 processes on one machine to compare; `python` starts it with one. `--toy` fits a small procedural street on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from kernels import wait
from measured_on import environment
from torch import Tensor

from splatmend.datasets.log import SceneLog
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.street.config import StreetConfig
from splatmend.pipelines.stage import StageContext
from splatmend.pipelines.stages import make_street
from splatmend.recon.fit.config import DataConfig, DensifyConfig, FitConfig, InitConfig
from splatmend.recon.fit.data import prepared_log, recorded_shots
from splatmend.recon.fit.fit import fit_device
from splatmend.recon.fit.heldout import held_out_rows, mean_row
from splatmend.recon.fit.movers import log_with_movers
from splatmend.recon.fit.processes import Processes, joined_processes
from splatmend.recon.fit.trainer import Trainer

PACKAGES = ("splatmend", "torch", "gsplat")


def config_of(chosen: argparse.Namespace) -> FitConfig:
    return FitConfig(
        iterations=chosen.iterations,
        camera_model=chosen.model,
        data=DataConfig(max_width=chosen.max_width),
        init=InitConfig(point_count=chosen.points, ray_count=chosen.rays),
        densify=DensifyConfig(cap=chosen.cap),
        device="cpu" if chosen.toy else "cuda",
        seed=chosen.seed,
    )


def timed_fit(trainer: Trainer) -> dict[str, Any]:
    """The whole fit, timed in tenths."""
    config, pictures = trainer.config, trainer.processes.count
    steps = -(-config.iterations // pictures)
    seconds, settled = 0.0, []
    for tenth in range(10):
        count = steps * (tenth + 1) // 10 - steps * tenth // 10
        if not count:
            continue
        wait(trainer.device)
        started = time.perf_counter()
        for _ in range(count):
            trainer.step()
        wait(trainer.device)
        passed = time.perf_counter() - started
        seconds += passed
        if tenth >= 10 * config.densify.stop_share:
            settled.append(passed / count)
    step_s = statistics.median(settled)
    return {"ms_per_step": 1e3 * step_s, "pictures_per_second": pictures / step_s, "seconds": seconds, "steps": steps}


def exchange_ms(trainer: Trainer, repeats: int = 10) -> float:
    """The sum of as many numbers as all nodes have gradients, by itself."""
    held: Iterable[Tensor] = (param for node in trainer.nodes.nodes.values() for param in node.all_params.values())
    like = [torch.zeros_like(param) for param in held]
    times = []
    for _ in range(repeats):
        wait(trainer.device)
        started = time.perf_counter()
        trainer.processes.sum(like)
        wait(trainer.device)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def measured(
    log: SceneLog, chosen: argparse.Namespace, processes: Processes, device: torch.device
) -> tuple[dict[str, Any], Trainer, SceneLog]:
    config = config_of(chosen)
    log = log_with_movers(prepared_log(log, config.data, config.camera_model), config.movers)
    trainer = Trainer(log, recorded_shots(log, config.data), config, device, processes=processes)
    trainer.align()
    row = timed_fit(trainer) | {"exchange_ms": exchange_ms(trainer), "gaussians": trainer.gaussian_count}
    return row, trainer, log


def toy_log(folder: Path) -> SceneLog:
    """A street that every process makes for itself, the same one."""
    street = folder / "street"
    config = StreetConfig(duration_s=0.8, width=96, height=64, cameras=("FRONT",), lidar_beams=16, lidar_columns=256)
    make_street(config, {}, street, StageContext())
    return open_log(street)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, nargs="?", help="a driving log or photos, as `splatmend fit` takes them")
    parser.add_argument("--iterations", type=int, default=5_000, help="pictures shown, whatever the number of processes")
    parser.add_argument("--model", choices=("ewa", "ray"), default="ewa")
    parser.add_argument("--cap", type=int, default=500_000)
    parser.add_argument("--points", type=int, default=400_000, help="initial Gaussians from LiDAR or structure from motion")
    parser.add_argument("--rays", type=int, default=100_000, help="initial Gaussians along rays")
    parser.add_argument("--max-width", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file that the line is added to as well")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    parser.add_argument("--toy", action="store_true", help="a small street, on the CPU")
    chosen = parser.parse_args()
    if not chosen.toy and not torch.cuda.is_available():
        raise SystemExit("recon_gpus: torch sees no CUDA device; give --toy for a trial on the CPU.")
    device = fit_device(config_of(chosen))
    log = toy_log(Path(tempfile.mkdtemp())) if chosen.toy else open_log(chosen.log)
    with joined_processes(device) as processes:
        row, trainer, prepared = measured(log, chosen, processes, device)
    if processes.first:
        row |= {"processes": processes.count, "iterations": chosen.iterations, "cap": chosen.cap, "model": chosen.model}
        row |= {"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if device.type == "cuda" else {}
        row |= mean_row(list(held_out_rows(trainer.finished_scene().to(device), prepared)))
        line = json.dumps({**environment(PACKAGES, cuda=device.type == "cuda", commit=chosen.commit), "log": log.log_id, **row})
        print(line, flush=True)
        if chosen.out is not None:
            with chosen.out.open("a") as file:
                file.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
