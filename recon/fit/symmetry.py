"""Actors whose two sides are alike, of which pictures see one: now and then they are drawn mirrored, so that what was seen of one side is
learnt by the other. (Street Gaussians, OmniRe and others do without; the idea is that of symmetric shape priors, e.g. Wu et al. 2020,
arXiv 1911.11130.)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from splatmend.datasets.geometry import inverse
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.config import ActorsConfig
from splatmend.recon.reflection import mirrored
from splatmend.recon.scene import Scene

_FEW = 0.1
"""Pictures of the side that is seen less, over those of the other, up to which an actor counts as seen from one side."""


def seen_from_one_side(actor: ActorTrack, shots: Iterable[Shot]) -> bool:
    """Whether cameras that have the actor before them stand beside its box on one side only."""
    counts = np.zeros(2, dtype=np.int64)
    for shot in shots:
        if not actor.is_labelled(shot.mid_us):
            continue
        world_from_actor = actor.world_from_actor(shot.mid_us)
        if (inverse(shot.world_from_camera) @ world_from_actor[:, 3])[2] <= 0:
            continue
        left_m = (inverse(world_from_actor) @ shot.world_from_camera[:, 3])[1]
        counts += (left_m > actor.size_m[1] / 2, left_m < -actor.size_m[1] / 2)
    return bool(counts.max() > 0 and counts.min() <= _FEW * counts.max())


def one_sided(actors: Iterable[ActorTrack], shots: Iterable[Shot], config: ActorsConfig) -> tuple[str, ...]:
    """Ids of the actors of symmetric classes that the shots see from one side."""
    shots = tuple(shots)
    return tuple(actor.actor_id for actor in actors if actor.actor_class in config.symmetric and seen_from_one_side(actor, shots))


class MirroredDraws:
    """Which pictures draw the given actors mirrored: a share of them, by seed and iteration alone."""

    def __init__(self, actor_ids: Iterable[str], share: float, seed: int) -> None:
        self.actor_ids = tuple(actor_ids)
        self.share = share
        self.seed = seed

    def of(self, scene: Scene, iteration: int) -> Scene:
        """The scene as it is drawn in an iteration."""
        chance = torch.rand((), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + iteration)).item()
        if not self.actor_ids or chance >= self.share:
            return scene
        turned = {
            actor_id: replace(scene.actors[actor_id], gaussians=mirrored(scene.actors[actor_id].gaussians)) for actor_id in self.actor_ids
        }
        return replace(scene, actors={**scene.actors, **turned})
