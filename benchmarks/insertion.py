"""Insertions on procedural streets against the oracle: naive, and lit by the scene (no network).

    splatmend street --out A/street ... && splatmend fit A/street --out A/fit ...
    python benchmarks/insertion.py A B C [--light known] [--pictures OUT]

Each folder holds a street's log (`street`) and a scene that was fitted to it (`fit`). Cars harvested from one street are put into the
others: ahead in the own lane, oncoming, and standing beside the road. The oracle draws the car's own mesh at the same poses. Regions: the
car's box in the oracle's picture with a margin of a fifth, and the pixels beside the car that it changes (its shadow).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measured_on import checked_out
from relight import LEAST_PIXELS, best_views, in_the_sun, known_light, psnr, street_of, strip

from splatmend.datasets.image_metrics import frame_scores
from splatmend.datasets.street.mesh import Mesh
from splatmend.datasets.street.street import Street
from splatmend.recon.assets.asset import Asset
from splatmend.recon.assets.harvest import harvest_actor
from splatmend.recon.edits.apply import apply_edits
from splatmend.recon.edits.types import BodyPath, Edits, EgoCourse, Insert, ParkedCourse, Profile
from splatmend.recon.insertion.frame import draw_insertion
from splatmend.recon.light.estimate import estimate_light
from splatmend.recon.light.finish import Finisher
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import load_scene

CHANGED = 0.03
"""A pixel beside the car belongs to its shadow where the oracle's picture changes by so much of white."""
LEAST_SHADOW_PX = 60
PATHS = {
    "ahead": BodyPath(ego=EgoCourse(ahead=11.0)),
    "oncoming": BodyPath(ego=EgoCourse(left=Profile.constant(3.4), ahead=26.0, speed=Profile.constant(6.0), direction="against")),
    "standing": BodyPath(parked=ParkedCourse(ahead=17.0, left=-2.4)),
    "far side": BodyPath(parked=ParkedCourse(ahead=21.0, left=4.0, yaw_deg=180.0)),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folders", type=Path, nargs="+")
    options.add_argument("--light", choices=("estimated", "known"), default="estimated")
    options.add_argument("--cars", type=int, default=2, help="cars taken from each street")
    options.add_argument("--every", type=int, default=6, help="frames between those that are scored")
    options.add_argument("--pictures", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    streets = {folder: (street_of(folder / "street"), load_scene(folder / "fit")) for folder in given.folders}
    lights = {
        folder: estimate_light(scene) if given.light == "estimated" else known_light(street) for folder, (street, scene) in streets.items()
    }
    cars = []
    for folder, (street, scene) in streets.items():
        names = [
            name for name, shot in best_views(street, scene, 3 * given.cars) if in_the_sun(street.render(shot), street, name, street.sun)
        ]
        for name in names[: given.cars]:
            mesh = street.actor_meshes[[actor.actor_id for actor in street.actors].index(name)]
            if isinstance(mesh, Mesh):
                cars.append((folder, name, harvest_actor(scene, name, lights[folder]), mesh))
    rows = []
    for folder, (street, scene) in streets.items():
        for origin, name, asset, mesh in cars:
            if origin == folder:
                continue
            for where, path in PATHS.items():
                label = f"{folder.name}-{origin.name}-{name}-{where.replace(' ', '-')}"
                for row in measure(street, scene, lights[folder], asset, mesh, path, given.every, given.pictures, label):
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    for region in ("box", "shadow"):
        print(region, summary([row for row in rows if row["region"] == region]))
    print(f"{len({row['insertion'] for row in rows})} insertions; {checked_out()}")


def measure(
    street: Street,
    scene: Scene,
    light: SceneLight,
    asset: Asset,
    mesh: Mesh,
    path: BodyPath,
    every: int,
    pictures: Path | None,
    label: str,
) -> Iterator[dict]:
    """A row per scored frame and region."""
    edits = Edits(file=Path("edits.yaml"), edits=(Insert(asset="car", new_id="inserted", path=path),))
    edited = apply_edits(scene, edits, lambda _: asset)
    finisher = Finisher(edited.scene, {"inserted": asset}, light)
    track = edited.scene.actors["inserted"].track.track
    number = len(street.actors)
    for recorded in scene.shots_of(scene.front_camera)[::every]:
        frame = draw_insertion(edited, recorded.shot)
        if "inserted" not in frame.shares:
            continue
        truth, without = street.render(recorded.shot, extra=[(mesh, track)]), street.render(recorded.shot)
        car = truth.ids == 2 + number
        if car.sum() < LEAST_PIXELS:
            continue
        naive, lit = frame.rgb.numpy(), finisher.finish(frame).rgb.numpy()
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            strip(pictures / f"{label}-{recorded.frame_index:03d}.png", naive, lit, truth.rgb)
        box = box_around(car, 0.2)
        row = {"insertion": label, "frame": recorded.frame_index, "region": "box"}
        for name, shown in (("naive", naive), ("lit", lit)):
            scores = frame_scores(torch.from_numpy(shown[box]).clamp(0, 1), torch.from_numpy(truth.rgb[box]))
            row |= {f"{name}_{metric}": round(float(value), 4) for metric, value in scores.items()}
        inter = (car & (frame.shares["inserted"].numpy() > 0.5)).sum() / (car | (frame.shares["inserted"].numpy() > 0.5)).sum()
        yield row | {"mask_iou": round(float(inter), 3)}
        shadow = (np.abs(truth.rgb - without.rgb).max(-1) > CHANGED) & ~car & (frame.shares["inserted"].numpy() < 0.1)
        if shadow.sum() >= LEAST_SHADOW_PX:
            yield {
                "insertion": label,
                "frame": recorded.frame_index,
                "region": "shadow",
                "pixels": int(shadow.sum()),
                "naive_psnr": round(psnr(naive, truth.rgb, shadow), 3),
                "lit_psnr": round(psnr(lit, truth.rgb, shadow), 3),
            }


def box_around(mask: np.ndarray, margin: float) -> tuple[slice, slice]:
    """Rows and columns of a mask's box, wider by a share of it on each side."""
    slices = []
    for axis in (1, 0):
        inside = np.nonzero(mask.any(axis=axis))[0]
        more = int(np.ceil(margin * (inside[-1] + 1 - inside[0])))
        # LPIPS and SSIM need pictures of some size.
        more = max(more, (24 - (inside[-1] + 1 - inside[0])) // 2 + 1)
        slices.append(slice(max(int(inside[0]) - more, 0), min(int(inside[-1]) + 1 + more, mask.shape[1 - axis])))
    return slices[0], slices[1]


def summary(rows: list[dict]) -> str:
    """Means over insertions of means over their frames."""
    if not rows:
        return "none"
    names = sorted({name for row in rows for name in row if name not in ("insertion", "frame", "region", "pixels")})
    means = {}
    for name in names:
        each = [np.mean([row[name] for row in rows if row["insertion"] == one]) for one in sorted({row["insertion"] for row in rows})]
        means[name] = round(float(np.mean(each)), 3)
    return json.dumps(means)


if __name__ == "__main__":
    main()
