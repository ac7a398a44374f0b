"""Bodies of other programs as assets: textured meshes become flat Gaussians with normals and materials, .ply files of Gaussians are turned
and scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import ActorClass
from splatmend.recon.assets.asset import Asset
from splatmend.recon.assets.axes import Axis, place_body
from splatmend.recon.assets.mesh_colour import linear_from_srgb
from splatmend.recon.assets.mesh_gaussians import flat_gaussians, outside_surface
from splatmend.recon.assets.mesh_reading import ReadMesh, read_mesh
from splatmend.recon.assets.mesh_surface import scattered
from splatmend.recon.assets.turning import turned
from splatmend.recon.ply import import_ply
from splatmend.recon.scene_files import file_name


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """How a file of another program becomes an asset."""

    actor_class: ActorClass = "vehicle"
    """What the body is."""
    length_m: float | None = None
    """Its longest horizontal side in metres; none: the file's own where it states a unit and that is believable, else a usual one."""
    up: Axis = "auto"
    """The file's axis that points up; auto: glTF's +y, else guessed from the shape and said."""
    forward: Axis = "auto"
    """The file's axis that the body looks along; auto: glTF's +z, else guessed from the shape and said."""
    count: int = 20_000
    """About how many Gaussians a mesh becomes."""
    colour: tuple[float, float, float] | None = None
    """sRGB in [0, 1] of a mesh's parts that have no colours of their own; none: grey."""
    seed: int = 0
    """Of the random places on a mesh."""

    def __post_init__(self) -> None:
        if self.length_m is not None and not (math.isfinite(self.length_m) and 0.01 <= self.length_m <= 100):
            raise UserError(f"length-m is {self.length_m}, but must be from 0.01 to 100 metres.")
        if not 100 <= self.count <= 1_000_000:
            raise UserError(f"count is {self.count}, but must be from 100 to 1,000,000.")
        if self.colour is not None and not all(0 <= value <= 1 for value in self.colour):
            raise UserError(f"colour is {self.colour}, but its three values must be from 0 to 1.")


def import_mesh(path: Path, config: ImportConfig | None = None, *, asset_id: str | None = None) -> Asset:
    """A textured mesh (.glb, .gltf, .obj) as an asset with a material.

    Only what can be seen from outside becomes Gaussians, with normals that look outwards whatever the order of a face's corners. Parts
    without texture and colours are made of what their names say (glass, tyre, chrome, ...), else painted grey or in `config.colour`, with a
    note. `facts` hold the axes and scale that were taken, where they come from, and `notes` for a person.

    Args:
        path: file of the mesh, with its textures beside or in it.
        config: axes, length and number of Gaussians.
        asset_id: the asset's name; by default that of the file.

    Raises:
        UserError: where the file cannot be read as what its name says, or has no surface.
    """
    config, path = config or ImportConfig(), Path(path)
    mesh = read_mesh(path, None if config.colour is None else linear_from_srgb(np.asarray(config.colour)))
    generator = np.random.default_rng(config.seed)
    vertices, faces = _joined(mesh)
    shape, area = scattered(vertices, faces, 20_000, generator)
    if not area > 0:
        raise UserError(f"{path}: its triangles have no area; export the mesh again.")
    placing = place_body(
        _outline(vertices, faces, shape.xyz),
        config.actor_class,
        gltf=mesh.gltf,
        up=config.up,
        forward=config.forward,
        length_m=config.length_m,
        where=str(path),
    )
    surface = outside_surface(_turned(mesh, placing.rotation), placing.points(vertices), faces, config.count, generator)
    facts = {
        "made_from": "mesh",
        "file": path.name,
        "faces": len(faces),
        **placing.facts(),
        "notes": [*mesh.notes, *placing.notes, *surface.notes],
    }
    return Asset(
        asset_id=file_name(asset_id or path.stem),
        actor_class=config.actor_class,
        size_m=placing.size_m,
        gaussians=flat_gaussians(surface),
        material=surface.material,
        quality=1.0,
        facts=facts,
    )


def import_gaussians(path: Path, config: ImportConfig | None = None, *, asset_id: str | None = None) -> Asset:
    """A .ply file of Gaussians as an asset without a material: its colours stay as they are, in whatever light they were taken.

    Axes and length as for meshes; the box is that of the Gaussians that are not see-through, less the outermost one in a thousand at each
    side.

    Raises:
        UserError: where the file is no .ply file of Gaussians or all of them are see-through.
    """
    config, path = config or ImportConfig(), Path(path)
    gaussians = import_ply(path)
    dense = gaussians.opacities > 0.3
    if int(dense.sum()) < 10:
        raise UserError(f"{path}: fewer than 10 of its Gaussians are not see-through; export it again.")
    means = gaussians.means[dense].double().numpy()
    low, high = np.quantile(means, [0.001, 0.999], axis=0)
    inside = means[((means >= low) & (means <= high)).all(axis=1)]
    placing = place_body(
        inside, config.actor_class, gltf=False, up=config.up, forward=config.forward, length_m=config.length_m, where=str(path)
    )
    return Asset(
        asset_id=file_name(asset_id or path.stem),
        actor_class=config.actor_class,
        size_m=placing.size_m,
        gaussians=turned(gaussians, placing.rotation, placing.centre, placing.scale),
        material=None,
        quality=1.0,
        facts={"made_from": "gaussians", "file": path.name, **placing.facts(), "notes": list(placing.notes)},
    )


def _joined(mesh: ReadMesh) -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0, *(len(part.vertices) for part in mesh.parts)])
    return (
        np.concatenate([part.vertices for part in mesh.parts]),
        np.concatenate([part.faces + start for part, start in zip(mesh.parts, starts)]),
    )


def _turned(mesh: ReadMesh, rotation: np.ndarray) -> ReadMesh:
    """The mesh with its normals in the frame of the body."""
    parts = (part if part.normals is None else replace(part, normals=part.normals @ rotation.T) for part in mesh.parts)
    return replace(mesh, parts=tuple(parts))


def _outline(vertices: np.ndarray, faces: np.ndarray, scattered_xyz: np.ndarray) -> np.ndarray:
    """Places spread over the surface, and the corners that reach farthest along the axes, so that the box is exact."""
    used = vertices[np.unique(faces)]
    return np.concatenate([scattered_xyz, used[used.argmin(axis=0)], used[used.argmax(axis=0)]])
