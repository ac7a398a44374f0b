"""Meshes and Gaussians of other programs become assets: axes, size, surface, materials, and what is refused."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from asset_shapes import blobs, textured_glb, wedge
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from splatmend.datasets.errors import UserError
from splatmend.datasets.images import write_image
from splatmend.recon.assets.importing import ImportConfig, import_gaussians, import_mesh
from splatmend.recon.assets.shape_normals import outwards
from splatmend.recon.assets.turning import turned, turned_harmonics
from splatmend.recon.harmonics import basis
from splatmend.recon.light.colour import linear_from_srgb
from splatmend.recon.ply import export_ply

SMALL = 600
SAMPLES = Path(os.environ.get("SPLATMEND_SAMPLES", Path(__file__).resolve().parents[3] / "shared" / "data")) / "assets"


def config(**values) -> ImportConfig:
    return ImportConfig(**{"count": SMALL, **values})


def test_a_textured_box_stands_with_its_colours_where_they_were(tmp_path: Path) -> None:
    asset = import_mesh(textured_glb(tmp_path / "red front.glb"), config())
    assert asset.asset_id.startswith("red-front")
    assert asset.size_m == pytest.approx((4.0, 1.6, 1.2), abs=1e-6)  # glTF: z is forward, y up
    gaussians, material = asset.gaussians, asset.material
    assert material is not None
    assert 0.7 * SMALL < len(gaussians) < 1.3 * SMALL
    ahead, behind = gaussians.means[:, 0] > 0.6, gaussians.means[:, 0] < -0.6
    # Factor 128/255 linear times a texture that is 1.
    torch.testing.assert_close(material.albedo[ahead].mean(0), torch.tensor([0.502, 0.0, 0.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(material.albedo[behind].mean(0), torch.tensor([0.0, 0.0, 0.502]), atol=0.01, rtol=0)
    torch.testing.assert_close(material.roughness, torch.full((len(gaussians),), 0.3), atol=1e-4, rtol=0)
    assert asset.facts["placed_by"] == {"up": "format", "forward": "format", "length": "format"}
    half = torch.tensor(asset.size_m) / 2
    distance = (gaussians.means.abs() - half).abs().amin(dim=1)
    assert float(distance.max()) < 1e-5
    side = (gaussians.means.abs() - half).abs().argmin(dim=1)
    outward = torch.nn.functional.one_hot(side, 3) * gaussians.means.sign()
    assert float((outward * material.normals).sum(1).quantile(0.05)) > 0.9


def test_vertex_colours_of_a_part_with_a_material_are_multiplied_by_its_factor(tmp_path: Path) -> None:
    box = trimesh.creation.box((1.6, 1.2, 4.0)).subdivide()
    front = box.vertices[:, 2] > 0
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[128, 128, 128, 255], roughnessFactor=0.3, metallicFactor=0.0)
    box.visual = trimesh.visual.TextureVisuals(material=material)
    box.visual.vertex_attributes["color"] = np.where(front[:, None], [204, 0, 0, 255], [0, 0, 51, 255]).astype(np.uint8)
    box.export(tmp_path / "box.glb")
    asset = import_mesh(tmp_path / "box.glb", config())
    assert asset.material is not None
    for where, linear in ((asset.gaussians.means[:, 0] > 1.99, [0.4, 0.0, 0.0]), (asset.gaussians.means[:, 0] < -0.1, [0.0, 0.0, 0.1])):
        torch.testing.assert_close(asset.material.albedo[where].mean(0), torch.tensor(linear), atol=0.01, rtol=0)
    torch.testing.assert_close(asset.material.roughness, torch.full((len(asset.gaussians),), 0.3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("axes", [{}, {"up": "-x", "forward": "+y"}])
def test_normals_of_a_file_turn_with_its_body(tmp_path: Path, axes: dict[str, str]) -> None:
    """Flat triangles that are shaded as the ball that they are cut from, in a file whose axes are not those of the body."""
    ball = trimesh.creation.icosphere(subdivisions=2)
    ball.apply_scale((1.0, 1.0, 2.0))
    ball = trimesh.Trimesh(ball.vertices, ball.faces, vertex_normals=ball.vertices / [1.0, 1.0, 4.0], process=False)
    ball.export(tmp_path / "ball.glb", include_normals=True)
    asset = import_mesh(tmp_path / "ball.glb", config(count=2000, **axes))
    assert asset.material is not None
    true = torch.nn.functional.normalize(asset.gaussians.means / torch.tensor(asset.size_m).square(), dim=1)
    assert float((asset.material.normals * true).sum(1).quantile(0.02)) > 0.99


def test_places_are_spread_evenly_whatever_the_triangles(tmp_path: Path) -> None:
    """One side in thousands of triangles, the others in two each."""
    fine = trimesh.creation.box((4, 2, 1.5))
    for _ in range(4):
        fine = fine.subdivide(face_index=np.flatnonzero(fine.triangles_center[:, 1] > 0.99))
    fine.export(tmp_path / "fine.obj")
    asset = import_mesh(tmp_path / "fine.obj", config(up="+z", forward="+x", length_m=4.0))
    means = asset.gaussians.means.numpy()
    side = means[np.abs(means[:, 1]) > 0.999]
    gap = cKDTree(side).query(side, k=2)[0][:, 1]
    assert gap.min() > 0.6 * np.median(gap)
    left, right = (means[:, 1] > 0.99).sum(), (means[:, 1] < -0.99).sum()
    assert 0.85 < left / right < 1.18


@pytest.mark.parametrize(("up", "forward"), [("+z", "+x"), ("+y", "+z"), ("-y", "+x"), ("+x", "-z")])
def test_axes_are_guessed_from_the_shape_and_said(tmp_path: Path, up: str, forward: str) -> None:
    mesh = wedge()
    axes = {name: np.eye(3)["xyz".index(name[1])] * (1 if name[0] == "+" else -1) for name in (up, forward)}
    z, x = axes[up], axes[forward]
    mesh.vertices = mesh.vertices @ np.stack([x, np.cross(z, x), z])
    mesh.export(tmp_path / "body.obj")
    asset = import_mesh(tmp_path / "body.obj", config())
    assert (asset.facts["up"], asset.facts["forward"]) == (up, forward)
    assert asset.facts["placed_by"] == {"up": "guessed", "forward": "guessed", "length": "guessed"}
    assert any("guessed" in note for note in asset.facts["notes"])
    again = import_mesh(tmp_path / "body.obj", config(up=up, forward=forward, length_m=5.0))
    assert again.size_m[0] == pytest.approx(5.0)
    assert again.facts["placed_by"] == {"up": "asked", "forward": "asked", "length": "asked"}


def test_a_length_nobody_would_believe_is_set_and_said(tmp_path: Path) -> None:
    wedge(400.0).export(tmp_path / "centimetres.obj")
    asset = import_mesh(tmp_path / "centimetres.obj", config())
    assert asset.size_m[0] == pytest.approx(4.5)
    assert any("length of 400" in note for note in asset.facts["notes"])


def test_parts_without_colours_are_what_their_names_say_or_painted(tmp_path: Path) -> None:
    text, start = "mtllib lost.mtl\n", 1
    for name, mesh in (("glass", trimesh.creation.box((1, 1, 1))), ("body", trimesh.creation.box((4, 2, 1)))):
        mesh.apply_translation((0, 0, 1.0 if name == "glass" else 0.0))
        text += f"o {name}\n" + "".join("v {} {} {}\n".format(*v) for v in mesh.vertices)
        text += "".join("f {} {} {}\n".format(*(face + start)) for face in mesh.faces)
        start += len(mesh.vertices)
    (tmp_path / "car.obj").write_text(text)
    grey = import_mesh(tmp_path / "car.obj", config())
    red = import_mesh(tmp_path / "car.obj", config(colour=(0.8, 0.1, 0.1)))
    assert grey.material is not None
    assert red.material is not None
    low = grey.gaussians.means[:, 2] < -0.1
    torch.testing.assert_close(grey.material.albedo[low].mean(0), torch.full((3,), 0.4), atol=0.01, rtol=0)
    expected = linear_from_srgb(torch.tensor([[0.8, 0.1, 0.1]]))[0]
    torch.testing.assert_close(red.material.albedo[low].mean(0), expected, atol=0.01, rtol=0)
    pane = grey.gaussians.means[:, 2] > 0.4
    assert float(grey.material.albedo[pane].max()) < 0.05
    assert float(grey.material.roughness[pane].max()) < 0.2
    notes = " ".join(grey.facts["notes"])
    assert "lost.mtl" in notes
    assert "painted grey" in notes


def test_mirrored_transforms_and_wound_faces_still_look_outwards(tmp_path: Path) -> None:
    mirrored = import_mesh(textured_glb(tmp_path / "mirrored.glb", turn=np.diag([1.0, 1.0, -1.0, 1.0])), config())
    assert mirrored.material is not None
    assert any("mirrored" in note for note in mirrored.facts["notes"])
    front = mirrored.gaussians.means[:, 0] > 0.6
    assert float(mirrored.material.albedo[front].mean(0)[2]) > 0.4  # what was behind is in front now
    outward = (mirrored.material.normals * mirrored.gaussians.means).sum(1)
    assert float((outward > 0).float().mean()) > 0.99
    inside_out = wedge()
    inside_out.invert()
    inside_out.export(tmp_path / "inside out.obj")
    asset = import_mesh(tmp_path / "inside out.obj", config())
    assert asset.material is not None
    away = (asset.material.normals * outwards(asset.gaussians.means, asset.size_m)).sum(1)
    assert float((away > -0.1).float().mean()) > 0.97


def test_what_lies_inside_is_left_out(tmp_path: Path) -> None:
    shell, engine = trimesh.creation.box((4, 2, 1.5)), trimesh.creation.box((1, 0.8, 0.6))
    trimesh.util.concatenate([shell, engine]).export(tmp_path / "engine.obj")
    asset = import_mesh(tmp_path / "engine.obj", config(up="+z", forward="+x"))
    assert not bool((asset.gaussians.means.abs() < torch.tensor([0.9, 0.8, 0.6])).all(1).any())
    assert any("inside" in note for note in asset.facts["notes"])


def test_a_million_faces_take_no_more_gaussians_and_little_time(tmp_path: Path) -> None:
    ball = trimesh.creation.uv_sphere(radius=1.0, count=[775, 775])
    ball.apply_scale((2.2, 0.9, 0.7))
    assert len(ball.faces) > 1_190_000
    (tmp_path / "ball.glb").write_bytes(trimesh.Scene(ball).export(file_type="glb"))
    began = time.process_time()
    asset = import_mesh(tmp_path / "ball.glb", config(up="+z", forward="+x"))
    assert time.process_time() - began < 60
    assert len(asset.gaussians) < 1.3 * SMALL
    assert asset.size_m == pytest.approx((4.4, 1.8, 1.4), rel=1e-3)


def _obj(*lines: str) -> bytes:
    return "\n".join(lines).encode()


TRIANGLE = ("v 0 0 0", "v 1 0 0", "v 0 1 0", "f 1 2 3")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("car.fbx", b"anything", "converted|convert"),
        ("car.glb", b"PK\x05\x06" + bytes(18), "zip archive"),
        ("car.glb", b"glTF" + bytes(40), "cannot be read"),
        ("car.gltf", b'{"asset": ', "cannot be read"),
        ("car.gltf", b'{"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [5]}]}', "do not fit together"),
        ("car.obj", b"\x89PNG\0\0\0", "no .obj file"),
        ("car.obj", b"", "no .obj file"),
        ("car.obj", b"hello\n", "cannot be read|no triangles"),
        ("car.obj", _obj("v nan 0 0", "v 1 0 0", "v 0 1 0", "f 1 2 3"), "no finite numbers"),
        ("car.obj", _obj("v 0 0 0", "v 1 0 0", "v 2 0 0", "f 1 2 3"), "no area"),
        ("car.obj", _obj("v 0 0 0", "v 1 0 0", "v 0 1 0", "f 1 2 9"), "cannot be read"),
    ],
)
def test_faults_are_one_sentence_with_the_file(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as fault:
        import_mesh(path, config())
    assert str(path) in str(fault.value)
    assert "\n" not in str(fault.value)


def test_textures_that_are_missing_beside_a_file_are_named(tmp_path: Path) -> None:
    files = trimesh.exchange.gltf.export_gltf(trimesh.load(textured_glb(tmp_path / "whole.glb")))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    model = json.loads(files["model.gltf"])
    model["images"] = [{"uri": "paint%20job.png"} for _ in model["images"]]
    (tmp_path / "model.gltf").write_text(json.dumps(model))
    picture = tmp_path / "paint job.png"
    write_image(picture, np.full((8, 8, 3), 90, dtype=np.uint8))
    assert not [note for note in import_mesh(tmp_path / "model.gltf", config()).facts["notes"] if "missing" in note]
    picture.unlink()
    notes = import_mesh(tmp_path / "model.gltf", config()).facts["notes"]
    assert "its texture paint job.png is missing beside it" in notes


def test_a_missing_file_and_settings_without_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        import_mesh(tmp_path / "none.glb")
    with pytest.raises(UserError, match="no such file"):
        import_gaussians(tmp_path / "none.ply")
    (tmp_path / "one.obj").write_bytes(_obj(*TRIANGLE))
    with pytest.raises(UserError, match="one line"):
        import_mesh(tmp_path / "one.obj", config(up="+y", forward="-y"))
    for values in ({"length_m": 0.0}, {"length_m": float("nan")}, {"count": 5}, {"colour": (2.0, 0.0, 0.0)}):
        with pytest.raises(UserError, match="must be"):
            ImportConfig(**values)


def test_gaussians_are_turned_with_their_colours(tmp_path: Path) -> None:
    """A body lying on its side, y down and z forward as in pictures, at half its size."""
    generator = np.random.default_rng(0)
    xyz = wedge().sample(1500, seed=0)
    body = blobs(xyz, generator.uniform(0.2, 0.8, (1500, 3)), 0.03)
    sh = torch.cat([body.sh, 0.1 * torch.randn(1500, 3, 3, generator=torch.Generator().manual_seed(1))], dim=1)
    file_from_body = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    lying = turned(replace(body, sh=sh), file_from_body, np.zeros(3), 0.5)
    export_ply(lying, tmp_path / "body.ply")
    asset = import_gaussians(tmp_path / "body.ply", ImportConfig(length_m=4.0, up="-y", forward="+z"))
    assert asset.material is None
    assert asset.size_m[0] == pytest.approx(4.0, abs=0.02)
    moved = asset.gaussians.means - torch.from_numpy(xyz).float()
    assert float((moved - moved.mean(0)).abs().max()) < 0.03  # the box is cut a little, so the scale is not quite two
    torch.testing.assert_close(asset.gaussians.sh, sh, atol=1e-4, rtol=0)
    guessed = import_gaussians(tmp_path / "body.ply", ImportConfig(length_m=4.0))
    assert (guessed.facts["up"], guessed.facts["forward"]) == ("-y", "+z")


def test_turned_harmonics_show_the_same_along_turned_directions() -> None:
    generator = torch.Generator().manual_seed(2)
    sh = torch.randn(5, 16, 3, generator=generator)
    rotation = Rotation.from_euler("xyz", [0.5, -1.1, 2.0]).as_matrix()
    directions = torch.nn.functional.normalize(torch.randn(9, 3, generator=generator), dim=1)
    before = torch.einsum("dk,nkc->dnc", basis(directions, 3), sh)
    there = directions @ torch.from_numpy(rotation.T).float()
    after = torch.einsum("dk,nkc->dnc", basis(there, 3), turned_harmonics(sh, rotation))
    torch.testing.assert_close(after, before, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["kenney/vehicle-truck-purple.glb", "car_obj/car.obj"])
def test_meshes_of_others(name: str) -> None:
    if not (SAMPLES / name).is_file():
        pytest.skip(f"no {SAMPLES / name}")
    asset = import_mesh(SAMPLES / name, config(length_m=4.5))
    assert asset.material is not None
    length, width, height = asset.size_m
    assert length == pytest.approx(4.5)
    assert 0.25 < width / length < 0.6
    assert 0.25 < height / length < 0.6
    assert (asset.facts["up"], asset.facts["forward"]) == (("+y", "+z") if name.endswith("glb") else ("+z", "+x"))
    away = (asset.material.normals * outwards(asset.gaussians.means, asset.size_m)).sum(1)
    # Wheel arches and bumpers look any way; above them what is outside is what looks away from the middle.
    assert float((away[asset.gaussians.means[:, 2] > 0] > -0.1).float().mean()) > 0.94
