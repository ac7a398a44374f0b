"""The part of a standing actor that a fit has put into the background.

Nothing tells a fit whether a car that never moves is the labelled body or the street behind it: where it is both, panels of the body are
half see-through, with their ghost in the background behind them, and elsewhere one would look through them.
"""

from __future__ import annotations

import numpy as np

from splatmend.datasets.geometry import inverse
from splatmend.recon.assets.turning import turned
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.nodes import RigidActor
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import upload

_STOOD_M, _TURNED_DEG = 0.3, 3.0
"""An actor whose poses are less far apart stood still."""
_WIDER_M = 0.05
_GROUND_M = 0.15
"""What of the background lies less than this above the lower face of the box is ground."""


def ghost_of(scene: Scene, actor: RigidActor) -> Gaussians | None:
    """What the background holds in the box of an actor that stood still, in the actor's frame; None where it moved or there is nothing."""
    poses = actor.track.track.world_from_body
    middle = poses[len(poses) // 2]
    facing = np.clip(poses[:, :3, 0] @ middle[:3, 0], -1, 1)
    if np.linalg.norm(poses[:, :3, 3] - middle[:3, 3], axis=1).max() > _STOOD_M or facing.min() < np.cos(np.radians(_TURNED_DEG)):
        return None
    actor_from_scene = inverse(middle)
    actor_from_scene[:3, 3] += actor_from_scene[:3, :3] @ scene.origin_world_m
    background = scene.background.gaussians.detached()
    moved = upload(actor_from_scene, background.device)
    own = background.means @ moved[:3, :3].T + moved[:3, 3]
    half = upload(np.asarray(actor.track.size_m) / 2 + _WIDER_M, background.device)
    inside = (own.abs() < half).all(dim=1) & (own[:, 2] > _GROUND_M - actor.track.size_m[2] / 2)
    if not bool(inside.any()):
        return None
    rotation = actor_from_scene[:3, :3]
    place = -rotation.T @ actor_from_scene[:3, 3]
    return turned(background.select(inside.nonzero().squeeze(1)), rotation, place, 1.0)
