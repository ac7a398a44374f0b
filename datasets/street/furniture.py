"""Trees, lamps, signs, bins, hedges and walls, each standing at its own origin with z up (numpy)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from splatmend.datasets.street.materials import Material
from splatmend.datasets.street.mesh import Mesh, box, cylinder, icosphere, joined, mesh_of, part_row, quad, tube

_LEAVES = np.array([[0.085, 0.12, 0.04], [0.065, 0.10, 0.04], [0.12, 0.145, 0.055], [0.17, 0.135, 0.05], [0.06, 0.085, 0.045]])


def tree(generator: np.random.Generator, leaf_colour: np.ndarray, detail: float = 1.0) -> Mesh:
    """A trunk with some boughs and a crown of lumps with single leaves on them; less `detail` (0 to 1) means fewer and larger leaves."""
    seed = generator.random()
    height, crown = generator.uniform(4.8, 8.5), generator.uniform(1.5, 2.6)
    fork = generator.uniform(2.0, 2.8)
    lean = generator.uniform(-0.2, 0.2, 2)
    thickness = 0.03 * height * generator.uniform(0.7, 1.1)
    bark = part_row(np.array([0.13, 0.10, 0.075]) * generator.uniform(0.7, 1.5), seed)
    middle = np.array([*lean, height - crown * 0.9])
    trunk = np.array([[0, 0, -0.4], [0, 0, 0.15], [*(0.4 * lean), fork], middle])
    meshes = [tube(trunk, thickness * np.array([1.5, 1.1, 0.85, 0.4]), 7, Material.BARK, bark)]
    lumps = [(middle, crown * np.array([1, 1, generator.uniform(0.8, 1.15)]))]
    for angle in generator.uniform(0, 2 * np.pi) + np.arange(4) * (2 * np.pi / 4) + generator.uniform(-0.4, 0.4, 4):
        reach = crown * generator.uniform(0.55, 0.8)
        place = middle + np.array([np.cos(angle) * reach, np.sin(angle) * reach, generator.uniform(-0.5, 0.45) * crown])
        lumps.append((place, crown * generator.uniform(0.45, 0.65) * np.ones(3)))
        start = trunk[2] + np.array([0, 0, generator.uniform(-0.1, 0.5)])
        meshes.append(
            tube(
                np.stack([start, 0.5 * (start + place) - [0, 0, 0.1], place]),
                thickness * np.array([0.5, 0.35, 0.2]),
                4,
                Material.BARK,
                bark,
            )
        )
    leaf = part_row(leaf_colour * generator.uniform(0.8, 1.2), seed, 1.0)
    for place, radii in lumps:
        meshes.append(_lump(generator, place, radii * 0.86, 1, leaf))
        meshes.append(_leaves(generator, place, radii, int(230 * detail * radii[0] ** 1.2), 0.125 / np.sqrt(detail), leaf))
    return joined(meshes)


def _lump(generator: np.random.Generator, place: np.ndarray, radii: np.ndarray, subdivisions: int, part: np.ndarray) -> Mesh:
    sphere, triangles = icosphere(subdivisions)
    swell = 1 + 0.18 * generator.standard_normal(len(sphere)).clip(-1.5, 1.5)
    vertices = sphere * radii * swell[:, None] + place
    return mesh_of(vertices, triangles, Material.FOLIAGE, part, vertices, sphere)


def _leaves(generator: np.random.Generator, place: np.ndarray, radii: np.ndarray, count: int, size_m: float, part: np.ndarray) -> Mesh:
    """Single triangles, their corners spread by `size_m`, around an ellipsoid; their normals point outward, so that they are
    lit as a crown."""
    outward = generator.standard_normal((count, 3))
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    centre = place + outward * radii * generator.uniform(0.82, 1.12, (count, 1))
    corners = centre[:, None] + generator.standard_normal((count, 3, 3)) * size_m
    vertices = corners.reshape(-1, 3)
    return mesh_of(vertices, np.arange(3 * count).reshape(-1, 3), Material.FOLIAGE, part, vertices, np.repeat(outward, 3, axis=0))


def leaf_colour(generator: np.random.Generator) -> np.ndarray:
    return _LEAVES[generator.integers(len(_LEAVES))]


def hedge(generator: np.random.Generator, length_m: float, leaf: np.ndarray) -> Mesh:
    """A clipped hedge along x, rough on top and in front."""
    height, thick = generator.uniform(0.8, 1.5), 0.55
    part = part_row(leaf * generator.uniform(0.7, 1.1), generator.random(), 1.2)
    core = box((0, 0, -0.3), (length_m, thick, height), Material.FOLIAGE, part)
    count = int(length_m * 22)
    x, front = generator.uniform(0, length_m, count), generator.random(count) < 0.6
    centre = np.stack(
        [x, np.where(front, -0.01, generator.uniform(0, thick, count)), np.where(front, generator.uniform(0, height, count), height)], 1
    )
    vertices = (centre[:, None] + generator.standard_normal((count, 3, 3)) * 0.06).reshape(-1, 3)
    normal = np.where(front[:, None], [0, -0.9, 0.45], [0, -0.2, 0.98])
    leaves = mesh_of(vertices, np.arange(3 * count).reshape(-1, 3), Material.FOLIAGE, part, vertices, np.repeat(normal, 3, axis=0))
    return joined([core, leaves])


def low_wall(generator: np.random.Generator, length_m: float) -> Mesh:
    """A garden wall of brick with a coping, along x."""
    height = generator.uniform(0.5, 1.0)
    brick = part_row((0.27, 0.12, 0.08), generator.random(), 0, 3, 3, 0, 1, 1, 1, length_m, 30, 0.3, 0.3, 0.3, 2, 0, 1, 0)
    front = np.array([[0, 0, -0.3], [length_m, 0, -0.3], [length_m, 0, height], [0, 0, height]])
    texture = np.array([[0, -0.3, 0], [length_m, -0.3, 0], [length_m, height, 0], [0, height, 0]])
    coping = part_row((0.42, 0.40, 0.36), generator.random(), 1.0)
    return joined(
        [quad(front, texture, Material.FACADE, brick),
         box((-0.03, -0.04, height), (length_m + 0.03, 0.28, height + 0.07), Material.CONCRETE, coping),
         box((0, 0.01, -0.3), (length_m, 0.24, height), Material.CONCRETE, coping, without=("right", "bottom", "top"))]
    )  # fmt: skip


def lamp(generator: np.random.Generator, style: int, colour: np.ndarray) -> Mesh:
    """A street lamp whose arm reaches along +y."""
    part = part_row(colour, generator.random())
    glass = part_row((0.75, 0.73, 0.66), generator.random())
    if style == 0:
        height, reach = 7.2, 1.6
        post = np.array([[0, 0, -0.3], [0, 0, 3.0], [0, 0, height - 0.7], [0, 0.35, height - 0.1], [0, reach, height]])
        head = box((-0.14, reach - 0.1, height - 0.07), (0.14, reach + 0.55, height + 0.06), Material.METAL, part)
        lens = box((-0.1, reach - 0.02, height - 0.11), (0.1, reach + 0.45, height - 0.07), Material.PLAIN, glass)
        return joined([tube(post, np.array([0.10, 0.08, 0.06, 0.05, 0.04]), 8, Material.METAL, part), head, lens])
    post = np.array([[0, 0, -0.3], [0, 0, 0.6], [0, 0, 0.65], [0, 0, 3.7]])
    sphere, triangles = icosphere(1)
    globe = mesh_of(sphere * [0.2, 0.2, 0.26] + [0, 0, 3.98], triangles, Material.PLAIN, glass, None, sphere)
    hat = tube(np.array([[0, 0, 4.2], [0, 0, 4.3]]), np.array([0.25, 0.04]), 8, Material.METAL, part)
    return joined([tube(post, np.array([0.11, 0.11, 0.06, 0.045]), 8, Material.METAL, part), globe, hat])


def sign_post(generator: np.random.Generator) -> Mesh:
    """A traffic sign that faces -x."""
    colour = np.array([[0.5, 0.015, 0.02], [0.02, 0.09, 0.38], [0.55, 0.40, 0.02], [0.02, 0.22, 0.09]])[generator.integers(4)]
    kind, half, z = float(generator.integers(2)), 0.33, generator.uniform(2.2, 2.6)
    if kind < 0.5:
        angle = np.linspace(0, 2 * np.pi, 17)[:-1]
        outline = np.stack([np.cos(angle), np.sin(angle)], 1) * half
    else:
        outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    # Seen from -x, right is -y.
    corners = np.stack([np.full(len(outline), -0.06), -outline[:, 0], outline[:, 1] + z], 1)
    fan = np.array([[0, i, i + 1] for i in range(1, len(outline) - 1)])
    texture = np.concatenate([outline, np.zeros((len(outline), 1))], 1)
    face = mesh_of(corners, fan, Material.SIGN, part_row(colour, generator.random(), kind, half), texture)
    back = mesh_of(corners + np.array([0.015, 0, 0]), fan[:, ::-1], Material.METAL, part_row((0.3, 0.3, 0.3), 0.4))
    post = tube(np.array([[0, 0, -0.3], [0, 0, z + half]]), np.array([0.035, 0.035]), 6, Material.METAL, part_row((0.35, 0.35, 0.36), 0.5))
    return joined([face, back, post])


def bin_on_wheels(generator: np.random.Generator) -> Mesh:
    """A household waste bin."""
    colour = np.array([[0.03, 0.07, 0.03], [0.03, 0.03, 0.035], [0.02, 0.05, 0.16], [0.22, 0.16, 0.02]])[generator.integers(4)]
    part = part_row(colour, generator.random())
    body = box((-0.26, -0.28, 0.08), (0.26, 0.28, 0.95), Material.METAL, part)
    taper = body.vertices.copy()
    taper[taper[:, 2] < 0.5, :2] *= 0.8
    lid = box((-0.29, -0.31, 0.95), (0.31, 0.31, 1.03), Material.METAL, part)
    wheels = cylinder(0.1, 0.3, 10, Material.PLAIN, part_row((0.02, 0.02, 0.02), 0.1))
    return joined([replace(body, vertices=taper), lid, replace(wheels, vertices=wheels.vertices + np.array([-0.2, 0, 0.1]))])


def bollard(generator: np.random.Generator, colour: np.ndarray) -> Mesh:
    part = part_row(colour, generator.random())
    band = part_row((0.6, 0.6, 0.58), generator.random())
    return joined(
        [tube(np.array([[0, 0, -0.2], [0, 0, 0.72]]), np.array([0.07, 0.07]), 8, Material.METAL, part),
         tube(np.array([[0, 0, 0.72], [0, 0, 0.82]]), np.array([0.072, 0.072]), 8, Material.PLAIN, band),
         tube(np.array([[0, 0, 0.82], [0, 0, 0.92]]), np.array([0.07, 0.03]), 8, Material.METAL, part)]
    )  # fmt: skip
