"""What a picture adds to the loss: a function of tensors alone, so that its kernels can be started as one graph.

Shape letters: H W pixels, C blended channels, L lines that look from poses of their own (1 where all look from one), G the axes of an
exposure's grid, P LiDAR points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from splatmend.datasets.geometry import inverse
from splatmend.datasets.shot import Shot
from splatmend.recon.bilateral import variation
from splatmend.recon.exposure import apply_exposure, from_identity
from splatmend.recon.fit.config import LossConfig
from splatmend.recon.fit.data import Sample
from splatmend.recon.fit.losses import below_horizon, bending, photometric, relative_depth
from splatmend.recon.raster.camera_rays import PixelLines, RayCamera, turned_lines
from splatmend.recon.render import SplatPicture, depth_of_rows, normalised_depth
from splatmend.recon.scene import Scene
from splatmend.recon.sky import ray_camera_of, sky_colours


@dataclass(frozen=True, kw_only=True)
class PicturePlan:
    """What does not change from one picture of a kind to the next."""

    weights: LossConfig
    channels: tuple[tuple[str, int, int], ...]
    """Name, first and last but one of the blended channels."""
    sideways: bool
    """Lines are columns."""
    ground: bool
    """Whether there is a sky above a ground."""
    depth_factor: float
    """Of the terms on depth, where not every picture has them."""
    exposure_variation: float
    """Weight of the change of exposures that are grids from vertex to vertex."""


@dataclass(frozen=True, kw_only=True)
class PictureTensors:
    """What changes: the splats, the view, the parameters that are not Gaussians, and the sample."""

    blended: Float[Tensor, "H W C"]
    opacity: Float[Tensor, "H W"]
    exposure: Float[Tensor, "*G 3 4"]
    """What the picture's colours go through, less the identity."""
    sky_logits: Float[Tensor, "S S2 3"] | None
    lens: Float[Tensor, "H W 3"]
    lines: Float[Tensor, "L 21"]
    """Of each line the rotation to the sky's axes (9 numbers), then its pose in the camera's frame at mid exposure (12)."""
    rgb: UInt8[Tensor, "H W 3"]
    valid: Bool[Tensor, "H W"] | None
    pixels: Int[Tensor, "P"]
    depth_m: Float[Tensor, "P"]
    depth_shares: Float[Tensor, "P"]
    """What a point counts in the mean over points."""

    def present(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


def plan_of(
    scene: Scene, drawn: SplatPicture, shot: Shot, weights: LossConfig, depth_factor: float = 1.0, exposure_variation: float = 0.0
) -> PicturePlan:
    """The plan for a picture of a scene."""
    return PicturePlan(
        weights=weights,
        channels=tuple((name, where.start, where.stop) for name, where in drawn.named.items()),
        sideways=shot.camera.shutter in ("left_to_right", "right_to_left"),
        ground=scene.metric and scene.sky is not None,
        depth_factor=depth_factor,
        exposure_variation=exposure_variation,
    )


@dataclass(frozen=True, kw_only=True)
class PictureView:
    """How a picture's pixels look; see `PictureTensors`. `lines` float64 are on the host yet."""

    ray_camera: RayCamera
    lens: Float[Tensor, "H W 3"]
    lines: Float[np.ndarray, "L 21"]


def view_of(scene: Scene, shot: Shot) -> PictureView:
    """The view of a shot. `draw_splats` takes its lines `along` to the device."""
    ray_camera = ray_camera_of(shot, scene.camera_model)
    lines = PixelLines.of(ray_camera, scene.device)
    rotations = lines.world_from_line[:, :3, :3]
    sky_from_line = rotations if scene.sky is None else scene.sky.sky_from_world @ rotations
    numbers = np.empty((len(rotations), 21))
    numbers[:, :9] = sky_from_line.reshape(-1, 9)
    # One line for all looks from the middle of the exposure.
    numbers[:, 9:] = (inverse(shot.world_from_camera) @ lines.world_from_line)[:, :3].reshape(-1, 12) if ray_camera.rolls else _UNMOVED
    return PictureView(ray_camera=ray_camera, lens=lines.lens, lines=numbers)


_UNMOVED = np.eye(3, 4).reshape(12)


def tensors_of(scene: Scene, drawn: SplatPicture, view: PictureView, exposure: Float[Tensor, "*G 3 4"], sample: Sample) -> PictureTensors:
    """The tensors for a picture of a scene that was drawn with the view's lines `along`; see `PictureTensors` for its `exposure`."""
    return PictureTensors(
        blended=drawn.blended,
        opacity=drawn.opacity,
        exposure=exposure,
        sky_logits=None if scene.sky is None else scene.sky.logits,
        lens=view.lens,
        lines=drawn.along[0],
        rgb=sample.rgb,
        valid=sample.valid,
        pixels=sample.pixels,
        depth_m=sample.depth_m,
        depth_shares=sample.depth_shares,
    )


DEPTH_TERMS = frozenset({"lidar_depth", "bending"})
"""Terms that `PicturePlan.depth_factor` goes with."""


def picture_terms(plan: PicturePlan, given: PictureTensors) -> tuple[dict[str, Tensor], Tensor]:
    """Weighted terms of the loss by their names (without `depth_factor`), and the picture's mean squared error (without a gradient)."""
    weights = plan.weights
    drawn: Mapping[str, Tensor] = {name: given.blended[..., start:stop] for name, start, stop in plan.channels}
    rgb = drawn["rgb"]
    upwards = None
    if given.sky_logits is not None:
        turned = turned_lines(given.lens, given.lines[:, :9].unflatten(1, (3, 3)), sideways=plan.sideways)
        directions = torch.nn.functional.normalize(turned, dim=-1)
        upwards = directions[..., 2]
        rgb = rgb + (1.0 - given.opacity)[..., None] * sky_colours(given.sky_logits, directions)
    rgb = apply_exposure(rgb, from_identity(given.exposure))
    truth = given.rgb.float() / 255.0
    terms = photometric(rgb, truth, given.valid, weights.ssim)
    if "depth" in drawn:
        terms |= _depth_terms(plan, given, drawn, truth)
    if plan.ground and weights.ground_opacity > 0:
        assert upwards is not None
        terms["ground_opacity"] = weights.ground_opacity * ground_opacity(given.opacity, upwards)
    if weights.exposure > 0:
        terms["exposure"] = weights.exposure * given.exposure.square().mean()
    if given.exposure.ndim > 2 and plan.exposure_variation > 0:
        terms["exposure_variation"] = plan.exposure_variation * variation(given.exposure)
    with torch.no_grad():
        squared_error = (rgb - truth).square().mean()
    return terms, squared_error


def ground_opacity(opacity: Float[Tensor, "H W"], upwards: Float[Tensor, "H W"]) -> Tensor:
    """Mean transparency of what lies below the horizon; `upwards` is the upward part of the pixels' unit directions."""
    return ((1 - opacity) * below_horizon(upwards)).mean()


def _depth_terms(plan: PicturePlan, given: PictureTensors, drawn: Mapping[str, Tensor], truth: Tensor) -> dict[str, Tensor]:
    weights = plan.weights
    depth_m = normalised_depth(drawn["depth"][..., 0], given.opacity)
    if len(given.lines) > 1:
        camera_from_line = given.lines[:, 9:].unflatten(1, (3, 4))
        depth_m = depth_of_rows(depth_m, given.opacity, given.lens, camera_from_line, sideways=plan.sideways)
    terms = {}
    if given.pixels.numel() and weights.lidar_depth > 0:
        # Unlike plain indexing, gathering need not sort the pixels on the way back.
        at_points = depth_m.reshape(-1).gather(0, given.pixels)
        terms["lidar_depth"] = weights.lidar_depth * relative_depth(at_points, given.depth_m, given.depth_shares)
    if weights.bending > 0:
        terms["bending"] = weights.bending * bending(depth_m, given.opacity, truth)
    return terms
