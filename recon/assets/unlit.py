"""Materials from colours and the light that made them.

A Gaussian's colour along a view is its albedo times the diffuse light on it plus what it mirrors. Roughness and what is mirrored straight
on follow a simple rule, for pictures of a drive say little about them: paint (roughness 0.25, lower where the colour changes with the
eye; 0.04 mirrored), windows (dark, in the upper half, of a surface that is no roof: 0.1 and 0.06), tyres and underside (dark, in the lowest
third: 0.9).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from splatmend.recon.assets.actor_light import LitView
from splatmend.recon.assets.asset import Material
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import C0
from splatmend.recon.light.colour import luminance

LEAST, MOST = 0.02, 0.95
_PAINT_ROUGHNESS, _PAINT_MIRRORS = 0.25, 0.04
_GLASS_ROUGHNESS, _GLASS_MIRRORS = 0.1, 0.06
_RUBBER_ROUGHNESS = 0.9
_DARK = 0.09
_MIRRORED_AT_MOST = 0.6
"""Share of a colour that may be put down to what is mirrored."""
_POOR_LIGHT = 0.03
"""Light, as a share of the body's brightest, by which a division is half believed."""
_ALIKE = 0.08
"""Distance of chromaticities at which neighbours still count fully as being of the same stuff."""


def unlit_material(
    gaussians: Gaussians,
    normals: Float[Tensor, "N 3"],
    size_m: tuple[float, float, float],
    views: tuple[LitView, ...],
    near: Int[Tensor, "N k"],
) -> Material:
    """The material of Gaussians (frame of the body, around the centre of its box of `size_m`) whose colours the views show.

    Albedo is the least-squares solution over views, weighted by how well each sees the Gaussian; where little light fell or no view
    looked it leans on the median of the neighbours (`near [N, k]`) of like colour. It lies in [0.02, 0.95].
    """
    count = len(gaussians)
    first = Material(
        albedo=torch.zeros(count, 3, device=gaussians.device),
        normals=normals,
        roughness=_paint_roughness(gaussians),
        specular=torch.full((count, 3), _PAINT_MIRRORS, device=gaussians.device),
    )
    albedo, sureness = _solved(first, views)
    albedo = _leaning_on_neighbours(albedo, sureness, near)
    dark = luminance(albedo) < _DARK
    glass, rubber = _windows(gaussians, normals, size_m) & dark, (gaussians.means[:, 2] < -size_m[2] / 6) & dark
    roughness = torch.where(glass, _GLASS_ROUGHNESS, torch.where(rubber, _RUBBER_ROUGHNESS, first.roughness))
    specular = torch.where(glass[:, None], _GLASS_MIRRORS, first.specular)
    again = replace(first, roughness=roughness, specular=specular)
    albedo, sureness = _solved(again, views)
    albedo = _leaning_on_neighbours(albedo, sureness, near).clamp(LEAST, MOST)
    return replace(again, albedo=albedo, lit_by=_mean_light(normals, views))


def _mean_light(normals: Float[Tensor, "N 3"], views: tuple[LitView, ...]) -> Float[Tensor, "N 3"]:
    """The diffuse light in which the views together show surfaces, each view counted by how well it sees them."""
    weights = torch.stack([view.weight + 1e-3 for view in views])
    light = torch.stack([view.diffuse(normals) for view in views])
    return (weights[..., None] * light).sum(dim=0) / weights.sum(dim=0)[:, None]


def _solved(material: Material, views: tuple[LitView, ...]) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N"]]:
    """Albedo over all views, not clamped, and how sure it is, in [0, 1)."""
    above, below = torch.zeros_like(material.albedo), torch.zeros_like(material.albedo)
    looks = torch.zeros_like(material.roughness)
    brightness = torch.zeros_like(material.roughness)
    for view in views:
        light = view.diffuse(material.normals)
        mirrored = torch.minimum(view.mirrored(material), _MIRRORED_AT_MOST * view.colour)
        # A little of everything, so that what no view sees well has a value as well.
        weight = view.weight + 1e-3
        above += weight[:, None] * light * (view.colour - mirrored)
        below += weight[:, None] * light.square()
        brightness += weight * luminance(light)
        looks += weight
    brightness = brightness / looks
    lit = brightness / (brightness + _POOR_LIGHT * brightness.quantile(0.9).clamp_min(1e-6))
    return (above / below.clamp_min(1e-8)).clamp(0, 2), lit * looks / (looks + 0.5)


def _leaning_on_neighbours(albedo: Float[Tensor, "N 3"], sureness: Float[Tensor, "N"], near: Int[Tensor, "N k"]) -> Float[Tensor, "N 3"]:
    """Albedo mixed with the median of neighbours of like colour, each counted by how sure it is, the less a Gaussian is sure of its own."""
    own = albedo / albedo.sum(dim=1, keepdim=True).clamp_min(1e-3)
    unlike = (own[near] - own[:, None]).norm(dim=2)
    weight = sureness[near] * torch.exp(-((unlike / _ALIKE) ** 2)) + 1e-6
    median = torch.stack([_weighted_median(albedo[near][..., channel], weight) for channel in range(3)], dim=1)
    return sureness[:, None] * albedo + (1 - sureness)[:, None] * median


def _weighted_median(values: Float[Tensor, "N k"], weight: Float[Tensor, "N k"]) -> Float[Tensor, "N"]:
    ordered, order = values.sort(dim=1)
    passed = weight.gather(1, order).cumsum(dim=1)
    middle = (passed >= 0.5 * passed[:, -1:]).float().argmax(dim=1)
    return ordered.gather(1, middle[:, None])[:, 0]


def _paint_roughness(gaussians: Gaussians) -> Float[Tensor, "N"]:
    """0.25, down to 0.1 where the harmonics beyond the first hold a tenth of the colour's energy or more."""
    if gaussians.sh.shape[1] == 1:
        return torch.full((len(gaussians),), _PAINT_ROUGHNESS, device=gaussians.device)
    constant = (gaussians.sh[:, 0] * C0 + 0.5).clamp_min(0.05).square().sum(dim=1)
    # Orthonormal harmonics: the mean square over all directions is the sum of squares over four pi.
    changing = gaussians.sh[:, 1:].square().sum(dim=(1, 2)) * C0**2
    return _PAINT_ROUGHNESS - 0.15 * (10 * changing / constant).clamp(0, 1)


def _windows(gaussians: Gaussians, normals: Float[Tensor, "N 3"], size_m: tuple[float, float, float]) -> Bool[Tensor, "N"]:
    """Where windows of a vehicle are: in the upper half, not on the roof, not in the middle of the front and rear ends."""
    height = gaussians.means[:, 2] / size_m[2]
    along = gaussians.means[:, 0].abs() / size_m[0]
    return (height > 0.05) & (normals[:, 2] < 0.85) & (along < 0.48)
