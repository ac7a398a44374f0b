"""The outside of a mesh as flat Gaussians: one lies at each of evenly spread places, in the plane of its triangle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch.nn.functional import normalize

from splatmend.recon.assets.asset import Material
from splatmend.recon.assets.mesh_material import PlacedMaterial, material_at
from splatmend.recon.assets.mesh_reading import ReadMesh
from splatmend.recon.assets.mesh_surface import LEAST_SEEN, SurfacePoints, scattered, seen_from_outside, spread, thinned
from splatmend.recon.assets.neutral_light import own_colours
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import from_rgb
from splatmend.recon.light.colour import picture_from_light

_TRIES_PER_PLACE, _FEWEST_TRIES = 6, 60_000
"""Places that are tried; fewer would leave gaps through which the inside is seen."""
_WIDTH, _FLATNESS = 0.65, 0.1
"""Standard deviations in the plane over the spacing, and across it over those."""
_OPACITY = 0.98
_BOTH_SIDES = 0.6
"""Views of the worse seen side of a sheet, over those of the other, from which on it gets Gaussians for both."""
_SURELY_SEEN = 6.0
"""Sum of cosines over directions; edges of closed bodies seem to show less of their inside than that."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """N places: `xyz [N, 3]` metres in the frame of the body, `facing [N, 3]` unit normals of the triangles, outwards, `spacing` their
    distance."""

    xyz: np.ndarray
    facing: np.ndarray
    spacing: float
    material: Material
    notes: tuple[str, ...]


def outside_surface(mesh: ReadMesh, vertices: np.ndarray, faces: np.ndarray, count: int, generator: np.random.Generator) -> Surface:
    """About `count` places on the outside of a mesh; `vertices [V, 3]` and `faces [F, 3]` are those of all parts, in the frame of the body,
    as the parts' normals are."""
    tries, area = scattered(vertices, faces, max(_TRIES_PER_PLACE * count, _FEWEST_TRIES), generator)
    mean_distance = math.sqrt(area / len(tries.xyz))
    front, back = seen_from_outside(tries.xyz, tries.flat_normals, mean_distance)
    found = material_at(mesh.parts, tries)
    solid = ~((found.alpha < 0.5) & _cut_out(mesh, tries))
    outside = (np.maximum(front, back) > LEAST_SEEN) & solid
    # Something is always seen, but by numbers as coarse as these perhaps not.
    outside = outside if outside.any() else solid if solid.any() else np.ones(len(solid), dtype=bool)
    sign = np.where(back > front, -1.0, 1.0)
    both = outside & (np.minimum(front, back) > np.maximum(_BOTH_SIDES * np.maximum(front, back), _SURELY_SEEN))
    rows, sides = np.flatnonzero(outside), sign[outside]
    rows, sides = np.concatenate([rows, np.flatnonzero(both)]), np.concatenate([sides, -sign[both]])
    order = generator.permutation(len(rows))
    rows, sides = rows[order], sides[order]
    seen_area = area * len(rows) / len(tries.xyz)
    rows, sides = rows[: _TRIES_PER_PLACE * count], sides[: _TRIES_PER_PLACE * count]
    facing = tries.flat_normals[rows] * sides[:, None]
    kept = thinned(tries.xyz[rows], facing, spread(count, seen_area))
    spacing = math.sqrt(seen_area / int(kept.sum()))
    shading = _smoothed(tries.xyz[rows], found.normals[rows] * sides[:, None], facing, kept, spacing)
    material = _shared(found, rows, tries.xyz[rows], facing, kept)
    notes = []
    if (share := 1 - float(outside.mean())) > 0.02:
        notes.append(f"{100 * share:.0f} % of its surface lies inside and was left out")
    return Surface(
        xyz=tries.xyz[rows[kept]],
        facing=facing[kept],
        spacing=spacing,
        material=_as_material(material, shading),
        notes=tuple(notes),
    )


def flat_gaussians(surface: Surface) -> Gaussians:
    """A Gaussian at each place, flat along its normal, with the colours of neutral light."""
    z = surface.facing
    helper = np.where(np.abs(z[:, 2:]) < 0.9, [[0.0, 0, 1]], [[1.0, 0, 0]])
    x = np.cross(helper, z)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    quats = Rotation.from_matrix(np.stack([x, np.cross(z, x), z], axis=2)).as_quat()[:, [3, 0, 1, 2]]
    count = len(z)
    wide = _WIDTH * surface.spacing
    scales = torch.tensor([wide, wide, _FLATNESS * wide]).log().expand(count, 3).contiguous()
    return Gaussians(
        means=torch.from_numpy(surface.xyz).float(),
        quats_wxyz=torch.from_numpy(quats).float(),
        log_scales=scales,
        opacity_logits=torch.full((count,), math.log(_OPACITY / (1 - _OPACITY))),
        sh=from_rgb(picture_from_light(own_colours(surface.material)))[:, None],
    )


def _cut_out(mesh: ReadMesh, points: SurfacePoints) -> np.ndarray:
    """Which places lie on parts whose transparent texels are holes."""
    first = np.cumsum([len(part.faces) for part in mesh.parts])
    return np.array([part.cut_out for part in mesh.parts])[np.searchsorted(first, points.face, side="right")]


def _smoothed(xyz: np.ndarray, normals: np.ndarray, facing: np.ndarray, kept: np.ndarray, spacing: float) -> np.ndarray:
    """Normals `[N, 3]` of the kept places: means over near ones on the same side whose own are alike, so that flat triangles of round
    bodies are round again."""
    near = cKDTree(xyz).query(xyz[kept], k=min(12, len(xyz)), distance_upper_bound=1.5 * spacing)[1].reshape(int(kept.sum()), -1)
    padded = np.concatenate([normals, np.zeros((1, 3))])[np.minimum(near, len(xyz))]
    alike = (padded * normals[kept][:, None]).sum(axis=2) > 0.8
    alike &= (np.concatenate([facing, np.zeros((1, 3))])[np.minimum(near, len(xyz))] * facing[kept][:, None]).sum(axis=2) > 0.3
    total = (padded * alike[:, :, None]).sum(axis=1) + normals[kept]
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def _shared(found: PlacedMaterial, rows: np.ndarray, xyz: np.ndarray, facing: np.ndarray, kept: np.ndarray) -> PlacedMaterial:
    """Materials of the kept places, each the mean over all places that are nearest to it and face as it does: without that, fine patterns
    would leave random dots."""
    chosen = np.flatnonzero(kept)
    owner = cKDTree(xyz[chosen]).query(xyz)[1]
    owner[chosen] = np.arange(len(chosen))
    votes = (facing * facing[chosen][owner]).sum(axis=1) > 0.3
    count = np.maximum(np.bincount(owner[votes], minlength=len(chosen)), 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner[votes], weights=values[rows][votes], minlength=len(chosen)) / count

    return PlacedMaterial(
        base=np.stack([mean(found.base[:, i]) for i in range(3)], axis=1),
        alpha=mean(found.alpha),
        roughness=mean(found.roughness),
        metallic=mean(found.metallic),
        normals=found.normals[rows[chosen]],
    )


def _as_material(placed: PlacedMaterial, normals: np.ndarray) -> Material:
    """The material of solid surfaces. Panes that let light through show what is behind them, here the dark inside."""
    return Material(
        albedo=torch.from_numpy(placed.albedo * placed.alpha[:, None]).float().clamp(0, 1),
        normals=normalize(torch.from_numpy(normals).float(), dim=1),
        roughness=torch.from_numpy(placed.roughness).float(),
        specular=torch.from_numpy(placed.specular).float(),
    )
