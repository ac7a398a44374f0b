"""Which pictures show an actor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from splatmend.datasets.geometry import box_corners, inverse, project, transform
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.shot import Shot


def shown_shares(actors: Iterable[ActorTrack], shots: Sequence[Shot]) -> dict[str, float]:
    """Of each actor, by its id, the share of the shots whose pictures hold a corner or the middle of its box at mid exposure."""
    return {actor.actor_id: float(_views(actor, shots)[0].any(axis=1).sum()) / max(len(shots), 1) for actor in actors}


def nearest_view(actor: ActorTrack, shots: Sequence[Shot]) -> int | None:
    """Which of the shots whose pictures hold the middle of an actor's box sees it from nearest; None where none does."""
    shown, distance_m = _views(actor, shots)
    if not shown[:, -1].any():
        return None
    return int(np.where(shown[:, -1], distance_m, np.inf).argmin())


def _views(actor: ActorTrack, shots: Sequence[Shot]) -> tuple[Bool[np.ndarray, "S 9"], Float[np.ndarray, "S"]]:
    """Whether the shots show the eight corners of an actor's box and its middle, and how far from the camera that is."""
    shown, distance_m = np.zeros((len(shots), 9), dtype=bool), np.full(len(shots), np.inf)
    by_camera: dict[str, list[int]] = {}
    for number, shot in enumerate(shots):
        if actor.is_labelled(shot.mid_us):
            by_camera.setdefault(shot.camera.name, []).append(number)
    places = np.concatenate([box_corners(actor.size_m), np.zeros((1, 3))])
    for numbers in by_camera.values():
        there = [shots[number] for number in numbers]
        world_from_actor = actor.track.at(np.array([shot.mid_us for shot in there]))
        camera_from_actor = inverse(np.stack([shot.world_from_camera for shot in there])) @ world_from_actor
        shown[numbers] = project(there[0].camera, transform(camera_from_actor[:, None], places))[1]
        distance_m[numbers] = np.linalg.norm(camera_from_actor[:, :3, 3], axis=1)
    return shown, distance_m
