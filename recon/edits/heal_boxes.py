"""Boxes of removed actors in the level frame: what they held, hid and stood near.

Shape letters: T poses, N points.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splatmend.datasets.log import ActorTrack
from splatmend.recon.edits.heal_frame import Way
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import upload

_STEP_M = 0.15
_MARGIN_M = 0.2
"""Boxes are labelled tightly or loosely by about this."""
_FOUND, _LORRY_M, _TALLER, _CLEARANCE_M = "mover-", 2.0, 1.75, 4.2
"""Movers that were found (their ids begin so) have boxes of what LiDAR met, which from a car's roof are not the tops of lorries: boxes at
least as high as the second number are taken to be too low by up to the factor, but not to reach higher than lorries may."""
_STANDS_M = 1.0
"""An actor that moved less stood still."""
_SLOW_LENGTHS = 2.0


@dataclass(frozen=True, kw_only=True)
class RemovedActor:
    """An actor that is taken out, in level coordinates of the scene's frame: distinct poses `level_from_box [T, 4, 4]` of its track and
    half its size; its top may lie higher above the centre than that, at `top_m`. `way` is where it drove, or the ego's direction beside
    it if it stood."""

    track: ActorTrack
    level_from_world: np.ndarray
    poses: Float[Tensor, "T 4 4"]
    half_m: Float[Tensor, "3"]
    top_m: float
    way: Way
    feet_m: Float[Tensor, "T 3"]

    @staticmethod
    def of(scene: Scene, actor_id: str, level_from_world: np.ndarray) -> RemovedActor:
        track = scene.actors[actor_id].track
        poses = level_from_world @ track.track.world_from_body
        kept = [0]
        for number in range(1, len(poses)):
            before, now = poses[kept[-1]], poses[number]
            if np.linalg.norm(now[:3, 3] - before[:3, 3]) > _STEP_M or (now[:3, 0] @ before[:3, 0]) < 0.999:
                kept.append(number)
        between = []
        for first, second in pairwise(kept):
            times = track.track.times_us[[first, second]]
            pieces = int(np.ceil(np.linalg.norm(poses[second, :3, 3] - poses[first, :3, 3]) / (4 * _STEP_M)))
            between += [int(t) for t in np.linspace(times[0], times[1], min(max(pieces, 1), 20), endpoint=False)]
        swept = level_from_world @ track.track.at(np.array([*between, int(track.track.times_us[kept[-1]])]))
        half = np.asarray(track.size_m) / 2
        feet = swept[:, :3, 3] - half[2] * swept[:, :3, 2]
        if np.linalg.norm(np.ptp(feet[:, :2], axis=0)) < _STANDS_M:
            ego = level_from_world @ scene.ego.world_from_body
            nearest = np.linalg.norm(ego[:, :2, 3] - feet[0, :2], axis=1).argmin()
            heading, line = ego[nearest, :2, 0], feet[:1, :2]
        else:
            heading, line = swept[0, :2, 0], feet[:, :2]
        top_m = half[2]
        if actor_id.startswith(_FOUND) and track.actor_class == "vehicle" and track.size_m[2] >= _LORRY_M:
            top_m = max(top_m, min(_TALLER * track.size_m[2], _CLEARANCE_M) - half[2])
        return RemovedActor(
            track=track,
            level_from_world=level_from_world,
            poses=upload(swept, scene.device),
            half_m=upload(half, scene.device),
            top_m=float(top_m),
            way=Way.through(line, heading, scene.device),
            feet_m=upload(feet, scene.device),
        )

    @property
    def slow(self) -> bool:
        """Whether it went less than twice its own length, so that its shadow lay on the same ground in most pictures."""
        return float((self.feet_m.amax(dim=0) - self.feet_m.amin(dim=0)).norm()) < _SLOW_LENGTHS * 2 * float(self.half_m[0])

    def swept(self, points: Float[Tensor, "N 3"]) -> Bool[Tensor, "N"]:
        """Points in the volume that it went through."""
        low, high = -self.half_m - _MARGIN_M, self._high + _MARGIN_M
        reach = torch.maximum(-low, high).norm()
        centres = self.poses[:, :3, 3]
        near = ((points > centres.amin(dim=0) - reach) & (points < centres.amax(dim=0) + reach)).all(dim=1).nonzero()[:, 0]
        some = points[near]
        inside = torch.zeros(len(some), dtype=torch.bool, device=points.device)
        for pose in self.poses:
            at = (some - pose[:3, 3]) @ pose[:3, :3]
            inside |= ((at > low) & (at < high)).all(dim=1)
        out = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        out[near[inside]] = True
        return out

    def under(self, points: Float[Tensor, "N 2"], margin_m: float) -> Bool[Tensor, "N"]:
        """Level places that lay under its box at any time."""
        out = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for pose in self.poses:
            out |= self._beside(points, pose) <= margin_m
        return out

    def pose_at(self, t_us: int) -> Tensor | None:
        """`level_from_box` at a time; None when it was not there."""
        if not self.track.is_labelled(t_us):
            return None
        return upload(self.level_from_world @ self.track.world_from_actor(t_us), self.poses.device)

    def hides(self, pose: Tensor, eye: Float[Tensor, "3"], points: Float[Tensor, "N 3"]) -> Bool[Tensor, "N"]:
        """Points that its box at a pose stands before, or holds, as seen from an eye."""
        low, high = -self.half_m - 0.05, self._high + 0.05
        start = (eye - pose[:3, 3]) @ pose[:3, :3]
        step = (points - eye) @ pose[:3, :3]
        step = torch.where(step.abs() < 1e-6, torch.full_like(step, 1e-6), step)
        first, second = (low - start) / step, (high - start) / step
        enters = torch.minimum(first, second).amax(dim=1)
        leaves = torch.maximum(first, second).amin(dim=1)
        return (enters < leaves) & (enters < 1.0) & (leaves > 0.0)

    @property
    def _high(self) -> Float[Tensor, "3"]:
        return torch.cat([self.half_m[:2], self.half_m.new_tensor([self.top_m])])

    def _beside(self, xy: Float[Tensor, "N 2"], pose: Tensor) -> Float[Tensor, "N"]:
        forward = torch.nn.functional.normalize(pose[:2, 0], dim=0)
        turn = torch.stack([forward, torch.stack([-forward[1], forward[0]])])
        return (((xy - pose[:2, 3]) @ turn.T).abs() - self.half_m[:2]).clamp_min(0).norm(dim=1)
