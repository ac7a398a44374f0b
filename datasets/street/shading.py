"""Light on surfaces: sun with cast shadows, sky, light from the ground, reflections, haze, and the camera's response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from splatmend.datasets.street import materials
from splatmend.datasets.street.bodies import Bodies, HitPoints, Hits, dot, hit_points
from splatmend.datasets.street.car_material import car_body, car_window, wheel
from splatmend.datasets.street.facade import facade
from splatmend.datasets.street.materials import Material, Points, Surface, lane_lines
from splatmend.datasets.street.noise import Noise
from splatmend.datasets.street.rays import Rays
from splatmend.datasets.street.sky import Sky
from splatmend.datasets.street.skylight import SkyVisibility

_MATERIALS: dict[Material, Callable[[Points, Noise], Surface]] = {
    Material.PLAIN: materials.plain,
    Material.ROAD: materials.road,
    Material.PAVEMENT: materials.pavement,
    Material.CONCRETE: materials.concrete,
    Material.FACADE: facade,
    Material.ROOF: materials.roof,
    Material.FOLIAGE: materials.foliage,
    Material.BARK: materials.bark,
    Material.METAL: materials.metal,
    Material.GRASS: materials.grass,
    Material.CAR_BODY: car_body,
    Material.CAR_WINDOW: car_window,
    Material.WHEEL: wheel,
    Material.SIGN: materials.sign,
    Material.COLOURED: materials.coloured,
    Material.GRAVEL: materials.gravel,
}
_SUN_RADIUS_RAD = 0.0047


@dataclass(frozen=True, kw_only=True)
class Light:
    """Everything that lights a street."""

    sky: Sky
    visibility: SkyVisibility
    noise: Noise


@dataclass(frozen=True, kw_only=True)
class Shaded:
    """For N rays: linear `radiance [N, 3]`, `albedo [N, 3]`, `shadow [N]` (1 where the sun is kept off), `normal [N, 3]`,
    all zero for sky but radiance."""

    radiance: torch.Tensor
    albedo: torch.Tensor
    shadow: torch.Tensor
    normal: torch.Tensor


def seen_lane_lines(points: HitPoints, rays: Rays, distance: torch.Tensor) -> torch.Tensor:
    """Coverage of hit points by the lines along the road's lanes, `[N]`; `distance [N]` is theirs."""
    rows = (points.material == int(Material.ROAD)).nonzero()[:, 0]
    covered = torch.zeros_like(distance)
    covered[rows] = lane_lines(_chosen(points, rows, _footprint_m(points, rays, distance)))
    return covered


def _footprint_m(points: HitPoints, rays: Rays, distance: torch.Tensor) -> torch.Tensor:
    """Side of a pixel on the surface, `[N]`."""
    facing = dot(points.flat_normal, rays.directions[points.ray]).abs().clamp(min=0.08)
    # The geometric mean of the footprint's two sides keeps slanted roads from blurring away.
    return distance * rays.spread_rad / facing.sqrt()


def _chosen(points: HitPoints, rows: torch.Tensor, footprint_m: torch.Tensor) -> Points:
    """Some of the hit points as materials look at them."""
    return Points(
        texture=points.texture[rows],
        part=points.part[rows],
        footprint_m=footprint_m[rows],
        normal_z=points.normal[rows, 2],
        height_m=points.position[rows, 2],
    )


def surfaces(points: HitPoints, rays: Rays, distance: torch.Tensor, noise: Noise) -> Surface:
    """The materials of hit points; `distance [N]` is theirs."""
    footprint = _footprint_m(points, rays, distance)
    count, device = len(distance), distance.device
    out = Surface.matt(torch.zeros((count, 3), device=device))
    for material, evaluate in _MATERIALS.items():
        rows = (points.material == int(material)).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        found = evaluate(
            _chosen(points, rows, footprint),
            noise,
        )
        out.albedo[rows], out.mirror[rows], out.sharpness[rows] = found.albedo, found.mirror, found.sharpness
        out.emission[rows], out.translucency[rows] = found.emission, found.translucency
    out.albedo = out.albedo.clamp(0.004, 0.92)
    return out


def shade(bodies: Bodies, rays: Rays, hits: Hits, light: Light, jitter: tuple[float, float]) -> Shaded:
    """Light of a batch of rays towards the viewer. `jitter` places the sun's sample on its disc (each in -1 to 1)."""
    sky, device = light.sky, bodies.device
    count = len(rays.origins)
    radiance, albedo = torch.zeros((count, 3), device=device), torch.zeros((count, 3), device=device)
    shadow, normal = torch.zeros(count, device=device), torch.zeros((count, 3), device=device)
    missed = (hits.body < 0).nonzero()[:, 0]
    radiance[missed] = sky.radiance(rays.directions[missed])
    points = hit_points(bodies, rays, hits)
    distance = hits.distance[points.ray]
    surface = surfaces(points, rays, distance, light.noise)
    to_sun = _sun_sample(sky.to_sun, jitter)
    facing = points.normal @ to_sun
    flat_facing = points.flat_normal @ to_sun
    leaf = surface.translucency > 0
    lit = ((facing > 0) & (flat_facing > 0)) | leaf
    open_to_sun = torch.zeros(len(distance), device=device)
    ask = lit.nonzero()[:, 0]
    # Off the surface along its flat normal, on the sun's side for thin leaves.
    side = torch.where(flat_facing[ask] > 0, 1.0, -1.0)[:, None]
    start = points.position[ask] + side * points.flat_normal[ask] * (2e-3 + 1e-4 * distance[ask, None])
    blocked = bodies.occluded(start.contiguous(), to_sun.expand(len(ask), 3).contiguous(), rays.moment[points.ray[ask]])
    open_to_sun[ask] = (~blocked).float()
    sunny = torch.where(leaf, surface.translucency + (1 - surface.translucency) * facing.clamp(min=0), facing.clamp(min=0)) * open_to_sun
    seen = light.visibility.at(points.position, points.normal)
    # Between leaves the sky shines through, which the coarse grid cannot know.
    seen = torch.where(leaf, seen.clamp(min=0.4), seen) * _beside_movers(bodies, points, rays)
    below = (0.5 - 0.5 * points.normal[:, 2]).clamp(0, 1)
    hemisphere = 0.5 + 0.5 * points.normal[:, 2]
    enclosed = (hemisphere - seen).clamp(min=0) * 0.75
    ambient = seen[:, None] * sky.dome + (below * 0.8 * seen.clamp(max=0.6).mul(1.6) + enclosed)[:, None] * sky.bounce
    colour = surface.albedo * (sunny[:, None] * sky.sun_light + ambient) + surface.emission
    colour = colour + _reflections(points, rays, surface, light, seen, open_to_sun, to_sun)
    far = torch.exp(-distance / light.sky.air.visibility_m)[:, None]
    radiance[points.ray] = colour * far + sky.horizon * 0.92 * (1 - far)
    albedo[points.ray], shadow[points.ray], normal[points.ray] = surface.albedo, 1 - open_to_sun, points.normal
    return Shaded(radiance=radiance, albedo=albedo, shadow=shadow, normal=normal)


def _sun_sample(to_sun: torch.Tensor, jitter: tuple[float, float]) -> torch.Tensor:
    across = torch.nn.functional.normalize(torch.stack([-to_sun[1], to_sun[0], torch.zeros_like(to_sun[0])]) + 1e-9, dim=0)
    over = torch.linalg.cross(to_sun, across)
    return torch.nn.functional.normalize(to_sun + _SUN_RADIUS_RAD * (jitter[0] * across + jitter[1] * over), dim=0)


def _reflections(
    points: HitPoints, rays: Rays, surface: Surface, light: Light, seen: torch.Tensor, open_to_sun: torch.Tensor, to_sun: torch.Tensor
) -> torch.Tensor:
    """What shiny surfaces mirror: the sky above the roofs, a dull street below, and the sun's highlight (Schlick's Fresnel term)."""
    out = torch.zeros_like(surface.albedo)
    rows = (surface.mirror > 0.001).nonzero()[:, 0]
    if len(rows) == 0:
        return out
    d, n = rays.directions[points.ray[rows]], points.normal[rows]
    cosine = (-dot(d, n)).clamp(0.02, 1)
    mirrored = d + 2 * cosine[:, None] * n
    mirror, sharp = surface.mirror[rows], surface.sharpness[rows]
    fresnel = mirror + (sharp - mirror).clamp(min=0) * (1 - cosine) ** 5
    skyline = 0.32 + 0.07 * light.noise.at(points.position[rows, :2] * 0.01 + mirrored[:, :2], 0.5)[:, 0]
    above = ((mirrored[:, 2] - skyline) / (0.02 + 0.4 * (1 - sharp)) + 0.5).clamp(0, 1)[:, None]
    street = light.sky.bounce * (0.9 + 0.4 * mirrored[:, 2:3].clamp(-1, 1))
    around = light.sky.radiance(mirrored, with_sun=False) * above + street * (1 - above)
    exponent = 2.0 ** (2 + 8 * sharp)
    towards = (mirrored @ to_sun).clamp(0, 1)
    highlight = (towards**exponent * (exponent + 8) / 25.0).clamp(max=30.0) * open_to_sun[rows]
    strength = fresnel * sharp
    out[rows] = (
        strength[:, None] * around * (0.4 + 0.6 * seen[rows].clamp(max=1))[:, None]
        + (fresnel * highlight)[:, None] * light.sky.sun_light * 0.35
    )
    return out


def _beside_movers(bodies: Bodies, points: HitPoints, rays: Rays) -> torch.Tensor:
    """Share of the sky's light left beside and below movers, which the grid of the static street does not know, `[N]`."""
    left = torch.ones(len(points.ray), device=bodies.device)
    for body, poses in zip(bodies.bodies, bodies.poses):
        if poses is None:
            continue
        middle = poses.translation[0]
        half = torch.maximum(body.low.abs(), body.high.abs())
        near = ((points.position - middle).abs().amax(1) < half.amax() + 2.5).nonzero()[:, 0]
        near = near[points.normal[near, 2] > 0.6]
        if len(near) == 0:
            continue
        place = poses.into_body(points.position[near], rays.moment[points.ray[near]])
        # Only what lies at its feet: the mover's own top faces the open sky.
        gap = (place.abs() - half * torch.tensor([0.97, 0.93, 1.0], device=bodies.device)).clamp(min=0)
        foot = (((place[:, 2] + half[2]).abs()) < 0.35).float()
        out = torch.hypot(gap[:, 0], gap[:, 1]) / half[2].clamp(0.2, 1.5)
        left[near] *= 1 - foot * 0.85 * torch.exp(-2.2 * out)
    return left


def camera_response(radiance: torch.Tensor, sky: Sky, exposure: float) -> torch.Tensor:
    """Linear radiance `[..., 3]` to sRGB in [0, 1]: exposure, white balance, a filmic curve (Narkowicz's fit to ACES, 2015), saturation."""
    weights = torch.tensor([0.2126, 0.7152, 0.0722], device=radiance.device)
    sun = float((sky.sun_light * weights).sum()) * float(sky.to_sun[2])
    dome = float((sky.dome * weights).sum())
    key = 0.17 * (0.55 * sun + 0.75 * dome)
    gain = torch.tensor([1 + sky.air.warmth, 1.0, 1 - sky.air.warmth], device=radiance.device)
    # A camera's white balance takes back half of the tint of the light.
    cast = (0.5 * sky.sun_light * sky.to_sun[2] + sky.dome) / (0.5 * sun + dome)
    x = radiance * gain / cast.sqrt() * (exposure * sky.air.exposure * 0.145 / key)
    x = x.clamp(min=0)
    x = (x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14)
    grey = (x * weights).sum(-1, keepdim=True)
    x = (grey + (x - grey) * sky.air.saturation).clamp(0, 1)
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp(min=1e-8) ** (1 / 2.4) - 0.055)
