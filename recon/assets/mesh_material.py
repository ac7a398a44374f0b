"""Colours, roughness and metallic of places on a mesh, from its textures and factors (glTF 2.0, section 3.9: metallic-roughness)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splatmend.recon.assets.mesh_colour import linear_from_srgb, texels
from splatmend.recon.assets.mesh_reading import MeshPart
from splatmend.recon.assets.mesh_surface import SurfacePoints

_DIELECTRIC = 0.04


@dataclass(frozen=True, kw_only=True)
class PlacedMaterial:
    """Of M places: `base [M, 3]` linear base colour, `alpha [M]`, `roughness [M]`, `metallic [M]`, and `normals [M, 3]` (unit, as the part
    has them; those of the triangles where it has none)."""

    base: np.ndarray
    alpha: np.ndarray
    roughness: np.ndarray
    metallic: np.ndarray
    normals: np.ndarray

    @property
    def albedo(self) -> np.ndarray:
        """Linear share of diffuse light given back: metals give none."""
        return self.base * (1 - self.metallic)[:, None]

    @property
    def specular(self) -> np.ndarray:
        """Share mirrored when looked at straight: 0.04 for paint and plastic, the base colour for metals."""
        return _DIELECTRIC * (1 - self.metallic)[:, None] + self.base * self.metallic[:, None]


def material_at(parts: tuple[MeshPart, ...], points: SurfacePoints) -> PlacedMaterial:
    """The materials of places whose faces count through all parts."""
    count = len(points.xyz)
    base, alpha = np.ones((count, 3)), np.ones(count)
    roughness, metallic, normals = np.ones(count), np.zeros(count), points.flat_normals.copy()
    first = np.cumsum([0, *(len(part.faces) for part in parts)])
    for part, start, end in zip(parts, first, first[1:]):
        rows = np.flatnonzero((points.face >= start) & (points.face < end))
        if not len(rows):
            continue
        corners, weights = part.faces[points.face[rows] - start], points.weights[rows]
        colour, opacity = np.broadcast_to(part.factor, (len(rows), 3)), np.full(len(rows), part.alpha)
        rough, metal = np.full(len(rows), part.roughness), np.full(len(rows), part.metallic)
        if part.colours is not None:
            colour = colour * _between(part.colours, corners, weights)
        if part.uv is not None:
            uv = _between(part.uv, corners, weights)
            if part.texture is not None:
                texel = texels(part.texture, uv)
                colour, opacity = colour * linear_from_srgb(texel[:, :3]), opacity * texel[:, 3]
            if part.roughness_metallic is not None:
                packed = texels(part.roughness_metallic, uv)
                rough, metal = rough * packed[:, 0], metal * packed[:, 1]
        if part.normals is not None:
            normals[rows] = _shading_normals(_between(part.normals, corners, weights), points.flat_normals[rows])
        base[rows], alpha[rows], roughness[rows], metallic[rows] = colour, opacity, rough, metal
    return PlacedMaterial(base=base.clip(0, 1), alpha=alpha, roughness=roughness.clip(0.05, 1), metallic=metallic, normals=normals)


def _between(values: np.ndarray, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.einsum("mi,mij->mj", weights, values[corners])


def _shading_normals(normals: np.ndarray, flat_normals: np.ndarray) -> np.ndarray:
    """Interpolated normals, of length one, on the side of the triangle's; the triangle's where they stray far from it."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.maximum(length, 1e-12)
    cosine = (normals * flat_normals).sum(axis=1, keepdims=True)
    normals = np.where(cosine < 0, -normals, normals)
    return np.where((length > 1e-9) & (np.abs(cosine) > 0.4), normals, flat_normals)
