"""What deformable people and symmetric cars bring, on a small procedural street, on the CPU:
`python benchmarks/actors.py --street FOLDER --out rows.jsonl`.

A variant is a fit with one setting of `FitConfig.actors`; a scene that is there already is scored as it is. Scored against the oracle on
held-out frames in the pixels of people and of cars, and from paths beside the road in the pixels of cars' sides: those that recorded shots
see, and those that none does. "Actors alone" leaves out the background, whose holes and floaters would hide them there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from measured_on import environment

from splatmend.datasets.geometry import inverse, pose, project, transform
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import Street, StreetConfig, load_street, write_street
from splatmend.datasets.street.street import build_street
from splatmend.recon.fit.config import ActorsConfig, DensifyConfig, FitConfig, InitConfig
from splatmend.recon.fit.fit import fit
from splatmend.recon.gaussians import empty
from splatmend.recon.render import render
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import load_scene

SHIFTS_M = (0.0, 5.5, -4.8)
"""To the left: the road, and the two sides from which cars that stand or come along the road show what the road does not see."""
RIGID = ActorsConfig(deformable=(), symmetric=())
VARIANTS: Mapping[str, ActorsConfig] = {
    "rigid": RIGID,
    "deformable": replace(RIGID, deformable=("pedestrian", "cyclist")),
    "symmetric": replace(RIGID, symmetric=("vehicle",)),
    "both": ActorsConfig(),
}


def make(chosen: argparse.Namespace) -> None:
    """The street's log and beside it, in one file, the oracle's pictures, where they are missing."""
    if chosen.street.with_suffix(".npz").is_file():
        return
    config = StreetConfig(
        seed=chosen.seed,
        duration_s=chosen.seconds,
        width=320,
        height=192,
        cameras=("FRONT",),
        speed_m_s=2.5,
        pedestrians=9,
        moving_cars=2,
        parked_cars=6,
        weather="fair",
    )
    street = build_street(config)
    write_street(street, chosen.street)
    held = {}
    for index in range(4, config.frame_count, 8):
        for left_m in SHIFTS_M:
            seen = street.render(beside(street.shot("FRONT", index), left_m))
            held[f"{index}/{left_m:g}/rgb"] = np.rint(seen.rgb * 255).astype(np.uint8)
            held[f"{index}/{left_m:g}/ids"] = seen.ids
            held[f"{index}/{left_m:g}/normals"] = seen.normals_world
    np.savez_compressed(chosen.street.with_suffix(".npz"), **held)


def beside(shot: Shot, left_m: float) -> Shot:
    return shot.moved(pose(np.eye(3), np.array([-left_m, 0.0, 0.0])))


def seen_sides(street: Street) -> dict[str, int]:
    """The side (1 left, -1 right) that recorded shots see of each car of which they see one side only."""
    sides = {}
    for actor in street.actors:
        if actor.actor_class != "vehicle":
            continue
        shots = [street.shot("FRONT", index) for index in range(street.config.frame_count)]
        eyes = np.array([(inverse(actor.world_from_actor(s.mid_us)) @ s.world_from_camera[:, 3])[1] for s in shots])
        half_m = actor.size_m[1] / 2
        if (eyes.max() > half_m) != (eyes.min() < -half_m):
            sides[actor.actor_id] = 1 if eyes.max() > half_m else -1
    return sides


def masks(street: Street, shot: Shot, ids: np.ndarray, normals: np.ndarray) -> dict[str, np.ndarray]:
    """Pixels of people, of cars, and of cars' sides."""
    out = {name: np.zeros(ids.shape, dtype=bool) for name in ("people", "people below the hip", "cars", "seen sides", "unseen sides")}
    sides = seen_sides(street)
    for actor in street.actors:
        mine = ids == street.actor_label(actor.actor_id)
        out["people" if actor.actor_class == "pedestrian" else "cars"] |= mine
        if actor.actor_class == "pedestrian":
            pixels, _ = project(shot.camera, transform(inverse(shot.world_from_camera), actor.world_from_actor(shot.mid_us)[None, :3, 3]))
            out["people below the hip"] |= mine & (np.arange(len(ids))[:, None] > pixels[0, 1])
        if actor.actor_id in sides:
            to_left = normals @ actor.world_from_actor(shot.mid_us)[:3, 1] * sides[actor.actor_id]
            out["seen sides"] |= mine & (to_left > 0.5)
            out["unseen sides"] |= mine & (to_left < -0.5)
    return out


def run(name: str, street: Street, chosen: argparse.Namespace) -> dict[str, Any]:
    config = FitConfig(
        iterations=chosen.iterations,
        sh_degree=2,
        sh_every=chosen.iterations // 3,
        sky_rows=64,
        actors=VARIANTS[name],
        init=InitConfig(point_count=8_000, ray_count=3_000, actor_count=800),
        densify=DensifyConfig(cap=12_000, actor_cap=1_600, start=100, every=50),
        device="cpu",
        seed=chosen.fit_seed,
    )
    folder = chosen.scenes / name
    if not folder.is_dir():
        fit(open_log(chosen.street), folder, config)
    scene = load_scene(folder)
    row: dict[str, Any] = {"held_out": round(scene.facts["held_out"]["psnr"], 2)}
    alone = replace(scene.with_gaussians(empty()), sky=None)
    recorded = {shot.frame_index: shot for shot in scene.shots_of("FRONT")}
    with np.load(chosen.street.with_suffix(".npz"), allow_pickle=False) as held:
        for left_m in SHIFTS_M:
            errors: dict[str, list[np.ndarray]] = {}
            for index in range(4, street.config.frame_count, 8):
                truth, ids, normals = (held[f"{index}/{left_m:g}/{what}"] for what in ("rgb", "ids", "normals"))
                drawn = [picture_of(held, beside(recorded[index].shot, left_m)) for held in (scene, alone)]
                for what, mask in masks(street, beside(street.shot("FRONT", index), left_m), ids, normals).items():
                    for kind, rgb in zip(("", ", actors alone"), drawn):
                        errors.setdefault(what + kind, []).append(((rgb - truth / 255.0)[mask] ** 2).ravel())
                if chosen.pictures is not None:
                    chosen.pictures.mkdir(parents=True, exist_ok=True)
                    column = np.concatenate([truth, *(np.rint(rgb * 255).astype(np.uint8) for rgb in drawn)], axis=0)
                    cv2.imwrite(str(chosen.pictures / f"{name}_{index}_{left_m:g}.png"), column[..., ::-1])
            for what, parts in errors.items():
                all_of_them = np.concatenate(parts)
                if len(all_of_them) >= 300:
                    row[f"{what} {left_m:g} m"] = round(float(-10 * np.log10(all_of_them.mean())), 2)
    return row


def picture_of(scene: Scene, shot: Shot) -> np.ndarray:
    with torch.no_grad():
        picture = render(scene, shot, ("rgb",)).rgb
    assert picture is not None
    return picture.clamp(0, 1).numpy()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--street", type=Path, required=True, help="folder of the street; made where it is missing")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--fit-seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the drive")
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--scenes", type=Path, required=True, help="folder for the scenes, for one street and one number of iterations")
    parser.add_argument("--pictures", type=Path, help="folder for truths above renders")
    parser.add_argument("--out", type=Path, help="file that the lines are added to as well")
    chosen = parser.parse_args()
    make(chosen)
    street = load_street(chosen.street)
    rows = [{"kind": "environment", **environment(("splatmend", "torch"), cuda=False)}]
    for name in chosen.variants:
        rows.append({"kind": "row", "variant": name, **run(name, street, chosen)})
        print(json.dumps(rows[-1]), flush=True)
    if chosen.out is not None:
        with chosen.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
