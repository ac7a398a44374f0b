"""Fits of a log, ours beside a plain gsplat fit on the same machine: `python benchmarks/recon.py LOG --out rows.jsonl` (CUDA).

Rows: `plain` and `ours` fit pinholes (`ewa`), `plain-ray` and `ours-ray` follow the pixels' rays, `render` draws the last of our fits at
1920x1280. Each row is a line of JSON: held-out PSNR, SSIM and LPIPS, seconds an iteration (median over the iterations at the full
number of Gaussians), seconds of fitting alone until the end and until 95 % of the final held-out PSNR was reached, the allocator's peak.
Ours has everything on that the log allows. `--cap` is the greatest number of Gaussians of the background in every row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measured_on import environment
from plain_gsplat import PlainFit

from splatmend.datasets.image_metrics import frame_scores, mean_scores
from splatmend.datasets.log import SceneLog
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.config import DataConfig, DensifyConfig, FitConfig, InitConfig
from splatmend.recon.fit.data import prepared_log, recorded_shots
from splatmend.recon.fit.heldout import held_out_rows, mean_row
from splatmend.recon.fit.movers import log_with_movers
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.render import render
from splatmend.recon.scene import Scene

ROWS = ("plain", "ours", "plain-ray", "ours-ray", "render")
PACKAGES = ("splatmend", "torch", "gsplat")


def config_of(chosen: argparse.Namespace, *, ray: bool) -> FitConfig:
    return FitConfig(
        iterations=chosen.iterations,
        camera_model="ray" if ray else "ewa",
        data=DataConfig(max_width=chosen.max_width),
        init=InitConfig(point_count=chosen.points, ray_count=chosen.rays),
        densify=DensifyConfig(cap=chosen.cap, strategy=chosen.strategy),
        device="cuda",
        seed=chosen.seed,
    )


def timed(step: Callable[[], object], score: Callable[[], float], iterations: int, every: int, settled: float) -> dict[str, Any]:
    """Run a fit. The clock stands while it is scored; `settled` is the share of the iterations after which their median is taken."""
    seconds, pieces, curve = 0.0, [], []
    for begin in range(0, iterations, every):
        torch.cuda.synchronize()
        started = time.perf_counter()
        count = min(every, iterations - begin)
        for _ in range(count):
            step()
        torch.cuda.synchronize()
        passed = time.perf_counter() - started
        seconds += passed
        if begin + count > settled * iterations:
            pieces.append(passed / count)
        curve.append((seconds, score()))
    final = curve[-1][1]
    near = next(at for at, psnr in curve if psnr >= 0.95 * final)
    return {"seconds": seconds, "seconds_to_95": near, "ms_per_iteration": 1e3 * statistics.median(pieces), "psnr_curve": curve}


def plain(log: SceneLog, chosen: argparse.Namespace, *, ray: bool) -> dict[str, Any]:
    config = replace(config_of(chosen, ray=ray), movers="off")
    log = prepared_log(log, config.data, config.camera_model)
    shots = recorded_shots(log, config.data)
    fit = PlainFit(Trainer(log, shots, config, torch.device("cuda")), log, config, chosen.cap, ray=ray)
    held_out = [number for number, recorded in enumerate(shots) if recorded.held_out]

    def scores(*, whole: bool) -> list[dict[str, float]]:
        truths = [torch.from_numpy(log.frames[number].read_image()).float() / 255.0 for number in held_out]
        net = {} if whole else {"lpips_net": None}
        return [frame_scores(fit.picture(number).cpu(), truth, **net) for number, truth in zip(held_out, truths)]

    row = timed(fit.step, lambda: mean_scores(scores(whole=False))["psnr"], chosen.iterations, chosen.every, config.densify.stop_share)
    return row | mean_scores(scores(whole=True)) | {"gaussians": fit.gaussian_count}


def ours(log: SceneLog, chosen: argparse.Namespace, *, ray: bool, keep: list[Scene]) -> dict[str, Any]:
    config = config_of(chosen, ray=ray)
    log = log_with_movers(prepared_log(log, config.data, config.camera_model), config.movers)
    trainer = Trainer(log, recorded_shots(log, config.data), config, torch.device("cuda"))

    def scores() -> dict[str, float]:
        return mean_row(list(held_out_rows(trainer.finished_scene().to("cuda"), log)))

    row = timed(trainer.step, lambda: scores()["psnr"], chosen.iterations, chosen.every, config.densify.stop_share)
    keep[:] = [trainer.finished_scene().to("cuda")]
    return row | scores() | {"gaussians": trainer.gaussian_count, "actors": len(trainer.scene.actors)}


def frames_per_second(scene: Scene, repeats: int = 200) -> dict[str, Any]:
    """Our door to the rasteriser, colours of 1920x1280 with sky and exposure, views along the recorded path."""
    shots = [resized(recorded.shot, 1920, 1280) for recorded in scene.shots]
    with torch.no_grad():
        for shot in shots[:10]:
            render(scene, shot, ("rgb",))
        torch.cuda.synchronize()
        started = time.perf_counter()
        for index in range(repeats):
            render(scene, shots[index % len(shots)], ("rgb",))
        torch.cuda.synchronize()
    passed = time.perf_counter() - started
    count = len(scene.background.gaussians) + sum(len(actor.gaussians) for actor in scene.actors.values())
    return {"frames_per_second": repeats / passed, "ms": 1e3 * passed / repeats, "gaussians": count, "model": scene.camera_model}


def resized(shot: Shot, width: int, height: int) -> Shot:
    """The shot with other pixels, its field of view across kept."""
    camera = shot.camera
    factor = width / camera.width
    focal = (camera.focal_px[0] * factor, camera.focal_px[1] * factor)
    return replace(shot, camera=replace(camera, width=width, height=height, focal_px=focal, principal_px=(width / 2, height / 2)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, help="a driving log or photos, as `splatmend fit` takes them")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["plain", "ours", "render"])
    parser.add_argument("--iterations", type=int, default=5_000)
    parser.add_argument("--every", type=int, default=250, help="iterations between scores")
    parser.add_argument("--cap", type=int, default=500_000)
    parser.add_argument("--points", type=int, default=400_000, help="initial Gaussians from LiDAR or structure from motion")
    parser.add_argument("--rays", type=int, default=100_000, help="initial Gaussians along rays")
    parser.add_argument("--strategy", choices=("classic", "mcmc"), default="classic", help="of ours; recipes of photos relocate")
    parser.add_argument("--max-width", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file that the lines are added to as well")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("recon: torch sees no CUDA device, and gsplat needs one.")
    log = open_log(chosen.log)
    keep: list[Scene] = []
    show({"kind": "environment", **environment(PACKAGES, cuda=True, commit=chosen.commit), "log": log.log_id}, chosen.out)
    for name in chosen.rows:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        if name == "render":
            row = frames_per_second(keep[0]) if keep else {"skipped": "needs a fit of ours before it"}
        elif name.startswith("plain"):
            row = plain(log, chosen, ray=name.endswith("ray"))
        else:
            row = ours(log, chosen, ray=name.endswith("ray"), keep=keep)
        facts = {"peak_gb": torch.cuda.max_memory_allocated() / 1e9, "row_s": time.perf_counter() - started}
        show({"kind": "row", "row": name, "cap": chosen.cap, "iterations": chosen.iterations, **row, **facts}, chosen.out)
    return 0


def show(row: dict[str, Any], out: Path | None) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    if out is not None:
        with out.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
