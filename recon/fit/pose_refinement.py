"""Poses of cameras and actors as they are learnt in a fit: what a picture is drawn with, and how its gradients move them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.corrections import Corrections
from splatmend.recon.nodes import RigidActor
from splatmend.recon.placement import PoseTwists
from splatmend.recon.render import ActorPoses
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import HostCopy


@dataclass(frozen=True, kw_only=True)
class RefinedPoses:
    """What `render` is given to draw a picture with the present corrections."""

    shot: Shot
    twists: PoseTwists | None
    actor_poses: ActorPoses | None


@dataclass(frozen=True, kw_only=True)
class _Due:
    """Gradients of a picture on their way from the device."""

    drawn: RefinedPoses
    gradients: HostCopy
    progress: float


class PoseRefinement:
    """Corrections of a scene's poses. Cameras have one per training picture, actors one per pose of their track that is the nearest to
    a training picture; all others are interpolated, so that nothing held out is ever fitted on itself."""

    def __init__(self, scene: Scene, train_numbers: Sequence[int], config: FitConfig, device: torch.device) -> None:
        self.scene = scene
        self.device = device
        self._due: _Due | None = None
        self._measured = lru_cache(maxsize=4096)(lambda actor_id, t_us: scene.actors[actor_id].world_from_node(t_us))
        unit = 1.0 if scene.metric else scene.median_camera_step
        shots = [scene.shots[number].shot for number in train_numbers]
        self.cameras: Corrections | None = None
        self.actors: Corrections | None = None
        if config.camera_poses.on:
            by_camera = {name: sorted({shot.mid_us for shot in shots if shot.camera.name == name}) for name in scene.cameras}
            self.cameras = Corrections(by_camera, config.camera_poses, unit)
        if config.actor_poses.on and scene.actors:
            seen_us = np.array([shot.mid_us for shot in shots], dtype=np.int64)
            by_actor = {name: _nearest(actor, seen_us) for name, actor in scene.actors.items()}
            self.actors = Corrections(by_actor, config.actor_poses, unit)

    def of(self, number: int) -> RefinedPoses:
        """For the picture of a frame."""
        self._settle()
        shot = self.scene.shots[number].shot
        actor_poses, there = None, []
        if self.actors is not None:
            actor_poses = self._world_from_actor
            there = [name for name, actor in self.scene.actors.items() if actor.is_there(shot.mid_us)]
        if self.cameras is not None:
            shot = shot.moved(self.cameras.at(shot.camera.name, shot.mid_us))
        count = len(there) + (self.cameras is not None)
        twists = None
        if count:
            values = torch.zeros(count, 6, device=self.device, requires_grad=True)
            twists = PoseTwists(values=values, actors=tuple(there), camera=self.cameras is not None)
        return RefinedPoses(shot=shot, twists=twists, actor_poses=actor_poses)

    def step(self, drawn: RefinedPoses, progress: float) -> None:
        """Take the gradients of a picture.

        Nothing waits for the device: the gradients are applied before the next picture is drawn.
        """
        if drawn.twists is None:
            return
        values = drawn.twists.values
        gradient = torch.zeros_like(values) if values.grad is None else values.grad
        self._due = _Due(drawn=drawn, gradients=HostCopy(gradient), progress=progress)

    def prior_terms(self, drawn: RefinedPoses) -> dict[str, float]:
        """The values of the priors as terms of the loss of a picture."""
        terms = {}
        t_us = drawn.shot.mid_us
        if self.cameras is not None:
            terms["camera_poses"] = self.cameras.prior_value(drawn.shot.camera.name, t_us)
        if self.actors is not None and drawn.twists is not None and drawn.twists.actors:
            terms["actor_poses"] = sum(self.actors.prior_value(name, t_us) for name in drawn.twists.actors)
        return terms

    def _settle(self) -> None:
        """Apply the gradients that are due."""
        if self._due is None:
            return
        due, self._due = self._due, None
        twists = due.drawn.twists
        assert twists is not None
        t_us = due.drawn.shot.mid_us
        gradients = due.gradients.value().double().numpy()
        if self.cameras is not None:
            self.cameras.step(due.drawn.shot.camera.name, t_us, gradients[-1], due.progress)
        if self.actors is not None:
            for name, gradient in zip(twists.actors, gradients):
                self.actors.step(name, t_us, gradient, due.progress)

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
            scene = replace(scene, actors={name: self._refined_actor(actor, self.actors) for name, actor in scene.actors.items()})
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
        return None if measured is None else measured @ self.actors.at(actor_id, t_us)

    @staticmethod
    def _refined_actor(actor: RigidActor, corrections: Corrections) -> RigidActor:
        track = actor.track.track
        moves = np.stack([corrections.at(actor.actor_id, int(t)) for t in track.times_us])
        refined = PoseTrack(times_us=track.times_us, world_from_body=track.world_from_body @ moves)
        return replace(actor, track=replace(actor.track, track=refined))


def _nearest(actor: RigidActor, seen_us: np.ndarray) -> list[int]:
    """Times of the actor's track that are the nearest to a picture which may show it."""
    times_us = actor.track.track.times_us
    shown = [t for t in seen_us.tolist() if actor.track.is_labelled(t)]
    return sorted({int(times_us[np.abs(times_us - t).argmin()]) for t in shown})
