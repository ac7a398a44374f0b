"""What each part of a fit brings, on procedural streets with rolling shutter, moving cars, people on foot and exposure drift (CUDA):
`python benchmarks/ablation.py --streets FOLDER --out rows.jsonl`.

Poses of cameras and boxes are given off by a smooth fault (centimetres, tenths of a degree), as logs have them. A variant is the fit
with everything on and one part changed. Scored against the oracle from the true poses, front camera: held-out frames on the path, and
the same frames 1, 2 and 3 m to the left. `--workers` fits that many at a time on one card.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as multiprocessing
from measured_on import environment
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import PoseTrack, pose
from splatmend.datasets.image_metrics import frame_scores, mean_scores
from splatmend.datasets.log import LidarPoints, LidarSweep, SceneLog
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.shot import Shot
from splatmend.datasets.street.as_waymo import write_street
from splatmend.datasets.street.config import StreetConfig
from splatmend.datasets.street.street import build_street
from splatmend.recon.fit.config import DensifyConfig, ExposureConfig, FitConfig, InitConfig
from splatmend.recon.fit.data import prepared_log, recorded_shots
from splatmend.recon.fit.movers import log_with_movers
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.render import render

CAMERA = "FRONT"
SHIFTS_M = (0.0, 1.0, 2.0, 3.0)
PACKAGES = ("splatmend", "torch", "gsplat")
Truths = Mapping[tuple[int, float], np.ndarray]
"""The oracle's pictures by frame and shift to the left."""


def with_losses(**weights: float) -> Callable[[FitConfig], FitConfig]:
    return lambda config: replace(config, loss=replace(config.loss, **weights))


def without_loss(name: str) -> Callable[[FitConfig], FitConfig]:
    return with_losses(**{name: 0.0})


def without_exposure(config: FitConfig) -> FitConfig:
    return replace(config, rates=replace(config.rates, exposure=0.0))


def without_priors(config: FitConfig) -> FitConfig:
    free = {"weight": 0.0, "smooth": "corrections"}
    return replace(config, camera_poses=replace(config.camera_poses, **free), actor_poses=replace(config.actor_poses, **free))


VARIANTS: Mapping[str, Callable[[FitConfig], FitConfig]] = {
    "everything": lambda config: config,
    "pinhole at mid exposure (ewa)": lambda config: replace(config, camera_model="ewa"),
    "no actors": lambda config: replace(config, movers="off"),
    "movers from LiDAR instead of boxes": lambda config: replace(config, movers="lidar"),
    "boxes as given": lambda config: replace(config, actor_poses=replace(config.actor_poses, on=False)),
    "camera poses as given": lambda config: replace(config, camera_poses=replace(config.camera_poses, on=False)),
    "no exposure": without_exposure,
    "exposure grids": lambda config: replace(config, exposure=ExposureConfig(model="bilateral")),
    "no sky": lambda config: replace(config, sky_rows=0),
    "no depth from LiDAR": without_loss("lidar_depth"),
    "no bending": without_loss("bending"),
    "bending 1": with_losses(bending=1.0),
    "bending 2": with_losses(bending=2.0),
    "depth from LiDAR .2": with_losses(lidar_depth=0.2),
    "terms on depth in every picture": with_losses(depth_every=1),
    "terms on depth in every second picture": with_losses(depth_every=2),
    "symmetric vehicles": lambda config: replace(config, actors=replace(config.actors, symmetric=("vehicle",))),
    "no priors on poses": without_priors,
    "boxes drawn one by one": lambda config: config,
    "boxes drawn one by one, their corrections smooth": lambda config: replace(
        config, actor_poses=replace(config.actor_poses, smooth="corrections")
    ),
    "boxes drawn one by one, no priors on poses": without_priors,
    "rays as at mid exposure": lambda config: config,
    "LiDAR as of the middle of its turn": lambda config: config,
    "rigid people": lambda config: replace(config, actors=replace(config.actors, deformable=())),
    "harmonics of degree 1": lambda config: replace(config, sh_degree=1),
    "no harmonics": lambda config: replace(config, sh_degree=0),
    "no ground": without_loss("ground_opacity"),
    "relocation (MCMC)": lambda config: replace(config, densify=replace(config.densify, strategy="mcmc")),
    "full steps everywhere": lambda config: replace(config, rates=replace(config.rates, means_by_distance=False)),
    "no densification": lambda config: replace(config, densify=replace(config.densify, stop_share=0.0)),
}


def with_one_pose_a_picture(log: SceneLog) -> SceneLog:
    """Every row of a picture taken from where the camera is at mid exposure."""
    frames = []
    for frame in log.frames:
        middle = Shot.of(frame, log.cameras[frame.camera]).world_from_camera
        frames.append(replace(frame, world_from_camera_start=middle, world_from_camera_end=middle))
    return replace(log, frames=tuple(frames))


def with_one_time_a_turn(log: SceneLog) -> SceneLog:
    """Every return of a sweep as if it were of the turn's middle."""

    def read(sweep: LidarSweep) -> LidarPoints:
        points = sweep.read_points()
        return replace(points, time_us=np.full_like(points.time_us, int(np.median(points.time_us)) if len(points.time_us) else 0))

    return replace(log, sweeps=tuple(replace(sweep, read_points=partial(read, sweep)) for sweep in log.sweeps))


def with_boxes_one_by_one(log: SceneLog) -> SceneLog:
    """Every box off by itself, as hands and detectors draw them: 10 cm (3 cm upwards) and 1 degree about the vertical, one standard
    deviation."""
    random = np.random.default_rng(7)
    actors = []
    for actor in log.actors:
        count = len(actor.track.times_us)
        turns = Rotation.from_rotvec(np.radians(random.normal(size=(count, 3)) * [0.2, 0.2, 1.0])).as_matrix()
        off = np.stack([pose(turn, place) for turn, place in zip(turns, random.normal(size=(count, 3)) * [0.1, 0.1, 0.03])])
        track = PoseTrack(times_us=actor.track.times_us, world_from_body=actor.track.world_from_body @ off)
        actors.append(replace(actor, track=track))
    return replace(log, actors=tuple(actors))


ONE_BY_ONE = "boxes drawn one by one"
GIVEN: Mapping[str, Callable[[SceneLog], SceneLog]] = {
    **{name: with_boxes_one_by_one for name in VARIANTS if name.startswith(ONE_BY_ONE)},
    "rays as at mid exposure": with_one_pose_a_picture,
    "LiDAR as of the middle of its turn": with_one_time_a_turn,
}
"""Variants of what a fit is told, rather than of what it does with it."""


def make_street(seed: int, chosen: argparse.Namespace) -> Path:
    """The street's log and, beside it, the oracle's pictures, in the folder of streets; made where missing."""
    folder, truths = chosen.streets / f"street-{seed}", chosen.streets / f"street-{seed}.npz"
    if truths.is_file():
        return folder
    config = StreetConfig(
        seed=seed,
        width=chosen.width,
        height=chosen.width * 3 // 5,
        duration_s=chosen.seconds,
        readout_us=30_000,
        exposure_drift=0.5,
        pedestrians=4,
        lidar_beams=32,
        lidar_columns=360,
    )
    street = build_street(config)
    write_street(street, folder)
    pictures = {}
    for index in range(4, config.frame_count, 8):
        for left_m in SHIFTS_M:
            picture = street.render(beside(street.shot(CAMERA, index), left_m)).rgb
            pictures[f"{index}/{left_m:g}"] = np.rint(picture * 255).astype(np.uint8)
    np.savez_compressed(truths, **pictures)
    return folder


def load_street(folder: Path) -> tuple[SceneLog, Truths]:
    log = in_memory(open_log(folder))
    with np.load(folder.with_suffix(".npz"), allow_pickle=False) as held:
        truths = {(int(name.split("/")[0]), float(name.split("/")[1])): held[name] for name in held.files}
    return log, truths


def faults(count: int, shift_m: float, turn_deg: float) -> np.ndarray:
    """`true_from_given [count, 4, 4]`: a shift and a turn whose direction goes around twice."""
    angle = 4 * np.pi * np.arange(count) / count
    around = np.stack([np.cos(angle), np.sin(angle), np.sin(angle + 1.0)], axis=1) / np.sqrt(1.5)
    turns = Rotation.from_rotvec(np.radians(turn_deg) * around[:, ::-1]).as_matrix()
    return np.stack([pose(turn, shift_m * place) for turn, place in zip(turns, around)])


def with_faults(log: SceneLog) -> SceneLog:
    """5 cm and 0.2 degrees for cameras, 10 cm and 1 degree for boxes."""
    times = sorted({frame.index for frame in log.frames})
    of_index = dict(zip(times, faults(len(times), 0.05, 0.2)))
    frames = [
        replace(
            frame,
            world_from_camera_start=frame.world_from_camera_start @ of_index[frame.index],
            world_from_camera_end=frame.world_from_camera_end @ of_index[frame.index],
        )
        for frame in log.frames
    ]
    actors = []
    for actor in log.actors:
        poses = actor.track.world_from_body @ faults(len(actor.track.times_us), 0.1, 1.0)
        actors.append(replace(actor, track=PoseTrack(times_us=actor.track.times_us, world_from_body=poses)))
    return replace(log, frames=tuple(frames), actors=tuple(actors))


def in_memory(log: SceneLog) -> SceneLog:
    """Every picture and sweep read once."""
    pictures = [frame.read_image() for frame in log.frames]
    points = [sweep.read_points() for sweep in log.sweeps]
    frames = tuple(replace(frame, read_image=lambda held=held: held) for frame, held in zip(log.frames, pictures))
    sweeps = tuple(replace(sweep, read_points=lambda held=held: held) for sweep, held in zip(log.sweeps, points))
    return replace(log, frames=frames, sweeps=sweeps)


def beside(shot: Shot, left_m: float) -> Shot:
    return shot.moved(pose(np.eye(3), np.array([-left_m, 0.0, 0.0])))


def run(name: str, given: SceneLog, shots: Mapping[int, Shot], truths: Truths, chosen: argparse.Namespace) -> dict[str, Any]:
    base = FitConfig(
        iterations=chosen.iterations,
        camera_model="ray",
        sh_every=max(chosen.iterations // 4, 1),
        init=InitConfig(point_count=100_000, ray_count=30_000),
        densify=DensifyConfig(cap=chosen.cap),
        device=chosen.device,
    )
    config = VARIANTS[name](base)
    prepared = log_with_movers(prepared_log(given, config.data, config.camera_model), config.movers)
    trainer = Trainer(prepared, recorded_shots(prepared, config.data), config, torch.device(chosen.device))
    started = time.perf_counter()
    for _ in range(config.iterations):
        trainer.step()
    if chosen.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    scene = trainer.finished_scene().to(chosen.device)
    scores: dict[str, Any] = {}
    for left_m in SHIFTS_M:
        rows = []
        for (index, at), truth in truths.items():
            if at == left_m:
                with torch.no_grad():
                    picture = render(scene, beside(shots[index], left_m), ("rgb",)).rgb
                assert picture is not None
                rows.append(frame_scores(picture.cpu(), torch.from_numpy(truth).float() / 255.0))
        scores[f"{left_m:g} m"] = mean_scores(rows)
    return {"seconds": seconds, "gaussians": trainer.gaussian_count, "actors": len(trainer.scene.actors), "scores": scores}


def work(worker: int, chosen: argparse.Namespace) -> None:
    """A worker's share: workers are dealt out over the streets, and those of one street share its variants."""
    lanes = max(chosen.workers // len(chosen.seeds), 1)
    lane, first = divmod(worker, len(chosen.seeds))
    for seed in chosen.seeds[first :: chosen.workers] if lane < lanes else ():
        folder = make_street(seed, chosen)
        log, truths = load_street(folder)
        shots = {frame.index: Shot.of(frame, log.cameras[frame.camera]) for frame in log.frames if frame.camera == CAMERA}
        for name in chosen.variants[lane::lanes]:
            try:
                row = run(name, GIVEN.get(name, lambda log: log)(with_faults(log)), shots, truths, chosen)
            except Exception as fault:  # a row that fails is a line too
                row = {"fault": f"{type(fault).__name__}: {fault}"}
            add({"kind": "row", "street": seed, "variant": name, **row}, chosen.out)


def add(row: dict[str, Any], out: Path | None) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    if out is not None:
        with out.open("a") as file:
            file.write(line + "\n")


def table(lines: list[dict[str, Any]]) -> str:
    """Means over the streets, PSNR / LPIPS, and differences to everything."""
    rows = [line for line in lines if line.get("kind") == "row" and "scores" in line]
    text = []
    reference: dict[tuple[int, str, str], float] = {}
    for row in rows:
        if row["variant"] == "everything":
            reference |= {(row["street"], at, metric): v for at, s in row["scores"].items() for metric, v in s.items()}
    for name in VARIANTS:
        mine = [row for row in rows if row["variant"] == name]
        if not mine:
            continue
        cells = []
        for at in mine[0]["scores"]:
            for metric, digits in (("psnr", 2), ("lpips", 4)):
                values = [row["scores"][at][metric] for row in mine if metric in row["scores"][at]]
                known = [row for row in mine if (row["street"], at, metric) in reference]
                away = [row["scores"][at][metric] - reference[row["street"], at, metric] for row in known]
                if values:
                    cells.append(f"{np.mean(values):.{digits}f} ({np.mean(away):+.{digits}f})" if away else f"{np.mean(values):.{digits}f}")
        text.append(f"{name:34} {len(mine)} " + "  ".join(cells))
    return "\n".join(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33])
    parser.add_argument("--streets", type=Path, help="folder of the streets; those that are missing are made, on the CPU")
    parser.add_argument("--make", action="store_true", help="make the streets and end")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--iterations", type=int, default=2_000)
    parser.add_argument("--cap", type=int, default=250_000)
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=3.2, help="length of a drive")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, help="file that the lines are added to as well")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    parser.add_argument("--show", type=Path, help="print the table of such a file and end")
    chosen = parser.parse_args()
    if chosen.show is not None:
        print(table([json.loads(line) for line in chosen.show.read_text().splitlines()]))
        return 0
    if chosen.streets is None:
        parser.error("give --streets FOLDER")
    if chosen.make:
        for seed in chosen.seeds:
            print(make_street(seed, chosen), flush=True)
        return 0
    add({"kind": "environment", **environment(PACKAGES, cuda=chosen.device == "cuda", commit=chosen.commit)}, chosen.out)
    if chosen.workers == 1:
        work(0, chosen)
    else:
        multiprocessing.spawn(work, (chosen,), nprocs=chosen.workers)
    if chosen.out is not None:
        print(table([json.loads(line) for line in chosen.out.read_text().splitlines()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
