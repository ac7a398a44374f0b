"""A scene as a folder (artefact kind "scene").

`background.ply`, `actors/*.ply`, `actors/*.motion.safetensors` of actors that bend, `tracks.json` (ego path, actors and their files),
`sky.safetensors`, `exposure.json` (and `exposure.safetensors` where it is grids), `shots.jsonl` (recorded shots), and in the manifest's
facts what has no file of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from splatmend.datasets.artifact import Manifest, building, read_json, read_manifest, write_json
from splatmend.datasets.clip import shot_from_json, shot_to_json
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.log import ActorTrack
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.motion_files import load_motion, save_motion
from splatmend.recon.nodes import DeformableActor, RigidActor, StaticNode
from splatmend.recon.ply import export_ply, import_ply
from splatmend.recon.scene import RecordedShot, Scene
from splatmend.recon.sky import SkyMap


def save_scene(out: Path, scene: Scene, config: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write a scene as an artefact of its own; `config` says how it was made. Errors: those of `artifact.building`."""
    manifest = Manifest(kind="scene", config=config)
    with building(Path(out), manifest, overwrite=overwrite) as folder:
        write_scene(folder, scene)
        manifest.facts = scene_facts(scene)
    return Path(out)


def write_scene(folder: Path, scene: Scene) -> None:
    """A scene's files without the manifest, into a folder that `artifact.building` gave."""
    export_ply(scene.background.gaussians, folder / "background.ply")
    entries = []
    for actor_id, actor in scene.actors.items():
        file = f"actors/{file_name(actor_id)}.ply"
        export_ply(actor.gaussians, folder / file)
        entry: dict[str, Any] = {
            "actor_id": actor_id,
            "actor_class": actor.track.actor_class,
            "size_m": actor.track.size_m,
            "file": file,
            "times_us": actor.track.track.times_us,
            "world_from_actor": actor.track.track.world_from_body,
        }
        if isinstance(actor, DeformableActor):
            entry["motion"] = f"actors/{file_name(actor_id)}.motion.safetensors"
            save_motion(actor.motion, folder / entry["motion"])
        entries.append(entry)
    ego = {"times_us": scene.ego.times_us, "world_from_ego": scene.ego.world_from_body}
    write_json(folder / "tracks.json", {"ego": ego, "actors": entries})
    if scene.sky is not None:
        tensors = {"logits": scene.sky.logits.detach().cpu().contiguous(), "sky_from_world": torch.from_numpy(scene.sky.sky_from_world)}
        save_file(tensors, str(folder / "sky.safetensors"))
    write_json(folder / "exposure.json", scene.exposure.to_json())
    if scene.exposure.grid:
        save_file({"deltas": scene.exposure.centred.detach().cpu().contiguous()}, str(folder / "exposure.safetensors"))
    with (folder / "shots.jsonl").open("w") as lines:
        for recorded in scene.shots:
            row = {"frame_index": recorded.frame_index, "role": recorded.role, "shot": shot_to_json(recorded.shot)}
            lines.write(json.dumps(row | recorded.correction_entry) + "\n")


def scene_facts(scene: Scene) -> dict[str, Any]:
    """What the manifest of a scene says beside its files."""
    return {
        **scene.facts,
        "log_id": scene.log_id,
        "source": scene.source,
        "metric": scene.metric,
        "up_world": list(scene.up_world),
        "origin_world_m": scene.origin_world_m.tolist(),
        "median_camera_step": scene.median_camera_step,
        "camera_model": scene.camera_model,
        "sky": scene.sky is not None,
        "exposure": "bilateral" if scene.exposure.grid else "affine",
        "gaussians": {"background": len(scene.background.gaussians), "actors": {k: len(a.gaussians) for k, a in scene.actors.items()}},
    }


def load_scene(path: Path, device: str | torch.device = "cpu") -> Scene:
    """A scene from its folder.

    Raises:
        UserError: where the folder is no scene, or one of its files is missing or broken.
    """
    path = Path(path)
    facts = dict(read_manifest(path, "scene").facts)
    tracks = read_json(path / "tracks.json")
    try:
        actors = {raw["actor_id"]: _actor(path, raw) for raw in tracks["actors"]}
        scene = Scene(
            background=StaticNode(
                gaussians=import_ply(path / "background.ply"), origin_world_m=np.asarray(facts["origin_world_m"], dtype=np.float64)
            ),
            actors=actors,
            # Scenes from before it was written down have the sky that lies there.
            sky=_load_sky(path / "sky.safetensors") if facts.get("sky", (path / "sky.safetensors").is_file()) else None,
            exposure=_load_exposure(path, facts.get("exposure", "affine")),
            shots=_load_shots(path / "shots.jsonl"),
            ego=_pose_track(tracks["ego"]["times_us"], tracks["ego"]["world_from_ego"]),
            up_world=tuple(facts["up_world"]),
            metric=bool(facts["metric"]),
            source=str(facts["source"]),
            log_id=str(facts["log_id"]),
            median_camera_step=float(facts["median_camera_step"]),
            # Scenes from before there was a choice do not say.
            camera_model=facts.get("camera_model", "ewa"),
            facts=facts,
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise UserError(f"{path}: an entry of the scene is missing or broken ({fault!r}); fit the scene again.") from fault
    return scene.to(device)


def file_name(actor_id: str) -> str:
    """A name fit for every file system: the id itself where that is short and plain, else its plain part and a hash."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", actor_id):
        return actor_id
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", actor_id)[:40].strip("-")
    digest = hashlib.sha256(actor_id.encode()).hexdigest()[:12]
    return f"{plain}-{digest}" if plain else digest


def _pose_track(times_us: list[int], poses: list) -> PoseTrack:
    return PoseTrack(times_us=np.asarray(times_us, dtype=np.int64), world_from_body=np.asarray(poses, dtype=np.float64))


def _actor(path: Path, raw: Mapping[str, Any]) -> RigidActor:
    gaussians, track = import_ply(path / raw["file"]), _actor_track(raw)
    if "motion" not in raw:
        return RigidActor(gaussians=gaussians, track=track)
    return DeformableActor(gaussians=gaussians, track=track, motion=load_motion(path / raw["motion"], len(gaussians)))


def _actor_track(raw: Mapping[str, Any]) -> ActorTrack:
    return ActorTrack(
        actor_id=raw["actor_id"],
        actor_class=raw["actor_class"],
        size_m=tuple(raw["size_m"]),
        track=_pose_track(raw["times_us"], raw["world_from_actor"]),
    )


def _load_sky(path: Path) -> SkyMap:
    try:
        tensors = load_file(str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: the scene's sky is missing; copy the whole folder again, or fit the scene again.") from None
    except SafetensorError as fault:
        raise UserError(f"{path}: the sky cannot be read ({fault}); fit the scene again.") from None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise UserError(f"{path}: the sky holds values that are no finite numbers; fit the scene again.")
    return SkyMap(logits=tensors["logits"], sky_from_world=tensors["sky_from_world"].numpy())


def _load_exposure(folder: Path, model: str) -> ExposureTable:
    """The colour corrections; scenes from before there was a choice have one map per picture."""
    rows = read_json(folder / "exposure.json")
    if model == "affine":
        return ExposureTable.from_json(rows)
    path = folder / "exposure.safetensors"
    try:
        return ExposureTable.from_json(rows, load_file(str(path))["deltas"])
    except FileNotFoundError:
        raise UserError(f"{path}: the scene's exposure grids are missing; copy the whole folder again, or fit the scene again.") from None
    except SafetensorError as fault:
        raise UserError(f"{path}: the exposure grids cannot be read ({fault}); fit the scene again.") from None


def _load_shots(path: Path) -> tuple[RecordedShot, ...]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: the list of recorded shots is missing; fit the scene again.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the list of recorded shots is no text; fit the scene again.") from None
    shots = []
    for number, line in enumerate(lines, start=1):
        try:
            shots.append(_recorded_shot(json.loads(line)))
        except (KeyError, TypeError, ValueError) as fault:
            reason = " ".join(str(fault).split())[:120]
            raise UserError(f"{path}: line {number} is no recorded shot ({reason}); fit the scene again.") from None
    return tuple(shots)


def _recorded_shot(raw: Mapping[str, Any]) -> RecordedShot:
    # Scenes whose poses were left as they are, and those from before they could be corrected, do not say.
    correction = np.asarray(raw["logged_from_camera"], dtype=np.float64) if "logged_from_camera" in raw else None
    return RecordedShot(
        shot=shot_from_json(raw["shot"]), frame_index=int(raw["frame_index"]), role=raw["role"], logged_from_camera=correction
    )
