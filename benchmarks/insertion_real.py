"""Replaces, inserts and removes vehicles in a real log, which has no oracle, and measures what can be: JSON lines to `--out`.

    python benchmarks/insertion_real.py LOG --work FOLDER --asset car.obj --out rows.jsonl       # fits the log first, at the CPU's size
    python benchmarks/insertion_real.py SCENE --work FOLDER --asset LIBRARY/suv truck.glb --out rows.jsonl
    python benchmarks/insertion_real.py --toy --work FOLDER --out rows.jsonl                     # a small street, on the CPU

The lead vehicle is the actor that is longest ahead of the recorded one in its lane. The first asset takes its place while the last one
comes towards it; then the lead is only taken out; both without and with the background mended (`insert --heal`). Files of edits, assets,
clips and pictures stay in the working folder. Without `--asset` the lead itself is harvested and put in.

Where no edit may reach (away from bodies, the lead's own pixels and the shadows of both, by a margin) the finished clip must be the raw
render: both are scored against the photos there. Of the hole that is left rows say which share of the pixels before the lead's box show
what no recorded shot saw past it, and which share is see-through. The rest is for eyes: the pictures.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, UInt8
from measured_on import environment

from splatmend.datasets.artifact import MANIFEST, read_manifest
from splatmend.datasets.clip import Clip, open_clip
from splatmend.datasets.geometry import inverse
from splatmend.datasets.images import read_numbers, to_uint8, write_image
from splatmend.datasets.log import SceneLog
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import build_street, write_street
from splatmend.datasets.street.config import StreetConfig
from splatmend.pipelines.evaluation.truth import LogTruth
from splatmend.pipelines.recipes import RecipeOptions, fit_config
from splatmend.pipelines.scene_log import log_of_scene
from splatmend.recon.assets.asset import Asset, load_asset
from splatmend.recon.assets.harvest import harvest_actor
from splatmend.recon.assets.importing import import_mesh
from splatmend.recon.assets.library import AssetLibrary
from splatmend.recon.edits.apply import EditedScene, apply_edits
from splatmend.recon.edits.asset_names import asset_loader
from splatmend.recon.edits.heal_boxes import RemovedActor
from splatmend.recon.edits.heal_frame import level_axes
from splatmend.recon.edits.heal_views import Views
from splatmend.recon.edits.reading import read_edits
from splatmend.recon.fit.fit import fit
from splatmend.recon.insertion.boxes import silhouette
from splatmend.recon.insertion.clips import FINISHED, NAIVE, render_insertion
from splatmend.recon.insertion.frame import draw_insertion
from splatmend.recon.insertion.prepare import healed, with_materials
from splatmend.recon.light.estimate import EstimateConfig, estimate_light
from splatmend.recon.light.finish import Finisher
from splatmend.recon.light.receivers import receivers
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.render import Channel, RenderOutput, render
from splatmend.recon.render_clip import render_clip
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import load_scene
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig, build_trajectory

PACKAGES = ("splatmend", "torch")
LANE_M, FARTHEST_M = 1.8, 60.0
"""Half a lane, and how far ahead a vehicle still leads."""
TOY = StreetConfig(seed=3, duration_s=0.8, width=128, height=80, cameras=("FRONT",), lidar_beams=32, lidar_columns=512)
TOY_ITERATIONS = 120
TOY_LIGHT = EstimateConfig(shots=3, step_deg=15.0, roofs_m=(0.0,))
SHOWN = 6
_OPACITY: tuple[Channel, ...] = ("opacity",)
SOLID = 0.5
"""Pixels of less opacity are see-through."""
PUT_IN, TAKEN_OUT = "put-in", "taken-out"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A fitted scene whose edits are measured: its log, its light, the path that is rendered, the lead vehicle, and the working folder."""

    scene: Scene
    log: SceneLog
    light: SceneLight
    trajectory: Trajectory
    lead: str
    work: Path
    margin_px: int

    @cached_property
    def raw(self) -> Clip:
        """The scene as it is along the path."""
        return open_clip(render_clip(self.scene, self.trajectory, self.work / "raw", overwrite=True))

    @cached_property
    def photos(self) -> list[np.ndarray]:
        """The recorded pictures of the path, uint8, as the fit saw them."""
        return [frame.rgb for frame in LogTruth(log=self.log).frames(self.raw.frames) if frame is not None]

    def lead_before(self, shot: Shot) -> Bool[np.ndarray, "H W"]:
        """Pixels before which the lead's box lies; none while it is not there."""
        track = self.scene.actors[self.lead].track
        if not track.is_labelled(shot.mid_us):
            return np.zeros((shot.camera.height, shot.camera.width), dtype=bool)
        return silhouette(track.size_m, track.world_from_actor(shot.mid_us), shot, self.scene.camera_model)

    @cached_property
    def lead_shadows(self) -> list[Bool[np.ndarray, "H W"]]:
        """Where the recorded lead casts its shadow in each frame: it leaves with it where the background is mended."""
        edits = self.work / "lead.yaml"
        edits.write_text(f"edits:\n  - move: {self.lead}\n    path: {{follow: {{actor: {self.lead}}}}}\n")
        itself = apply_edits(self.scene, read_edits(edits), asset_loader(None, self.work, self.scene.device))
        finisher = Finisher(itself.scene, {self.lead: None}, self.light, recorded=itself.recorded)
        return [(to_uint8(finisher.finish(draw_insertion(itself, shot)).shadow.cpu().numpy()) > 0) for shot in self.trajectory]

    def edited(self, file: Path, *, mended: bool) -> EditedScene:
        """The scene as a file has it, with the background mended where vehicles are taken out or not."""
        edits = read_edits(file)
        edited = apply_edits(self.scene, edits, asset_loader(self.work / "assets", self.work, self.scene.device))
        return with_materials(healed(edited) if mended else edited, edits, self.light)

    def rendered(self, edited: EditedScene, name: str) -> Path:
        """Naive and finished clips of an edited scene; their folder."""
        finisher = Finisher(edited.scene, {one: body.asset for one, body in edited.inserted.items()}, self.light, recorded=edited.recorded)
        return render_insertion(edited, self.trajectory, self.work / name, finisher=finisher, overwrite=True)


def lead_vehicle(scene: Scene) -> str:
    """The actor that most shots of the front camera have ahead in their lane; of several the nearest."""
    found: dict[str, list[float]] = {}
    for recorded in scene.shots_of(scene.front_camera):
        t_us = recorded.shot.mid_us
        ego_from_world = inverse(scene.ego.at(t_us))
        for name, actor in scene.actors.items():
            if actor.track.actor_class != "vehicle" or not actor.track.is_labelled(t_us):
                continue
            ahead, left = (ego_from_world @ actor.track.world_from_actor(t_us))[:2, 3]
            if 0 < ahead < FARTHEST_M and abs(left) < LANE_M:
                found.setdefault(name, []).append(float(ahead))
    if not found:
        raise SystemExit("no vehicle is ahead in the recorded vehicle's lane; give another log")
    return max(found, key=lambda name: (len(found[name]), -np.mean(found[name])))


def put_in_rows(trial: Trial, assets: list[str], oncoming: tuple[float, float, float]) -> Iterator[dict[str, Any]]:
    """The lead is replaced and a vehicle comes towards the recorded one: rows for naive and finished clips."""
    left, ahead, speed = oncoming
    file = trial.work / f"{PUT_IN}.yaml"
    file.write_text(
        f"edits:\n  - replace: {trial.lead}\n    asset: {assets[0]}\n    as: lead\n  - insert: {assets[-1]}\n    as: oncoming\n"
        f"    path: {{ego: {{left: {left:g}, ahead: {ahead:g}, speed: {speed:g}, direction: against}}}}\n"
    )
    columns = []
    for mended in (False, True):
        edited = trial.edited(file, mended=mended)
        folder = trial.rendered(edited, PUT_IN + ("-mended" if mended else ""))
        boxes = [json.loads(line) for line in (folder / "boxes.jsonl").read_text().splitlines()]
        clips = {name: open_clip(folder / name) for name in (NAIVE, FINISHED)}
        free = untouched(trial, clips[FINISHED], folder / FINISHED / "shadow", tuple(edited.inserted))
        about: dict[str, Any] = {"edit": PUT_IN, "mended": mended, "lead": trial.lead, "assets": assets, "notes": list(edited.notes)}
        about |= {"frames": len(trial.trajectory), "mask_px": {name: _mean_mask(boxes, name) for name in edited.inserted}}
        for name, clip in clips.items():
            yield about | {"clip": name} | compared(trial.photos, trial.raw.iter_rgb(), clip.iter_rgb(), free)
        columns.append(list(clips[FINISHED].iter_rgb()))
    write_sheet(trial.work / f"{PUT_IN}.png", trial.photos, list(trial.raw.iter_rgb()), *columns)


def untouched(trial: Trial, clip: Clip, shadows: Path, bodies: tuple[str, ...]) -> list[Bool[np.ndarray, "H W"]]:
    """Where no edit may reach, per frame: away from bodies, the lead's own pixels, and the shadows of both."""
    size, masks = 2 * trial.margin_px + 1, []
    for number, shot in enumerate(trial.trajectory):
        with torch.no_grad():
            drawn = render(trial.scene, shot, _OPACITY, shares=(trial.lead,))
        touched = (drawn.extra["shares"][..., 0] > 0.5).cpu().numpy()
        touched |= trial.lead_shadows[number] | (read_numbers(shadows / f"{number:06d}.png") > 0)
        for name in bodies:
            touched |= clip.read_channel(f"masks/{name}", number)
        masks.append(cv2.dilate(touched.astype(np.uint8), np.ones((size, size), np.uint8)) == 0)
    return masks


def compared(
    photos: Iterable[UInt8[np.ndarray, "H W 3"]],
    raw: Iterable[UInt8[np.ndarray, "H W 3"]],
    edited: Iterable[UInt8[np.ndarray, "H W 3"]],
    untouched: Sequence[Bool[np.ndarray, "H W"]],
) -> dict[str, Any]:
    """How raw render and edited clip score against the photos where no edit may reach, over all frames and in the worst one."""
    squares, changes, counted, worst_db = np.zeros(3), 0, 0, -math.inf
    for photo, before, now, free in zip(photos, raw, edited, untouched, strict=True):
        if not free.any():
            continue
        errors = [np.square(a[free].astype(float) - b[free]).sum() for a, b in ((before, photo), (now, photo), (now, before))]
        worst_db = max(worst_db, decibels(errors[0], free.sum()) - decibels(errors[1], free.sum()))
        squares += errors
        changes += int((before[free] != now[free]).any(axis=-1).sum())
        counted += int(free.sum())
    if not counted:
        return {"outside_share": 0.0}
    raw_db, edited_db, between_db = (decibels(square, counted) for square in squares)
    return {
        "outside_share": round(counted / sum(free.size for free in untouched), 4),
        "raw_db": round(raw_db, 3),
        "edited_db": round(edited_db, 3),
        "lost_db": round(raw_db - edited_db, 4),
        "lost_db_worst_frame": round(worst_db, 4),
        "changed_share": round(changes / counted, 5),
        "edited_against_raw_db": None if math.isinf(between_db) else round(between_db, 2),
    }


def taken_out_rows(trial: Trial) -> Iterator[dict[str, Any]]:
    """The lead is taken out, without and with the background mended: what is seen in its place."""
    file = trial.work / f"{TAKEN_OUT}.yaml"
    file.write_text(f"edits:\n  - remove: {trial.lead}\n")
    shown = {mended: trial.edited(file, mended=mended).scene for mended in (False, True)}
    views = _views(trial, shown[True])
    pictures: dict[bool, list[np.ndarray]] = {mended: [] for mended in shown}
    through = dict.fromkeys(shown, 0)
    pixels = unseen = 0
    for shot in trial.trajectory:
        box = trial.lead_before(shot)
        drawn = {mended: _drawn(scene, shot) for mended, scene in shown.items()}
        depth_m = drawn[True].depth_m
        assert depth_m is not None
        seen = receivers(shot, trial.scene.camera_model, depth_m, drawn[True].opacity, trial.scene.origin_world_m)
        level = seen.points[torch.from_numpy(box).to(seen.points.device)] @ seen.points.new_tensor(level_axes(trial.scene.up_world)).T
        pixels += int(box.sum())
        unseen += int((~views.look_at(level).seen.cpu().numpy() & seen.valid.cpu().numpy()[box]).sum())
        for mended, one in drawn.items():
            assert one.rgb is not None
            pictures[mended].append(to_uint8(one.rgb.cpu().numpy()))
            through[mended] += int((one.opacity.cpu().numpy()[box] < SOLID).sum())
    for mended in shown:
        yield {
            "edit": TAKEN_OUT,
            "mended": mended,
            "lead": trial.lead,
            "frames": len(trial.trajectory),
            "box_share": round(pixels / (len(trial.trajectory) * trial.photos[0][..., 0].size), 4),
            "never_seen_share": round(unseen / max(pixels, 1), 4),
            "see_through_share": round(through[mended] / max(pixels, 1), 4),
        }
    write_sheet(trial.work / f"{TAKEN_OUT}.png", trial.photos, list(trial.raw.iter_rgb()), pictures[False], pictures[True])


def _views(trial: Trial, emptied: Scene) -> Views:
    """All recorded shots, asked what they saw past the lead."""
    level_from_world = np.eye(4)
    level_from_world[:3, :3] = level_axes(trial.scene.up_world)
    level_from_world[:3, 3] = -level_from_world[:3, :3] @ trial.scene.origin_world_m
    lead = RemovedActor.of(trial.scene, trial.lead, level_from_world)
    return Views(trial.scene, emptied, [lead], [one.shot for one in trial.scene.shots], level_from_world)


def _drawn(scene: Scene, shot: Shot) -> RenderOutput:
    with torch.no_grad():
        return render(scene, shot, ("rgb", "depth"))


def decibels(squares: float, pixels: int) -> float:
    """PSNR of a sum of squared differences of three 8-bit channels; infinite where there is none."""
    return 10 * math.log10(255.0**2 * 3 * pixels / squares) if squares > 0 else math.inf


def _mean_mask(boxes: list[dict[str, Any]], name: str) -> int:
    """Mean pixels that a body shows while it is there."""
    pixels = [row["mask_pixels"] for row in boxes if row["actor_id"] == name]
    return round(sum(pixels) / max(len(pixels), 1))


def write_sheet(path: Path, *columns: list[UInt8[np.ndarray, "H W 3"]]) -> None:
    """Frames from the first to the last, one below the other, a column for each kind of picture."""
    rows = sorted({round(at) for at in np.linspace(0, len(columns[0]) - 1, SHOWN)})
    write_image(path, np.concatenate([np.concatenate([column[row] for column in columns], axis=1) for row in rows]))


def scene_and_log(chosen: argparse.Namespace) -> tuple[Scene, SceneLog]:
    """The scene that was given, or a fit to the log that was given (one that is in the working folder already is taken)."""
    path = chosen.source
    if path is not None and (path / MANIFEST).is_file() and read_manifest(path).kind == "scene":
        scene = load_scene(path, chosen.device)
        return scene, log_of_scene(path, scene)
    if chosen.toy:
        path, config = chosen.work / "street", fit_config("demo", RecipeOptions(iterations=TOY_ITERATIONS))
        if not path.exists():
            write_street(build_street(TOY), path)
    else:
        config = fit_config("kitti", RecipeOptions(preset=chosen.preset, iterations=chosen.iterations))
    log, out = open_log(path), chosen.work / "scene"
    if not out.exists():
        fit(log, out, replace(config, device=chosen.device), resume=True)
    return load_scene(out, chosen.device), log


def library_of(trial: Trial, files: list[Path]) -> list[str]:
    """Assets by name in the working folder's library: meshes, folders of assets, or without either the lead itself, harvested."""
    library = AssetLibrary(trial.work / "assets")
    assets: list[Asset] = [load_asset(file) if file.is_dir() else import_mesh(file) for file in files]
    for asset in assets or [harvest_actor(trial.scene, trial.lead, trial.light)]:
        library.add(asset, overwrite=True)
    return [asset.asset_id for asset in assets] or list(library.ids())


def main(arguments: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("source", type=Path, nargs="?", help="folder of a log, or of a scene whose log is where it was")
    options.add_argument("--toy", action="store_true")
    options.add_argument("--work", type=Path, required=True, help="folder for the fit, assets, edits, clips and pictures")
    options.add_argument("--out", type=Path, required=True, help="JSON lines; rows are appended")
    options.add_argument("--asset", type=Path, nargs="+", default=[], help="meshes or folders of assets")
    options.add_argument("--oncoming", type=float, nargs=3, default=(3.5, 30.0, 8.0), metavar=("LEFT_M", "AHEAD_M", "M_S"))
    options.add_argument("--margin", type=int, default=8, help="pixels around bodies and shadows that are not scored")
    options.add_argument("--preset", choices=("cpu", "gpu"), default="cpu", help="size of the fit")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--iterations", type=int)
    options.add_argument("--frames", type=int, help="at most so many")
    chosen = options.parse_args(arguments)
    if (chosen.source is None) != chosen.toy:
        options.error("give a log, a scene or --toy")
    chosen.work.mkdir(parents=True, exist_ok=True)
    scene, log = scene_and_log(chosen)
    trial = Trial(
        scene=scene,
        log=log,
        light=estimate_light(scene, TOY_LIGHT if chosen.toy else None),
        trajectory=build_trajectory(scene, TrajectoryConfig(frames=chosen.frames)),
        lead=lead_vehicle(scene),
        work=chosen.work,
        margin_px=chosen.margin,
    )
    rows = [{"kind": "environment", **environment(PACKAGES, cuda=chosen.device == "cuda"), "scene": scene_facts(trial)}]
    rows += put_in_rows(trial, library_of(trial, chosen.asset), tuple(chosen.oncoming))
    rows += taken_out_rows(trial)
    with chosen.out.open("a") as file:
        for row in rows:
            print(json.dumps(row), flush=True)
            file.write(json.dumps(row) + "\n")
    print(f"pictures: {chosen.work / PUT_IN}.png and {chosen.work / TAKEN_OUT}.png: photo, raw, edited, edited and mended")
    return 0


def scene_facts(trial: Trial) -> Mapping[str, Any]:
    camera, light = trial.trajectory[0].camera, trial.light
    return {
        "log": trial.log.log_id,
        "picture": [camera.width, camera.height],
        "gaussians": trial.scene.gaussian_count,
        "sun_deg": [round(light.sun_azimuth_deg, 1), round(light.sun_elevation_deg, 1)],
        "sun": [round(value, 3) for value in light.sun],
    }


if __name__ == "__main__":
    raise SystemExit(main())
