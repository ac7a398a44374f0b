"""Textured meshes of other programs (.glb, .gltf, .obj) as plain parts: triangles with what is needed to know their colours.

glTF 2.0 says: metres, y up, forward is +z; factors and vertex colours are linear, base colour textures sRGB. Wavefront .obj says nothing of
units and axes; its colours are taken as sRGB.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.recon.assets.mesh_colour import linear_from_srgb

MESH_SUFFIXES = (".glb", ".gltf", ".obj")
_LARGEST_BYTES = 2 * 2**30
_MOST_FACES = 20_000_000
_PART_MATERIALS = (
    # words in a part's name; linear albedo, roughness, metallic
    (("glass", "window", "windscreen", "windshield"), (0.02, 0.02, 0.022), 0.1, 0.0),
    (("tyre", "tire", "rubber"), (0.02, 0.02, 0.02), 0.9, 0.0),
    (("chrome", "mirror", "rim", "hub", "wheel"), (0.55, 0.55, 0.56), 0.3, 1.0),
    (("plastic", "black", "interior", "grill", "underside", "bumper"), (0.025, 0.025, 0.026), 0.6, 0.0),
    (("rearl", "taill", "brakel"), (0.35, 0.02, 0.02), 0.2, 0.0),
    (("light", "lght", "lamp", "plate"), (0.65, 0.65, 0.62), 0.25, 0.0),
)
"""What parts without any colours are made of where their names say it."""
GREY = (0.4, 0.4, 0.4)
_PAINT_ROUGHNESS = 0.4


@dataclass(frozen=True, kw_only=True)
class MeshPart:
    """Triangles of one material. `vertices [V, 3]` in the axes of the file, `faces [F, 3]`, `normals [V, 3]` where the file has them,
    `uv [V, 2]` (origin at the lower left) with `texture [H, W, 4]` uint8 sRGB and `roughness_metallic [H, W, 2]` (uint8, factors of 1/255),
    `colours [V, 3]` linear, or one for all in `factor` (linear, which multiplies the others as well)."""

    name: str
    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None
    uv: np.ndarray | None
    texture: np.ndarray | None
    roughness_metallic: np.ndarray | None
    colours: np.ndarray | None
    factor: tuple[float, float, float]
    alpha: float
    cut_out: bool
    roughness: float
    metallic: float


@dataclass(frozen=True, kw_only=True)
class ReadMesh:
    """What a file holds. `gltf` says whether its units and axes are those of glTF. `notes` are sentences for a person."""

    parts: tuple[MeshPart, ...]
    gltf: bool
    notes: tuple[str, ...]


def read_mesh(path: Path, colour: np.ndarray | None = None) -> ReadMesh:
    """All triangles of a file with their transforms applied; `colour [3]` (linear) is that of parts for which the file has none.

    Raises:
        UserError: where the file is missing, of another kind than its name says, broken, holds no triangle with an area or values that are
            not finite.
    """
    path = Path(path)
    gltf = _check_kind(path)
    loaded = _load(path)
    notes: list[str] = []
    parts = tuple(_parts(path, loaded, gltf, colour, notes))
    if not parts:
        raise UserError(f"{path}: there are no triangles in it; export the mesh again, with faces.")
    return ReadMesh(parts=parts, gltf=gltf, notes=tuple(dict.fromkeys(notes)))


def _check_kind(path: Path) -> bool:
    """Whether the file is glTF; `UserError` where its name or its first bytes fit no mesh."""
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise UserError(f"{path}: meshes are read from {', '.join(MESH_SUFFIXES)} files; convert it to one of these.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path.") from None
    except OSError as fault:
        raise UserError(f"{path}: it cannot be read ({fault.strerror}); check the path.") from None
    if size > _LARGEST_BYTES:
        raise UserError(f"{path}: a mesh of {size / 2**30:.1f} GiB is more than the 2 GiB that are read; simplify it first.")
    what = {
        ".glb": head.startswith(b"glTF"),
        ".gltf": head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"),
        ".obj": b"\0" not in head and bool(head),
    }
    if not what[suffix]:
        archive = " (it is a zip archive: unpack it and give the mesh inside)" if zipfile.is_zipfile(path) else ""
        raise UserError(f"{path}: its content is no {suffix} file{archive}; export the mesh again.")
    return suffix != ".obj"


def _load(path: Path) -> Any:
    import trimesh

    logging.getLogger("trimesh").setLevel(logging.ERROR)
    options: dict[str, Any] = {"split_objects": True, "group_material": False} if path.suffix.lower() == ".obj" else {}
    try:
        return trimesh.load(str(path), process=False, **options)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as fault:  # a reader of damaged files raises nearly anything
        said = " ".join(str(fault).split())[:120]
        reason = said if isinstance(fault, (ValueError, NotImplementedError)) and " " in said else "its data do not fit together"
        raise UserError(f"{path}: it cannot be read as a mesh ({reason}); export it again.") from None


def _parts(path: Path, loaded: Any, gltf: bool, colour: np.ndarray | None, notes: list[str]) -> Iterator[MeshPart]:
    if (missing := _missing_library(path)) is not None:
        notes.append(f"its file of materials {missing} is missing beside it")
    notes += [f"its texture {missing} is missing beside it" for missing in _missing_textures(path)]
    total = 0
    for name, mesh, transform in _placed(loaded):
        faces = np.asarray(getattr(mesh, "faces", np.zeros((0, 3))), dtype=np.int64)
        if not len(faces):
            continue
        total += len(faces)
        if total > _MOST_FACES:
            raise UserError(f"{path}: it has more than {_MOST_FACES:,} faces; simplify it first.")
        vertices = np.asarray(mesh.vertices, dtype=np.float64)
        used = np.zeros(len(vertices), dtype=bool)
        used[faces.reshape(-1)] = True
        if not (np.isfinite(vertices[used]).all() and np.isfinite(transform).all()):
            raise UserError(f"{path}: the part {name} has vertices that are no finite numbers; repair the mesh and export it again.")
        linear = transform[:3, :3]
        determinant = float(np.linalg.det(linear))
        if determinant < 0:
            notes.append(f"the part {name} is mirrored by a negative scale; it is taken as it looks, with its normals turned outwards")
        # Normals go by the inverse transpose; that of a flattened part is its faces'.
        own = mesh._cache.cache.get("vertex_normals") if abs(determinant) > 1e-12 else None
        normals = None
        if own is not None and np.shape(own) == vertices.shape and np.isfinite(own).all():
            normals = np.asarray(own, dtype=np.float64) @ np.linalg.inv(linear)
        # What no face uses may hold anything.
        vertices = np.where(used[:, None], vertices, 0.0) @ linear.T + transform[:3, 3]
        yield _with_material(path, mesh, _Shape(name, vertices, faces, normals), gltf, colour, notes)


@dataclass(frozen=True)
class _Shape:
    name: str
    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None


def _placed(loaded: Any) -> Iterator[tuple[str, Any, np.ndarray]]:
    if not hasattr(loaded, "geometry"):
        yield str(getattr(loaded, "metadata", {}).get("name") or "mesh"), loaded, np.eye(4)
        return
    for node in loaded.graph.nodes_geometry:
        transform, name = loaded.graph[node]
        yield str(name), loaded.geometry[name], np.asarray(transform, dtype=np.float64)


def _with_material(path: Path, mesh: Any, shape: _Shape, gltf: bool, colour: np.ndarray | None, notes: list[str]) -> MeshPart:
    """The part with what its file says of its material, else with what its name does."""
    visual = mesh.visual
    material = getattr(visual, "material", None)
    roughness, metallic = _PAINT_ROUGHNESS, 0.0
    texture = roughness_metallic = colours = uv = None
    factor: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    cut_out = False
    said = False
    if material is not None and hasattr(material, "baseColorFactor"):
        factor = _factor(material.baseColorFactor)
        texture = _pixels(path, material.baseColorTexture, "RGBA")
        packed = _pixels(path, material.metallicRoughnessTexture, "RGB")
        roughness_metallic = None if packed is None else packed[:, :, 1:]
        # Absent factors are 1 in glTF; plain colours without any are meant as paint.
        textured = roughness_metallic is not None
        metallic = float(material.metallicFactor if material.metallicFactor is not None else float(textured))
        roughness = float(material.roughnessFactor if material.roughnessFactor is not None else (1.0 if textured else _PAINT_ROUGHNESS))
        cut_out = material.alphaMode == "MASK"
        said = texture is not None or material.baseColorFactor is not None
    elif material is not None and _obj_material_is_said(material):
        texture = _pixels(path, getattr(material, "image", None), "RGBA")
        diffuse = np.asarray(material.diffuse, dtype=np.float64) / 255
        factor = (1.0, 1.0, 1.0, diffuse[3]) if texture is not None else (*linear_from_srgb(diffuse[:3]), diffuse[3])
        shininess = float(getattr(material, "glossiness", 0.0) or 0.0)
        # Phong's exponent as a microfacet roughness (Walter et al. 2007): alpha^2 = 2 / (n + 2), alpha = roughness^2.
        roughness = float(np.clip((2 / (shininess + 2)) ** 0.25, 0.1, 1.0)) if shininess > 0 else _PAINT_ROUGHNESS
        said = True
    if texture is not None or roughness_metallic is not None:
        uv = getattr(visual, "uv", None)
        if uv is None or np.shape(uv) != (len(shape.vertices), 2) or not np.isfinite(uv).all():
            notes.append(f"the part {shape.name} has a texture but no places on it; its mean colour is used")
            if texture is not None:
                mean = texture.reshape(-1, 4).astype(np.float64).mean(axis=0) / 255
                factor = (*(np.asarray(factor[:3]) * linear_from_srgb(mean[:3])), factor[3])
            uv = texture = roughness_metallic = None
    colours = _vertex_colours(mesh, gltf)
    if not (said or colours is not None):
        factor, roughness, metallic, note = _unsaid(shape.name, colour)
        notes.append(note)
    return MeshPart(
        name=shape.name,
        vertices=shape.vertices,
        faces=shape.faces,
        normals=shape.normals,
        uv=None if uv is None else np.asarray(uv, dtype=np.float64),
        texture=texture,
        roughness_metallic=roughness_metallic,
        colours=colours,
        factor=(float(factor[0]), float(factor[1]), float(factor[2])),
        alpha=float(factor[3]),
        cut_out=cut_out,
        roughness=float(np.clip(roughness, 0.05, 1.0)),
        metallic=float(np.clip(metallic, 0.0, 1.0)),
    )


def _unsaid(name: str, colour: np.ndarray | None) -> tuple[tuple[float, ...], float, float, str]:
    """Colour, roughness, metallic and a note for a part without any colours."""
    for words, albedo, roughness, metallic in _PART_MATERIALS:
        if any(word in name.lower() for word in words):
            return (*albedo, 1.0), roughness, metallic, f"the part {name} has no colours; it is made of what its name says"
    if colour is not None:
        return (*colour, 1.0), _PAINT_ROUGHNESS, 0.0, f"the part {name} has no colours; it is painted as asked for"
    return (
        (*GREY, 1.0),
        _PAINT_ROUGHNESS,
        0.0,
        f"the part {name} has neither texture nor colours; it is painted grey (choose with --colour)",
    )


def _obj_material_is_said(material: Any) -> bool:
    """Whether a material of an .obj comes from its file of materials, and not from a default for a missing one."""
    return getattr(material, "image", None) is not None or bool(getattr(material, "kwargs", None))


def _vertex_colours(mesh: Any, gltf: bool) -> np.ndarray | None:
    raw = getattr(mesh, "vertex_attributes", {}).get("color")
    if raw is None:
        # Where trimesh keeps them of parts that have a material as well.
        raw = getattr(mesh.visual, "vertex_attributes", {}).get("color")
    if raw is None and mesh.visual.kind in ("vertex", "face"):
        raw = mesh.visual.vertex_colors
    if raw is None:
        return None
    values = np.asarray(raw)
    if values.ndim != 2 or values.shape[0] != len(mesh.vertices) or values.shape[1] < 3:
        return None
    scaled = values[:, :3].astype(np.float64) / (np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1.0)
    scaled = np.nan_to_num(scaled).clip(0, 1)
    return scaled if gltf else linear_from_srgb(scaled)


def _factor(raw: Any) -> tuple[float, ...]:
    if raw is None:
        return (1.0, 1.0, 1.0, 1.0)
    values = np.asarray(raw)
    values = values.astype(np.float64) / (255 if values.dtype.kind in "ui" else 1.0)
    return tuple(values[:3]) + ((float(values[3]),) if len(values) > 3 else (1.0,))


def _pixels(path: Path, image: Any, mode: str) -> np.ndarray | None:
    if image is None:
        return None
    try:
        return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError) as fault:
        reason = " ".join(str(fault).split())[:120]
        raise UserError(f"{path}: a texture cannot be decoded ({reason}); export the mesh with PNG or JPEG textures.") from None


def _missing_library(path: Path) -> str | None:
    """The file of materials that an .obj asks for and that is not there."""
    if path.suffix.lower() != ".obj":
        return None
    with path.open("rb") as file:
        for line in file.read(65536).splitlines():
            if line.startswith(b"mtllib "):
                name = line[7:].decode(errors="replace").strip()
                return None if (path.parent / name).is_file() else name
    return None


def _missing_textures(path: Path) -> list[str]:
    """The files of pictures that a .gltf or .glb asks for and that are not there."""
    if path.suffix.lower() == ".obj":
        return []
    with path.open("rb") as file:
        # A header of 12 bytes, then the length and kind of the first chunk, which is JSON.
        binary = path.suffix.lower() == ".glb"
        head = file.read(20) if binary else b""
        data = file.read(int.from_bytes(head[12:16], "little")) if binary else file.read()
    try:
        images = json.loads(data).get("images", [])
        names = [unquote(image["uri"]) for image in images if not image.get("uri", "data:").startswith("data:")]
    except (ValueError, AttributeError, TypeError):  # the reader of meshes has accepted it already
        return []
    return [name for name in names if not (path.parent / name).is_file()]
