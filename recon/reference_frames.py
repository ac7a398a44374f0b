"""Which recorded frames may serve a view as references, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from splatmend.datasets.shot import Shot
from splatmend.recon.scene import RecordedShot, Scene

SAME_POSE = 1e-3
"""Poses that differ by less (metres or median camera steps, and entries of rotations) are the same."""
_WIDEST_RAD = np.pi / 2


@dataclass(frozen=True, kw_only=True)
class ServingFrames:
    """The frames that a scene was fitted to. What was held out or left out never serves, so that scores stay what they say."""

    served: tuple[RecordedShot, ...]
    world_from_served: Float[np.ndarray, "N 4 4"]
    same_pose: float

    @staticmethod
    def of(scene: Scene, *, same_pose: float) -> ServingFrames:
        """Those of a scene; `same_pose` is the distance in its units within which two places are one."""
        served = tuple(recorded for recorded in scene.shots if recorded.role == "train")
        poses = [recorded.shot.world_from_camera for recorded in served]
        return ServingFrames(served=served, world_from_served=np.stack(poses) if poses else np.zeros((0, 4, 4)), same_pose=same_pose)

    def ranked(self, shot: Shot, depth: float) -> list[int]:
        """Indices of frames that may serve, nearest first: by the distance of the centres over a typical depth of the view plus the angle
        between the axes (radians). Those that look away do not, and neither does the view's own frame."""
        pose = shot.world_from_camera
        distances = np.linalg.norm(self.world_from_served[:, :3, 3] - pose[:3, 3], axis=1)
        angles = np.arccos(np.clip(self.world_from_served[:, :3, 2] @ pose[:3, 2], -1.0, 1.0))
        order = np.argsort(distances / depth + angles, kind="stable").tolist()
        return [index for index in order if angles[index] < _WIDEST_RAD and not self._is_own(shot, self.served[index].shot)]

    def _is_own(self, shot: Shot, served: Shot) -> bool:
        if served.camera.name != shot.camera.name or served.mid_us != shot.mid_us:
            return False
        apart = np.abs(served.world_from_camera - shot.world_from_camera)
        return bool((apart[:3, 3] <= self.same_pose).all() and (apart[:3, :3] <= SAME_POSE).all())
