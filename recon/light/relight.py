"""Bodies under a light: what their surfaces give back towards an eye.

Matt light by the material's albedo; mirrored light by the microfacet model of Cook and Torrance (1982) with GGX's distribution (Walter et
al. 2007), Hammon's approximation of Smith's masking (2017), Schlick's Fresnel term (1994), and for the environment Karis' fit of its
integral ("Physically Based Shading on Mobile", 2014).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from splatmend.recon.assets.asset import Material
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import C0, from_rgb
from splatmend.recon.light.colour import light_from_picture, picture_from_light
from splatmend.recon.light.scene_light import SceneLight

BRIGHTEST = 4.0
"""Highlights brighter than so many times white are cut: a picture shows white from 1 on, and a Gaussian blurs what it shows."""
_LITTLE = 0.1
"""Light counts as no less than this share of a body's mean: where hardly any was, little is known of what more would show."""
_DARKEST = 0.02
"""sRGB below which a place counts as black, so that factors stay bounded."""
_MOST_CHANGE = 20.0
"""Light changes by no more than this factor: what was black of night says little about noon."""
_NORMALS_RAD = 0.3
"""How far normals of harvested bodies are off."""


def relit(
    gaussians: Gaussians,
    material: Material,
    world_from_body: Float[Tensor, "4 4"],
    eye_world_m: Float[Tensor, "3"],
    light: SceneLight,
    *,
    sun_seen: Float[Tensor, "N"],
    sky_seen: Float[Tensor, "N"],
    near: Int[Tensor, "N k"] | None = None,
    alike: Int[Tensor, "N m"] | None = None,
) -> Gaussians:
    """The Gaussians with the colours that a light gives them for an eye.

    Where the light is known that their own colours show (`Material.lit_by`), those change by the ratio of light, harmonics and all:
    Gaussians that blend mean something only together, and a factor that is even over the surface goes through the blending. Of mirrored
    light only the sun's highlight is then added, since the rest is in the colours. Otherwise colours come from the material alone.

    Args:
        gaussians: in the frame of the body.
        material: of the same Gaussians.
        world_from_body: pose of the body, in the axes of the world and from any origin: float32 resolves best what is near to it.
        eye_world_m: where it is seen from, from the same origin.
        light: what lights it.
        sun_seen: share of the sun's light that reaches each Gaussian.
        sky_seen: share of the environment's light that does.
        near: each Gaussian's nearest ones, layers of one place, lit alike where colours change by the ratio; None leaves each alone.
        alike: nearby ones that face the same way, over which the ratio is smoothed; None leaves it.
    """
    turn = world_from_body[:3, :3]
    normals = material.normals @ turn.T
    to_eye = torch.nn.functional.normalize(eye_world_m - (gaussians.means @ turn.T + world_from_body[:3, 3]), dim=1)
    matt = light.diffuse(normals, sun_seen, sky_seen)
    if material.lit_by is not None:
        near = torch.arange(len(matt), device=matt.device)[:, None] if near is None else near
        # Layers over one place face this way and that; what changes them must not.
        then = material.lit_by[near].mean(dim=1)
        little = _LITTLE * then.mean(dim=0)
        ratio = torch.maximum(matt[near].mean(dim=1), little) / torch.maximum(then, little)
        if alike is not None:
            ratio = ratio.log()[alike].mean(dim=1).exp()
        return _changed(gaussians, ratio, blurred_highlight(normals, to_eye, material, light, sun_seen), near)
    highlight = sun_highlight(normals, to_eye, material, light, sun_seen)
    colour = material.albedo * matt + highlight + mirrored_surroundings(normals, to_eye, material, light, sky_seen)
    return replace(gaussians, sh=from_rgb(picture_from_light(colour))[:, None])


def _changed(gaussians: Gaussians, ratio: Float[Tensor, "N 3"], added: Float[Tensor, "N 3"], near: Int[Tensor, "N k"]) -> Gaussians:
    """Gaussians in so many times the light, with something added to it. Their sRGB colours take the factors that the colour of the
    place around them takes."""
    own = gaussians.sh[:, 0] * C0 + 0.5
    weights = gaussians.opacities[near, None]
    around = ((own[near] * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-6)).clamp(_DARKEST, 1.0)
    before = light_from_picture(around)
    changed = before * ratio.clamp(1 / _MOST_CHANGE, _MOST_CHANGE)
    after = picture_from_light(changed)
    factors = after / around
    # The colour is one half more than the sum of harmonics.
    constant = gaussians.sh[:, 0] * factors + (0.5 * (factors - 1) + picture_from_light(changed + added) - after) / C0
    return replace(gaussians, sh=torch.cat([constant[:, None], gaussians.sh[:, 1:] * factors[:, None]], dim=1))


def sun_highlight(
    normals: Float[Tensor, "N 3"],
    to_eye: Float[Tensor, "N 3"],
    material: Material,
    light: SceneLight,
    sun_seen: Float[Tensor, "N"],
) -> Float[Tensor, "N 3"]:
    """Linear radiance of the sun that surfaces mirror towards the eye; unit vectors of the world."""
    shown = _sun_mirrored(normals, to_eye, material, _alpha(material), light)
    return (shown * sun_seen[:, None]).clamp_max(BRIGHTEST)


def blurred_highlight(
    normals: Float[Tensor, "N 3"],
    to_eye: Float[Tensor, "N 3"],
    material: Material,
    light: SceneLight,
    sun_seen: Float[Tensor, "N"],
) -> Float[Tensor, "N 3"]:
    """`sun_highlight` where normals are `_NORMALS_RAD` off: as wide as they are uncertain, and no brighter than white in its middle.

    A picture shows no more than white of a small bright highlight, so that the light, of which there is much more, must not be spread over
    the places where it may be. That is less than the mean of what is shown would be, by a factor of three and more; against the procedural
    street's pictures the mean loses a decibel.
    """
    alpha = _alpha(material)
    wide = _sun_mirrored(normals, to_eye, material, (alpha.square() + _NORMALS_RAD**2).sqrt(), light)
    half = torch.nn.functional.normalize(to_eye + light.to_sun, dim=1)
    brightest = _sun_mirrored(half, to_eye, material, alpha, light).amax(dim=1)
    return wide * (sun_seen / brightest.clamp_min(1.0))[:, None]


def _alpha(material: Material) -> Float[Tensor, "N"]:
    return material.roughness.square().clamp_min(0.01)


def _sun_mirrored(
    normals: Float[Tensor, "N 3"], to_eye: Float[Tensor, "N 3"], material: Material, alpha: Float[Tensor, "N"], light: SceneLight
) -> Float[Tensor, "N 3"]:
    """Of the sun's light, without anything before it, what surfaces of a roughness alpha mirror towards the eye."""
    facing_eye = (normals * to_eye).sum(dim=1).clamp_min(0.05)
    to_sun = light.to_sun
    facing_sun = (normals @ to_sun).clamp_min(0.0)
    half = torch.nn.functional.normalize(to_eye + to_sun, dim=1)
    facing_half = (normals * half).sum(dim=1).clamp(0, 1)
    spread = alpha.square() / (math.pi * (facing_half.square() * (alpha.square() - 1) + 1).square())
    masking = 0.5 / torch.lerp(2 * facing_sun * facing_eye, facing_sun + facing_eye, alpha).clamp_min(1e-4)
    fresnel = material.specular + (1 - material.specular) * (1 - (to_eye * half).sum(dim=1).clamp(0, 1))[:, None] ** 5
    # A matt white surface shows the sun's irradiance over pi.
    return fresnel * (spread * masking * facing_sun * math.pi)[:, None] * light.sun_rgb


def mirrored_surroundings(
    normals: Float[Tensor, "N 3"],
    to_eye: Float[Tensor, "N 3"],
    material: Material,
    light: SceneLight,
    sky_seen: Float[Tensor, "N"],
) -> Float[Tensor, "N 3"]:
    """Linear radiance of the environment that surfaces mirror towards the eye; unit vectors of the world."""
    facing_eye = (normals * to_eye).sum(dim=1)
    mirror = torch.nn.functional.normalize(2 * facing_eye[:, None] * normals - to_eye, dim=1)
    around = light.mirrored(mirror, material.roughness) * sky_seen[:, None]
    scale, bias = _environment_share(facing_eye.clamp_min(0.05), material.roughness)
    return around * (material.specular * scale[:, None] + bias[:, None])


def _environment_share(facing_eye: Float[Tensor, "N"], roughness: Float[Tensor, "N"]) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Of an even environment, what is mirrored: a factor of the straight share, and what grazing adds (Karis 2014)."""
    a, b, c, d = 1 - roughness, 0.0425 - 0.0275 * roughness, 1.04 - 0.572 * roughness, 0.022 * roughness - 0.04
    grazing = torch.minimum(a.square(), torch.exp2(-9.28 * facing_eye)) * a + b
    return -1.04 * grazing + c, 1.04 * grazing + d
