"""Relighting itself: cars harvested under one sun, lit by others, on their own pixels against the oracle.

    splatmend street --out A/street ... && splatmend fit A/street --out A/fit ...
    python benchmarks/relight.py A B ... [--light sun] [--pictures OUT]

Each folder holds a street's log (`street`) and a scene that was fitted to it (`fit`). Every car is harvested with the light of the
recording, estimated from the scene (with `--light sun` but for the sun's direction, which is given, as time and place would;
with `--light known` regressed on the oracle's own pictures), then drawn where it stood, unchanged
and lit by the light with its sun moved. The oracle draws the same street under that sun; its camera keeps the exposure of the recording,
as ours does. Counted are pixels that are the car's in both, of cars that the sun reaches before and after (what shades a street was
never seen).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measured_on import checked_out

from splatmend.datasets.images import write_image
from splatmend.datasets.shot import Shot
from splatmend.datasets.street.config import StreetConfig
from splatmend.datasets.street.shading import camera_response
from splatmend.datasets.street.sky import Sky, Sun
from splatmend.datasets.street.street import OracleImage, Street, build_street
from splatmend.pipelines.pairing.street_light import known_light
from splatmend.recon.assets.asset import Asset
from splatmend.recon.assets.harvest import harvest_actor
from splatmend.recon.edits.apply import EditedScene, Inserted
from splatmend.recon.insertion.frame import InsertedFrame, draw_insertion
from splatmend.recon.light.estimate import estimated_light
from splatmend.recon.light.finish import Finisher
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import load_scene

LEAST_PIXELS = 120
SUNS = ((20.0, 40.0), (-25.0, 55.0), (160.0, 35.0), (205.0, 60.0))
"""Azimuth from the street's first direction, and elevation, in degrees: along the road, where houses leave it open."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folders", type=Path, nargs="+")
    options.add_argument("--light", choices=("estimated", "sun", "known"), default="estimated")
    options.add_argument("--pictures", type=Path)
    options.add_argument("--cars", type=int, default=4, help="at most so many of each street, the largest in the picture first")
    given = options.parse_args()
    torch.set_num_threads(1)
    rows = []
    for folder in given.folders:
        for row in measure(folder, given.light, given.cars, given.pictures):
            rows.append(row)
            print(json.dumps(row), flush=True)
    gains = [row["relit_db"] - row["unlit_db"] for row in rows]
    cars = {(row["street"], row["car"]) for row in rows}
    if gains:
        found = f"gain {np.mean(gains):.2f} dB, median {np.median(gains):.2f}"
        print(f"{len(cars)} cars, {len(rows)} pairs of car and sun: {found}; {checked_out()}")


def measure(folder: Path, how: str, most_cars: int, pictures: Path | None) -> Iterator[dict]:
    """A row per car and sun."""
    street, scene = street_of(folder / "street"), load_scene(folder / "fit")
    light = light_of(how, street, scene)
    for car, shot in best_views(street, scene, most_cars):
        asset = harvest_actor(scene, car, light)
        edited = with_asset(scene, car, asset)
        before = street.render(shot, exposure=1.0)
        if not in_the_sun(before, street, car, street.sun):
            continue
        frame = unexposed(draw_insertion(edited, shot))
        for azimuth_deg, elevation_deg in SUNS:
            sun = Sun(azimuth_rad=np.radians(azimuth_deg), elevation_rad=np.radians(elevation_deg))
            truth = street.render(shot, sun=sun, exposure=kept_exposure(street, sun))
            if not in_the_sun(truth, street, car, sun):
                continue
            moved = light.with_sun(azimuth_deg, elevation_deg)
            lit = Finisher(edited.scene, {car: asset}, moved, recorded=edited.recorded).finish(frame).rgb.numpy()
            mine = (truth.ids == street.actor_label(car)) & (frame.shares[car].numpy() > 0.7)
            if mine.sum() < LEAST_PIXELS:
                continue
            if pictures is not None:
                pictures.mkdir(parents=True, exist_ok=True)
                strip(pictures / f"{folder.name}-{car}-{azimuth_deg:+.0f}.png", before.rgb, frame.rgb.numpy(), lit, truth.rgb)
            yield {
                "street": folder.name,
                "car": car,
                "azimuth_deg": azimuth_deg,
                "elevation_deg": elevation_deg,
                "pixels": int(mine.sum()),
                "unlit_db": round(psnr(frame.rgb.numpy(), truth.rgb, mine), 2),
                "relit_db": round(psnr(lit, truth.rgb, mine), 2),
                "as_recorded_db": round(psnr(frame.rgb.numpy(), before.rgb, mine), 2),
            }


def light_of(how: str, street: Street, scene: Scene) -> SceneLight:
    """The light of a recording, in one of the ways of `--light`."""
    if how == "known":
        return known_light(street)
    return estimated_light(scene, to_sun_world=street.sun.direction_world if how == "sun" else None).light


def street_of(folder: Path) -> Street:
    """The oracle behind a log."""
    raw = json.loads((folder / "street.json").read_text())["street"]
    return build_street(StreetConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}))


def best_views(street: Street, scene: Scene, most: int) -> list[tuple[str, Shot]]:
    """Cars, each with the recorded shot that shows most of it, the largest first."""
    best: dict[str, tuple[int, Shot]] = {}
    for recorded in scene.shots[:: max(len(scene.shots) // 24, 1)]:
        ids = street.render(recorded.shot, supersample=1).ids
        for actor in street.actors:
            count = int((ids == street.actor_label(actor.actor_id)).sum())
            if actor.actor_id in scene.actors and count > best.get(actor.actor_id, (LEAST_PIXELS, None))[0]:
                best[actor.actor_id] = (count, recorded.shot)
    ordered = sorted(best.items(), key=lambda item: -item[1][0])
    return [(car, shot) for car, (_, shot) in ordered[:most]]


def with_asset(scene: Scene, car: str, asset: Asset) -> EditedScene:
    """The scene with an actor's asset in its place."""
    actors = {**scene.actors, car: replace(scene.actors[car], gaussians=asset.gaussians)}
    inserted = {car: Inserted(actor_id=car, edit=0, asset=asset)}
    return EditedScene(scene=replace(scene, actors=actors), recorded=scene, inserted=inserted, removed=(), notes=())


def unexposed(frame: InsertedFrame) -> InsertedFrame:
    """The frame for a camera whose colours are the scene's own."""
    return replace(frame, exposure=torch.eye(3, 4))


def in_the_sun(picture: OracleImage, street: Street, car: str, sun: Sun) -> bool:
    """Whether most of what faces the sun of a car is lit by it."""
    facing = (picture.ids == street.actor_label(car)) & (picture.normals_world @ np.array(sun.direction_world) > 0.2)
    return int(facing.sum()) > 30 and float(picture.shadow[facing].mean()) < 0.5


def kept_exposure(street: Street, sun: Sun) -> float:
    """The factor with which the oracle's camera, which would expose anew for another sun, shows a surface as it did before."""
    grey = torch.full((1, 3), 0.18)
    skies = [Sky(one, street.air, street._noise, street.device) for one in (street.sun, sun)]
    wanted = float(camera_response(grey, skies[0], 1.0).mean())
    low, high = 0.05, 20.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if float(camera_response(grey, skies[1], middle).mean()) < wanted else (low, middle)
    return middle


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Decibels over some pixels of colours in [0, 1]."""
    return float(-10 * np.log10(np.mean((np.clip(a, 0, 1) - b)[where] ** 2)))


def strip(path: Path, *pictures: np.ndarray) -> None:
    """Pictures side by side."""
    write_image(path, np.rint(np.clip(np.concatenate(pictures, axis=1), 0, 1) * 255).astype(np.uint8))


if __name__ == "__main__":
    main()
