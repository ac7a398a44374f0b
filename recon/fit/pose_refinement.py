"""Poses of cameras and actors as they are learnt in a fit: what a picture is drawn with, and how its gradients move them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.corrections import Corrections, matrices
from splatmend.recon.nodes import RigidActor
from splatmend.recon.placement import PoseTwists
from splatmend.recon.render import ActorPoses
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import HostCopy


@dataclass(frozen=True, kw_only=True)
class ShownPoses:
    """Whose poses a picture shows: the actors', then the camera's. `actors` are those with corrections."""

    camera: str
    t_us: int
    actors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StepTwists:
    """Gradients of a step's pictures with respect to their twists: a row per pose in the order of `ShownPoses`, then rows that nothing
    belongs to."""

    shown: tuple[ShownPoses, ...]
    gradients: Float[Tensor, "P B 6"]


@dataclass(frozen=True, kw_only=True)
class RefinedPoses:
    """What `render` is given to draw a picture with the present corrections. The twists are in the order of `shown`."""

    shown: ShownPoses
    shot: Shot
    twists: PoseTwists | None
    actor_poses: ActorPoses | None

    @property
    def step_twists(self) -> StepTwists:
        """The gradients, after the backward pass, of a step that has no other picture."""
        values = torch.zeros(0, 6) if self.twists is None else self.twists.values
        gradients = torch.zeros_like(values) if values.grad is None else values.grad
        return StepTwists(shown=(self.shown,), gradients=gradients[None])


@dataclass(frozen=True, kw_only=True)
class _Due:
    """Gradients of a step's pictures on their way from the device, and the rows of the tables of corrections that they will move."""

    shown: tuple[ShownPoses, ...]
    gradients: HostCopy
    progress: float
    camera_rows: frozenset[int]
    actor_rows: frozenset[int]


class PoseRefinement:
    """Corrections of a scene's poses. Cameras have one per training picture, actors one per pose of their track that is the nearest to
    a training picture; all others are interpolated, or, where courses are smooth, follow from the track alone, so that nothing held out is
    ever fitted on itself."""

    def __init__(self, scene: Scene, train_numbers: Sequence[int], config: FitConfig, device: torch.device) -> None:
        self.scene = scene
        self.device = device
        self._due: _Due | None = None
        self._measured = lru_cache(maxsize=4096)(lambda actor_id, t_us: scene.actors[actor_id].world_from_node(t_us))
        self._shown: dict[int, ShownPoses] = {}
        self._held_zeros: dict[int, Tensor] = {}
        unit = scene.unit
        shots = [scene.shots[number].shot for number in train_numbers]
        self.cameras: Corrections | None = None
        self.actors: Corrections | None = None
        if config.camera_poses.on:
            by_camera = {name: sorted({shot.mid_us for shot in shots if shot.camera.name == name}) for name in scene.cameras}
            self.cameras = Corrections(by_camera, config.camera_poses, unit)
        if config.actor_poses.on and scene.actors:
            seen_us = np.array([shot.mid_us for shot in shots], dtype=np.int64)
            by_actor = {name: _nearest(actor, seen_us) for name, actor in scene.actors.items()}
            courses = None
            if config.actor_poses.smooth == "course":
                courses = {name: actor.track.track for name, actor in scene.actors.items()}
                by_actor = {name: _through(courses[name], times) for name, times in by_actor.items()}
            self.actors = Corrections(by_actor, config.actor_poses, unit, courses)

    def shown(self, number: int) -> ShownPoses:
        """Whose poses the picture of a frame shows."""
        if number not in self._shown:
            shot = self.scene.shots[number].shot
            there = [] if self.actors is None else [n for n, a in self.scene.actors.items() if a.world_from_node(shot.mid_us) is not None]
            self._shown[number] = ShownPoses(camera=shot.camera.name, t_us=shot.mid_us, actors=tuple(there))
        return self._shown[number]

    def of(self, number: int) -> RefinedPoses:
        """For the picture of a frame."""
        shot, shown = self.scene.shots[number].shot, self.shown(number)
        if self._due is not None and self._moves(self._due, shown):
            self._settle()
        # Those of the actors, then the camera's, as matrices by one call.
        values = [] if self.actors is None else [self.actors.values_at(shown.actors, shown.t_us)]
        values += [] if self.cameras is None else [self.cameras.values_at((shown.camera,), shown.t_us)]
        moves = matrices(np.concatenate(values)) if values else np.zeros((0, 4, 4))
        if self.cameras is not None:
            shot = shot.moved(moves[-1])
        count = len(shown.actors) + (self.cameras is not None)
        twists = None
        if count:
            twists = PoseTwists(values=self._zeros(count), actors=shown.actors, camera=self.cameras is not None)
        return RefinedPoses(shown=shown, shot=shot, twists=twists, actor_poses=self._actor_poses(shown, moves))

    def _zeros(self, count: int) -> Float[Tensor, "B 6"]:
        """Zeros that take gradients: nothing ever changes them, so pictures share them."""
        if count not in self._held_zeros:
            self._held_zeros[count] = torch.zeros(count, 6, device=self.device)
        return self._held_zeros[count].detach().requires_grad_()

    def _moves(self, due: _Due, shown: ShownPoses) -> bool:
        """Whether a pose that is shown will move when gradients are applied."""
        of_camera = self.cameras is not None and not due.camera_rows.isdisjoint(self.cameras.touched((shown.camera,), shown.t_us))
        return of_camera or (self.actors is not None and not due.actor_rows.isdisjoint(self.actors.touched(shown.actors, shown.t_us)))

    def _actor_poses(self, shown: ShownPoses, moves: Float[np.ndarray, "B 4 4"]) -> ActorPoses | None:
        """Where actors are. Those of the middle of the exposure, which every picture asks for, are made together by their first `moves`."""
        if self.actors is None:
            return lambda actor_id, t_us: self._measured(actor_id, t_us)
        there = {name: self._measured(name, shown.t_us) @ move for name, move in zip(shown.actors, moves)}

        def world_from_actor(actor_id: str, t_us: int) -> np.ndarray | None:
            return there.get(actor_id) if t_us == shown.t_us else self._world_from_actor(actor_id, t_us)

        return world_from_actor

    @property
    def most_twists(self) -> int:
        """The greatest number of rows that a picture's gradients can have."""
        return (self.cameras is not None) + (0 if self.actors is None else len(self.scene.actors))

    def step(self, drawn: RefinedPoses, progress: float, twists: StepTwists | None = None) -> None:
        """Take the gradients of a picture, or of all of its step.

        Nothing waits for the device: the gradients are applied, picture by picture, when those of the next step are on their way, or
        before a pose that they move is drawn.
        """
        twists = twists or drawn.step_twists
        self._settle()
        if twists.gradients.numel():
            self._due = _Due(
                shown=twists.shown,
                gradients=HostCopy(twists.gradients),
                progress=progress,
                camera_rows=_rows(self.cameras, [((shown.camera,), shown.t_us) for shown in twists.shown]),
                actor_rows=_rows(self.actors, [(shown.actors, shown.t_us) for shown in twists.shown]),
            )

    def prior_terms(self, drawn: RefinedPoses) -> dict[str, float]:
        """The values of the priors as terms of the loss of a picture."""
        terms, shown = {}, drawn.shown
        if self.cameras is not None:
            terms["camera_poses"] = self.cameras.prior_value(shown.camera, shown.t_us)
        if self.actors is not None and shown.actors:
            terms["actor_poses"] = sum(self.actors.prior_value(name, shown.t_us) for name in shown.actors)
        return terms

    def _settle(self) -> None:
        """Apply the gradients that are due."""
        if self._due is None:
            return
        due, self._due = self._due, None
        for shown, gradients in zip(due.shown, due.gradients.value().double().numpy()):
            if self.cameras is not None:
                self.cameras.step(shown.camera, shown.t_us, gradients[len(shown.actors)], due.progress)
            if self.actors is not None and shown.actors:
                self.actors.step_all(shown.actors, shown.t_us, gradients[: len(shown.actors)], due.progress)

    def refined(self, scene: Scene) -> Scene:
        """The scene with its poses corrected: recorded shots and, where they are learnt, the actors' tracks."""
        self._settle()
        if self.cameras is not None:
            shots = []
            for recorded in scene.shots:
                logged_from_true = self.cameras.at(recorded.shot.camera.name, recorded.shot.mid_us)
                shots.append(replace(recorded, shot=recorded.shot.moved(logged_from_true), logged_from_camera=logged_from_true))
            scene = replace(scene, shots=tuple(shots))
        if self.actors is not None:
            table = self.actors.with_unseen_settled()
            scene = replace(scene, actors={name: self._refined_actor(actor, table) for name, actor in scene.actors.items()})
        return scene

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on."""
        self._settle()
        return {name: table.state_dict() for name, table in self._tables().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._due = None
        for name, table in self._tables().items():
            table.load_state_dict(state[name])

    def _tables(self) -> dict[str, Corrections]:
        tables = {"cameras": self.cameras, "actors": self.actors}
        return {name: table for name, table in tables.items() if table is not None}

    def _world_from_actor(self, actor_id: str, t_us: int) -> np.ndarray | None:
        assert self.actors is not None
        measured = self._measured(actor_id, t_us)
        if measured is None:
            return None
        if self._due is not None and not self._due.actor_rows.isdisjoint(self.actors.touched((actor_id,), t_us)):
            self._settle()
        return measured @ self.actors.at(actor_id, t_us)

    @staticmethod
    def _refined_actor(actor: RigidActor, corrections: Corrections) -> RigidActor:
        track = actor.track.track
        moves = np.stack([corrections.at(actor.actor_id, int(t)) for t in track.times_us])
        refined = PoseTrack(times_us=track.times_us, world_from_body=track.world_from_body @ moves)
        return replace(actor, track=replace(actor.track, track=refined))


def _rows(table: Corrections | None, places: Sequence[tuple[tuple[str, ...], int]]) -> frozenset[int]:
    """Rows of a table that corrections of bodies at times are made up of."""
    return frozenset() if table is None else frozenset().union(*(table.touched(names, t_us) for names, t_us in places))


def _nearest(actor: RigidActor, seen_us: np.ndarray) -> list[int]:
    """Times of the actor's track that are the nearest to a picture which may show it."""
    times_us = actor.track.track.times_us
    shown = [t for t in seen_us.tolist() if actor.track.is_labelled(t)]
    return sorted({int(times_us[np.abs(times_us - t).argmin()]) for t in shown})


def _through(track: PoseTrack, times_us: Sequence[int]) -> list[int]:
    """All times of a track from the first to the last of some of them."""
    return [int(t) for t in track.times_us if times_us and times_us[0] <= t <= times_us[-1]]
