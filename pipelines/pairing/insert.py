"""Vehicles put in as `splatmend insert` does it: harvested from an ordinary fit of a street, put somewhere else into it, lit and shaded.

The target are the oracle's pictures of the same shots with the vehicle's own mesh on the same track. So a pair shows what insertions leave
wrong: what no camera saw of the vehicle, a light that is estimated, shadows on blurred ground. Mask `inserted` of the degraded clip says
where the vehicle is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from splatmend.datasets.actor_edits import ActorEdits
from splatmend.datasets.artifact import Manifest, building, plain, read_json, write_json
from splatmend.datasets.clip import ClipWriter
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import Street
from splatmend.datasets.street.bodies import FIRST_ACTOR_ID
from splatmend.datasets.street.mesh import Mesh
from splatmend.datasets.street.people import Figure
from splatmend.enhance.insertion import INSERTED
from splatmend.pipelines.boxes import filled, outline_px
from splatmend.pipelines.evaluation.truth import StreetTruth
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.reinsert_recorded import well_harvested
from splatmend.pipelines.pairing.street_light import as_estimated, known_light
from splatmend.pipelines.pairing.vehicles import generator, no_vehicle, vehicles_seen
from splatmend.pipelines.pairing.workshop import NothingToShow, PairPlan, Workshop
from splatmend.recon.assets.asset import Asset
from splatmend.recon.edits.apply import EditedScene, apply_edits
from splatmend.recon.edits.collisions import collision_notes
from splatmend.recon.edits.types import BodyPath, Edits, EgoCourse, Insert, ParkedCourse, Profile
from splatmend.recon.insertion.frame import InsertedFrame, draw_insertion
from splatmend.recon.insertion.references import EditedReferences, with_bodies
from splatmend.recon.insertion.unseen import unseen_notes
from splatmend.recon.light.finish import Finisher
from splatmend.recon.light.light_files import load_light, save_light
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.references import references_of
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import file_name
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig, build_trajectory

_LEAST_PX, _LEAST_FRAMES = 60, 0.5
"""A vehicle shows so many pixels in such a share of the frames, or is put elsewhere."""
_COMPARED, _LEAST_OVERLAP = 3, 0.7
"""In so many of them together it overlaps so much with its mesh."""
_DRAWS = 24
"""Places that are drawn for a vehicle, before another one is taken."""
_PLAN = Path("insert")
"""The file that messages of edits would name."""


@dataclass(frozen=True, kw_only=True)
class PutIn:
    """A vehicle of a street in another place of it."""

    vehicle: str
    path: BodyPath
    edited: EditedScene

    @property
    def track(self) -> PoseTrack:
        return self.edited.scene.actors[INSERTED].track.track

    @property
    def size_m(self) -> tuple[float, float, float]:
        return self.edited.scene.actors[INSERTED].track.size_m


def plans(config: PairsConfig, source: PairSource, camera: str) -> list[PairPlan]:
    """Up to `insertions` pairs, fewer where no place is left for another; `UserError` for a source without an oracle, and where a camera
    sees no vehicle well."""
    if not source.sees_everything:
        raise UserError(
            f"{source.name}: the strategy insert needs an oracle that draws vehicles elsewhere, which only streets have (street:SEED, or a "
            "folder that `splatmend street` wrote); use reinsert here."
        )
    if not vehicles_seen(source.log.actors, source.shots(camera)):
        raise no_vehicle(source.name, camera, "insert")
    names = [f"{camera}-insert{number}" for number in range(config.insertions)]
    return [
        PairPlan(
            name=name,
            kind="insert",
            target=name,
            degrade=partial(degrade, camera=camera, number=number),
            write_target=partial(write_target, camera=camera, number=number),
            may_lack=number > 0,
        )
        for number, name in enumerate(names)
    ]


def degrade(shop: Workshop, out: Path, *, camera: str, number: int) -> Trajectory:
    """The recorded path of a camera with a vehicle put in. Which one, where and in which light follows from scene, camera and number."""
    source, scene = shop.source, shop.whole()
    rng = generator(source.scene, camera, "insert", str(number))
    right = light_of(shop, scene)
    light = as_estimated(right, rng)
    recorded = build_trajectory(scene, TrajectoryConfig(camera=camera))
    put_in = drawn(shop, scene, camera, number, right, rng)
    write_json(_kept(shop, camera, number), {"vehicle": put_in.vehicle, "track": _as_json(put_in.track)})
    trajectory = _edited_rows(recorded)
    edited = put_in.edited
    finisher = Finisher(edited.scene, {INSERTED: edited.inserted[INSERTED].asset}, light, recorded=edited.recorded)
    references = references_of(scene, source.log, shop.config.references)
    beside = None if references is None else EditedReferences(edited, references)
    facts = {"sun_azimuth_deg": light.sun_azimuth_deg, "sun_elevation_deg": light.sun_elevation_deg, "sun": list(light.sun)}
    settings = {"encoding": shop.config.encoding, "vehicle": put_in.vehicle, "path": plain(put_in.path), "light": facts}
    manifest = Manifest(kind="clip", config=settings)
    with (
        building(out, manifest, overwrite=True) as folder,
        ClipWriter(folder, encoding=shop.config.encoding, rate_hz=trajectory.rate_hz, log_id=scene.log_id) as writer,
        torch.no_grad(),
    ):
        for shot, extra in zip(trajectory.shots, trajectory.extra, strict=True):
            frame = draw_insertion(edited, shot)
            lit = finisher.finish(frame)
            writer.write(
                lit.rgb.cpu().numpy(),
                shot,
                opacity=frame.opacity.cpu().numpy(),
                masks={INSERTED: _mask(frame)},
                references=None if beside is None else with_bodies(beside.behind(frame), frame, lit.rgb, lit.kept),
                extra=extra,
            )
        manifest.facts = writer.facts
    return trajectory


def write_target(shop: Workshop, trajectory: Trajectory, out: Path, *, camera: str, number: int) -> None:
    """The oracle's pictures of a trajectory with the mesh of the vehicle that `degrade` has put in."""
    truth = shop.source.truth
    assert isinstance(truth, StreetTruth)
    street, kept = truth.street, read_json(_kept(shop, camera, number))
    extra = [(mesh_of(street, kept["vehicle"]), _from_json(kept["track"]))]
    manifest = Manifest(kind="clip", config={"target": shop.source.name, "vehicle": kept["vehicle"]})
    with (
        building(out, manifest, overwrite=True) as folder,
        ClipWriter(folder, encoding=shop.config.encoding, rate_hz=trajectory.rate_hz, log_id=shop.source.log.log_id) as writer,
    ):
        for shot, row in zip(trajectory.shots, trajectory.extra, strict=True):
            writer.write(street.render(shot, extra=extra, supersample=street.config.supersample).rgb, shot, extra=row)
        manifest.facts = writer.facts


def light_of(shop: Workshop, scene: Scene) -> SceneLight:
    """The light of a street, which lies beside its fits."""
    out, truth = shop.fits / "street-light", shop.source.truth
    assert isinstance(truth, StreetTruth)
    if not out.exists():
        save_light(out, known_light(truth.street))
    return load_light(out, scene.device)


def drawn(shop: Workshop, scene: Scene, camera: str, number: int, light: SceneLight, rng: np.random.Generator) -> PutIn:
    """A vehicle that the camera sees, put where it sees it too. `UserError` where none was seen well enough, `NothingToShow` where no place
    is fit."""
    source, tried = shop.source, []
    assert isinstance(source.truth, StreetTruth)
    shots = [recorded.shot for recorded in scene.shots_of(camera)]
    for vehicle, asset in well_harvested(source, scene, camera, candidates(source, camera, number), light, "insert"):
        tried.append(vehicle)
        for _ in range(_DRAWS):
            put_in = placed(scene, vehicle, asset, drawn_path(rng))
            if put_in is not None and is_seen(put_in, source.truth.street, shots):
                return put_in
    raise NothingToShow(
        f"{source.name}: of {_DRAWS} places drawn for each of {', '.join(tried)} {camera} sees none well that is free; leave insert out, "
        "or take another source."
    )


def candidates(source: PairSource, camera: str, number: int) -> list[str]:
    """Vehicles in the order in which they are tried: each pair of a camera begins with another one."""
    assert isinstance(source.truth, StreetTruth)
    street = source.truth.street
    rigid = {actor.actor_id for actor, mesh in zip(street.actors, street.actor_meshes, strict=True) if isinstance(mesh, Mesh)}
    seen = [name for name in vehicles_seen(source.log.actors, source.shots(camera)) if name in rigid]
    order = generator(source.scene, camera, "insert").permutation(len(seen))
    return [seen[one] for one in np.roll(order, -number)]


def drawn_path(rng: np.random.Generator) -> BodyPath:
    """Ahead in the own lane, oncoming, or standing beside the lane."""
    where = rng.integers(3)
    if where == 0:
        return BodyPath(ego=EgoCourse(ahead=float(rng.uniform(8, 16))))
    if where == 1:
        left, ahead, speed = (float(rng.uniform(*ends)) for ends in ((3.0, 3.8), (20, 32), (3, 8)))
        return BodyPath(ego=EgoCourse(left=Profile.constant(left), ahead=ahead, speed=Profile.constant(speed), direction="against"))
    left = float(rng.uniform(*((-2.8, -2.0) if rng.random() < 0.5 else (3.6, 4.4))))
    return BodyPath(parked=ParkedCourse(ahead=float(rng.uniform(12, 24)), left=left, yaw_deg=180.0 * float(rng.integers(2))))


def placed(scene: Scene, vehicle: str, asset: Asset, path: BodyPath) -> PutIn | None:
    """A vehicle put onto a path; None where the path leads nowhere or through another body."""
    try:
        edited = apply_edits(scene, Edits(file=_PLAN, edits=(Insert(asset=vehicle, new_id=INSERTED, path=path),)), lambda _: asset)
    except UserError:
        return None
    if collision_notes(edited.scene, {INSERTED: 0}, str(_PLAN)):
        return None
    return PutIn(vehicle=vehicle, path=path, edited=edited)


@torch.no_grad()
def is_seen(put_in: PutIn, street: Street, shots: Sequence[Shot]) -> bool:
    """Whether enough of a body is seen in enough of the frames, and what is seen of it was seen by the fit too: a body of which nothing
    recorded this side is no fault that could be mended."""
    wanted = _LEAST_FRAMES * len(shots)
    # Its box first, which takes no drawing.
    inside = [shot for shot in shots if _box_px(put_in, shot).sum() >= _LEAST_PX]
    if len(inside) < wanted or unseen_notes(put_in.edited, shots):
        return False
    if sum(_mask(draw_insertion(put_in.edited, shot)).sum() >= _LEAST_PX for shot in inside) < wanted:
        return False
    looked_at = [inside[round(at)] for at in np.linspace(0, len(inside) - 1, min(_COMPARED, len(inside)))]
    both, together = np.sum([overlap_px(put_in, street, shot) for shot in looked_at], axis=0)
    return bool(both >= _LEAST_OVERLAP * together)


def overlap_px(put_in: PutIn, street: Street, shot: Shot) -> tuple[int, int]:
    """How many pixels a body and its mesh cover both, and how many they cover together."""
    mask, box = _mask(draw_insertion(put_in.edited, shot)), _box_px(put_in, shot)
    rows, columns = (np.nonzero((mask | box).any(axis=axis))[0] for axis in (1, 0))
    if not len(rows):
        return 0, 0
    window = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    drawn = street.render(shot, extra=[(mesh_of(street, put_in.vehicle), put_in.track)], window=window, supersample=1)
    true = drawn.ids == FIRST_ACTOR_ID + len(street.actors)
    return int((true & mask[window]).sum()), int((true | mask[window]).sum())


def mesh_of(street: Street, vehicle: str) -> Mesh | Figure:
    """What the oracle draws for a vehicle."""
    return street.actor_meshes[[actor.actor_id for actor in street.actors].index(vehicle)]


def _box_px(put_in: PutIn, shot: Shot) -> np.ndarray:
    """The pixels of a body's box, `[H, W]` bool."""
    outline = outline_px(shot, put_in.track.at(shot.mid_us), put_in.size_m)
    return filled(outline, (shot.camera.height, shot.camera.width))


def _mask(frame: InsertedFrame) -> np.ndarray:
    """Where the body is, `[H, W]` bool."""
    share = frame.shares.get(INSERTED)
    return np.zeros(tuple(frame.opacity.shape), dtype=bool) if share is None else share.cpu().numpy() > 0.5


def _edited_rows(recorded: Trajectory) -> Trajectory:
    """The same shots, of which the log has no picture, as it lacks what is put in."""
    changes = {"recorded": False, "held_out": False, "actors": plain(ActorEdits(inserted=(INSERTED,)))}
    return replace(recorded, extra=tuple({**row, **changes} for row in recorded.extra))


def _kept(shop: Workshop, camera: str, number: int) -> Path:
    """What `degrade` has put in, beside the fits."""
    return shop.fits / f"put-in-{file_name(camera)}-{number}.json"


def _as_json(track: PoseTrack) -> dict[str, list]:
    return {"times_us": track.times_us.tolist(), "world_from_body": track.world_from_body.tolist()}


def _from_json(raw: Mapping[str, list]) -> PoseTrack:
    return PoseTrack(times_us=np.array(raw["times_us"], np.int64), world_from_body=np.array(raw["world_from_body"]))
