"""Poses of cameras and actors as they are learnt in a fit: what a picture is drawn with, and how its gradients move them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.corrections import Corrections
from splatmend.recon.nodes import RigidActor
from splatmend.recon.render import ActorPoses
from splatmend.recon.scene import Scene


@dataclass(frozen=True, kw_only=True)
class RefinedPoses:
    """What `render` is given to draw a picture with the present corrections. The twists are zero and take the gradients."""

    shot: Shot
    camera_twist: Tensor | None
    actor_poses: ActorPoses | None
    actor_twists: Mapping[str, Tensor]


class PoseRefinement:
    """Corrections of a scene's poses. Cameras have one per training picture, actors one per pose of their track that is the nearest to
    a training picture; all others are interpolated, so that nothing held out is ever fitted on itself."""

    def __init__(self, scene: Scene, train_numbers: Sequence[int], config: FitConfig, device: torch.device) -> None:
        self.scene = scene
        self.device = device
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
        shot = self.scene.shots[number].shot
        camera_twist = None
        if self.cameras is not None:
            shot = shot.moved(self.cameras.at(shot.camera.name, shot.mid_us))
            camera_twist = self._zero_twist()
        if self.actors is None:
            return RefinedPoses(shot=shot, camera_twist=camera_twist, actor_poses=None, actor_twists={})
        there = [name for name, actor in self.scene.actors.items() if actor.world_from_node(shot.mid_us) is not None]
        twists = {name: self._zero_twist() for name in there}
        return RefinedPoses(shot=shot, camera_twist=camera_twist, actor_poses=self._world_from_actor, actor_twists=twists)

    def step(self, drawn: RefinedPoses, progress: float) -> dict[str, Tensor]:
        """Take the gradients of a picture; returns the values of the priors as terms of the loss."""
        terms: dict[str, float] = {}
        t_us = drawn.shot.mid_us
        if self.cameras is not None and drawn.camera_twist is not None:
            terms["camera_poses"] = self.cameras.step(drawn.shot.camera.name, t_us, _gradient(drawn.camera_twist), progress)
        if self.actors is not None and drawn.actor_twists:
            moved = [self.actors.step(name, t_us, _gradient(twist), progress) for name, twist in drawn.actor_twists.items()]
            terms["actor_poses"] = sum(moved)
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in terms.items()}

    def refined(self, scene: Scene) -> Scene:
        """The scene with its poses corrected: recorded shots and, where they are learnt, the actors' tracks."""
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
        return {name: table.state_dict() for name, table in self._tables().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, table in self._tables().items():
            table.load_state_dict(state[name])

    def _tables(self) -> dict[str, Corrections]:
        tables = {"cameras": self.cameras, "actors": self.actors}
        return {name: table for name, table in tables.items() if table is not None}

    def _zero_twist(self) -> Tensor:
        return torch.zeros(6, device=self.device, requires_grad=True)

    def _world_from_actor(self, actor_id: str, t_us: int) -> np.ndarray | None:
        assert self.actors is not None
        measured = self.scene.actors[actor_id].world_from_node(t_us)
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


def _gradient(twist: Tensor) -> np.ndarray:
    return np.zeros(6) if twist.grad is None else twist.grad.double().cpu().numpy()
