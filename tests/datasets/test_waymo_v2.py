"""Waymo v2: files that the official tools wrote, a genuine vehicle path, layouts, and what a user can get wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.linalg import expm

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import inverse, rotation_fault, transform
from splatmend.datasets.log_check import check_content
from splatmend.datasets.readers import waymo_v2
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.undistort import undistorted
from splatmend.datasets.waymo_layout import LIDAR_NAMES, column

SEGMENT = "synthetic_0_000_1_000"
START_US = 1_600_000_000_000_000
NO_POSE = [float("nan")] * 16
GOLDEN = Path(__file__).parent / "golden" / "waymo_official.npz"


@pytest.fixture
def drive(official_waymo: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(official_waymo, tmp_path / "drive", ignore=shutil.ignore_patterns("*.tfrecord"))
    return tmp_path / "drive"


def file_of(folder: Path, component: str) -> Path:
    return folder / component / f"{SEGMENT}.parquet"


def change(path: Path, name: str, row: int, value: Any) -> None:
    """Replaces one cell."""
    table = pq.read_table(path)
    values = table.column(name).to_pylist()
    values[row] = value
    field = table.schema.field(name)
    pq.write_table(table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type)), path)


@pytest.mark.parametrize("number", sorted(LIDAR_NAMES))
@pytest.mark.parametrize("which_return", [0, 1])
def test_points_equal_those_of_the_official_tool(official_waymo: Path, number: int, which_return: int) -> None:
    log = waymo_v2.read(official_waymo)
    world_from_vehicle = waymo_v2.read_vehicle_pose(official_waymo).at(START_US)
    sweep = next(sweep for sweep in log.sweeps if sweep.timestamp_us == START_US and sweep.sensor == LIDAR_NAMES[number])
    found = transform(inverse(world_from_vehicle), sweep.read_points().xyz_world_m)
    with np.load(GOLDEN) as golden:
        counts = [int(golden[f"v2_{number}_{index}_count"]) for index in (0, 1)]
        expected = golden[f"v2_{number}_{which_return}_xyz_vehicle_m"]
        index = golden[f"v2_{number}_{which_return}_index"] + which_return * counts[0]
    assert len(found) == sum(counts)
    assert len(expected) == min(200, counts[which_return])
    # The official tool computes in float32, at 70 m.
    np.testing.assert_allclose(found[index], expected, atol=5e-5)


def test_exposures_follow_the_shutter_and_constant_velocity(official_waymo: Path) -> None:
    """The golden drive: exposure 4 ms, trigger 25 ms before the pose, readout done 21 ms after it."""
    log = waymo_v2.read(official_waymo).validate()
    assert [(frame.camera, frame.index) for frame in log.frames] == [("FRONT", 0), ("FRONT_LEFT", 0), ("FRONT", 1), ("FRONT_LEFT", 1)]
    assert (log.cameras["FRONT"].shutter, log.cameras["FRONT_LEFT"].shutter) == ("left_to_right", "top_to_bottom")
    assert log.cameras["FRONT"].readout_us == 42_000
    frame = log.frames[0]
    assert (frame.start_us, frame.end_us) == (START_US + 27_000, START_US + 69_000)
    row = pq.read_table(file_of(official_waymo, "camera_image")).slice(0, 1).to_pylist()[0]
    extrinsic = pq.read_table(file_of(official_waymo, "camera_calibration")).slice(0, 1).to_pylist()[0]
    world_from_vehicle = np.array(row["[CameraImageComponent].pose.transform"]).reshape(4, 4)
    vehicle_from_camera = np.array(extrinsic["[CameraCalibrationComponent].extrinsic.transform"]).reshape(4, 4)
    spin = np.array([[0, -0.2, 0.05], [0.2, 0, -0.001], [-0.05, 0.001, 0]])
    for found, seconds in ((frame.world_from_camera_start, -0.023), (frame.world_from_camera_end, 0.019)):
        expected = world_from_vehicle.copy()
        expected[:3, :3] = expm(spin * seconds) @ expected[:3, :3]
        expected[:3, 3] += np.array([12.0, 5.0, 0.0]) * seconds
        expected = expected @ vehicle_from_camera
        np.testing.assert_allclose(found[:3, 3], expected[:3, 3], atol=1e-5)
        # OpenCV looks along Waymo's x, its right is Waymo's -y, its down Waymo's -z.
        np.testing.assert_allclose(found[:3, :3], np.stack([-expected[:3, 1], -expected[:3, 2], expected[:3, 0]], axis=-1), atol=1e-6)


def test_images_and_calibration_are_those_stored(official_waymo: Path) -> None:
    log = waymo_v2.read(official_waymo)
    camera = log.cameras["FRONT"]
    assert (camera.focal_px, camera.principal_px) == ((80.0, 81.0), (31.5, 25.0))
    assert camera.distortion == (0.04, -0.03, 0.001, -0.0016, 0.0025)
    stored = pq.read_table(file_of(official_waymo, "camera_image"), columns=["[CameraImageComponent].image"]).column(0).to_pylist()
    for row, frame in zip((3, 0), (log.frames[3], log.frames[0])):
        expected = cv2.imdecode(np.frombuffer(stored[row], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(frame.read_image(), expected)


def test_boxes_are_tracks_in_the_world(official_waymo: Path) -> None:
    log = waymo_v2.read(official_waymo)
    assert {actor.actor_id: actor.actor_class for actor in log.actors} == {"car": "vehicle", "walker": "pedestrian", "post": "sign"}
    car = next(actor for actor in log.actors if actor.actor_id == "car")
    assert car.size_m == (4.5, 1.9, 1.7)
    assert car.track.times_us.tolist() == [START_US, START_US + 100_000]
    world_from_vehicle = waymo_v2.read_vehicle_pose(official_waymo).at(START_US + 100_000)
    vehicle_from_car = inverse(world_from_vehicle) @ car.world_from_actor(START_US + 100_000)
    np.testing.assert_allclose(vehicle_from_car[:3, 3], [11.0, 1.0, 0.9], atol=1e-6)
    np.testing.assert_allclose(vehicle_from_car[:2, 0], [np.cos(0.3), np.sin(0.3)], atol=1e-6)


def test_the_path_takes_image_poses_at_their_own_times(official_waymo: Path) -> None:
    log = waymo_v2.read(official_waymo)
    assert log.ego.times_us.tolist() == [START_US + 50_000, START_US + 150_000]
    np.testing.assert_allclose(log.ego.world_from_body, waymo_v2.read_vehicle_pose(official_waymo).world_from_body, atol=1e-12)


def test_genuine_vehicle_path(shared_data: Path) -> None:
    track = waymo_v2.read_vehicle_pose(shared_data / "waymo_v2")
    assert len(track.times_us) == 199
    steps_s = np.diff(track.times_us) * 1e-6
    assert np.abs(steps_s - 0.1).max() < 0.002
    speed = np.linalg.norm(np.diff(track.world_from_body[:, :3, 3], axis=0), axis=1) / steps_s
    assert 0.5 < speed.max() < 30
    assert np.abs(np.diff(speed)).max() < 1.0
    assert rotation_fault(track.world_from_body, tolerance=1e-9) is None
    # The car drives forward: its x axis points along its way.
    moving = speed > 1
    forward = np.einsum("ni,ni->n", np.diff(track.world_from_body[:, :3, 3], axis=0), track.world_from_body[:-1, :3, 0])
    assert (forward[moving] / (speed * steps_s)[moving]).min() > 0.98


def test_genuine_sample_lacks_its_calibration(shared_data: Path) -> None:
    assert waymo_v2.recognises(shared_data / "waymo_v2")
    with pytest.raises(UserError, match=r"components camera_calibration, camera_image of drive 10023947602400723454\w* are missing"):
        waymo_v2.read(shared_data / "waymo_v2")


@pytest.mark.parametrize("component", ["camera_image", "camera_calibration", "vehicle_pose"])
def test_a_missing_component_is_named_with_its_place(drive: Path, component: str) -> None:
    file_of(drive, component).unlink()
    with pytest.raises(UserError, match=f"component {component} .* is missing; put it at .*{component}/{SEGMENT}.parquet"):
        waymo_v2.read(drive)


def test_lidar_boxes_and_pixel_poses_are_optional_with_a_note(drive: Path) -> None:
    shutil.rmtree(drive / "lidar_pose")
    shutil.rmtree(drive / "lidar_box")
    log = waymo_v2.read(drive).validate()
    assert log.actors == ()
    assert len(log.sweeps) == 10
    assert any("lidar_box" in note for note in log.notes)
    assert any("lidar_pose" in note for note in log.notes)
    shutil.rmtree(drive / "lidar")
    log = waymo_v2.read(drive)
    assert log.sweeps == ()
    assert any("no LiDAR depth" in note for note in log.notes)


def test_several_drives_need_a_choice(drive: Path) -> None:
    for component in ("camera_image", "camera_calibration", "vehicle_pose"):
        shutil.copy(file_of(drive, component), drive / component / "other.parquet")
    with pytest.raises(UserError, match=r"holds 2 drives; choose one, such as .*#other"):
        waymo_v2.read(drive)
    assert waymo_v2.recognises(drive / ".." / "drive#other")
    assert len(waymo_v2.read(Path(f"{drive}#{SEGMENT}")).sweeps) == 10
    assert waymo_v2.read(Path(f"{drive}#other")).log_id == "other"
    assert waymo_v2.read(drive / "camera_image" / "other.parquet").log_id == "other"
    with pytest.raises(UserError, match="holds no drive nowhere"):
        waymo_v2.read(Path(f"{drive}#nowhere"))


@pytest.mark.parametrize("pattern", ["{component}.parquet", "{component}_{segment}.parquet", "{segment}_{component}.parquet"])
def test_flat_layouts(official_waymo: Path, tmp_path: Path, pattern: str) -> None:
    flat = tmp_path / SEGMENT
    flat.mkdir()
    for file in official_waymo.glob("*/*.parquet"):
        shutil.copy(file, flat / pattern.format(component=file.parent.name, segment=SEGMENT))
    log = waymo_v2.read(flat).validate()
    assert log.log_id == SEGMENT
    assert (len(log.frames), len(log.sweeps), len(log.actors)) == (4, 10, 3)


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "image_02").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "unrelated.parquet")
    assert not waymo_v2.recognises(tmp_path)
    with pytest.raises(UserError, match="no Waymo v2 component"):
        waymo_v2.read(tmp_path)


@pytest.mark.parametrize("component", ["camera_image", "vehicle_pose", "lidar_box", "lidar"])
def test_a_cut_file_is_named(drive: Path, component: str) -> None:
    path = file_of(drive, component)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"{component}/{SEGMENT}\.parquet: no readable Parquet file"):
        waymo_v2.read(drive)


def test_a_damaged_page_is_named_when_it_is_read(drive: Path) -> None:
    path = file_of(drive, "lidar")
    data = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(3)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(bytes(data))
    log = waymo_v2.read(drive)
    with pytest.raises(UserError, match="no readable Parquet file"):
        log.sweeps[0].read_points()


def test_a_column_that_is_missing_is_named(drive: Path) -> None:
    path = file_of(drive, "lidar_box")
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["[LiDARBoxComponent].box.heading"]), path)
    with pytest.raises(UserError, match=r"has no column \[LiDARBoxComponent\].box.heading"):
        waymo_v2.read(drive)


@pytest.mark.parametrize(
    ("component", "name", "value", "sentence"),
    [
        ("lidar_box", column("lidar_box", "box.size.y"), 0.0, r"box of object car .* positive sizes"),
        ("lidar_box", column("lidar_box", "box.center.x"), float("nan"), r"box of object car"),
        ("lidar_box", "key.frame_timestamp_micros", 5, r"boxes at 5 us, where the vehicle has no pose"),
        ("vehicle_pose", column("vehicle_pose", "world_from_vehicle.transform"), NO_POSE, r"pose at \d+ us has a value that is not"),
        ("camera_image", column("camera_image", "pose.transform"), NO_POSE, r"pose of FRONT frame 0 has a value that is not finite"),
        ("camera_image", column("camera_image", "pose_timestamp"), float("nan"), r"image of FRONT has a time that is not finite"),
        ("camera_image", "key.camera_name", 77, r"camera number 77 has images but no calibration"),
        ("camera_calibration", "key.camera_name", 77, r"camera number 77 is none that Waymo defines"),
        ("camera_calibration", column("camera_calibration", "intrinsic.f_u"), -3.0, r"camera FRONT has a focal length"),
        ("camera_calibration", column("camera_calibration", "intrinsic.k1"), 50.0, r"camera FRONT has a lens distortion .* no lens has"),
        ("lidar_calibration", column("lidar_calibration", "extrinsic.transform"), [2.0] * 16, r"the pose of LiDAR TOP has"),
    ],
)  # fmt: skip
def test_faulty_values_are_named(drive: Path, component: str, name: str, value: Any, sentence: str) -> None:
    change(file_of(drive, component), name, 0, value)
    with pytest.raises(UserError, match=sentence):
        waymo_v2.read(drive).validate()


def test_an_image_that_is_there_twice_is_named(drive: Path) -> None:
    path = file_of(drive, "camera_image")
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(1, 1)]), path)
    with pytest.raises(UserError, match=r"camera number \d has two images at \d+ us"):
        waymo_v2.read(drive)


@pytest.mark.parametrize("component", ["lidar", "lidar_pose"])
def test_a_sweep_that_is_there_twice_is_named(drive: Path, component: str) -> None:
    path = file_of(drive, component)
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    with pytest.raises(UserError, match=rf"{component}/.*: LiDAR number 1 has two rows at {START_US} us; download"):
        waymo_v2.read(drive)


def test_empty_sweeps_are_left_out_and_counted(drive: Path) -> None:
    for name in ("range_image_return1", "range_image_return2"):
        change(file_of(drive, "lidar"), column("lidar", f"{name}.values"), 0, None)
        change(file_of(drive, "lidar"), column("lidar", f"{name}.shape"), 0, None)
        change(file_of(drive, "lidar"), column("lidar", f"{name}.values"), 1, [])
        change(file_of(drive, "lidar"), column("lidar", f"{name}.shape"), 1, [0, 0, 4])
    log = waymo_v2.read(drive)
    assert len(log.sweeps) == 8
    assert "2 LiDAR sweep(s) are empty and were left out." in log.notes
    assert all(len(sweep.read_points().xyz_world_m) for sweep in log.sweeps)


def test_sweeps_without_a_return_and_returns_that_are_not_finite_are_counted(drive: Path) -> None:
    path = file_of(drive, "lidar")
    for name in ("range_image_return1", "range_image_return2"):
        cells = pq.read_table(path).column(column("lidar", f"{name}.values")).to_pylist()
        change(path, column("lidar", f"{name}.values"), 0, [0.0] * len(cells[0]))
        change(path, column("lidar", f"{name}.values"), 1, [float("nan"), float("inf"), *cells[1][2:]])
    notes = check_content(waymo_v2.read(drive))
    assert notes[0] == "1 of 10 LiDAR sweeps hold no return."
    assert notes[1].startswith("2 of ")


def test_faulty_images_and_sweeps_are_named_when_they_are_read(drive: Path) -> None:
    change(file_of(drive, "camera_image"), column("camera_image", "image"), 0, b"no picture")
    change(file_of(drive, "lidar_calibration"), column("lidar_calibration", "beam_inclination.values"), 0, [-0.1, 0.0, 0.1])
    change(file_of(drive, "camera_calibration"), column("camera_calibration", "width"), 1, 80)
    log = waymo_v2.read(drive).validate()
    with pytest.raises(UserError, match="image of FRONT cannot be decoded"):
        log.frames[0].read_image()
    with pytest.raises(UserError, match="image of FRONT_LEFT is 64x48 but its calibration says 80x48"):
        log.frames[1].read_image()
    with pytest.raises(UserError, match="LiDAR TOP has 3 beam inclinations for 12 rows"):
        next(sweep for sweep in log.sweeps if sweep.sensor == "TOP").read_points()


def test_a_camera_without_readout_direction_is_global_with_a_note(drive: Path) -> None:
    change(file_of(drive, "camera_calibration"), column("camera_calibration", "rolling_shutter_direction"), 0, 0)
    log = waymo_v2.read(drive)
    assert log.cameras["FRONT"].shutter == "global"
    assert log.frames_of("FRONT")[0].start_us == log.frames_of("FRONT")[0].end_us == START_US + 48_000
    assert any("FRONT states no readout direction" in note for note in log.notes)


def test_panoptic_labels_become_masks(drive: Path) -> None:
    label = np.full((48, 64), 25 * 512, np.uint16)
    label[20:] = 2 * 512 + 7
    rows = {
        "key.segment_context_name": [SEGMENT],
        "key.frame_timestamp_micros": pa.array([START_US + 100_000], pa.int64()),
        "key.camera_name": pa.array([2], pa.int8()),
        "[CameraSegmentationLabelComponent].panoptic_label_divisor": pa.array([512], pa.int32()),
        "[CameraSegmentationLabelComponent].panoptic_label": [cv2.imencode(".png", label)[1].tobytes()],
    }
    file_of(drive, "camera_segmentation").parent.mkdir()
    pq.write_table(pa.table(rows), file_of(drive, "camera_segmentation"))
    log = waymo_v2.read(drive)
    assert [sorted(frame.masks) for frame in log.frames] == [[], [], [], ["panoptic"]]
    assert log.frames[3].masks["panoptic"]().dtype == np.uint16
    assert np.unique(log.frames[3].masks["panoptic"]()).tolist() == [2007, 25000]
    # Undistorting moves labels but blends none.
    moved = undistorted(log).frames_of("FRONT_LEFT")[1].masks["panoptic"]()
    assert np.unique(moved).tolist() == [2007, 25000]
    assert (log.frames[3].masks["panoptic"]()[:20] == 25000).all()
    assert (log.frames[3].masks["panoptic"]()[20:] == 2007).all()


def test_the_registry_opens_a_chosen_drive(drive: Path) -> None:
    shutil.copy(file_of(drive, "vehicle_pose"), drive / "vehicle_pose" / "other.parquet")
    assert open_log(f"{drive}#{SEGMENT}").log_id == SEGMENT
    with pytest.raises(UserError, match="choose one"):
        open_log(drive)
    with pytest.raises(UserError, match="no such file or folder"):
        open_log(f"{drive}/nowhere#{SEGMENT}")


def test_all_missing_components_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "lidar").mkdir()
    (tmp_path / "lidar" / "drive.parquet").touch()
    with pytest.raises(UserError, match="the components camera_calibration, vehicle_pose, camera_image of drive drive are missing"):
        waymo_v2.read(tmp_path)
