"""The side of a vehicle that nobody saw, made of the one that somebody did."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splatmend.recon.assets.asset import Material
from splatmend.recon.assets.sightings import WELL_SEEN
from splatmend.recon.gaussians import Gaussians, concatenate
from splatmend.recon.reflection import mirrored

_FEW = 0.1
"""Looks at a place, over those at its mirror image, up to which it counts as not seen."""


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Of N Gaussians: which stay, and whose mirror images are added (bool `[N]`)."""

    stays: Bool[Tensor, "N"]
    copied: Bool[Tensor, "N"]


def halves(seen: Float[Tensor, "N"], mirror_seen: Float[Tensor, "N"]) -> Halves:
    """What becomes of Gaussians by how well their places are seen (sums of cosines over views) and the places of their mirror images.

    Seen on both sides, or on neither: left as it is. Seen there but not here: gives way. Seen here but not there: is copied there.
    """

    def unseen(here: Tensor, there: Tensor) -> Tensor:
        return (there >= WELL_SEEN) & ((here < WELL_SEEN) & (here <= 0.5 * there) | (here <= _FEW * there))

    return Halves(stays=~unseen(seen, mirror_seen), copied=unseen(mirror_seen, seen))


def completed(gaussians: Gaussians, which: Halves) -> Gaussians:
    """Those that stay, then the mirror images."""
    return concatenate([gaussians.select(which.stays), mirrored(gaussians.select(which.copied))])


def completed_material(material: Material, which: Halves) -> Material:
    """Likewise materials."""
    copies = mirrored_material(material.select(which.copied))
    stays = material.select(which.stays)
    added = copies.tensors()
    return Material(**{name: torch.cat([tensor, added[name]]) for name, tensor in stays.tensors().items()})


def mirrored_material(material: Material) -> Material:
    """The material in the mirror of the x-z plane."""
    return replace(material, normals=material.normals * material.normals.new_tensor([1.0, -1.0, 1.0]))
