"""The parts of a scene that move on their own: each holds Gaussians in its own frame and says where that frame is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.log import ActorTrack
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.motion import Motion, moved_together, splines_at


class Node(Protocol):
    """What the renderer asks of a part of the scene."""

    def gaussians_at(self, t_us: int) -> Gaussians:
        """Gaussians in the node's own frame at a time."""
        ...

    def world_from_node(self, t_us: int) -> np.ndarray | None:
        """Pose `[4, 4]` float64 of the node's frame; None when the node is not there at that time."""
        ...


@dataclass(frozen=True, kw_only=True)
class StaticNode:
    """What stands still: the background. Its frame has the world's axes and lies at `origin_world_m`, so that float32 is enough."""

    gaussians: Gaussians
    origin_world_m: np.ndarray

    def gaussians_at(self, t_us: int) -> Gaussians:
        return self.gaussians

    def world_from_node(self, t_us: int) -> np.ndarray | None:
        pose = np.eye(4)
        pose[:3, 3] = self.origin_world_m
        return pose


@dataclass(frozen=True, kw_only=True)
class RigidActor:
    """A labelled body: Gaussians around the centre of its box (x forward, y left, z up), which do not move in it."""

    gaussians: Gaussians
    track: ActorTrack

    @property
    def actor_id(self) -> str:
        return self.track.actor_id

    def gaussians_at(self, t_us: int) -> Gaussians:
        return self.gaussians

    def world_from_node(self, t_us: int) -> np.ndarray | None:
        return self.track.world_from_actor(t_us) if self.is_there(t_us) else None

    def is_there(self, t_us: int) -> bool:
        """Whether it has a pose at that time."""
        return self.track.is_labelled(t_us)

    def to(self, device: str | torch.device) -> RigidActor:
        """The same actor on another device."""
        return replace(self, gaussians=self.gaussians.to(device))

    def detached(self) -> RigidActor:
        """The same values outside every graph."""
        return replace(self, gaussians=self.gaussians.detached())


@dataclass(frozen=True, kw_only=True)
class DeformableActor(RigidActor):
    """A labelled body that bends, as people do: its Gaussians move in the frame of its box. A rigid one whose shape depends on time."""

    motion: Motion

    def gaussians_at(self, t_us: int) -> Gaussians:
        return self.motion.moved(self.gaussians, t_us)

    def to(self, device: str | torch.device) -> DeformableActor:
        """The same actor on another device."""
        return replace(self, gaussians=self.gaussians.to(device), motion=self.motion.to(device))

    def detached(self) -> DeformableActor:
        """The same values outside every graph."""
        return replace(self, gaussians=self.gaussians.detached(), motion=self.motion.detached())


def bends_at(actors: Sequence[RigidActor], t_us: int) -> Float[np.ndarray, "M 5"]:
    """What `gaussians_together` needs on the device, of those that bend."""
    return splines_at([actor.motion for actor in actors if isinstance(actor, DeformableActor)], t_us)


def gaussians_together(actors: Sequence[RigidActor], t_us: int, bends: Float[Tensor, "M 5"]) -> list[Gaussians]:
    """Gaussians of each actor in its own frame at a time, those that bend by one piece of work; `bends` is what `bends_at` gives."""
    bending = [(actor.motion, actor.gaussians) for actor in actors if isinstance(actor, DeformableActor)]
    moved = iter(moved_together(bending, t_us, bends) if bending else ())
    return [next(moved) if isinstance(actor, DeformableActor) else actor.gaussians for actor in actors]
