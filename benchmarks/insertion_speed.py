"""Times naive and finished pictures of an edited scene and prints a table: `python benchmarks/insertion_speed.py --device cuda`.

Without `--scene` and `--edits` a made-up street is drawn: a road between walls, 20 labelled cars, two more put in. A naive picture is
one pass, with the share of each pixel that each body that was put in has. Finished pictures are these and, anew in each, what lies behind,
light, shade and cast shadows. What belongs to the clip (harvesting bodies, their shapes) is made before the clock starts.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measured_on import hardware

from splatmend.datasets.geometry import BODY_FROM_OPENCV, PoseTrack, pose, yaw_pose
from splatmend.datasets.log import ActorTrack, Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.edits.apply import EditedScene, apply_edits
from splatmend.recon.edits.asset_names import asset_loader
from splatmend.recon.edits.reading import read_edits
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.insertion.frame import draw_insertion
from splatmend.recon.insertion.prepare import with_materials
from splatmend.recon.light.finish import Finisher
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.nodes import RigidActor, StaticNode
from splatmend.recon.raster.api import Model
from splatmend.recon.scene import RecordedShot, Scene
from splatmend.recon.scene_files import load_scene
from splatmend.recon.sky import SkyMap

EDITS = """\
edits:
  - duplicate: car-00
    as: oncoming
    path: {ego: {left: 3.5, ahead: 30, speed: 8, direction: against}}
  - duplicate: car-01
    as: ahead
    path: {ego: {ahead: 12}}
"""
STEP_US = 100_000


def _gaussians(places: np.ndarray, sigma: float, seed: int) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    count = len(places)
    return Gaussians(
        means=torch.from_numpy(places).float(),
        quats_wxyz=torch.randn(count, 4, generator=generator),
        log_scales=float(np.log(sigma)) + 0.4 * torch.randn(count, 3, generator=generator),
        opacity_logits=1.0 + torch.randn(count, generator=generator),
        sh=0.3 * torch.randn(count, 9, 3, generator=generator),
    )


def made_up(model: Model, count: int, width: int, height: int, frames: int) -> Scene:
    """A street of `count` Gaussians in the background and 5,000 in each of 20 cars."""
    random = np.random.default_rng(0)
    road = random.uniform([-10, -8, -0.05], [120, 8, 0.05], (count // 2, 3))
    walls = random.uniform([-10, 8, 0], [120, 12, 12], (count - count // 2, 3)) * np.array([1, 1, 1])
    walls[::2, 1] *= -1
    times_us = np.arange(frames) * STEP_US
    path = PoseTrack(times_us=times_us, world_from_body=np.stack([yaw_pose(0.0, np.array([0.7 * i, 0, 0])) for i in range(frames)]))
    camera = Camera(name="front", width=width, height=height, focal_px=(0.9 * width, 0.9 * width), principal_px=(width / 2, height / 2))
    if model == "ray":
        camera = Camera(**{**vars(camera), "shutter": "top_to_bottom", "readout_us": 30_000})
    body_from_camera = pose(BODY_FROM_OPENCV[:3, :3], np.array([0.0, 0.0, 1.5]))
    shots = tuple(
        RecordedShot(
            shot=Shot(
                camera=camera,
                world_from_camera_start=path.at(int(t)) @ body_from_camera,
                world_from_camera_end=path.at(int(t) + camera.readout_us) @ body_from_camera,
                start_us=int(t),
                end_us=int(t) + camera.readout_us,
            ),
            frame_index=index,
            role="train",
        )
        for index, t in enumerate(times_us)
    )
    actors = {}
    for number in range(20):
        name = f"car-{number:02d}"
        places = random.uniform(-0.5, 0.5, (5000, 3)) * [4.4, 1.8, 1.5]
        start = np.array([8 + 5 * number, 5.5 if number % 2 else -5.5, 0.75])
        track = PoseTrack(
            times_us=times_us, world_from_body=np.stack([yaw_pose(0.0, start + np.array([0.1 * i, 0, 0])) for i in range(frames)])
        )
        actors[name] = RigidActor(
            gaussians=_gaussians(places, 0.05, number),
            track=ActorTrack(actor_id=name, actor_class="vehicle", size_m=(4.4, 1.8, 1.5), track=track),
        )
    return Scene(
        background=StaticNode(gaussians=_gaussians(np.concatenate([road, walls]), 0.07, 99), origin_world_m=np.zeros(3)),
        actors=actors,
        sky=SkyMap.uniform((0.6, 0.7, 0.9), (0.0, 0.0, 1.0)),
        exposure=ExposureTable.identity(["front"] * frames, times_us.tolist()),
        shots=shots,
        ego=path,
        up_world=(0.0, 0.0, 1.0),
        metric=True,
        source="made up",
        log_id="made up",
        median_camera_step=0.7,
        camera_model=model,
    )


def made_up_light(device: str) -> SceneLight:
    """A sun from the front left under an even sky."""
    return SceneLight(
        to_sun_world=(0.48, 0.6, 0.64),
        sun=(1.2, 1.1, 0.9),
        environment=torch.full((16, 32, 3), 0.3, device=device),
        environment_from_world=np.eye(3),
        made_by="made up",
    )


def measure(edited: EditedScene, shots: list[Shot], device: str, finisher: Finisher | None = None) -> tuple[float, float]:
    """Pictures a second over all shots, and the milliseconds until the host has asked for one."""

    def draw(shot: Shot) -> None:
        frame = draw_insertion(edited, shot)
        if finisher is not None:
            finisher.finish(frame)

    with torch.no_grad():
        for shot in shots[:3]:
            draw(shot)
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for shot in shots:
            draw(shot)
        asked = time.perf_counter()
        if device == "cuda":
            torch.cuda.synchronize()
    return len(shots) / (time.perf_counter() - start), 1e3 * (asked - start) / len(shots)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", default=["ewa", "ray"])
    parser.add_argument("--count", type=int, default=500_000, help="Gaussians of the made-up background")
    parser.add_argument("--size", type=int, nargs=2, default=[1280, 720])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--scene", type=Path, help="a fitted scene instead, drawn with its own model and at its own size")
    parser.add_argument("--edits", type=Path)
    parser.add_argument("--profile", action="store_true", help="print what takes the host's time in finished pictures, of the last model")
    chosen = parser.parse_args()
    print("| hardware | model | Gaussians | actors | put in | picture | kind | pictures a second | host ms a picture |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in chosen.models if chosen.scene is None else ["its own"]:
        with tempfile.TemporaryDirectory() as folder:
            edits = chosen.edits or Path(folder) / "edits.yaml"
            if chosen.edits is None:
                edits.write_text(EDITS)
            scene = load_scene(chosen.scene) if chosen.scene else made_up(model, chosen.count, *chosen.size, chosen.frames)
            scene = scene.to(chosen.device)
            given = read_edits(edits)
            edited = apply_edits(scene, given, asset_loader(None, edits.parent, chosen.device))
        shots = [recorded.shot for recorded in scene.shots_of(scene.front_camera)]
        light = made_up_light(chosen.device)
        lit = with_materials(edited, given, light)
        for note in lit.notes:
            print(note)
        finisher = Finisher(lit.scene, {name: one.asset for name, one in lit.inserted.items()}, light, recorded=lit.recorded)
        camera = shots[0].camera
        for kind, drawn, finishing in (("naive", edited, None), ("finished", lit, finisher)):
            rate, host_ms = measure(drawn, shots, chosen.device, finishing)
            print(
                f"| {hardware(cuda=chosen.device == 'cuda')} | {scene.camera_model} | {drawn.scene.gaussian_count:,} | {len(scene.actors)} "
                f"| {len(drawn.inserted)} | {camera.width}x{camera.height} | {kind} | {rate:.1f} | {host_ms:.1f} |",
                flush=True,
            )
        if chosen.profile:
            profiler = cProfile.Profile()
            profiler.runcall(measure, lit, shots, chosen.device, finisher)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main()
