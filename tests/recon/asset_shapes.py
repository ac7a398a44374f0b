"""Bodies with known surfaces for the tests of assets: a procedural car as Gaussians, and files of meshes written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image

from splatmend.datasets.street.cars import car_mesh
from splatmend.recon.assets.asset import Material
from splatmend.recon.assets.mesh_surface import LEAST_SEEN, scattered, seen_from_outside, spread, thinned
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import from_rgb

Size = tuple[float, float, float]


def car_surface(count: int = 1200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Size]:
    """Places on the outside of a procedural car, their outward normals, and the sides of its box."""
    generator = np.random.default_rng(seed)
    mesh = car_mesh(generator)
    points, area = scattered(mesh.vertices, mesh.triangles, 30_000, generator)
    front, back = seen_from_outside(points.xyz, points.flat_normals, math.sqrt(area / len(points.xyz)))
    outside = np.maximum(front, back) > LEAST_SEEN
    normals = points.flat_normals * np.where(back > front, -1.0, 1.0)[:, None]
    chosen = np.flatnonzero(outside)
    chosen = chosen[thinned(points.xyz[chosen], normals[chosen], spread(count, area * outside.mean()))]
    low, high = mesh.bounds
    size = high - low
    return points.xyz[chosen], normals[chosen], (float(size[0]), float(size[1]), float(size[2]))


def blobs(xyz: np.ndarray, rgb: np.ndarray, sigma_m: float, opacity_logit: float = 3.0, seed: int = 0) -> Gaussians:
    """Gaussians turned at random, a little longer than wide; `rgb [N, 3]` sRGB."""
    generator = np.random.default_rng(seed)
    count = len(xyz)
    return Gaussians(
        means=torch.from_numpy(xyz).float(),
        quats_wxyz=torch.from_numpy(generator.normal(size=(count, 4))).float(),
        log_scales=torch.from_numpy(math.log(sigma_m) + generator.normal(0, 0.15, (count, 3))).float(),
        opacity_logits=torch.full((count,), opacity_logit),
        sh=from_rgb(torch.from_numpy(rgb).float())[:, None],
    )


def matt(normals: np.ndarray, albedo: np.ndarray) -> Material:
    """Rough surfaces that mirror as paint does."""
    count = len(normals)
    return Material(
        albedo=torch.from_numpy(albedo).float(),
        normals=torch.from_numpy(normals).float(),
        roughness=torch.full((count,), 0.4),
        specular=torch.full((count, 3), 0.04),
    )


def wedge(length: float = 4.0) -> trimesh.Trimesh:
    """A body of a car's proportions, x forward, z up: a box with a narrower cabin behind its middle."""
    low = trimesh.creation.box((length, 0.42 * length, 0.18 * length))
    cabin = trimesh.creation.box((0.4 * length, 0.34 * length, 0.14 * length))
    cabin.apply_translation((-0.12 * length, 0, 0.16 * length))
    return trimesh.util.concatenate([low, cabin])


def textured_glb(path: Path, *, turn: np.ndarray | None = None) -> Path:
    """A box 1.6 x 1.2 x 4 (x, y, z), as glTF has its axes: red where z > 0, blue behind, by a texture; factor 0.5."""
    box = trimesh.creation.box((1.6, 1.2, 4.0))
    box.apply_translation((0, 0.6, 0))
    box = box.subdivide()
    pixels = np.zeros((2, 8, 3), dtype=np.uint8)
    pixels[:, :4], pixels[:, 4:] = (0, 0, 255), (255, 0, 0)
    uv = np.stack([0.1 + 0.8 * (box.vertices[:, 2] + 2) / 4, np.full(len(box.vertices), 0.5)], axis=1)
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(pixels), baseColorFactor=[128, 128, 128, 255], roughnessFactor=0.3, metallicFactor=0.0
    )
    box.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    scene = trimesh.Scene()
    scene.add_geometry(box, transform=np.eye(4) if turn is None else turn, node_name="body", geom_name="body")
    path.write_bytes(scene.export(file_type="glb"))
    return path
