"""A flat grey ground under a sun, half of it in the shade of something that is not there, and a white ball to put on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from splatmend.datasets.geometry import PoseTrack, pose, yaw_pose
from splatmend.datasets.log import ActorTrack, Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.assets.asset import Asset, Material
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import from_rgb
from splatmend.recon.light.colour import picture_from_light
from splatmend.recon.light.scene_light import GROUND_ALBEDO, SceneLight
from splatmend.recon.nodes import RigidActor, StaticNode
from splatmend.recon.scene import RecordedShot, Scene

ORIGIN_M = np.array([500_000.0, 4_000_000.0, 30.0])
RADIUS_M = 0.8
_SIGMA_M = 0.03
SUN, SKY = 1.6, 0.4
"""Radiance of a white floor in the sun alone if it stood at the zenith, and under the sky alone."""
TO_SUN = (0.6, 0.0, 0.8)
SHADE_FROM_M = 5.0
"""The ground beyond this x looks shaded."""
CAMERA = Camera(name="front", width=96, height=72, focal_px=(70.0, 70.0), principal_px=(48.0, 36.0))
CAMERA_FROM_ABOVE = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
T_US = 1_000_000


def light(sky: float = SKY, sun: float = SUN) -> SceneLight:
    """An even sky, and a black ground, so that sums are easy."""
    environment = torch.zeros(16, 32, 3)
    environment[:8] = sky
    return SceneLight(to_sun_world=TO_SUN, sun=(sun,) * 3, environment=environment, environment_from_world=np.eye(3), made_by="a test")


def scene() -> Scene:
    """Ground alone, flat Gaussians on a grid; colours as the light gives them."""
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(-8, 12, 0.1), np.arange(-6, 6, 0.1)))
    sunny = SUN * TO_SUN[2] * (x < SHADE_FROM_M)
    linear = torch.from_numpy(GROUND_ALBEDO * (SKY + sunny)).float()[:, None].expand(-1, 3)
    ground = Gaussians(
        means=torch.from_numpy(np.stack([x, y, np.zeros_like(x)], axis=1)).float(),
        quats_wxyz=torch.tensor([1.0, 0, 0, 0]).repeat(len(x), 1),
        log_scales=torch.tensor([0.07, 0.07, 0.004]).log().repeat(len(x), 1),
        opacity_logits=torch.full((len(x),), 4.0),
        sh=from_rgb(picture_from_light(linear))[:, None],
    )
    ego = PoseTrack(times_us=np.array([0, 2 * T_US]), world_from_body=np.stack([yaw_pose(0.0, ORIGIN_M)] * 2))
    return Scene(
        background=StaticNode(gaussians=ground, origin_world_m=ORIGIN_M),
        actors={},
        sky=None,
        exposure=ExposureTable.identity([], []),
        shots=(RecordedShot(shot=from_above(), frame_index=0, role="train"),),
        ego=ego,
        up_world=(0.0, 0.0, 1.0),
        metric=True,
        source="made up",
        log_id="flat",
        median_camera_step=1.0,
    )


def from_above(x: float = 0.0, height_m: float = 7.0) -> Shot:
    """Straight down: picture right is world x, picture up is world y."""
    return Shot.still(CAMERA, pose(CAMERA_FROM_ABOVE, ORIGIN_M + np.array([x, 0, height_m])), T_US)


def ball(count: int = 3000, roughness: float = 1.0, specular: float = 0.0) -> Asset:
    """A white ball, as evenly covered as a spiral does it."""
    index = np.arange(count) + 0.5
    up, turn = 1 - 2 * index / count, index * np.pi * (1 + 5**0.5)
    normals = np.stack([np.sqrt(1 - up**2) * np.cos(turn), np.sqrt(1 - up**2) * np.sin(turn), up], axis=1)
    surface = torch.from_numpy(normals).float()
    gaussians = Gaussians(
        means=(RADIUS_M - _SIGMA_M) * surface,  # so that half of it is seen out to the radius
        quats_wxyz=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        log_scales=torch.full((count, 3), float(np.log(_SIGMA_M))),
        opacity_logits=torch.full((count,), 4.0),
        sh=from_rgb(torch.full((count, 3), 0.5))[:, None],
    )
    material = Material(
        albedo=torch.ones(count, 3),
        normals=surface,
        roughness=torch.full((count,), roughness),
        specular=torch.full((count, 3), specular),
    )
    return Asset(asset_id="ball", actor_class="other", size_m=(2 * RADIUS_M,) * 3, gaussians=gaussians, material=material, quality=1.0)


def with_ball(asset: Asset, x: float = 0.0) -> Scene:
    """The ground with the ball on it, as actor "ball"."""
    poses = np.stack([yaw_pose(0.0, ORIGIN_M + np.array([x, 0, RADIUS_M]))] * 2)
    track = ActorTrack(
        actor_id="ball",
        actor_class="other",
        size_m=asset.size_m,
        track=PoseTrack(times_us=np.array([0, 2 * T_US]), world_from_body=poses),
    )
    return replace(scene(), actors={"ball": RigidActor(gaussians=asset.gaussians, track=track)})
