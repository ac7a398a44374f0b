"""How often pictures show each actor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from splatmend.datasets.geometry import box_corners, inverse, project, transform
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.shot import Shot


def shown_shares(actors: Iterable[ActorTrack], shots: Sequence[Shot]) -> dict[str, float]:
    """Of each actor, by its id, the share of the shots whose pictures hold a corner or the middle of its box at mid exposure."""
    by_camera: dict[str, list[Shot]] = {}
    for shot in shots:
        by_camera.setdefault(shot.camera.name, []).append(shot)
    return {actor.actor_id: sum(_shown(actor, own) for own in by_camera.values()) / max(len(shots), 1) for actor in actors}


def _shown(actor: ActorTrack, shots: Sequence[Shot]) -> int:
    """Shots of one camera that show an actor."""
    there = [shot for shot in shots if actor.is_labelled(shot.mid_us)]
    if not there:
        return 0
    world_from_actor = actor.track.at(np.array([shot.mid_us for shot in there]))
    camera_from_actor = inverse(np.stack([shot.world_from_camera for shot in there])) @ world_from_actor
    places = transform(camera_from_actor[:, None], np.concatenate([box_corners(actor.size_m), np.zeros((1, 3))]))
    return int(project(there[0].camera, places)[1].any(axis=1).sum())
