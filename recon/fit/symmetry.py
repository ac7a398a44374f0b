"""Actors whose two sides are alike, of which pictures see one: now and then they are drawn mirrored, so that what was seen of one side is
learnt by the other, whose Gaussians stand in its place then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace

import numpy as np
import torch

from splatmend.datasets.geometry import inverse
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.config import ActorsConfig
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.reflection import mirrored
from splatmend.recon.scene import Scene

_FEW = 0.1
"""Pictures of the side that is seen less, over those of the other, up to which an actor counts as seen from one side."""


def seen_side(actor: ActorTrack, shots: Iterable[Shot]) -> int:
    """The side beside which cameras stand that have the actor before them: 1 left, -1 right, 0 where it is neither or both."""
    counts = np.zeros(2, dtype=np.int64)
    for shot in shots:
        if not actor.is_labelled(shot.mid_us):
            continue
        world_from_actor = actor.world_from_actor(shot.mid_us)
        if (inverse(shot.world_from_camera) @ world_from_actor[:, 3])[2] <= 0:
            continue
        left_m = (inverse(world_from_actor) @ shot.world_from_camera[:, 3])[1]
        counts += (left_m > actor.size_m[1] / 2, left_m < -actor.size_m[1] / 2)
    if counts.max() == 0 or counts.min() > _FEW * counts.max():
        return 0
    return 1 if counts[0] > counts[1] else -1


def one_sided(actors: Iterable[ActorTrack], shots: Iterable[Shot], config: ActorsConfig) -> dict[str, int]:
    """Actors of symmetric classes that the shots see from one side, by their ids, with that side as in `seen_side`."""
    shots = tuple(shots)
    sides = {actor.actor_id: seen_side(actor, shots) for actor in actors if actor.actor_class in config.symmetric}
    return {actor_id: side for actor_id, side in sides.items() if side}


class MirroredDraws:
    """Which pictures draw the given actors mirrored: a share of them, by seed and iteration alone.

    Only Gaussians of the half that is not seen learn from such a picture. Those of the other half have their own, where light falls on
    them as it did.
    """

    def __init__(self, sides: Mapping[str, int], share: float, seed: int) -> None:
        self.sides = dict(sides)
        self.share = share
        self.seed = seed

    def due(self, iteration: int) -> bool:
        """Whether an iteration draws any actor mirrored."""
        if not self.sides:
            return False
        return torch.rand((), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + iteration)).item() < self.share

    def of(self, scene: Scene, iteration: int) -> Scene:
        """The scene as it is drawn in an iteration, in the graph."""
        if not self.due(iteration):
            return scene
        drawn = {
            actor_id: replace(scene.actors[actor_id], gaussians=mirrored(_without_half(scene.actors[actor_id].gaussians, side)))
            for actor_id, side in self.sides.items()
        }
        return replace(scene, actors={**scene.actors, **drawn})


def _without_half(gaussians: Gaussians, side: int) -> Gaussians:
    """The same values; those of one half (1 left, -1 right) outside the graph."""
    outside = gaussians.means[:, 1] * side > 0
    held = {}
    for field in fields(Gaussians):
        value = getattr(gaussians, field.name)
        held[field.name] = torch.where(outside.reshape(-1, *[1] * (value.ndim - 1)), value.detach(), value)
    return Gaussians(**held)
