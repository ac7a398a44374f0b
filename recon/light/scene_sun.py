"""Where the scene lets the sun through to a body, and where it does not.

A ray from the sun that passes a point above the ground ends on the ground. Where that ground looks sunlit in the scene's own pictures,
the point is lit as well, however little of what keeps the sun off elsewhere was ever reconstructed (of the upper floors of houses beside
the road mostly nothing was). Where no ground was seen, and under a light that is not the recorded one, the reconstructed geometry is asked.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.recon.gaussians import Gaussians, joined
from splatmend.recon.harmonics import colours
from splatmend.recon.light.colour import light_from_picture, luminance
from splatmend.recon.light.occlusion import OcclusionMaps, cast, far_axes, far_picture
from splatmend.recon.light.scene_light import GROUND_ALBEDO, SceneLight
from splatmend.recon.raster.api import Backend
from splatmend.recon.transfer import upload

_PIXEL_M = 0.2
_MOST_ROWS = 1024
_ABOVE_M = 0.35
"""Gaussians this close to the plane that the body drives on are ground."""
_MARKING_PX = 5
"""What is lit or shaded by itself on less than this, as markings and covers of drains are, is neither."""
_GAP_PX = 11
_LEAST_AROUND = 0.25
"""Ground is known where this share of what lies around it was seen."""
_SHADED, _SUNLIT = 0.35, 0.65
"""On the logarithmic way from the luminance of shaded ground to that of sunlit ground: below it is shaded, above it is sunlit."""


class SceneSun:
    """What the sun reaches along a body's track. Points are metres in the scene's frame."""

    def __init__(
        self,
        background: Gaussians,
        scene_from_body: Float[np.ndarray, "T 4 4"],
        half_height_m: float,
        margin_m: float,
        light: SceneLight,
        *,
        bias_m: float,
        backend: Backend | None = None,
    ) -> None:
        """`scene_from_body` are poses along the body's track, whose origins lie `half_height_m` above the ground; what lies farther than
        `margin_m` from it is not asked for."""
        device = background.device
        self._light, self._background, self._bias_m, self._backend = light, background, bias_m, backend
        up = scene_from_body[:, :3, 2].mean(axis=0)
        feet_m = scene_from_body[:, :3, 3] - half_height_m * scene_from_body[:, :3, 2]
        self._up = upload(up / np.linalg.norm(up), device)
        self._feet = upload(feet_m, device)
        self._axes = far_axes(self._up[None])[0]
        self._centre = upload((feet_m.min(axis=0) + feet_m.max(axis=0)) / 2, device)
        self._reach_m = float((self._feet - self._centre).norm(dim=1).max()) + margin_m
        self._ground = self._seen_ground()

    def open_at(self, points: Float[Tensor, "P 3"], geometry: OcclusionMaps) -> Float[Tensor, "P"]:
        """Share of the sun's light that the standing scene lets through to points; `geometry` answers where no ground was seen."""
        to_sun = self._light.to_sun
        height_m = ((points - self._feet_below(points)) @ self._up).clamp_min(0.0)
        landing = points - to_sun * (height_m / (to_sun @ self._up).clamp_min(0.02))[:, None]
        at = (landing - self._centre) @ self._axes[:2].T / self._reach_m
        sunlit, known = torch.nn.functional.grid_sample(self._ground, at[None, None], align_corners=False)[0, :, 0]
        return sunlit + (1 - known) * geometry.open_to(points, self._bias_m)[:, 0]

    def geometry_around(self, centre: Float[Tensor, "3"], reach_m: float, rows: int) -> OcclusionMaps:
        """The standing scene as the sun sees it around a place."""
        return cast(self._background, self._light.to_sun[None], centre, reach_m, rows, backend=self._backend)

    def _feet_below(self, points: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
        nearest = [torch.cdist(part, self._feet).argmin(dim=1) for part in points.split(1 << 16)]
        return self._feet[joined(nearest)] if nearest else points

    def _seen_ground(self) -> Float[Tensor, "1 2 R R"]:
        """The ground from above: how sunlit it is, 0 where it was not seen, and whether it was."""
        rows = min(max(int(2 * self._reach_m / _PIXEL_M), 16), _MOST_ROWS)
        if not self._light.recorded:
            return self._feet.new_zeros(1, 2, 1, 1)
        around = self._background.select((self._background.means - self._centre).norm(dim=1) < 1.5 * self._reach_m)
        low = ((around.means - self._feet_below(around.means)) @ self._up).abs() < _ABOVE_M
        ground = around.select(low)
        rgb = colours(ground.sh, -self._up.expand(len(ground), 3), 0)
        picture, opacity = far_picture(ground, self._axes, self._centre, self._reach_m, rows, rgb, backend=self._backend)
        seen = luminance(light_from_picture(picture / opacity[..., None].clamp_min(1e-3)))
        up = self._up[None]
        shaded = GROUND_ALBEDO * luminance(self._light.ambient(up)).clamp_min(1e-4)
        lit = GROUND_ALBEDO * luminance(self._light.diffuse(up)).clamp_min(1e-4)
        way = (seen / shaded).clamp_min(1e-3).log() / (lit / shaded).log().clamp_min(0.05)
        sunlit = ((way - _SHADED) / (_SUNLIT - _SHADED)).clamp(0, 1)
        known = (opacity > 0.5).float()
        # Small gaps in what was seen of the ground are what is around them.
        near = torch.nn.functional.avg_pool2d(torch.stack([sunlit * known, known])[None], _GAP_PX, stride=1, padding=_GAP_PX // 2)[0]
        sunlit = torch.where(known > 0, sunlit, near[0] / near[1].clamp_min(1e-6))
        known = (near[1] > _LEAST_AROUND).float()
        return torch.stack([_without_small(sunlit) * known, known])[None]


def _without_small(picture: Float[Tensor, "R R"]) -> Float[Tensor, "R R"]:
    """Morphological opening, then closing."""

    def grown(values: Tensor) -> Tensor:
        return torch.nn.functional.max_pool2d(values, _MARKING_PX, stride=1, padding=_MARKING_PX // 2)

    values = picture[None, None]
    values = grown(-grown(-values))
    return (-grown(-grown(values)))[0, 0]
