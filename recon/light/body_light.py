"""A body in the light of a moment: what reaches its surfaces, and what it keeps off of others'.

Shape letters: N Gaussians of the body, K directions of the sky, P points around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from splatmend.recon.assets.shape_normals import nearest
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.light.colour import luminance
from splatmend.recon.light.occlusion import OcclusionMaps, cast, dome
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.raster.api import Backend
from splatmend.recon.transfer import upload

SceneOpen = Callable[[Float[Tensor, "P 3"]], Float[Tensor, "P"]]
_SOLID = 0.1
"""Gaussians below this opacity do not count towards a body's extent."""
_CLOSE, _CLOSE_M = 12, 0.12
"""Gaussians so close together, at most so many, are layers of one place."""
_ALIKE, _ALIKE_M, _ALIKE_COSINE = 48, 0.4, 0.8
"""Gaussians so close together, at most so many, whose normals are so much alike are parts of one panel."""
SUN_STEP = 1 / 512
"""The sun's direction in a body's frame is rounded to this, which is up to 0.1 degrees; its disc is 0.53 wide."""
_UNDERSIDE = 0.2
"""Share of the ground's light that a surface facing straight down gets: it sees the ground that the body itself keeps dark."""


@dataclass(frozen=True, kw_only=True)
class OwnSun:
    """A body as the sun sees it, in its own frame, and the share of the sun's light that reaches its Gaussians past itself."""

    maps: OcclusionMaps
    past_itself: Float[Tensor, "N"]


class BodyShape:
    """A body's Gaussians and what they keep off the sky, in the body's frame; the same at all times."""

    def __init__(
        self,
        gaussians: Gaussians,
        normals: Float[Tensor, "N 3"] | None = None,
        *,
        sky_directions: int,
        rows: int,
        bias_m: float,
        backend: Backend | None,
    ) -> None:
        """`normals` of the Gaussians let their own shadows begin off the surface, so that it does not shade itself in stripes."""
        solid = gaussians.means[gaussians.opacities > _SOLID]
        extent = (solid if len(solid) else gaussians.means).abs().amax(dim=0)
        self.gaussians, self.rows, self.bias_m, self.backend = gaussians, rows, bias_m, backend
        self.reach_m = 1.05 * float(extent.norm())
        self.half_height_m = float(extent[2])
        self.sky = dome(sky_directions, gaussians.device)
        self.matt = torch.full((sky_directions,), 0.5, device=gaussians.device)
        self._maps = self.seen_from(self.sky)
        self.off_surface = gaussians.means if normals is None else gaussians.means + bias_m * normals
        self.near = _close(gaussians.means, _CLOSE, _CLOSE_M)
        self.alike = None if normals is None else _alike(gaussians.means, normals)
        self._own_open = self._maps.open_to(self.off_surface, bias_m)
        self._sun: tuple[tuple[int, ...], OwnSun] | None = None

    def in_sun(self, to_sun: Float[np.ndarray, "3"]) -> OwnSun:
        """The body under a sun in a direction of its frame. Kept while the sun stays within `SUN_STEP`, and the same whichever of these
        directions was asked for first."""
        step = tuple(np.rint(np.asarray(to_sun) / SUN_STEP).astype(int).tolist())
        if self._sun is None or self._sun[0] != step:
            maps = self.seen_from(upload(SUN_STEP * np.array([step]), self.gaussians.device))
            self._sun = step, OwnSun(maps=maps, past_itself=maps.open_to(self.off_surface, self.bias_m)[:, 0])
        return self._sun[1]

    def seen_from(self, sources: Float[Tensor, "K 3"]) -> OcclusionMaps:
        """The body as far sources see it."""
        centre = torch.zeros(3, device=self.gaussians.device)
        return cast(self.gaussians, sources, centre, self.reach_m, self.rows, backend=self.backend)

    def smooth(self, shares: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """Means over neighbours: what lies in several layers over one place is lit alike."""
        return shares[self.near].mean(dim=1)

    def sky_beside(self, points: Float[Tensor, "P 3"], normals: Float[Tensor, "P 3"], radiance: Float[Tensor, "K"]) -> Float[Tensor, "P"]:
        """Share of the sky's light, of that `radiance` by direction, that the body leaves to surfaces beside and below it."""
        weights = (normals @ self.sky.T).clamp_min(0.0) * radiance
        return ((weights * self._maps.open_to(points, self.bias_m / 2)).sum(dim=1) + 1e-6) / (weights.sum(dim=1) + 1e-6)

    def sky_on(self, normals: Float[Tensor, "N 3"], radiance: Float[Tensor, "K"], ground: Tensor) -> Float[Tensor, "N"]:
        """Share of the environment's light that reaches the body's own Gaussians; `ground` is the luminance of the ground's light."""
        weights = (normals @ self.sky.T).clamp_min(0.0) * radiance * (2 / len(self.sky))
        below = ground * (1 - normals[:, 2]) / 2
        dark = 1 - (1 - _UNDERSIDE) * (-normals[:, 2]).clamp(0, 1)
        return self.smooth(((weights * self._own_open).sum(dim=1) + below * dark + 1e-6) / (weights.sum(dim=1) + below + 1e-6))


def _close(means: Float[Tensor, "N 3"], most: int, within_m: float) -> Int[Tensor, "N k"]:
    """Nearest ones, itself in place of those that are too far away."""
    near = nearest(means, most)
    itself = torch.arange(len(means), device=means.device)[:, None]
    return torch.where((means[near] - means[:, None]).norm(dim=2) < within_m, near, itself)


def _alike(means: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]) -> Int[Tensor, "N k"]:
    """Nearby ones that face the same way, again and again up to as many as there may be."""
    near = _close(means, _ALIKE, _ALIKE_M)
    # Itself counts once, not in place of all that are too far away.
    others = near != torch.arange(len(means), device=means.device)[:, None]
    good = ((normals[near] * normals[:, None]).sum(dim=2) > _ALIKE_COSINE) & others
    good[:, 0] = True
    count = good.sum(dim=1, keepdim=True).clamp_min(1)
    first = near.gather(1, good.byte().argsort(dim=1, descending=True, stable=True))
    turns = torch.arange(near.shape[1], device=means.device)[None] % count
    return first.gather(1, turns)


@dataclass(frozen=True, kw_only=True)
class BodyLight:
    """A body at a pose (metres, in the scene's frame) under a light. `radiance [K]` is the luminance of its directions of the sky,
    `own_sun` what the sun sees of the body, and `scene_open` says how much of the sun's light the scene without it lets through to points
    of the scene's frame."""

    shape: BodyShape
    scene_from_body: Float[Tensor, "4 4"]
    light: SceneLight
    radiance: Float[Tensor, "K"]
    own_sun: OwnSun
    scene_open: SceneOpen

    @staticmethod
    def of(shape: BodyShape, scene_from_body: Float[np.ndarray, "4 4"], light: SceneLight, scene_open: SceneOpen) -> BodyLight:
        """The light on a body at a pose."""
        placed = upload(scene_from_body, shape.gaussians.device)
        return BodyLight(
            shape=shape,
            scene_from_body=placed,
            light=light,
            radiance=luminance(light.mirrored(shape.sky @ placed[:3, :3].T, shape.matt)),
            own_sun=shape.in_sun(scene_from_body[:3, :3].T @ light.to_sun_world),
            scene_open=scene_open,
        )

    @property
    def centre(self) -> Float[Tensor, "3"]:
        return self.scene_from_body[:3, 3]

    @property
    def turn(self) -> Float[Tensor, "3 3"]:
        return self.scene_from_body[:3, :3]

    def sun_on_body(self) -> Float[Tensor, "N"]:
        """Share of the sun's light that reaches the body's Gaussians, past itself and the scene."""
        return self.shape.smooth(self.own_sun.past_itself * self.scene_open(self.shape.off_surface @ self.turn.T + self.centre))

    def sky_on_body(self, normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Share of the environment's light that does; normals in the body's frame."""
        below = luminance(self.light.ambient(-self.turn[:, 2][None]))[0]
        return self.shape.sky_on(normals, self.radiance, below)

    def kept_beside(
        self, points: Float[Tensor, "P 3"], normals: Float[Tensor, "P 3"], eye: Float[Tensor, "3"], ground_m: float, pits_m: float
    ) -> Float[Tensor, "P 3"]:
        """Share of the light of surfaces of the scene (points and unit normals in its frame, seen from `eye`) that is left once the body
        stands there. What lies within `ground_m` of the plane that the body stands on is taken to be ground, and what is seen through it,
        down to `pits_m` below, to be ground where it is seen through."""
        half_height_m = self.shape.half_height_m
        points = self._out_of_pits(points, eye, pits_m)
        own = (points - self.centre) @ self.turn
        flat = (own[:, 2] + half_height_m).abs() < ground_m
        # What is drawn of the ground lies a little above or below it; the shadow begins at the wheels.
        own = torch.where(flat[:, None], torch.cat([own[:, :2], own.new_full((len(own), 1), -half_height_m)], dim=1), own)
        normals = torch.where(flat[:, None], self.turn[:, 2], normals)
        scene_sun = self.scene_open(points)
        facing = (normals @ self.light.to_sun).clamp_min(0.0) * scene_sun
        sun = facing[:, None] * self.light.sun_rgb
        sky = self.light.ambient(normals)
        left = (
            sun * self.own_sun.maps.open_to(own, self.shape.bias_m)
            + sky * self.shape.sky_beside(own, normals @ self.turn, self.radiance)[:, None]
        )
        return (left + 1e-6) / (sun + sky + 1e-6)

    def _out_of_pits(self, points: Float[Tensor, "P 3"], eye: Float[Tensor, "3"], deepest_m: float) -> Float[Tensor, "P 3"]:
        """Points below the plane that the body stands on, brought to where it is met on the way to them. Fits dig pits below the road where
        shadows moved over it. None is taken for so deep that it would lie more than twice as far away as the plane."""
        up = self.turn[:, 2]
        foot = self.centre - self.shape.half_height_m * up
        height_m, eye_m = (points - foot) @ up, (eye - foot) @ up
        pits = (height_m < 0) & (height_m > -eye_m.clamp(0, deepest_m))
        return torch.where(pits[:, None], torch.lerp(points, eye, (height_m / (height_m - eye_m))[:, None]), points)
