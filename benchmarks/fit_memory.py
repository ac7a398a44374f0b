"""Peak resident memory of a fit on the host, on a short and on a long log: `python benchmarks/fit_memory.py --out rows.jsonl` (CPU).

Both logs are drives along one street in KITTI raw's layout: a picture and a sweep every 0.1 s, parked vehicles, three that move (the
same in both: what moves becomes Gaussians of its own), and a pose in fifty that jumps. Settings are the same for both; every training
frame is shown at least once. Each
fit is a process of its own, whose `VmHWM` is read before its first iteration (reading the log, bridging poses, finding movers, seeding)
and at its end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measured_on import environment

from splatmend.datasets.geometry import pose, yaw_pose
from splatmend.datasets.readers.registry import open_log
from splatmend.recon.fit.config import DataConfig, DensifyConfig, FitConfig, InitConfig
from splatmend.recon.fit.fit import fit

PACKAGES = ("splatmend", "torch", "numpy", "scipy")
SPEED_M_S = 8.0
STEP_S = 0.1
WALL_M, WALL_TOP_M, SCANNER_M, FARTHEST_M = 9.0, 8.0, 1.73, 80.0
VELODYNE_TO_CAMERA = pose(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.array([0.0, -0.08, -0.27]))
JUMP_EVERY, JUMP_M = 50, 4.0


def boxes(t_s: float, from_m: float) -> np.ndarray:
    """Middles on the ground `[B, 2]` of the vehicles (4.4 x 1.8 x 1.5 m) within sight of a place on the street: parked ones, two that come
    the other way during the first seconds, and one that drives ahead all the time."""
    parked = (np.floor(from_m / 17) + np.arange(-2, 4)) * 17
    oncoming = np.array([70.0, 105.0]) - 6 * t_s
    lanes = [(parked, -5.5), (oncoming[np.abs(oncoming - from_m) < 60], 3.0), (np.array([SPEED_M_S * t_s + 14]), 0.2)]
    middles = np.concatenate([np.stack([x, np.full(len(x), y)], axis=1) for x, y in lanes])
    return middles[np.abs(middles[:, 0] - from_m) > 4.0]


def distances(directions: np.ndarray, eye_m: np.ndarray, t_s: float) -> np.ndarray:
    """How far rays `[N, 3]` from an eye go until they meet road, walls or vehicles; infinite where they meet nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        nearest = np.where(directions[:, 2] < 0, -eye_m[2] / directions[:, 2], np.inf)
        for wall_m in (-WALL_M, WALL_M):
            far = (wall_m - eye_m[1]) / directions[:, 1]
            meets = (far > 0) & (eye_m[2] + far * directions[:, 2] < WALL_TOP_M)
            nearest = np.where(meets, np.minimum(nearest, far), nearest)
        for x, y in boxes(t_s, eye_m[0]):
            low, high = np.array([x - 2.2, y - 0.9, 0.0]) - eye_m, np.array([x + 2.2, y + 0.9, 1.5]) - eye_m
            ends = np.sort(np.stack([low / directions, high / directions]), axis=0)
            first, last = ends[0].max(axis=1), ends[1].min(axis=1)
            nearest = np.where((first > 0) & (first < last), np.minimum(nearest, first), nearest)
    return nearest


def picture(rays: np.ndarray, eye_m: np.ndarray, t_s: float, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """What rays see, `[H, W, 3]` uint8: stripes and squares on what is near, fog, sky, and a little noise."""
    far = distances(rays, eye_m, t_s)
    places = eye_m + np.minimum(far, 1e4)[:, None] * rays
    pattern = 110 + 50 * np.sin(places * [1.7, 2.3, 4.1] + [0, 1, 2]) + 20 * np.sign(np.sin(places[:, :1] * 0.9))
    fog = np.exp(-np.minimum(far, 1e4) / 60)[:, None]
    sky = np.array([150, 180, 215]) + 40 * rays[:, 2:]
    shown = fog * pattern + (1 - fog) * sky + random.normal(0, 3, places.shape)
    return np.clip(shown, 0, 255).astype(np.uint8).reshape(*shape, 3)


def write_log(folder: Path, frames: int, width: int, height: int, returns: int) -> Path:
    """A drive of so many frames; made where it is missing."""
    drive = folder / f"street-{frames}" / "2011_09_26" / "2011_09_26_drive_0001_sync"
    if (drive / "poses_velodyne.txt").is_file():
        return drive
    pictures, sweeps = drive / "image_02" / "data", drive / "velodyne_points" / "data"
    pictures.mkdir(parents=True, exist_ok=True)
    sweeps.mkdir(parents=True, exist_ok=True)
    focal, random = 0.8 * width, np.random.default_rng(0)
    projection = np.array([[focal, 0, width / 2 - 0.5, 0], [0, focal, height / 2 - 0.5, 0], [0, 0, 1, 0]])
    (drive.parent / "calib_cam_to_cam.txt").write_text(
        f"S_rect_02: {width} {height}\nR_rect_00: {_row(np.eye(3))}\nP_rect_02: {_row(projection)}\n"
    )
    (drive.parent / "calib_velo_to_cam.txt").write_text(f"R: {_row(VELODYNE_TO_CAMERA[:3, :3])}\nT: {_row(VELODYNE_TO_CAMERA[:3, 3])}\n")
    # Rays for one pixel in sixteen: pictures need not be sharp, only of their size.
    across, down = (np.arange(0, width, 4) + 2 - width / 2) / focal, (np.arange(0, height, 4) + 2 - height / 2) / focal
    column, row = np.meshgrid(across, down)
    rays = np.stack([np.ones(column.size), -column.ravel(), -row.ravel()], axis=1)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    azimuth = np.linspace(-np.pi, np.pi, returns // 64, endpoint=False)
    turn, elevation = np.meshgrid(azimuth, np.radians(np.linspace(-24.8, 2.0, 64)))
    beams = np.stack([np.cos(elevation) * np.cos(turn), np.cos(elevation) * np.sin(turn), np.sin(elevation)], axis=-1).reshape(-1, 3)
    given = []
    for number in range(frames):
        t_s = number * STEP_S
        scanner = np.array([SPEED_M_S * t_s, 0.0, SCANNER_M])
        eye = scanner + np.array([0.27, 0.0, -0.08])
        shown = picture(rays, eye, t_s, column.shape, random)
        cv2.imwrite(str(pictures / f"{number:010d}.jpg"), cv2.resize(shown[..., ::-1], (width, height)))
        # The scanner moves while it turns, and so does what it sees: a moment for each of 32 parts.
        found = []
        for part in np.array_split(np.argsort(turn.ravel(), kind="stable"), 32):
            after_s = turn.ravel()[part].mean() / (2 * np.pi) * STEP_S
            moved = scanner + np.array([SPEED_M_S * after_s, 0, 0])
            far = distances(beams[part], moved, t_s + after_s)
            far = far * (1 + random.normal(0, 1e-3, far.shape))
            found.append((far[:, None] * beams[part])[far < FARTHEST_M])
        xyz = np.concatenate(found)
        np.concatenate([xyz, np.full((len(xyz), 1), 0.5)], axis=1).astype("<f4").tofile(sweeps / f"{number:010d}.bin")
        off = JUMP_M if number % JUMP_EVERY == JUMP_EVERY // 2 else 0.0
        given.append(yaw_pose(0.0, scanner + np.array([0.0, off, 0.0])))
    (drive / "poses_velodyne.txt").write_text("".join(_row(p[:3]) + "\n" for p in given))
    return drive


def _row(values: np.ndarray) -> str:
    return " ".join(f"{value:.9e}" for value in np.asarray(values).ravel())


def peak_mib() -> float:
    """`VmHWM` of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure(log_folder: Path, iterations: int, cache_mib: int) -> dict[str, Any]:
    """One fit in this process."""
    started, peaks = time.perf_counter(), {}

    def at_first(row: dict[str, Any]) -> None:
        peaks.setdefault("before_mib", peak_mib())

    config = FitConfig(
        iterations=iterations,
        movers="lidar",
        data=DataConfig(cache_mib=cache_mib),
        init=InitConfig(point_count=4_000, ray_count=500, actor_count=500),
        densify=DensifyConfig(cap=5_000, actor_cap=500),
        sky_rows=32,
        sh_degree=1,
        checkpoint_every=iterations // 2,
        device="cpu",
    )
    log = open_log(log_folder)
    opened_mib = peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        scene = fit(log, Path(folder) / "scene", config, on_progress=at_first)
        facts = json.loads((scene / "manifest.json").read_text())["facts"]
    decoded_mib = sum(log.cameras[frame.camera].width * log.cameras[frame.camera].height * 3 for frame in log.frames) / 2**20
    return {
        "frames": len(log.frames),
        "sweeps": len(log.sweeps),
        "decoded_mib": round(decoded_mib),
        "cache_mib": cache_mib,
        "iterations": iterations,
        "opened_mib": round(opened_mib, 1),
        "before_mib": round(peaks["before_mib"], 1),
        "peak_mib": round(peak_mib(), 1),
        "actors": len(facts["gaussians"]["actors"]),
        "bridged": sum("are bridged" in note for note in facts["notes"]),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--logs", type=Path, help="folder that the logs are kept in (otherwise they are made anew)")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=400)
    parser.add_argument("--returns", type=int, default=9_600, help="beams of a sweep")
    parser.add_argument("--iterations", type=int, help="by default as many as the longest log has frames")
    parser.add_argument("--cache-mib", type=int, default=64)
    parser.add_argument("--out", type=Path, help="file that the lines are added to as well")
    parser.add_argument("--measure", type=Path, help="fit this log in this process, print its line and end")
    chosen = parser.parse_args()
    iterations = chosen.iterations or max(chosen.frames)
    if chosen.measure is not None:
        print(json.dumps(measure(chosen.measure, iterations, chosen.cache_mib)))
        return 0
    lines = [{"kind": "environment", **environment(PACKAGES, cuda=False)}]
    print(json.dumps(lines[0]), flush=True)
    with tempfile.TemporaryDirectory() as made:
        for frames in chosen.frames:
            log_folder = write_log(chosen.logs or Path(made), frames, chosen.width, chosen.height, chosen.returns)
            settings = ["--iterations", str(iterations), "--cache-mib", str(chosen.cache_mib)]
            command = [sys.executable, __file__, "--measure", str(log_folder), *settings]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            lines.append({"kind": "row", **json.loads(done.stdout.splitlines()[-1])})
            print(json.dumps(lines[-1]), flush=True)
    if chosen.out is not None:
        with chosen.out.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
