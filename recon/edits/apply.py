"""A scene with edits: another scene beside the one that was recorded, which stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.log import ActorTrack
from splatmend.recon.assets.asset import Asset
from splatmend.recon.edits.collisions import collision_notes
from splatmend.recon.edits.courses import Surroundings
from splatmend.recon.edits.forms import listed
from splatmend.recon.edits.ground import SceneGround
from splatmend.recon.edits.guide import Guide
from splatmend.recon.edits.tracks import NoTrack, make_track
from splatmend.recon.edits.types import BodyPath, Duplicate, Edit, Edits, FollowCourse, Insert, Move, Remove, Replace, shown_id
from splatmend.recon.nodes import RigidActor
from splatmend.recon.scene import Scene
from splatmend.recon.trajectory import TrajectoryConfig, length_unit


@dataclass(frozen=True, kw_only=True)
class Inserted:
    """What stands in an edited scene and did not stand so in the recorded one: by which of the file's edits (counted from 0), and the
    asset that it is, at the size that it has there; None for a recorded actor that was moved or copied (its Gaussians are the scene's)."""

    actor_id: str
    edit: int
    asset: Asset | None


@dataclass(frozen=True, kw_only=True)
class EditedScene:
    """`scene` shows the edits, `recorded` is the scene as it was (both share tensors, which nobody writes to).

    `inserted` has what was put in, copied, moved or swapped in, by its id in `scene`; `removed` are ids of the recorded scene that are
    not shown any more; `notes` are sentences that a person should know.
    """

    scene: Scene
    recorded: Scene
    inserted: Mapping[str, Inserted]
    removed: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def moved(self) -> tuple[str, ...]:
        """Ids of recorded actors that are somewhere else."""
        return tuple(name for name in self.inserted if name in self.recorded.actors)


def apply_edits(scene: Scene, edits: Edits, load: Callable[[str], Asset], *, unit: float | None = None) -> EditedScene:
    """The scene as edits have it. `load` gives an asset by its name; `unit` is scene units per unit of length in the file, by default as
    in `TrajectoryConfig`.

    Raises:
        UserError: for an actor or asset that does not exist, an id that is taken, a path that never is where and when the scene is
            known, or bodies that follow each other in a circle; with the line.
    """
    return _Editing(scene, edits, load, unit).done()


_SHORTEST_M, _LONGEST_M = 1.5, 25.0
"""Vehicles are this long."""


class _Editing:
    def __init__(self, scene: Scene, edits: Edits, load: Callable[[str], Asset], unit: float | None) -> None:
        self.scene, self.edits, self.load = scene, edits, load
        self.unit = unit if unit is not None else length_unit(scene, TrajectoryConfig())
        self.notes: list[str] = []
        self.bodies: dict[str, RigidActor] = {}
        self.assets: dict[str, Asset] = {}
        self.making: list[str] = []
        self.by_id = {new_id: edit for edit in edits.edits if (new_id := shown_id(edit)) is not None}
        self._check_ids()
        if self.by_id:
            self._look_around()

    def done(self) -> EditedScene:
        """The edited scene."""
        inserted = {}
        for number, edit in enumerate(self.edits.edits):
            new_id = shown_id(edit)
            if new_id is not None:
                self._body(new_id)
                inserted[new_id] = Inserted(actor_id=new_id, edit=number, asset=self.assets.get(new_id))
        removed = tuple(edit.actor for edit in self.edits.edits if isinstance(edit, (Remove, Replace)))
        actors = {name: actor for name, actor in self.scene.actors.items() if name not in removed}
        actors.update({name: self.bodies[name] for name in inserted})
        edited = replace(self.scene, actors=actors)
        lines = {name: self.edits.edits[one.edit].line for name, one in inserted.items()}
        met = collision_notes(edited, lines, str(self.edits.file))
        return EditedScene(scene=edited, recorded=self.scene, inserted=inserted, removed=removed, notes=(*self.notes, *met))

    def _refuse(self, edit: Edit | BodyPath, sentence: str) -> UserError:
        return UserError(f"{self.edits.file}: line {edit.line}: {sentence}.")

    def _check_ids(self) -> None:
        actors = self.scene.actors
        for edit in self.edits.edits:
            if not isinstance(edit, Insert) and edit.actor not in actors:
                raise self._refuse(edit, f"the scene has no actor {edit.actor}; its actors are {listed(list(actors))}")
            new_id = shown_id(edit)
            if new_id in actors and not isinstance(edit, Move):
                raise self._refuse(edit, f"the scene has an actor {new_id} already; choose another id")

    def _look_around(self) -> None:
        scene = self.scene
        if not (np.isfinite(self.unit) and self.unit > 0):
            raise self._refuse(
                self.edits.edits[0],
                "the scene has neither a scale nor a path to take a length from; say by --trajectory.unit how long one is",
            )
        recorded = [r.shot for r in scene.shots]
        start_us = min([shot.mid_us for shot in recorded] or [scene.ego.start_us])
        end_us = max([shot.mid_us for shot in recorded] or [scene.ego.end_us])
        self.ground = SceneGround(scene, self.unit)
        level = self.ground.level_from_world
        places = scene.ego.world_from_body[:, :3, 3] @ level.T
        facing = scene.ego.world_from_body[:, :3, 0] @ level.T
        self.around = Surroundings(
            ego=Guide.through(scene.ego.times_us, places[:, :2], np.arctan2(facing[:, 1], facing[:, 0]), self.unit),
            start_us=start_us,
            end_us=end_us,
            level_from_world=level,
            unit=self.unit,
            track_of=self._followed,
        )

    def _followed(self, actor_id: str) -> tuple[PoseTrack, float]:
        """The track of an actor as the edits have it; a body that follows itself follows where it was recorded."""
        if actor_id in self.by_id and actor_id != self.making[-1]:
            track = self._body(actor_id).track
        else:
            track = self.scene.actors[actor_id].track
        return track.track, track.size_m[2]

    def _body(self, new_id: str) -> RigidActor:
        if new_id not in self.bodies:
            self.making.append(new_id)
            self.bodies[new_id] = self._made(new_id, self.by_id[new_id])
            self.making.pop()
        return self.bodies[new_id]

    def _made(self, new_id: str, edit: Edit) -> RigidActor:
        if isinstance(edit, Replace):
            # Along the old track, but on the scene's own ground (labels float and sink), unless the body hangs in the air.
            asset = self._asset(edit, new_id)
            hangs = self.scene.actors[edit.actor].track.actor_class == "sign"
            path = BodyPath(follow=FollowCourse(actor=edit.actor), on_ground=not hangs, line=edit.line)
            return _asset_actor(asset, new_id, self._track(new_id, path, asset.size_m))
        if isinstance(edit, Insert):
            asset = self._asset(edit, new_id)
            return _asset_actor(asset, new_id, self._track(new_id, edit.path, asset.size_m))
        assert isinstance(edit, (Move, Duplicate))
        actor = self.scene.actors[edit.actor]
        track = self._track(new_id, edit.path, actor.track.size_m)
        return replace(actor, track=replace(actor.track, actor_id=new_id, track=track))

    def _track(self, new_id: str, path: BodyPath, size: tuple[float, float, float]) -> PoseTrack:
        follow = path.follow
        if follow is not None:
            known = {*self.scene.actors, *self.by_id}
            if follow.actor not in known or (follow.actor == new_id and new_id not in self.scene.actors):
                raise self._refuse(path, f"there is no actor {follow.actor} to follow; there are {listed(sorted(known - {new_id}))}")
            if follow.actor in self.making[:-1]:
                circle = " and ".join(self.making[self.making.index(follow.actor) :])
                raise self._refuse(path, f"{circle} follow each other; give one of them a path of its own")
        try:
            made = make_track(path, size, self.around, self.ground)
        except NoTrack as fault:
            raise self._refuse(path, f"{new_id} {fault}") from None
        self.notes += [f"{self.edits.file}: line {path.line}: {new_id} {note}." for note in made.notes]
        return made.track

    def _asset(self, edit: Replace | Insert, new_id: str) -> Asset:
        try:
            asset = self.load(edit.asset)
        except UserError as fault:
            raise self._refuse(edit, f"the asset {edit.asset} cannot be taken ({str(fault).rstrip('.')})") from None
        length_m = edit.scale * asset.size_m[0]
        if edit.scale != 1 and asset.actor_class == "vehicle" and not _SHORTEST_M <= length_m <= _LONGEST_M:
            self.notes.append(f"{self.edits.file}: line {edit.line}: {new_id} is {length_m:.3g} m long, as no vehicle is.")
        asset = _scaled(asset.to(self.scene.device), edit.scale * self.unit)
        self.assets[new_id] = asset
        return asset


def _scaled(asset: Asset, factor: float) -> Asset:
    if factor == 1.0:
        return asset
    gaussians = asset.gaussians
    gaussians = replace(gaussians, means=gaussians.means * factor, log_scales=gaussians.log_scales + float(np.log(factor)))
    length, width, height = asset.size_m
    return replace(asset, gaussians=gaussians, size_m=(factor * length, factor * width, factor * height))


def _asset_actor(asset: Asset, new_id: str, track: PoseTrack) -> RigidActor:
    return RigidActor(
        gaussians=asset.gaussians,
        track=ActorTrack(actor_id=new_id, actor_class=asset.actor_class, size_m=asset.size_m, track=track),
    )
