"""Clips of an edited scene, with masks and boxes of what was put in.

Layout of the folder (artefact kind "clips"): `naive/`, a clip in which what was put in shows its own colours, and where light is known
`finished/`, a clip in which it is lit and casts shadows, with `shadow/NNNNNN.png` (uint8, 255 = all light taken). Both have `masks/NAME/`
for each body that was put in. Whoever renders may add clips that are made of these. `boxes.jsonl` has a line per frame and actor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.actor_edits import ActorEdits
from splatmend.datasets.artifact import Manifest, building, plain
from splatmend.datasets.clip import ClipWriter, Encoding
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import to_uint8, write_image
from splatmend.recon.edits.apply import EditedScene
from splatmend.recon.insertion.boxes import box_rows, silhouette
from splatmend.recon.insertion.frame import InsertedFrame, draw_insertion
from splatmend.recon.insertion.references import EditedReferences, with_bodies
from splatmend.recon.raster.api import Backend
from splatmend.recon.references import References
from splatmend.recon.scene_files import file_name
from splatmend.recon.trajectory import Trajectory

NAIVE, FINISHED = "naive", "finished"
_LEAST_ALONE_PX = 1.0


class FinishedPicture(Protocol):
    """A picture in which what was put in belongs: lit, with its shadow."""

    @property
    def rgb(self) -> Float[Tensor, "H W 3"]: ...
    @property
    def kept(self) -> Float[Tensor, "H W 3"]: ...
    @property
    def shadow(self) -> Float[Tensor, "H W"]: ...


class FrameFinisher(Protocol):
    """What lights naive frames."""

    def finish(self, frame: InsertedFrame) -> FinishedPicture: ...


def render_insertion(
    edited: EditedScene,
    trajectory: Trajectory,
    out: Path,
    *,
    finisher: FrameFinisher | None = None,
    encoding: Encoding = "png",
    depth: bool = False,
    references: References | None = None,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    overwrite: bool = False,
    backend: Backend | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    add: Callable[[Path], int] | None = None,
) -> Path:
    """Render an edited scene along a trajectory into clips; returns their folder.

    `trajectory` is one through `edited.scene` or the recorded one; it must not edit actors itself. `references`, of `edited.recorded`, give
    both clips layers of them, with what was put in before them and, of the finished one, its shadows on them. `config` goes into the
    manifest. `add` gets the folder with its clips before it is whole, may write others beside them, and says how many.

    Raises:
        UserError: where there is no shot, the trajectory edits actors, or `out` exists or cannot be written.
    """
    if not len(trajectory):
        raise UserError(f"{out}: there is no shot to render; give a trajectory with frames.")
    if trajectory.without or trajectory.actor_poses is not None:
        raise UserError("trajectory: actors are edited by the file of edits here; write what is removed and shifted there.")
    folders = {name: file_name(name) for name in edited.inserted}
    changes = _changes(edited)
    facts = plain(dict(trajectory.facts))
    resolved = {
        "trajectory": facts.pop("trajectory", None),
        "encoding": encoding,
        "depth": depth,
        "references": None if references is None else plain(references.config),
        **plain(dict(config or {})),
    }
    beside = None if references is None else EditedReferences(edited, references, backend=backend)
    whole = Manifest(kind="clips", config=resolved, inputs=dict(inputs or {}))
    with ExitStack() as stack:
        folder = stack.enter_context(building(Path(out), whole, overwrite=overwrite))
        names = [NAIVE] if finisher is None else [NAIVE, FINISHED]
        manifests = {name: Manifest(kind="clip", config=resolved | {"insertion": name}, inputs=dict(inputs or {})) for name in names}
        with ExitStack() as inner:
            clips = {name: inner.enter_context(building(folder / name, manifests[name])) for name in names}
            boxes = inner.enter_context((folder / "boxes.jsonl").open("w"))
            writers = {
                name: inner.enter_context(
                    ClipWriter(clips[name], encoding=encoding, rate_hz=trajectory.rate_hz, log_id=edited.recorded.log_id)
                )
                for name in names
            }
            for number, (shot, row) in enumerate(zip(trajectory, trajectory.extra, strict=True)):
                with torch.no_grad():
                    frame = draw_insertion(edited, shot, backend=backend, others=True)
                    finished = None if finisher is None else finisher.finish(frame)
                    masks, visible = _seen(edited, frame)
                    layers = None if beside is None else beside.behind(frame)
                line = dict(row) if not changes else {**row, "recorded": False, "held_out": False, "actors": plain(changes)}
                blank = np.zeros(tuple(frame.opacity.shape), dtype=bool)
                shared: dict[str, Any] = {
                    "depth_m": frame.depth_m.cpu().numpy() if depth else None,
                    "opacity": frame.opacity.cpu().numpy(),
                    "masks": {folders[name]: masks.get(name, blank) for name in edited.inserted},
                    "extra": line,
                }
                plainly = None if layers is None else with_bodies(layers, frame)
                writers[NAIVE].write(frame.rgb.cpu().numpy(), shot, references=plainly, **shared)
                if finished is not None:
                    lit = None if layers is None else with_bodies(layers, frame, finished.rgb, finished.kept)
                    writers[FINISHED].write(finished.rgb.cpu().numpy(), shot, references=lit, **shared)
                    write_image(clips[FINISHED] / "shadow" / f"{number:06d}.png", to_uint8(finished.shadow.cpu().numpy()))
                for entry in box_rows(edited, frame, number, masks, visible):
                    boxes.write(json.dumps(entry) + "\n")
                if on_progress is not None:
                    on_progress(number + 1, len(trajectory))
            about = {**facts, "metric": edited.scene.metric, **_about(edited)}
            for name in names:
                manifests[name].facts = {**writers[name].facts, **about}
        more = 0 if add is None else add(folder)
        whole.facts = {"clips": len(names) + more, **about}
    return Path(out)


def _changes(edited: EditedScene) -> ActorEdits:
    """What differs from the log: actors that are moved are gone from where they were, and put in where they are."""
    return ActorEdits(removed=tuple(sorted({*edited.removed, *edited.moved})), inserted=tuple(sorted(edited.inserted)))


def _about(edited: EditedScene) -> dict[str, Any]:
    bodies = {}
    for name, one in edited.inserted.items():
        track = edited.scene.actors[name].track
        bodies[name] = {
            "edit": one.edit,
            "asset": None if one.asset is None else one.asset.asset_id,
            "actor_class": track.actor_class,
            "size_m": list(track.size_m),
            "mask": f"masks/{file_name(name)}",
        }
    return {"inserted": bodies, "removed": list(edited.removed), "notes": list(edited.notes)}


def _seen(edited: EditedScene, frame: InsertedFrame) -> tuple[dict[str, np.ndarray], dict[str, float | None]]:
    """Per actor that is there its mask `[H, W]`, and which part of what the picture would show of it alone is not hidden (None where that
    is less than a pixel). Only pixels before its box count: a body's Gaussians reach into the ground, which hides them everywhere."""
    masks: dict[str, np.ndarray] = {}
    visible: dict[str, float | None] = {}
    for name, share in {**frame.shares, **frame.other_shares}.items():
        seen = share.cpu().numpy()
        masks[name], visible[name] = seen > 0.5, None
        if not seen.any():
            continue
        pose, scene = frame.world_from_actor[name], edited.scene
        box = silhouette(scene.actors[name].track.size_m, pose, frame.shot, scene.camera_model)
        alone = frame.draw_alone(name).cpu().numpy()[box].sum()
        if alone >= _LEAST_ALONE_PX:
            visible[name] = min(float(seen[box].sum() / alone), 1.0)
    return masks, visible
