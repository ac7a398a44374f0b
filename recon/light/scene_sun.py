"""Where the scene lets the sun through to a body, and where it does not.

A ray from the sun that passes a point above the ground ends on the ground. Where that ground looks sunlit in the scene's own pictures,
the point is lit as well, however little of what keeps the sun off elsewhere was ever reconstructed (of the upper floors of houses beside
the road mostly nothing was). Where no ground was seen, and under a light that is not the recorded one, the reconstructed geometry is asked.
Shadows that vehicles themselves cast on it say nothing of what stands between them and the sun: there the ground around is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splatmend.recon.gaussians import Gaussians, joined
from splatmend.recon.harmonics import colours
from splatmend.recon.light.colour import light_from_picture, luminance
from splatmend.recon.light.occlusion import OcclusionMaps, cast, far_axes, far_picture
from splatmend.recon.light.scene_light import GROUND_ALBEDO, SceneLight
from splatmend.recon.raster.api import Backend
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import upload

_PIXEL_M = 0.2
_MOST_ROWS = 1024
_ABOVE_M = 0.35
"""Gaussians this close to the plane that the body drives on are ground."""
_MARKING_PX = 5
"""What is lit or shaded by itself on less than this, as markings and covers of drains are, is neither."""
_GAP_PX = 11
_SHADOW_GAPS_PX = (31, 61)
"""Likewise where vehicles' shadows were, the first of these with enough around: half as wide again as a car's under a sun of 30 degrees, or
12 m, for lanes that slow traffic shaded."""
_LEAST_AROUND_SHADOW = 0.1
_LEAST_AROUND = 0.25
"""Ground is known where this share of what lies around it was seen."""
_LOWEST = 0.02
"""Sine of the sun's elevation, which counts as no lower."""
_MUCH = 0.25
"""What a vehicle shades for a smaller share of its own track shows what it is without it: traffic that passes leaves no shadow."""
_PENUMBRA_M = 0.2
"""Shadows of vehicles reach so far beyond those of their boxes."""
_SHADED, _SUNLIT = 0.35, 0.65
"""On the logarithmic way from the luminance of shaded ground to that of sunlit ground: below it is shaded, above it is sunlit."""


@dataclass(frozen=True, kw_only=True)
class RecordedBody:
    """A vehicle that shaded the ground when that was recorded: sides of its box, and its poses `[T, 4, 4]` in the scene's frame."""

    size_m: tuple[float, float, float]
    scene_from_body: Float[np.ndarray, "T 4 4"]


def recorded_bodies(scene: Scene) -> tuple[RecordedBody, ...]:
    """Those of a scene's own actors."""
    scene_from_world = np.eye(4)
    scene_from_world[:3, 3] = -scene.origin_world_m
    return tuple(
        RecordedBody(size_m=actor.track.size_m, scene_from_body=scene_from_world @ actor.track.track.world_from_body)
        for actor in scene.actors.values()
    )


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
        shading: Sequence[RecordedBody] = (),
        backend: Backend | None = None,
    ) -> None:
        """`scene_from_body` are poses along the body's track, whose origins lie `half_height_m` above the ground; what lies farther than
        `margin_m` from it is not asked for. `shading` are bodies, not part of the background, that shaded the ground when it was seen."""
        device = background.device
        self._light, self._background, self._bias_m, self._backend = light, background, bias_m, backend
        up = scene_from_body[:, :3, 2].mean(axis=0)
        feet_m = scene_from_body[:, :3, 3] - half_height_m * scene_from_body[:, :3, 2]
        self._up = upload(up / np.linalg.norm(up), device)
        self._feet = upload(feet_m, device)
        self._axes = far_axes(self._up[None])[0]
        self._centre = upload((feet_m.min(axis=0) + feet_m.max(axis=0)) / 2, device)
        self._reach_m = float((self._feet - self._centre).norm(dim=1).max()) + margin_m
        self._ground = self._seen_ground(shading)

    def open_at(self, points: Float[Tensor, "P 3"], geometry: OcclusionMaps) -> Float[Tensor, "P"]:
        """Share of the sun's light that the standing scene lets through to points; `geometry` answers where no ground was seen."""
        to_sun = self._light.to_sun
        height_m = ((points - self._feet_below(points)) @ self._up).clamp_min(0.0)
        landing = points - to_sun * (height_m / (to_sun @ self._up).clamp_min(_LOWEST))[:, None]
        at = (landing - self._centre) @ self._axes[:2].T / self._reach_m
        sunlit, known = torch.nn.functional.grid_sample(self._ground, at[None, None], align_corners=False)[0, :, 0]
        return sunlit + (1 - known) * geometry.open_to(points, self._bias_m)[:, 0]

    def geometry_around(self, centre: Float[Tensor, "3"], reach_m: float, rows: int) -> OcclusionMaps:
        """The standing scene as the sun sees it around a place."""
        return cast(self._background, self._light.to_sun[None], centre, reach_m, rows, backend=self._backend)

    def _feet_below(self, points: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
        nearest = [torch.cdist(part, self._feet).argmin(dim=1) for part in points.split(1 << 16)]
        return self._feet[joined(nearest)] if nearest else points

    def _seen_ground(self, shading: Sequence[RecordedBody]) -> Float[Tensor, "1 2 R R"]:
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
        shaded_by_bodies = self._shaded_by(shading, rows)
        known = ((opacity > 0.5) & ~shaded_by_bodies).float()
        # Small gaps in what was seen of the ground are what is around them, and so are shadows that others than the scene cast.
        value, enough = _around(sunlit * known, known, _GAP_PX, _LEAST_AROUND)
        for across_px in _SHADOW_GAPS_PX:
            wider, found = _around(sunlit * known, known, across_px, _LEAST_AROUND_SHADOW)
            fill = shaded_by_bodies & found & ~enough
            value, enough = torch.where(fill, wider, value), enough | fill
        sunlit, known = torch.where(known > 0, sunlit, value), enough.float()
        return torch.stack([_without_small(sunlit) * known, known])[None]

    def _shaded_by(self, shading: Sequence[RecordedBody], rows: int) -> Bool[Tensor, "R R"]:
        """Where bodies kept the sun off the ground for much of the time, seen as `_seen_ground` draws it."""
        shares = np.zeros((rows, rows), np.float32)
        axes, centre, up, to_sun, feet = (
            part.double().cpu().numpy() for part in (self._axes, self._centre, self._up, self._light.to_sun, self._feet)
        )
        for body in shading:
            half = np.array(body.size_m) / 2 + _PENUMBRA_M
            corners = half * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
            for pose, count in _stays(body.scene_from_body):
                ground = feet[np.linalg.norm(feet - pose[:3, 3], axis=1).argmin()]
                points = corners @ pose[:3, :3].T + pose[:3, 3]
                height_m = np.clip((points - ground) @ up, 0.0, None)
                landing = points - to_sun * (height_m / max(to_sun @ up, _LOWEST))[:, None]
                at = (landing - centre) @ axes[:2].T / self._reach_m
                if (at.max(axis=0) < -1).any() or (at.min(axis=0) > 1).any():
                    continue
                pixels = np.rint((at + 1) / 2 * rows - 0.5).astype(np.int32)
                low, high = pixels.min(axis=0).clip(0, rows - 1), pixels.max(axis=0).clip(0, rows - 1)
                shadow = np.zeros(high[::-1] - low[::-1] + 1, np.uint8)
                cv2.fillConvexPoly(shadow, cv2.convexHull(pixels - low), 1)
                shares[low[1] : high[1] + 1, low[0] : high[0] + 1] += count / len(body.scene_from_body) * shadow
        return torch.from_numpy(shares > _MUCH).to(self._feet.device)


def _stays(poses: Float[np.ndarray, "T 4 4"]) -> Iterator[tuple[Float[np.ndarray, "4 4"], int]]:
    """Poses less than a pixel apart as one, and how many they are."""
    first, count = poses[0], 0
    for pose in poses:
        if np.linalg.norm(pose[:3, 3] - first[:3, 3]) > _PIXEL_M:
            yield first, count
            first, count = pose, 0
        count += 1
    yield first, count


def _around(
    values: Float[Tensor, "R R"], known: Float[Tensor, "R R"], across_px: int, least: float
) -> tuple[Float[Tensor, "R R"], Bool[Tensor, "R R"]]:
    """Means over squares of values (0 where they are not known), and whether more than the `least` share of a square is known."""
    total, share = torch.nn.functional.avg_pool2d(torch.stack([values, known])[None], across_px, stride=1, padding=across_px // 2)[0]
    return total / share.clamp_min(1e-6), share > least


def _without_small(picture: Float[Tensor, "R R"]) -> Float[Tensor, "R R"]:
    """Morphological opening, then closing."""

    def grown(values: Tensor) -> Tensor:
        return torch.nn.functional.max_pool2d(values, _MARKING_PX, stride=1, padding=_MARKING_PX // 2)

    values = picture[None, None]
    values = grown(-grown(-values))
    return (-grown(-grown(values)))[0, 0]
