"""Bodies under a light: what their surfaces give back towards an eye.

Matt light by the material's albedo; mirrored light by the microfacet model of Cook and Torrance (1982) with GGX's distribution (Walter et
al. 2007), Hammon's approximation of Smith's masking (2017), Schlick's Fresnel term (1994), and for the environment Karis' fit of its
integral ("Physically Based Shading on Mobile", 2014).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.recon.assets.asset import Material
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import from_rgb
from splatmend.recon.light.colour import srgb_from_linear
from splatmend.recon.light.scene_light import SceneLight

BRIGHTEST = 4.0
"""Highlights brighter than so many times white are cut: a picture shows white from 1 on, and a Gaussian blurs what it shows."""


def relit(
    gaussians: Gaussians,
    material: Material,
    world_from_body: Float[Tensor, "4 4"],
    eye_world_m: Float[Tensor, "3"],
    light: SceneLight,
    *,
    sun_seen: Float[Tensor, "N"],
    sky_seen: Float[Tensor, "N"],
) -> Gaussians:
    """The Gaussians with the colours that a light gives their material for an eye, as harmonics of degree 0.

    Args:
        gaussians: in the frame of the body.
        material: of the same Gaussians.
        world_from_body: pose of the body.
        eye_world_m: where it is seen from.
        light: what lights it.
        sun_seen: share of the sun's light that reaches each Gaussian.
        sky_seen: share of the environment's light that does.
    """
    turn = world_from_body[:3, :3]
    normals = material.normals @ turn.T
    to_eye = torch.nn.functional.normalize(eye_world_m - (gaussians.means @ turn.T + world_from_body[:3, 3]), dim=1)
    colour = material.albedo * light.diffuse(normals, sun_seen, sky_seen)
    colour = colour + mirrored_light(normals, to_eye, material, light, sun_seen, sky_seen)
    return replace(gaussians, sh=from_rgb(srgb_from_linear(colour))[:, None])


def mirrored_light(
    normals: Float[Tensor, "N 3"],
    to_eye: Float[Tensor, "N 3"],
    material: Material,
    light: SceneLight,
    sun_seen: Float[Tensor, "N"],
    sky_seen: Float[Tensor, "N"],
) -> Float[Tensor, "N 3"]:
    """Linear radiance that surfaces mirror towards the eye, of the sun and of the environment; unit vectors of the world."""
    facing_eye = (normals * to_eye).sum(dim=1).clamp_min(0.05)
    roughness, straight = material.roughness, material.specular
    to_sun = normals.new_tensor(light.to_sun_world)
    facing_sun = (normals @ to_sun).clamp_min(0.0)
    half = torch.nn.functional.normalize(to_eye + to_sun, dim=1)
    alpha = roughness.square().clamp_min(0.01)
    facing_half = (normals * half).sum(dim=1).clamp(0, 1)
    spread = alpha.square() / (math.pi * (facing_half.square() * (alpha.square() - 1) + 1).square())
    masking = 0.5 / torch.lerp(2 * facing_sun * facing_eye, facing_sun + facing_eye, alpha).clamp_min(1e-4)
    fresnel = straight + (1 - straight) * (1 - (to_eye * half).sum(dim=1).clamp(0, 1))[:, None] ** 5
    # A matt white surface shows the sun's irradiance over pi.
    sun = fresnel * (spread * masking * facing_sun * sun_seen * math.pi)[:, None] * normals.new_tensor(light.sun)
    mirror = 2 * (normals * to_eye).sum(dim=1, keepdim=True) * normals - to_eye
    around = light.mirrored(torch.nn.functional.normalize(mirror, dim=1), roughness) * sky_seen[:, None]
    scale, bias = _environment_share(facing_eye, roughness)
    return sun.clamp_max(BRIGHTEST) + around * (straight * scale[:, None] + bias[:, None])


def _environment_share(facing_eye: Float[Tensor, "N"], roughness: Float[Tensor, "N"]) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Of an even environment, what is mirrored: a factor of the straight share, and what grazing adds (Karis 2014)."""
    a, b, c, d = 1 - roughness, 0.0425 - 0.0275 * roughness, 1.04 - 0.572 * roughness, 0.022 * roughness - 0.04
    grazing = torch.minimum(a.square(), torch.exp2(-9.28 * facing_eye)) * a + b
    return -1.04 * grazing + c, 1.04 * grazing + d
