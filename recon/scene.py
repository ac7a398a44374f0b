"""A reconstructed scene: background, actors, sky, colour corrections, and the recorded shots it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.shot import Shot
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.nodes import RigidActor, StaticNode
from splatmend.recon.raster.api import Model
from splatmend.recon.sky import SkyMap

Role = Literal["train", "held_out", "left_out"]
_SAME_PLACE = 1e-9
"""Poses nearer to each other than this share of how far they are from the origin are at one place."""
SUN_FACT = "sun_direction_world"
"""The fact of a scene that holds the unit direction to the sun, where the log's time and place give it."""

LOG_PATH_FACT = "log_path"
"""The fact of a scene that holds where its log lay when it was fitted; scenes of logs in memory, and older ones, have none."""


@dataclass(frozen=True, kw_only=True)
class RecordedShot:
    """A recorded frame as it was fitted: at that size, without distortion in scenes of the `ewa` model, at the pose that the fit corrected.

    `frame_index` counts its camera's frames in the log. `role`: fitted ("train"), kept back to be scored
    ("held_out"), or not used at all ("left_out", of a fit to few views). `logged_from_camera [4, 4]` is the correction (the pose in the log
    is `world_from_camera @ inverse(logged_from_camera)`), None where poses were left as they are.
    """

    shot: Shot
    frame_index: int
    role: Role
    logged_from_camera: np.ndarray | None = None

    @property
    def held_out(self) -> bool:
        return self.role == "held_out"

    @property
    def correction_entry(self) -> dict[str, Any]:
        """The correction in a line of JSON, for what is rendered or kept of this shot; empty without one."""
        return {} if self.logged_from_camera is None else {"logged_from_camera": self.logged_from_camera.tolist()}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that is needed to render. `metric` says whether a unit is a metre; where it is not, `median_camera_step` (median
    distance between neighbouring poses of a camera that differ, 0 where none do) is the natural unit of length. `camera_model` is the splat
    model that the Gaussians were fitted with and must be drawn with. `facts` is what the fit measured."""

    background: StaticNode
    actors: Mapping[str, RigidActor]
    sky: SkyMap | None
    exposure: ExposureTable
    shots: tuple[RecordedShot, ...]
    ego: PoseTrack
    up_world: tuple[float, float, float]
    metric: bool
    source: str
    log_id: str
    median_camera_step: float
    camera_model: Model = "ewa"
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> float:
        """What lengths that are not given are counted in: a metre, or what stands for one in a scene without a scale."""
        return 1.0 if self.metric or self.median_camera_step <= 0 else self.median_camera_step

    @property
    def origin_world_m(self) -> np.ndarray:
        """Where the background's frame lies in the world, float64 `[3]`."""
        return self.background.origin_world_m

    @property
    def device(self) -> torch.device:
        return self.background.gaussians.device

    @property
    def gaussian_count(self) -> int:
        return len(self.background.gaussians) + sum(len(actor.gaussians) for actor in self.actors.values())

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the recorded cameras in the order of their first shots."""
        return tuple(dict.fromkeys(recorded.shot.camera.name for recorded in self.shots))

    @property
    def front_camera(self) -> str:
        """The recorded camera that looks ahead of the vehicle the most; on a tie the first."""

        def looks_ahead(camera: str) -> float:
            shots = self.shots_of(camera)
            ahead = self.ego.at(np.array([recorded.shot.mid_us for recorded in shots]))[:, :3, 0]
            view = np.stack([recorded.shot.world_from_camera[:3, 2] for recorded in shots])
            return round(float((ahead * view).sum(-1).mean()), 6)

        return max(self.cameras, key=looks_ahead)

    def shots_of(self, camera: str) -> tuple[RecordedShot, ...]:
        return tuple(recorded for recorded in self.shots if recorded.shot.camera.name == camera)

    def to(self, device: str | torch.device) -> Scene:
        """The same scene on another device."""
        if torch.device(device) == self.device:
            return self
        return replace(
            self,
            background=replace(self.background, gaussians=self.background.gaussians.to(device)),
            actors={name: actor.to(device) for name, actor in self.actors.items()},
            sky=None if self.sky is None else self.sky.to(device),
            exposure=self.exposure.to(device),
        )

    def with_gaussians(self, background: Gaussians) -> Scene:
        """The same scene with another background."""
        return replace(self, background=replace(self.background, gaussians=background))


def median_camera_step(shots: tuple[RecordedShot, ...]) -> float:
    """Median distance between neighbouring poses of the same camera, those that share a place left out; 0 where all do."""
    steps: list[float] = []
    for camera in dict.fromkeys(recorded.shot.camera.name for recorded in shots):
        centres = np.stack([r.shot.world_from_camera[:3, 3] for r in shots if r.shot.camera.name == camera])
        lengths = np.linalg.norm(np.diff(centres, axis=0), axis=1)
        steps += lengths[lengths > _SAME_PLACE * max(np.abs(centres).max(), 1.0)].tolist()
    return float(np.median(steps)) if steps else 0.0
