"""Waymo v1: a synthetic record that the official tools made, one genuine frame, and what a user can get wrong."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import box_corners, inverse, project, transform
from splatmend.datasets.log import SceneLog
from splatmend.datasets.readers import waymo_v1, waymo_v2
from splatmend.datasets.readers.tfrecord import index_records, masked_crc32c, read_record
from splatmend.datasets.waymo_layout import CAMERA_NAMES, LIDAR_NAMES

messages = pytest.importorskip("waymo_open_dataset.dataset_pb2", reason=f"needs {waymo_v1.INSTALL_HINT}")
START_US = 1_600_000_000_000_000
GOLDEN = Path(__file__).parent / "golden" / "waymo_official.npz"


def parsed(path: Path) -> Any:
    frame = messages.Frame()
    frame.ParseFromString(read_record(path, index_records(path)[0]))
    return frame


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def write(path: Path, *frames: Any) -> Path:
    path.write_bytes(b"".join(record(frame.SerializeToString()) for frame in frames))
    return path


@pytest.fixture
def synthetic(official_waymo: Path) -> Any:
    """The synthetic frame, free to be changed."""
    return parsed(official_waymo / "v1.tfrecord")


@pytest.mark.parametrize("number", sorted(LIDAR_NAMES))
def test_points_equal_those_of_the_official_tool(official_waymo: Path, number: int) -> None:
    log = waymo_v1.read(official_waymo / "v1.tfrecord")
    world_from_vehicle = np.array(parsed(official_waymo / "v1.tfrecord").pose.transform).reshape(4, 4)
    sweep = next(sweep for sweep in log.sweeps if sweep.sensor == LIDAR_NAMES[number])
    found = transform(inverse(world_from_vehicle), sweep.read_points().xyz_world_m)
    with np.load(GOLDEN) as golden:
        index, expected = golden[f"v1_{number}_0_index"], golden[f"v1_{number}_0_xyz_vehicle_m"]
    assert len(expected) == 200
    # The official tool computes in float32, at 70 m.
    np.testing.assert_allclose(found[index], expected, atol=5e-5)


def test_both_versions_give_the_same_log(official_waymo: Path) -> None:
    one, two = waymo_v1.read(official_waymo / "v1.tfrecord").validate(), waymo_v2.read(official_waymo)
    assert one.log_id == two.log_id
    assert one.cameras == two.cameras
    for frame, other in zip(one.frames, (frame for frame in two.frames if frame.index == 0), strict=True):
        assert (frame.camera, frame.start_us, frame.end_us) == (other.camera, other.start_us, other.end_us)
        np.testing.assert_allclose(frame.world_from_camera_start, other.world_from_camera_start, atol=1e-9)
        np.testing.assert_allclose(frame.world_from_camera_end, other.world_from_camera_end, atol=1e-9)
        np.testing.assert_array_equal(frame.read_image(), other.read_image())
    for sweep, other in zip(one.sweeps, two.sweeps[:5], strict=True):
        points, others = sweep.read_points(), other.read_points()
        assert sweep.sensor == other.sensor
        np.testing.assert_allclose(points.xyz_world_m, others.xyz_world_m, atol=1e-6)
        np.testing.assert_allclose(points.origin_world_m, others.origin_world_m, atol=1e-6)
        np.testing.assert_array_equal(points.time_us, others.time_us)
    for actor, other in zip(one.actors, two.actors, strict=True):
        assert (actor.actor_id, actor.actor_class, actor.size_m) == (other.actor_id, other.actor_class, other.size_m)
        np.testing.assert_allclose(actor.world_from_actor(START_US), other.world_from_actor(START_US), atol=1e-9)


def test_several_frames_make_one_log(synthetic: Any, tmp_path: Path) -> None:
    later = messages.Frame()
    later.CopyFrom(synthetic)
    later.timestamp_micros += 100_000
    for image in later.images:
        image.pose_timestamp += 0.1
        image.camera_trigger_time += 0.1
        image.camera_readout_done_time += 0.1
    write(tmp_path / "two.tfrecord", later, synthetic)
    log = waymo_v1.read(tmp_path).validate()
    assert [(frame.camera, frame.index) for frame in log.frames] == [("FRONT", 0), ("FRONT_LEFT", 0), ("FRONT", 1), ("FRONT_LEFT", 1)]
    assert [len(actor.track.times_us) for actor in log.actors] == [2, 2, 2]
    assert [sweep.timestamp_us for sweep in log.sweeps] == [START_US] * 5 + [START_US + 100_000] * 5
    assert log.ego.times_us.tolist() == [START_US + 50_000, START_US + 150_000]


@pytest.fixture(scope="module")
def genuine(shared_data: Path) -> tuple[SceneLog, Any]:
    path = next((shared_data / "waymo_v1").glob("*.tfrecord"))
    return waymo_v1.read(path).validate(), parsed(path)


def test_genuine_frame_is_read(genuine: tuple[SceneLog, Any]) -> None:
    log, _ = genuine
    assert log.log_id == "1024360143612057520_3580_000_3600_000"
    assert sorted(log.cameras) == ["FRONT", "FRONT_LEFT", "FRONT_RIGHT", "SIDE_LEFT", "SIDE_RIGHT"]
    assert {camera.shutter for camera in log.cameras.values()} == {"left_to_right"}
    assert all(40_000 < frame.end_us - frame.start_us < 50_000 for frame in log.frames)
    assert (len(log.frames), len(log.actors), len(log.sweeps)) == (5, 75, 0)
    assert any("range images are empty" in note for note in log.notes)
    front = log.frames_of("FRONT")[0]
    assert front.read_image().shape == (1280, 1920, 3)
    panoptic = front.masks["panoptic"]()
    assert panoptic.shape == (1280, 1920)
    assert panoptic.max() // 1000 <= 28
    assert sorted(front.masks) == ["panoptic"]
    sky = panoptic // 1000 == 25
    assert 0.1 < sky.mean() < 0.3
    assert sky[:200].mean() > 3 * sky[400:].mean()


def test_genuine_boxes_project_onto_the_labels(genuine: tuple[SceneLog, Any]) -> None:
    """Boxes wholly inside a picture cover the rectangles that Waymo projected: axes, extrinsics and distortion are right to a pixel."""
    log, frame = genuine
    actors = {actor.actor_id: actor for actor in log.actors}
    overlaps: dict[str, list[float]] = {name: [] for name in log.cameras}
    for group in frame.projected_lidar_labels:
        name = CAMERA_NAMES[group.name]
        shot = log.frames_of(name)[0]
        for label in group.labels:
            actor = actors[label.id.removesuffix(f"_{name}")]
            corners = transform(actor.world_from_actor(frame.timestamp_micros), box_corners(actor.size_m))
            pixels, inside = project(log.cameras[name], transform(inverse(shot.world_from_camera), corners))
            if inside.all():
                overlaps[name].append(overlap(pixels, label.box))
    assert min(len(values) for values in overlaps.values()) >= 2
    assert sum(len(values) for values in overlaps.values()) >= 35
    assert min(min(values) for values in overlaps.values()) > 0.98


def test_genuine_boxes_meet_the_labels_drawn_on_the_images(genuine: tuple[SceneLog, Any]) -> None:
    """Near vehicles against the boxes that people drew: those are tighter, so the floor is lower."""
    log, frame = genuine
    drawn = {CAMERA_NAMES[group.name]: [label for label in group.labels if label.type == 1] for group in frame.camera_labels}
    best = []
    for shot in log.frames:
        for actor in log.actors:
            corners = transform(actor.world_from_actor(frame.timestamp_micros), box_corners(actor.size_m))
            pixels, inside = project(log.cameras[shot.camera], transform(inverse(shot.world_from_camera), corners))
            if actor.actor_class == "vehicle" and inside.all() and np.ptp(pixels[:, 0]) > 200 and np.ptp(pixels[:, 1]) > 150:
                best.append(max((overlap(pixels, label.box) for label in drawn[shot.camera]), default=0.0))
    assert len(best) >= 4
    assert np.median(best) > 0.6


def overlap(pixels: np.ndarray, box: Any) -> float:
    """Intersection over union of the pixels' bounding rectangle and a label (`length` lies along x)."""
    low, high = pixels.min(0), pixels.max(0)
    centre, half = np.array([box.center_x, box.center_y]), 0.5 * np.array([box.length, box.width])
    both = np.prod(np.clip(np.minimum(high, centre + half) - np.maximum(low, centre - half), 0, None))
    return float(both / (np.prod(high - low) + np.prod(2 * half) - both))


def test_without_the_package_one_line_tells_how_to_install_it(official_waymo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("waymo_open_dataset")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "waymo_open_dataset", None)
    assert waymo_v1.recognises(official_waymo / "v1.tfrecord")
    with pytest.raises(UserError, match="pip install --no-deps waymo-open-dataset-tf-2-12-0") as caught:
        waymo_v1.read(official_waymo / "v1.tfrecord")
    assert "\n" not in str(caught.value)


def test_a_damaged_record_is_named(synthetic: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "drive.tfrecord", synthetic, synthetic)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"drive\.tfrecord: the data of record 1 have a wrong checksum"):
        waymo_v1.read(path)
    path.write_bytes(bytes(data[:-50]))
    with pytest.raises(UserError, match=r"drive\.tfrecord: the file ends inside record 1"):
        waymo_v1.read(path)


@pytest.mark.parametrize("data", [b"no message", b""])
def test_other_records_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "other.tfrecord").write_bytes(record(data))
    with pytest.raises(UserError, match="record 0 is no Waymo v1 frame"):
        waymo_v1.read(tmp_path / "other.tfrecord")


def test_two_drives_or_two_files_need_a_choice(synthetic: Any, tmp_path: Path) -> None:
    other = messages.Frame()
    other.CopyFrom(synthetic)
    other.context.name = "another"
    write(tmp_path / "mixed.tfrecord", synthetic, other)
    with pytest.raises(UserError, match="holds the drives synthetic_0_000_1_000 and another"):
        waymo_v1.read(tmp_path / "mixed.tfrecord")
    write(tmp_path / "second.tfrecord", synthetic)
    with pytest.raises(UserError, match=r"holds 2 TFRecord files; give one of them, such as .*mixed\.tfrecord"):
        waymo_v1.read(tmp_path)


def test_other_paths_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert not waymo_v1.recognises(tmp_path)
    assert not waymo_v1.recognises(tmp_path / "notes.txt")
    assert not waymo_v1.recognises(tmp_path / "missing.tfrecord")
    with pytest.raises(UserError, match="no TFRecord file here"):
        waymo_v1.read(tmp_path)


def no_size(frame: Any) -> None:
    frame.laser_labels[0].box.width = 0.0


def nan_pose(frame: Any) -> None:
    frame.images[0].pose.transform[3] = float("nan")


def nan_vehicle(frame: Any) -> None:
    frame.pose.transform[0] = float("nan")


def nan_time(frame: Any) -> None:
    frame.images[1].camera_trigger_time = float("inf")


def no_pose(frame: Any) -> None:
    del frame.images[1].pose.transform[:]


def no_calibration(frame: Any) -> None:
    del frame.context.camera_calibrations[1]


def short_calibration(frame: Any) -> None:
    del frame.context.camera_calibrations[0].intrinsic[5:]


def no_images(frame: Any) -> None:
    del frame.images[:]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_size, "record 0: the box of object car .* positive sizes"),
        (nan_pose, "pose of FRONT frame 0 has a value that is not finite"),
        (nan_vehicle, "record 0: the vehicle pose has a value that is not finite"),
        (nan_time, "image of FRONT_LEFT has a time that is not finite"),
        (no_pose, "image of FRONT_LEFT has no pose"),
        (no_calibration, "camera number 2 has an image but no calibration"),
        (short_calibration, "calibration of camera number 1 is incomplete"),
        (no_images, "no frame holds a camera image"),
    ],
)
def test_faulty_values_are_named(synthetic: Any, tmp_path: Path, spoil: Any, sentence: str) -> None:
    spoil(synthetic)
    with pytest.raises(UserError, match=sentence):
        waymo_v1.read(write(tmp_path / "drive.tfrecord", synthetic)).validate()


def test_faulty_range_images_are_named_when_they_are_read(synthetic: Any, tmp_path: Path) -> None:
    synthetic.lasers[0].ri_return1.range_image_compressed = b"no zlib"
    del synthetic.context.laser_calibrations[1]
    synthetic.context.laser_calibrations[1].beam_inclinations.extend([0.0, 0.1])
    log = waymo_v1.read(write(tmp_path / "drive.tfrecord", synthetic))
    sweeps = {sweep.sensor: sweep for sweep in log.sweeps}
    with pytest.raises(UserError, match="a range image cannot be decoded"):
        sweeps["TOP"].read_points()
    with pytest.raises(UserError, match="LiDAR number 2 has a range image but no calibration"):
        sweeps["FRONT"].read_points()
    with pytest.raises(UserError, match="LiDAR SIDE_LEFT has 2 beam inclinations for 8 rows"):
        sweeps["SIDE_LEFT"].read_points()


def test_empty_sweeps_are_left_out_and_counted(synthetic: Any, tmp_path: Path) -> None:
    synthetic.lasers[0].ri_return1.range_image_compressed = b""
    log = waymo_v1.read(write(tmp_path / "drive.tfrecord", synthetic))
    assert len(log.sweeps) == len(synthetic.lasers) - 1
    assert "1 LiDAR sweep(s) are empty and were left out." in log.notes


def test_the_same_time_twice_is_refused(synthetic: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the records 0 and 1 are both of the time"):
        waymo_v1.read(write(tmp_path / "drive.tfrecord", synthetic, synthetic))


def test_boxes_without_an_id_are_left_out_and_counted(synthetic: Any, tmp_path: Path) -> None:
    synthetic.laser_labels[0].id = ""
    log = waymo_v1.read(write(tmp_path / "drive.tfrecord", synthetic)).validate()
    assert "1 boxes have no id and were left out." in log.notes
    assert all(actor.actor_id for actor in log.actors)
