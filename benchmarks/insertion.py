"""Insertions on procedural streets against the oracle: naive, lit by the scene (no network), and harmonised by an enhancer.

    splatmend street --out A/street ... && splatmend fit A/street --out A/fit ...
    python benchmarks/insertion.py A B C [--light known] [--bodies both] [--enhancer bundled] [--harmoniser FOLDER] [--pictures OUT]

Each folder holds a street's log (`street`) and a scene that was fitted to it (`fit`). Cars of one street are put into the others: ahead in
the own lane, oncoming, and standing beside the road. They are harvested, and so lack what no camera saw of them, or (`--bodies mesh`) the
oracle's own, imported from a .glb file. The oracle draws the car's own mesh at the same poses. Regions: the car's box in the oracle's
picture with a margin of a fifth, and the pixels beside the car that it changes (its shadow). `mask_iou` compares the car's pixels,
`box_iou` the boxes around them. `lpips_aside` is LPIPS of a shadow with the true body in the picture: the network looks far, and a body's
faults count at its shadow too. With an enhancer there are rows of it from the lit clip with references of the street's frames beside it
(`enhanced`, and `enhanced_bare` without references), with a harmoniser rows of it from the naive clip, the lit and the enhanced one
(`harmonised_naive` and so on), and with either warping errors along the exact flow.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measured_on import checked_out
from oracle_cars import imported
from relight import LEAST_PIXELS, best_views, in_the_sun, psnr, street_of, strip
from torchmetrics.functional.image import structural_similarity_index_measure

from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.image_metrics import frame_scores, lpips_available, lpips_network
from splatmend.datasets.images import to_uint8
from splatmend.datasets.optical_flow import Flow
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.shot import Shot
from splatmend.datasets.street.bodies import FIRST_ACTOR_ID
from splatmend.datasets.street.mesh import Mesh
from splatmend.datasets.street.street import OracleImage, Street
from splatmend.enhance.artifact import load_enhancer
from splatmend.enhance.insertion import insertion_channels
from splatmend.enhance.model import Enhancer
from splatmend.enhance.stream import StreamingEnhancer
from splatmend.pipelines.evaluation.truth import StreetFrame
from splatmend.pipelines.pairing.street_light import known_light
from splatmend.recon.assets.asset import Asset
from splatmend.recon.assets.harvest import harvest_actor
from splatmend.recon.edits.apply import apply_edits
from splatmend.recon.edits.types import BodyPath, Edits, EgoCourse, Insert, ParkedCourse, Profile
from splatmend.recon.insertion.boxes import modal_box
from splatmend.recon.insertion.frame import InsertedFrame, draw_insertion
from splatmend.recon.insertion.references import EditedReferences, with_bodies
from splatmend.recon.light.estimate import estimate_light
from splatmend.recon.light.finish import Finisher
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.references import References, references_of
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
    options.add_argument("--bodies", choices=("harvested", "mesh", "both"), default="harvested", help="how the cars come to be assets")
    options.add_argument("--every", type=int, default=6, help="frames between those that are scored")
    options.add_argument("--scale", type=float, default=1.0, help="size of the pictures that are drawn, in that of the log's")
    options.add_argument("--harmoniser", help="folder of an enhancer that harmonises")
    options.add_argument("--enhancer", help="folder of an enhancer, or its name")
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
                if given.bodies != "mesh":
                    cars.append(Car(folder.name, name, mesh, "harvested", harvest_actor(scene, name, lights[folder])))
                if given.bodies != "harvested":
                    cars.append(Car(folder.name, name, mesh, "mesh", imported(mesh, street._noise, name)))
    harmoniser, enhancer = (None if model is None else load_enhancer(model) for model in (given.harmoniser, given.enhancer))
    rows = []
    for folder, (street, scene) in streets.items():
        layers = 0 if enhancer is None else enhancer.spec.references
        after = Networks(harmoniser, enhancer, references_of(scene, open_log(folder / "street"), layers))
        for car in cars:
            if car.origin == folder.name:
                continue
            for where, path in PATHS.items():
                label = f"{folder.name}-{car.origin}-{car.name}-{where.replace(' ', '-')}{'-mesh' if car.body == 'mesh' else ''}"
                for row in measure(street, scene, lights[folder], car, path, given.every, given.scale, after, given.pictures, label):
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    for body in sorted({row["body"] for row in rows}):
        for region in ("box", "shadow"):
            print(body, region, summary([row for row in rows if row["region"] == region and row["body"] == body]))
    print(f"{len({row['insertion'] for row in rows})} insertions; {checked_out()}")


@dataclass(frozen=True)
class Car:
    """A car that is put in: the street that it comes from, its id there, the oracle's mesh and the asset, and what that was made from. Both
    are around the middle of the mesh's box."""

    origin: str
    name: str
    mesh: Mesh
    body: str
    asset: Asset


class Networks(NamedTuple):
    """What comes after the light: a harmoniser, an enhancer with the references that it is given."""

    harmoniser: Enhancer | None
    enhancer: Enhancer | None
    references: References | None

    def __bool__(self) -> bool:
        return self.harmoniser is not None or self.enhancer is not None


def measure(
    street: Street,
    scene: Scene,
    light: SceneLight,
    car: Car,
    path: BodyPath,
    every: int,
    scale: float,
    after: Networks,
    pictures: Path | None,
    label: str,
) -> Iterator[dict]:
    """A row per scored frame and region."""
    edits = Edits(file=Path("edits.yaml"), edits=(Insert(asset="car", new_id="inserted", path=path),))
    edited = apply_edits(scene, edits, lambda _: car.asset)
    finisher = Finisher(edited.scene, {"inserted": car.asset}, light, recorded=edited.recorded)
    track = edited.scene.actors["inserted"].track.track
    recorded = [replace(one, shot=scaled(one.shot, scale)) for one in scene.shots_of(scene.front_camera)]
    # Networks see a video, and flicker needs each frame's neighbour.
    drawn = [draw_insertion(edited, one.shot) if after or number % every == 0 else None for number, one in enumerate(recorded)]
    finished = [None if frame is None else finisher.finish(frame) for frame in drawn]
    shown: dict[str, list[np.ndarray | None]] = {
        "naive": [None if frame is None else frame.rgb.numpy() for frame in drawn],
        "lit": [None if picture is None else picture.rgb.numpy() for picture in finished],
    }
    if after.enhancer is not None:
        shown["enhanced_bare"] = enhanced(after.enhancer, shown["lit"], None)
        if after.references is not None:
            beside = EditedReferences(edited, after.references)
            layers = [
                with_bodies(beside.behind(frame), frame, picture.rgb, picture.kept) for frame, picture in zip(drawn, finished, strict=True)
            ]
            shown["enhanced"] = enhanced(after.enhancer, shown["lit"], layers)
    if after.harmoniser is not None:
        masks = [shares_of(frame) > 0.5 for frame in drawn if frame is not None]
        for source in ("naive", "lit", "enhanced"):
            if source in shown:
                shown[f"harmonised_{source}"] = harmonised(after.harmoniser, shown[source], masks)
    oracle = Oracle(street, car.mesh, track)
    for number, one in enumerate(recorded):
        frame = drawn[number]
        if number % every or frame is None or "inserted" not in frame.shares:
            continue
        truth, without = oracle.frame(one.shot), street.render(one.shot)
        true = truth.ids == oracle.label
        if true.sum() < LEAST_PIXELS:
            continue
        now = {name: frames[number] for name, frames in shown.items()}
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            strip(pictures / f"{label}-{one.frame_index:03d}.png", *now.values(), to_uint8(truth.rgb) / 255.0)
        flow = None if not after or number == 0 else oracle.flow(recorded[number - 1].shot, one.shot)
        before = {name: frames[number - 1] for name, frames in shown.items()} if flow is not None else {}
        own = shares_of(frame)
        shadow = (np.abs(truth.rgb - without.rgb).max(-1) > CHANGED) & ~true & (own < 0.1)
        box, mask = box_around(true, 0.2), own > 0.5
        boxed = np.zeros_like(true)
        boxed[box] = True
        about = {"insertion": label, "frame": one.frame_index, "body": car.body}
        overlap = (true & mask).sum() / (true | mask).sum()
        row = about | {
            "region": "box",
            "mask_iou": round(float(overlap), 3),
            "box_iou": round(box_iou(modal_box(true), modal_box(mask)), 3),
        }
        for name, picture in now.items():
            row |= prefixed(name, {key: float(value) for key, value in frame_scores(*tensors(picture[box], truth.rgb[box])).items()})
            row |= prefixed(name, flicker(picture, before.get(name), flow, boxed))
        yield row
        if shadow.sum() >= LEAST_SHADOW_PX:
            row = about | {"region": "shadow", "pixels": int(shadow.sum())}
            for name, picture in now.items():
                row |= prefixed(name, {"psnr": psnr(picture, truth.rgb, shadow)} | scores_at(picture, truth.rgb, shadow))
                aside = scores_at(np.where((true | (own >= 0.1))[..., None], truth.rgb, picture), truth.rgb, shadow)
                row |= prefixed(name, {"lpips_aside": aside["lpips"]} if "lpips" in aside else {})
                row |= prefixed(name, flicker(picture, before.get(name), flow, shadow))
            yield row


def scaled(shot: Shot, scale: float) -> Shot:
    """The shot with so many times the pixels along each side."""
    camera = shot.camera
    return shot if scale == 1 else replace(shot, camera=camera.resized(round(camera.width * scale), round(camera.height * scale)))


@dataclass(frozen=True)
class Oracle:
    """A street with one body more."""

    street: Street
    mesh: Mesh
    track: PoseTrack

    @property
    def label(self) -> int:
        """The body's number in the oracle's ids."""
        return FIRST_ACTOR_ID + len(self.street.actors)

    def frame(self, shot: Shot) -> OracleImage:
        """What the shot would have recorded."""
        return self.street.render(shot, extra=[(self.mesh, self.track)])

    def flow(self, before: Shot, now: Shot) -> Flow:
        """The flow from a shot to the one before it."""
        paths = dict(enumerate((*(actor.track for actor in self.street.actors), self.track), FIRST_ACTOR_ID))
        seen = [
            StreetFrame(rgb=to_uint8(image.rgb), shot=shot, depth_m=image.depth_m, ids=image.ids, paths=paths)
            for shot in (before, now)
            for image in (self.street.render(shot, extra=[(self.mesh, self.track)], supersample=1),)
        ]
        return seen[1].flow_from(seen[0])


def shares_of(frame: InsertedFrame) -> np.ndarray:
    """How much of each pixel the inserted body is."""
    return sum(frame.shares.values(), torch.zeros_like(frame.opacity)).numpy()


def harmonised(enhancer: Enhancer, frames: list[np.ndarray], masks: list[np.ndarray]) -> list[np.ndarray]:
    """Frames `[H, W, 3]` in [0, 1] as an enhancer makes what the masks say belong."""
    told = (insertion_channels(mask) for mask in masks)
    stream = StreamingEnhancer(enhancer).frames((to_uint8(rgb) for rgb in frames), len(frames), inserted=told)
    return [rgb.astype(np.float32) / 255 for rgb in stream]


def enhanced(enhancer: Enhancer, frames: list[np.ndarray], references: list[np.ndarray] | None) -> list[np.ndarray]:
    """Frames `[H, W, 3]` in [0, 1] as an enhancer mends them, with layers `[K, H, W, 4]` of references beside each."""
    stream = StreamingEnhancer(enhancer).frames((to_uint8(rgb) for rgb in frames), len(frames), references=references)
    return [rgb.astype(np.float32) / 255 for rgb in stream]


def tensors(*pictures: np.ndarray) -> list[torch.Tensor]:
    """Pictures in [0, 1]."""
    return [torch.from_numpy(np.clip(picture, 0, 1)).float() for picture in pictures]


def prefixed(name: str, scores: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_{metric}": round(value, 4) for metric, value in scores.items()}


def scores_at(picture: np.ndarray, truth: np.ndarray, where: np.ndarray) -> dict[str, float]:
    """SSIM and LPIPS of some pixels: the means of their maps there."""
    a, b = (x.permute(2, 0, 1)[None] for x in tensors(picture, truth))
    at = torch.from_numpy(where)
    similar = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)[1]
    scores = {"ssim": float(similar[0].mean(0)[at].mean())}
    if lpips_available("squeeze"):
        spatial = copy.copy(lpips_network("squeeze"))
        spatial.spatial = True
        with torch.no_grad():
            scores["lpips"] = float(spatial(a * 2 - 1, b * 2 - 1)[0, 0][at].mean())
    return scores


def flicker(picture: np.ndarray, before: np.ndarray | None, flow: Flow | None, where: np.ndarray) -> dict[str, float]:
    """The warping error (x 100) of some pixels along the truth's flow."""
    if before is None or flow is None or not (where & flow.visible).any():
        return {}
    change = np.abs(flow.warp(np.clip(before, 0, 1)) - np.clip(picture, 0, 1)).mean(-1)
    return {"warping": 100 * float(change[where & flow.visible].mean())}


def box_iou(a: list[int] | None, b: list[int] | None) -> float:
    """Overlap of two boxes (left, top, right, bottom) over what they cover together; 0 where one is none."""
    if a is None or b is None:
        return 0.0
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in range(2)]
    both = max(sides[0], 0) * max(sides[1], 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


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
    names = sorted({name for row in rows for name in row if name not in ("insertion", "frame", "body", "region", "pixels")})
    means = {}
    for name in names:
        having = [row for row in rows if name in row]
        each = [np.mean([row[name] for row in having if row["insertion"] == one]) for one in sorted({row["insertion"] for row in having})]
        means[name] = round(float(np.mean(each)), 3)
    return json.dumps(means)


if __name__ == "__main__":
    main()
