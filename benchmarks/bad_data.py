"""What faults of a log cost a fit of it: `python benchmarks/bad_data.py LOG --out rows.jsonl`.

Faults are put into a log that has none (a street of `splatmend street`, or a real one with boxes and LiDAR), which then is fitted as it is
by default; scores are those of the frames that are held out of all fits, from the poses of the whole log. `--toy` is a tiny street.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from long_log import show
from measured_on import environment
from recon_gpus import toy_log

from splatmend.datasets.geometry import PoseTrack, yaw_pose
from splatmend.datasets.image_metrics import mean_scores
from splatmend.datasets.log import CameraFrame, LidarSweep, SceneLog
from splatmend.datasets.readers.registry import open_log
from splatmend.recon.fit.config import DataConfig, FitConfig
from splatmend.recon.fit.data import frame_roles, prepared_log, recorded_shots
from splatmend.recon.fit.heldout import held_out_rows
from splatmend.recon.fit.movers import log_with_movers
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.scene import Scene

PACKAGES = ("splatmend", "torch")
WRONG_SHARE = 0.1


def with_wrong_poses(log: SceneLog, config: DataConfig) -> SceneLog:
    """A tenth of the vehicle's poses two to three metres and up to 30 degrees off, and with each the pictures and sweep nearest to it."""
    held_out_us = {frame.mid_us for frame, role in zip(log.frames, frame_roles(log.frames, config)) if role == "held_out"}
    times_us = log.ego.times_us
    step_us = float(np.median(np.diff(times_us)))
    free = [i for i in range(1, len(times_us) - 1) if min(abs(t - int(times_us[i])) for t in held_out_us) > step_us / 2]
    random = np.random.default_rng(0)
    wrong = random.choice(free, max(round(WRONG_SHARE * len(times_us)), 1), replace=False)
    ego = log.ego.world_from_body.copy()
    frames, sweeps = list(log.frames), list(log.sweeps)
    for index in wrong.tolist():
        direction = random.uniform(-np.pi, np.pi)
        shift_m = random.uniform(2, 3) * np.array([np.cos(direction), np.sin(direction), 0.0])
        right = ego[index].copy()
        ego[index] = right @ yaw_pose(random.uniform(-0.5, 0.5), shift_m)
        moved = ego[index] @ np.linalg.inv(right)
        t_us = int(times_us[index])
        frames = [_moved_frame(frame, moved) if abs(frame.mid_us - t_us) <= step_us / 2 else frame for frame in frames]
        sweeps = [_moved_sweep(sweep, moved) if abs(sweep.middle_us - t_us) <= step_us / 2 else sweep for sweep in sweeps]
    track = PoseTrack(times_us=times_us, world_from_body=ego)
    return replace(log, frames=tuple(frames), sweeps=tuple(sweeps), ego=track)


def _moved_frame(frame: CameraFrame, moved: np.ndarray) -> CameraFrame:
    start, end = moved @ frame.world_from_camera_start, moved @ frame.world_from_camera_end
    return replace(frame, world_from_camera_start=start, world_from_camera_end=end)


def _moved_sweep(sweep: LidarSweep, moved: np.ndarray) -> LidarSweep:
    points = sweep.read_points()
    away = replace(points, xyz_world_m=points.xyz_world_m @ moved[:3, :3].T + moved[:3, 3])
    return replace(sweep, read_points=lambda: away)


def with_jumping_boxes(log: SceneLog, config: DataConfig) -> SceneLog:
    """A tenth of each actor's boxes four metres off."""
    random = np.random.default_rng(1)
    actors = []
    for actor in log.actors:
        poses = actor.track.world_from_body.copy()
        wrong = random.choice(len(poses), round(WRONG_SHARE * len(poses)), replace=False)
        poses[wrong] = poses[wrong] @ yaw_pose(1.0, np.array([-3.0, 2.5, 0.0]))
        actors.append(replace(actor, track=PoseTrack(times_us=actor.track.times_us, world_from_body=poses)))
    return replace(log, actors=tuple(actors))


def without_a_camera_for_a_while(log: SceneLog, config: DataConfig) -> SceneLog:
    """The second camera (the only one, where there is one) has no fitted picture for a third of the drive."""
    names = list(log.cameras)
    name = names[min(1, len(names) - 1)]
    first_us, last_us = log.frames_of(name)[0].mid_us, log.frames_of(name)[-1].mid_us
    span_us = last_us - first_us
    roles = frame_roles(log.frames, config)
    kept = [
        role == "held_out" or frame.camera != name or not 1 / 3 < (frame.mid_us - first_us) / max(span_us, 1) < 2 / 3
        for frame, role in zip(log.frames, roles)
    ]
    return replace(log, frames=tuple(frame for frame, keep in zip(log.frames, kept) if keep))


def with_sweeps_out_of_order(log: SceneLog, config: DataConfig) -> SceneLog:
    order = np.random.default_rng(2).permutation(len(log.sweeps))
    return replace(log, sweeps=tuple(log.sweeps[i] for i in order))


def of_two_frames(log: SceneLog, config: DataConfig) -> SceneLog:
    """Two pictures of each camera to fit, and the held-out one between them."""
    kept = set()
    for camera in log.cameras:
        own = log.frames_of(camera)
        place = frame_roles(own, config).index("held_out")
        kept |= {(camera, frame.index) for frame in own[max(place - 1, 0) : place + 2]}
    return replace(log, frames=tuple(frame for frame in log.frames if (frame.camera, frame.index) in kept))


Fault = Callable[[SceneLog, DataConfig], SceneLog]
FAULTS: Mapping[str, tuple[Fault | None, bool]] = {
    "none": (None, True),
    "a tenth of the vehicle's poses wrong": (with_wrong_poses, True),
    "the same poses, taken as given": (with_wrong_poses, False),
    "a tenth of the boxes jump": (with_jumping_boxes, True),
    "the same boxes, taken as given": (with_jumping_boxes, False),
    "a camera without pictures for a third of the drive": (without_a_camera_for_a_while, True),
    "sweeps out of order": (with_sweeps_out_of_order, True),
    "two frames of each camera": (of_two_frames, True),
}


def fitted(log: SceneLog, config: FitConfig) -> tuple[Scene, tuple[str, ...]]:
    """The scene of a log, every row of its curve finite, and what is said of its faults."""
    prepared = log_with_movers(prepared_log(log, config.data, config.camera_model), config.movers)
    trainer = Trainer(prepared, recorded_shots(prepared, config.data), config, torch.device(config.device))
    while trainer.iteration < config.iterations:
        report = trainer.step()
        if trainer.iteration % config.log_every == 0:
            report.as_row(trainer.iteration, trainer.gaussian_count)
            trainer.recent.take()
    trainer.check_finite()
    return trainer.finished_scene(), prepared.notes[len(log.notes) :]


def held_out_scores(scene: Scene, log: SceneLog, config: FitConfig, among: SceneLog) -> dict[str, float]:
    """Mean scores of the frames that are held out and are `among` another log's, from the poses of this one."""
    prepared = prepared_log(log, config.data, config.camera_model)
    there = {(frame.camera, frame.index) for frame in among.frames}
    kept = [(frame.camera, frame.index) in there for frame in prepared.frames]
    shots = [shot for shot, keep in zip(recorded_shots(prepared, config.data), kept) if keep]
    frames = [frame for frame, keep in zip(prepared.frames, kept) if keep]
    rows = list(held_out_rows(replace(scene, shots=tuple(shots)), replace(prepared, frames=tuple(frames))))
    return {"frames": len(rows)} | mean_scores([{name: row[name] for name in ("psnr", "ssim", "lpips") if name in row} for row in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, nargs="?", help="a log with boxes and LiDAR")
    parser.add_argument("--iterations", type=int, default=700)
    parser.add_argument("--faults", nargs="+", choices=tuple(FAULTS), default=list(FAULTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="file that the lines are added to as well")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    parser.add_argument("--toy", action="store_true", help="a tiny street")
    chosen = parser.parse_args()
    if chosen.log is None and not chosen.toy:
        parser.error("give a log, or --toy")
    show({"kind": "environment", **environment(PACKAGES, cuda=chosen.device == "cuda", commit=chosen.commit)}, chosen.out)
    with tempfile.TemporaryDirectory() as folder:
        log = toy_log(Path(folder)) if chosen.toy else open_log(chosen.log)
        base = FitConfig(iterations=chosen.iterations, sh_degree=1, sh_every=200, sky_rows=32, device=chosen.device, log_every=20)
        base = replace(base, init=replace(base.init, point_count=20_000, ray_count=4_000, actor_count=1_000))
        base = replace(base, densify=replace(base.densify, strategy="mcmc", cap=30_000, actor_cap=2_000))
        for name in chosen.faults:
            fault, mended = FAULTS[name]
            config = replace(base, data=replace(base.data, bridge_jumps=mended))
            faulty = log if fault is None else fault(log, config.data)
            started = time.perf_counter()
            scene, notes = fitted(faulty, config)
            row = {"kind": "row", "fault": name, **held_out_scores(scene, log, base, faulty), "actors": len(scene.actors)}
            show(row | {"seconds": round(time.perf_counter() - started, 1), "notes": list(notes)}, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
