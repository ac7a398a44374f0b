"""nerfstudio and DL3DV: the real sample, and small sets with scaled pictures, several cameras, COLMAP points and faults."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from splatmend.datasets import SceneLog, UserError, open_log
from splatmend.datasets.geometry import OPENGL_FROM_OPENCV, pose
from splatmend.datasets.readers.colmap_points import read_points

INTRINSICS = {"w": 96, "h": 64, "fl_x": 80.0, "fl_y": 81.0, "cx": 47.0, "cy": 33.0, "k1": 0.01, "k2": 0.0, "p1": 0.001, "p2": 0.0}
# A camera that looks along the file's y with the file's z up, as columns of OpenCV axes.
LEVEL = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def write_set(folder: Path, *, frames: int = 4, images: str = "images", scale: int = 1, **changes: Any) -> dict[str, Any]:
    """Photos in a row along x; returns what was written into transforms.json."""
    folder.mkdir(exist_ok=True)
    (folder / images).mkdir()
    random = np.random.default_rng(0)
    entries = []
    for index in range(frames):
        cv2.imwrite(str(folder / images / f"frame_{index}.png"), random.integers(0, 255, (64 // scale, 96 // scale, 3), dtype=np.uint8))
        matrix = pose(LEVEL, np.array([0.5 * index, 0, 1.0])) @ OPENGL_FROM_OPENCV
        entries.append({"file_path": f"images/frame_{index}.png", "transform_matrix": matrix.tolist()})
    content = {"camera_model": "OPENCV", **INTRINSICS, "frames": entries, **changes}
    rewrite(folder, content)
    return content


def rewrite(folder: Path, content: dict[str, Any]) -> None:
    (folder / "transforms.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def sample(shared_data: Path) -> SceneLog:
    return open_log(shared_data / "nerfstudio" / "fox")


def test_sample_counts_and_note(sample: SceneLog) -> None:
    assert len(sample.frames) == 50
    assert any(note.startswith("17 of 67 listed pictures are missing") for note in sample.notes)
    camera = sample.cameras["camera_0"]
    assert (camera.width, camera.height, camera.distortion_model) == (540, 960, "opencv")
    assert camera.distortion == pytest.approx((0.0578421, -0.0805099, -0.000980296, 0.00015575, 0.0))
    assert not sample.metric
    assert sample.frames[0].read_image().shape == (960, 540, 3)


def test_sample_stands_upright(sample: SceneLog) -> None:
    up = -np.mean([frame.world_from_camera[:3, 1] for frame in sample.frames], axis=0)
    np.testing.assert_allclose(up / np.linalg.norm(up), [0, 0, 1], atol=1e-9)


def test_opengl_axes_become_opencv(tmp_path: Path) -> None:
    write_set(tmp_path)
    log = open_log(tmp_path)
    for index, frame in enumerate(log.frames):
        np.testing.assert_allclose(frame.world_from_camera, pose(LEVEL, np.array([0.5 * index, 0, 1.0])), atol=1e-12)
    np.testing.assert_allclose(log.ego.world_from_body[1, :3, 0], [0, 1, 0], atol=1e-12)  # the body's x is where the camera looks
    assert log.cameras["camera_0"].principal_px == (47.0, 33.0)  # COLMAP counts from the corner as we do
    assert log.cameras["camera_0"].distortion == (0.01, 0.0, 0.001, 0.0, 0.0)


def test_a_set_opened_from_within_is_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert open_log(".").log_id == open_log(tmp_path).log_id == tmp_path.name


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    content = write_set(tmp_path, frames=12)
    rewrite(tmp_path, {**content, "frames": content["frames"][::-1]})
    assert [frame.world_from_camera[0, 3] for frame in open_log(tmp_path).frames] == pytest.approx([0.5 * i for i in range(12)])


def test_a_tilted_world_is_levelled_with_its_points(tmp_path: Path) -> None:
    """Turn the file's world any way: the log's cameras come out upright and points keep their place before the cameras."""
    content = write_set(tmp_path)
    turn = pose(cv2.Rodrigues(np.array([0.7, -1.1, 0.4]))[0], np.array([3.0, -2.0, 1.0]))
    point_in_camera = np.array([0.3, 0.2, 4.0, 1.0])
    for entry in content["frames"]:
        entry["transform_matrix"] = (turn @ np.array(entry["transform_matrix"])).tolist()
    point = (np.array(content["frames"][0]["transform_matrix"]) @ OPENGL_FROM_OPENCV @ point_in_camera)[:3]
    vertices = np.array([(*point, 10, 20, 30)], dtype=[(n, "f4") for n in "xyz"] + [(n, "u1") for n in ("red", "green", "blue")])
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(tmp_path / "points.ply"))
    rewrite(tmp_path, {**content, "ply_file_path": "points.ply"})
    log = open_log(tmp_path)
    np.testing.assert_allclose(log.frames[0].world_from_camera[:3, 1], [0, 0, -1], atol=1e-9)
    assert log.read_sfm_points is not None
    points = log.read_sfm_points()
    np.testing.assert_allclose(np.linalg.inv(log.frames[0].world_from_camera) @ [*points.xyz_world_m[0], 1], point_in_camera, atol=1e-5)
    assert points.rgb.tolist() == [[10, 20, 30]]


def test_scaled_pictures_scale_the_intrinsics(tmp_path: Path) -> None:
    write_set(tmp_path, images="images_4", scale=4)
    log = open_log(tmp_path)
    camera = log.cameras["camera_0"]
    assert (camera.width, camera.height) == (24, 16)
    assert camera.focal_px == pytest.approx((20.0, 20.25))
    assert camera.principal_px == pytest.approx((47.0 / 4, 33.0 / 4))
    assert log.frames[0].read_image().shape == (16, 24, 3)


def test_scaled_pictures_are_found_below_folders_of_their_own(tmp_path: Path) -> None:
    content = write_set(tmp_path, images="images_4", scale=4)
    for index, entry in enumerate(content["frames"]):
        below = tmp_path / "images_4" / "ab"[index % 2]
        below.mkdir(exist_ok=True)
        (tmp_path / "images_4" / f"frame_{index}.png").rename(below / "0.png" if index < 2 else below / "1.png")
        entry["file_path"] = f"images/{'ab'[index % 2]}/{index // 2}.png"
    rewrite(tmp_path, content)
    log = open_log(tmp_path)
    assert len(log.frames) == 4
    assert log.cameras["camera_0"].width == 24
    # Pictures of the same name in different folders stay apart.
    assert len({frame.read_image().tobytes() for frame in log.frames}) == 4


def test_each_calibration_is_a_camera(tmp_path: Path) -> None:
    content = write_set(tmp_path)
    content["frames"][2]["fl_x"] = 90.0
    rewrite(tmp_path, content)
    log = open_log(tmp_path)
    assert [frame.camera for frame in log.frames] == ["camera_0", "camera_0", "camera_1", "camera_0"]
    assert [frame.index for frame in log.frames] == [0, 1, 0, 2]
    assert log.cameras["camera_1"].focal_px == (90.0, 81.0)


@pytest.mark.parametrize(
    ("changes", "model", "count"),
    [({"camera_model": "OPENCV_FISHEYE", "k3": 0.1, "k4": 0.2}, "opencv_fisheye", 4), ({"camera_model": "PINHOLE"}, "none", 0)],
)
def test_camera_models(tmp_path: Path, changes: dict[str, Any], model: str, count: int) -> None:
    write_set(tmp_path, **changes)
    camera = open_log(tmp_path).cameras["camera_0"]
    assert camera.distortion_model == model
    assert len(camera.distortion) == count


def test_field_of_view_instead_of_focal_length(tmp_path: Path) -> None:
    content = write_set(tmp_path)
    for key in INTRINSICS:
        del content[key]
    rewrite(tmp_path, {**content, "camera_angle_x": float(np.pi / 2)})
    camera = open_log(tmp_path).cameras["camera_0"]
    assert camera.focal_px == pytest.approx((48.0, 48.0))
    assert camera.principal_px == (48.0, 32.0)


def test_colmap_points_follow_the_applied_transform(tmp_path: Path) -> None:
    applied = [[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]
    write_set(tmp_path, applied_transform=applied)
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    record = struct.pack("<Q3d3BdQ", 7, 1.0, 2.0, 3.0, 200, 100, 50, 0.5, 2) + struct.pack("<4i", 1, 5, 2, 6)
    path = tmp_path / "sparse" / "0" / "points3D.bin"
    path.write_bytes(struct.pack("<Q", 1) + record)
    log = open_log(tmp_path)
    assert log.read_sfm_points is not None
    np.testing.assert_allclose(log.read_sfm_points().xyz_world_m, [[1.0, 3.0, -2.0]], atol=1e-12)
    text = tmp_path / "points3D.txt"
    text.write_text("# 3D point list\n7 1.0 2.0 3.0 200 100 50 0.5 1 5 2 6\n")
    assert read_points(text, np.eye(4)).rgb.tolist() == log.read_sfm_points().rgb.tolist() == [[200, 100, 50]]
    for length in (3, 20, len(record) - 4):
        path.write_bytes((struct.pack("<Q", 1) + record)[:length])
        with pytest.raises(UserError, match=r"points3D\.bin.*"):
            read_points(path, np.eye(4))


def test_colmap_points_without_the_transform_are_left_alone(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "sparse" / "0" / "points3D.bin").write_bytes(struct.pack("<Q", 0))
    assert any("applied_transform" in note for note in open_log(tmp_path).notes)


def test_masks_are_read_at_the_size_of_the_picture(tmp_path: Path) -> None:
    content = write_set(tmp_path)
    mask = np.full((32, 48), 255, dtype=np.uint8)
    mask[:, :24] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    content["frames"][0]["mask_path"] = "mask.png"
    rewrite(tmp_path, content)
    valid = open_log(tmp_path).frames[0].masks["valid"]()
    assert valid.shape == (64, 96)
    assert not valid[:, :48].any()
    assert valid[:, 48:].all()


def broken_pose(content: dict[str, Any]) -> None:
    content["frames"][1]["transform_matrix"][0][0] = float("nan")


def stretched_pose(content: dict[str, Any]) -> None:
    content["frames"][1]["transform_matrix"][0][0] = 1.5


def no_pose(content: dict[str, Any]) -> None:
    del content["frames"][1]["transform_matrix"]


def other_shape(content: dict[str, Any]) -> None:
    content["w"] = 64


def unknown_model(content: dict[str, Any]) -> None:
    content["camera_model"] = "EQUIRECTANGULAR"


def no_focal(content: dict[str, Any]) -> None:
    del content["fl_x"]


def strange_lens(content: dict[str, Any]) -> None:
    content["k1"] = 900.0


def few_pictures(content: dict[str, Any]) -> None:
    for entry in content["frames"][1:]:
        entry["file_path"] = "images/absent_" + entry["file_path"][-5:]


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (broken_pose, r"transforms\.json: the transform_matrix of images/frame_1\.png has a value that is not finite"),
        (stretched_pose, "frame_1.png has a rotation part that is not orthonormal"),
        (no_pose, "frame_1.png has no transform_matrix"),
        (other_shape, "calibrated for 64x64 pixels but its pictures have 96x64"),
        (unknown_model, "camera model EQUIRECTANGULAR"),
        (no_focal, "neither fl_x nor camera_angle_x"),
        (strange_lens, r"camera_0 has a lens distortion \(900 0 0.001 0 0\) that no lens has, .* 0% of the picture; correct"),
        (few_pictures, "only 1 of 4 listed pictures exist"),
    ],
)
def test_faults(tmp_path: Path, damage: Any, match: str) -> None:
    content = write_set(tmp_path)
    damage(content)
    rewrite(tmp_path, content)
    with pytest.raises(UserError, match=match):
        open_log(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("fl_x", [1, 2], r"fl_x of the whole file is \[1, 2\], not a finite number"),
        ("fl_x", 10**400, "fl_x of the whole file is 1000.*, not a finite number"),
        ("k1", {"a": 1}, "k1 of the whole file is"),
        ("camera_model", ["FOO"], "camera_model of the whole file is .*, not a name"),
        ("ply_file_path", 7, "ply_file_path of the whole file is no text"),
        ("applied_transform", [[10**400]], "applied_transform is not a matrix of numbers"),
    ],
)
def test_values_of_a_wrong_type_are_named(tmp_path: Path, key: str, value: object, match: str) -> None:
    write_set(tmp_path, **{key: value})
    if key == "applied_transform":
        (tmp_path / "sparse").mkdir()
        (tmp_path / "sparse" / "points3D.bin").write_bytes(struct.pack("<Q", 0))
    with pytest.raises(UserError, match=match):
        open_log(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("mask_path", 5, r"mask_path of images/frame_1\.png is no text"),
        ("fl_x", "80", r"fl_x of images/frame_1\.png is '80', not a finite number"),
        ("transform_matrix", [[10**400] * 4] * 4, r"frame_1\.png has no transform_matrix of numbers"),
        ("file_path", "/", "names no picture"),
        ("file_path", "./images/frame_2.png", r"2 entries name the picture frame_2\.png"),
    ],
)
def test_a_frame_with_a_wrong_value_is_named(tmp_path: Path, key: str, value: object, match: str) -> None:
    content = write_set(tmp_path)
    content["frames"][1][key] = value
    rewrite(tmp_path, content)
    with pytest.raises(UserError, match=match):
        open_log(tmp_path)


def test_deeply_nested_json(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "transforms.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        open_log(tmp_path)


def test_a_named_points_file_that_is_missing_is_noted(tmp_path: Path) -> None:
    write_set(tmp_path, ply_file_path="absent.ply")
    log = open_log(tmp_path)
    assert any("absent.ply that transforms.json names is missing" in note for note in log.notes)
    assert log.sfm_points_file is None


def test_broken_json_and_a_picture_of_another_size(tmp_path: Path) -> None:
    write_set(tmp_path)
    cv2.imwrite(str(tmp_path / "images" / "frame_2.png"), np.zeros((32, 48, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"frame_2\.png: the picture has 48x32 pixels"):
        open_log(tmp_path).frames[2].read_image()
    (tmp_path / "transforms.json").write_text('{"frames": [')
    with pytest.raises(UserError, match="no JSON"):
        open_log(tmp_path)
