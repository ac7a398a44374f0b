"""One colour map per picture against grids of maps, on pictures that a camera has altered in places:
`python benchmarks/exposure.py --streets FOLDER --out rows.jsonl`, or `--log LOG` for pictures as they are.

Faults of procedural streets (made by `ablation.py --make`): "vignette", the same in all pictures; "tone", a gamma that depends on the
place, so that what it does depends on brightness, and that wanders over the pictures as the drive goes on; "both"; "none". Scored against
the oracle from the true poses, front camera, on the path and 2 m to the left: "seen", the picture with the fault of its time; "own", the
scene's own colours against the picture without the fault, after the best affine map between the two, which no fit can know. Of a log, its
held-out frames.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import CAMERA, PACKAGES, add, beside, in_memory, load_street, with_faults
from measured_on import environment

from splatmend.datasets.image_metrics import frame_scores, mean_scores
from splatmend.datasets.log import SceneLog
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.config import DataConfig, DensifyConfig, ExposureConfig, FitConfig, InitConfig
from splatmend.recon.fit.data import prepared_log, recorded_shots
from splatmend.recon.fit.heldout import held_out_rows, mean_row
from splatmend.recon.fit.movers import log_with_movers
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.render import render
from splatmend.recon.scene import Scene

FAULTS = ("none", "vignette", "tone", "both")
SHIFTS_M = (0.0, 2.0)
LUMA = np.array([0.299, 0.587, 0.114])


def altered(rgb: np.ndarray, fault: str, share: float) -> np.ndarray:
    """A picture `[H, W, 3]` in [0, 1] as the camera would have given it after a share of the drive."""
    height, width = rgb.shape[:2]
    x, y = (np.arange(width) + 0.5) / width, ((np.arange(height) + 0.5) / height)[:, None]
    if fault in ("tone", "both"):
        gamma = np.exp(0.45 * np.sin(2 * np.pi * (0.8 * x + 0.6 * share)) * np.cos(np.pi * (y - 0.3 * share)))
        rgb = rgb * (np.maximum(rgb @ LUMA, 1e-3) ** (gamma - 1))[..., None]
    if fault in ("vignette", "both"):
        rgb = rgb * (1 - 0.275 * ((2 * x - 1) ** 2 + (2 * y - 1) ** 2))[..., None]
    return rgb.clip(0, 1)


def with_altered_pictures(log: SceneLog, fault: str) -> SceneLog:
    last = max(frame.index for frame in log.frames)
    frames = []
    for frame in log.frames:
        picture = np.rint(altered(frame.read_image() / 255.0, fault, frame.index / last) * 255).astype(np.uint8)
        frames.append(replace(frame, read_image=lambda held=picture: held))
    return replace(log, frames=tuple(frames))


def smaller(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over blocks of pixels."""
    across = rgb.shape[1] // width
    return rgb[: height * across, : width * across].reshape(height, across, width, across, 3).mean(axis=(1, 3))


def aligned(picture: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The picture after the affine map of colours that brings it closest to the truth."""
    colours = torch.cat([picture, torch.ones_like(picture[..., :1])], dim=-1).reshape(-1, 4)
    return (colours @ torch.linalg.lstsq(colours, truth.reshape(-1, 3)).solution).view(truth.shape).clamp(0, 1)


def fitted(given: SceneLog, config: FitConfig) -> tuple[Scene, SceneLog, float]:
    """The scene, the log as it was fitted, and seconds per iteration."""
    prepared = log_with_movers(prepared_log(given, config.data, config.camera_model), config.movers)
    trainer = Trainer(prepared, recorded_shots(prepared, config.data), config, torch.device(config.device))
    started = time.perf_counter()
    while trainer.iteration < config.iterations:
        trainer.step()
    scene = trainer.finished_scene().to(config.device)
    return scene, prepared, (time.perf_counter() - started) / config.iterations


def street_rows(folder: Path, fault: str, config: FitConfig) -> Iterator[dict[str, Any]]:
    log, truths = load_street(folder)
    log = replace(log, cameras={CAMERA: log.cameras[CAMERA]}, frames=tuple(frame for frame in log.frames if frame.camera == CAMERA))
    true = prepared_log(log, config.data, config.camera_model)
    shots = {frame.index: Shot.of(frame, true.cameras[CAMERA]) for frame in true.frames}
    last = max(shots)
    scene, _, seconds = fitted(with_altered_pictures(with_faults(log), fault), config)
    for left_m in SHIFTS_M:
        seen, own = [], []
        for (index, at), picture in truths.items():
            if at != left_m:
                continue
            shot = beside(shots[index], left_m)
            truth = smaller(picture / 255.0, shot.camera.height, shot.camera.width)
            with torch.no_grad():
                whole, plain = render(scene, shot, ("rgb",)).rgb, render(scene, shot, ("rgb",), exposure=None).rgb
            assert whole is not None
            assert plain is not None
            seen.append(frame_scores(whole.cpu(), torch.from_numpy(altered(truth, fault, index / last)).float()))
            clean = torch.from_numpy(truth).float()
            own.append(frame_scores(aligned(plain.cpu(), clean), clean))
        yield {"at_m": left_m, "seconds": seconds, "seen": mean_scores(seen), "own": mean_scores(own)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streets", type=Path, help="folder of the streets of ablation.py")
    parser.add_argument("--log", type=Path, help="a log to fit as it is")
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33])
    parser.add_argument("--faults", nargs="+", default=["none", "vignette", "both"], choices=FAULTS)
    parser.add_argument("--models", nargs="+", default=["affine", "bilateral"], choices=("affine", "bilateral"))
    parser.add_argument("--variation", type=float, default=ExposureConfig().variation)
    parser.add_argument("--rate", type=float, default=FitConfig().rates.exposure)
    parser.add_argument("--iterations", type=int, default=2_000)
    parser.add_argument("--cap", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=60_000)
    parser.add_argument("--max-width", type=int, help="a divisor of the streets' width")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, help="file that the lines are added to as well")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    chosen = parser.parse_args()
    add({"kind": "environment", **environment(PACKAGES, cuda=chosen.device == "cuda", commit=chosen.commit)}, chosen.out)
    base = FitConfig(
        iterations=chosen.iterations,
        sh_degree=1,
        sh_every=max(chosen.iterations // 2, 1),
        sky_rows=64,
        data=DataConfig(max_width=chosen.max_width),
        init=InitConfig(point_count=chosen.points, ray_count=chosen.points // 3),
        densify=DensifyConfig(cap=chosen.cap),
        rates=replace(FitConfig().rates, exposure=chosen.rate),
        device=chosen.device,
    )
    for model in chosen.models:
        config = replace(base, exposure=ExposureConfig(model=model, variation=chosen.variation))
        if chosen.log is not None:
            scene, prepared, seconds = fitted(in_memory(open_log(chosen.log)), config)
            add({"log": chosen.log.name, "model": model, "seconds": seconds, **mean_row(list(held_out_rows(scene, prepared)))}, chosen.out)
        for fault in chosen.faults if chosen.streets is not None else ():
            for seed in chosen.seeds:
                for row in street_rows(chosen.streets / f"street-{seed}", fault, config):
                    add({"street": seed, "fault": fault, "model": model, **row}, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
