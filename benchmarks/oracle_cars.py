"""Cars of procedural streets as .glb files: the oracle's own body, brought in as users bring theirs.

Vertex colours are the albedos of the street's materials, roughness that of their highlights. What glTF's metallic-roughness material
cannot say, or importers do not read, is left out: the glow of lamps, and that tyres and sills mirror nothing at all.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import trimesh
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

from splatmend.datasets.street.bodies import HitPoints
from splatmend.datasets.street.materials import Surface
from splatmend.datasets.street.mesh import Mesh
from splatmend.datasets.street.noise import Noise
from splatmend.datasets.street.rays import Rays
from splatmend.datasets.street.shading import surfaces
from splatmend.recon.assets.asset import Asset
from splatmend.recon.assets.importing import import_mesh

EDGE_M = 0.03
FOOTPRINT_M = 0.01
_ROUGHNESS_STEP = 0.05
_DARK = 16 / 255
"""Parts no brighter than this have it for their factor: trimesh writes colours with 8 bits, of which linear black paint would use two."""
_GLTF_FROM_BODY = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
"""glTF looks along +z and has +y up, so +x is its left."""


def imported(mesh: Mesh, noise: Noise, name: str) -> Asset:
    """A car of a street as an asset, by way of a file; `noise` is the street's."""
    with TemporaryDirectory() as folder:
        return import_mesh(export_car(mesh, noise, Path(folder) / f"{name}.glb"))


def export_car(mesh: Mesh, noise: Noise, path: Path) -> Path:
    """Write a mesh (x forward, y left, z up) as .glb: a part for each material of the street and step of roughness."""
    corners, face = subdivided(mesh)
    surface = surface_at(mesh, corners.reshape(-1, 9), np.repeat(face, 3), noise)
    albedo = surface.albedo.double().numpy().reshape(-1, 3, 3)
    roughness = _roughness(surface).reshape(-1, 3).mean(axis=1)
    steps = np.rint(roughness / _ROUGHNESS_STEP).astype(int)
    kinds = np.stack([mesh.material[face], steps, albedo.max(axis=(1, 2)) <= _DARK], axis=1)
    scene = trimesh.Scene()
    for kind in np.unique(kinds, axis=0):
        rows = (kinds == kind).all(axis=1)
        name = "-".join(str(int(value)) for value in kind)
        part = _part(corners[rows].reshape(-1, 9), albedo[rows].reshape(-1, 3), kind[1] * _ROUGHNESS_STEP, _DARK if kind[2] else 1.0)
        scene.add_geometry(part, node_name=name, geom_name=name)
    path.write_bytes(scene.export(file_type="glb", include_normals=True))
    return path


def subdivided(mesh: Mesh, edge_m: float = EDGE_M) -> tuple[np.ndarray, np.ndarray]:
    """Triangles, halved across their longest edges until none is longer than `edge_m`: `[N, 3, 9]` vertex, normal and texture coordinates
    of their corners, and the mesh's triangle that each is a piece of `[N]`."""
    columns = np.concatenate([mesh.vertices, mesh.normals, mesh.texture], axis=1)
    left, face = columns[mesh.triangles], np.arange(len(mesh.triangles))
    pieces, faces = [], []
    while len(left):
        lengths = np.linalg.norm(np.roll(left[:, :, :3], -1, axis=1) - left[:, :, :3], axis=2)
        short = lengths.max(axis=1) <= edge_m
        pieces.append(left[short])
        faces.append(face[short])
        left, face, longest = left[~short], face[~short], lengths[~short].argmax(axis=1)
        a, b, c = (left[np.arange(len(left)), (longest + step) % 3] for step in range(3))
        middle = 0.5 * (a + b)
        left, face = np.concatenate([np.stack([a, middle, c], 1), np.stack([middle, b, c], 1)]), np.concatenate([face, face])
    return np.concatenate(pieces), np.concatenate(faces)


def surface_at(mesh: Mesh, columns: np.ndarray, face: np.ndarray, noise: Noise) -> Surface:
    """The street's materials at places `[M, 9]` (vertex, normal, texture coordinates) on triangles `face [M]`, each looked at straight by a
    pixel of `FOOTPRINT_M`."""
    position, normal, texture = (torch.from_numpy(columns[:, i : i + 3]).float() for i in (0, 3, 6))
    normal = torch.nn.functional.normalize(normal, dim=1)
    each = torch.arange(len(columns))
    points = HitPoints(
        ray=each,
        position=position,
        flat_normal=normal,
        normal=normal,
        texture=texture,
        material=torch.from_numpy(mesh.material[face]),
        part=torch.from_numpy(mesh.parts[mesh.part[face]]).float(),
    )
    straight = Rays(
        origins=position + normal,
        directions=-normal,
        moment=torch.zeros_like(each),
        moments_us=np.zeros(1, np.int64),
        spread_rad=FOOTPRINT_M,
    )
    return surfaces(points, straight, torch.ones(len(columns)), noise)


def _roughness(surface: Surface) -> np.ndarray:
    """glTF's roughness `[M]`, the root of GGX's alpha, of the street's highlights (`shading._reflections`): lobes cos^n about the mirrored
    direction, which are cos^(4 n) about the halfway vector's, and of that exponent N alpha^2 = 2 / (N + 2) (Walter et al. 2007). 1 where
    nothing is mirrored."""
    exponent = 4 * 2.0 ** (2 + 8 * surface.sharpness.double())
    return torch.where(surface.mirror > 0.01, (2 / (exponent + 2)) ** 0.25, 1.0).numpy()


def _part(columns: np.ndarray, albedo: np.ndarray, roughness: float, factor: float) -> trimesh.Trimesh:
    """Triangles whose corners are rows of `columns [3 N, 9]`, with linear colours."""
    normals = columns[:, 3:6] / np.linalg.norm(columns[:, 3:6], axis=1, keepdims=True)
    colours = np.rint(np.concatenate([albedo / factor, np.ones((len(albedo), 1))], axis=1).clip(0, 1) * 255).astype(np.uint8)
    material = PBRMaterial(
        baseColorFactor=np.rint(255 * np.array([factor, factor, factor, 1.0])).astype(np.uint8),
        roughnessFactor=float(roughness),
        metallicFactor=0.0,
    )
    visual = TextureVisuals(material=material)
    visual.vertex_attributes["color"] = colours
    return trimesh.Trimesh(
        vertices=columns[:, :3] @ _GLTF_FROM_BODY.T,
        faces=np.arange(len(columns)).reshape(-1, 3),
        vertex_normals=normals @ _GLTF_FROM_BODY.T,
        visual=visual,
        process=False,
    )
