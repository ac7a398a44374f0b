from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_log import EGO_FROM_CAMERA, STEP_US, true_scene

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, pose, yaw_pose
from splatmend.recon.scene import Scene
from splatmend.recon.trajectory import TrajectoryConfig, build_trajectory


def _turning_scene() -> Scene:
    """The scene with a vehicle that heads 0.3 rad to the left."""
    scene = true_scene()
    poses = np.stack([yaw_pose(0.3, [0.25 * i, 0.1 * i, 0.0]) for i in range(12)])
    ego = PoseTrack(times_us=np.arange(12) * STEP_US, world_from_body=poses)
    shots = tuple(
        replace(r, shot=replace(r.shot, world_from_camera_start=p @ EGO_FROM_CAMERA, world_from_camera_end=p @ EGO_FROM_CAMERA))
        for r, p in zip(scene.shots, poses)
    )
    return replace(scene, ego=ego, shots=shots)


def _centres(shots) -> np.ndarray:
    return np.stack([shot.world_from_camera[:3, 3] for shot in shots])


def test_the_recorded_path_is_the_recorded_shots() -> None:
    scene = true_scene()
    path = build_trajectory(scene, TrajectoryConfig())
    assert list(path) == [r.shot for r in scene.shots]
    assert [row["held_out"] for row in path.extra] == [i == 4 for i in range(12)]
    assert all(row["recorded"] for row in path.extra)
    assert path.rate_hz == pytest.approx(10.0)


def test_a_lane_shift_goes_left_of_the_vehicle_and_grows_gently() -> None:
    scene = _turning_scene()
    recorded = _centres(build_trajectory(scene, TrajectoryConfig()))
    path = build_trajectory(scene, TrajectoryConfig(left=2.0, ease_s=0.8))
    offset = _centres(path) - recorded
    left = np.array([-np.sin(0.3), np.cos(0.3), 0.0])
    np.testing.assert_allclose(offset[8:], np.tile(2.0 * left, (4, 1)), atol=1e-9)
    np.testing.assert_allclose(np.cross(offset, left), 0, atol=1e-9)
    amount = offset @ left
    assert amount[0] == 0
    assert (np.diff(amount[:9]) > 0).all()
    assert amount[4] == pytest.approx(1.0)
    assert not any(row["recorded"] or row["held_out"] for row in path.extra)
    assert [row["source_index"] for row in path.extra] == list(range(12))


def test_height_and_yaw() -> None:
    scene = _turning_scene()
    path = build_trajectory(scene, TrajectoryConfig(up=0.5, yaw_deg=90.0, ease_s=0.0))
    recorded = build_trajectory(scene, TrajectoryConfig())
    np.testing.assert_allclose(_centres(path) - _centres(recorded), np.tile([0, 0, 0.5], (12, 1)), atol=1e-9)
    forward = path[3].world_from_camera[:3, 2]
    np.testing.assert_allclose(forward, [-np.sin(0.3), np.cos(0.3), 0.0], atol=1e-9)


def test_half_speed_takes_twice_as_many_frames_and_halves_the_worlds_clock() -> None:
    scene = true_scene()
    path = build_trajectory(scene, TrajectoryConfig(speed=0.5))
    assert len(path) == 23
    times = np.array([shot.mid_us for shot in path])
    np.testing.assert_array_equal(np.diff(times), STEP_US // 2)
    np.testing.assert_allclose(_centres(path)[6], scene.shots[3].shot.world_from_camera[:3, 3], atol=1e-6)
    middle = (_centres(path)[6] + _centres(path)[8]) / 2
    np.testing.assert_allclose(_centres(path)[7], middle, atol=1e-6)
    assert len(build_trajectory(scene, TrajectoryConfig(speed=2.0))) == 6
    assert len(build_trajectory(scene, TrajectoryConfig(frames=5))) == 5


def test_shifts_without_metres_count_in_camera_steps_and_say_so() -> None:
    scene = replace(true_scene(), metric=False, median_camera_step=0.25)
    path = build_trajectory(scene, TrajectoryConfig(left=2.0, ease_s=0.0))
    recorded = build_trajectory(scene, TrajectoryConfig())
    np.testing.assert_allclose(np.linalg.norm(_centres(path) - _centres(recorded), axis=1), 0.5, atol=1e-9)
    assert path.facts["unit_of_length"] == "median camera step"
    given = build_trajectory(scene, TrajectoryConfig(left=2.0, ease_s=0.0, unit=3.0))
    np.testing.assert_allclose(np.linalg.norm(_centres(given) - _centres(recorded), axis=1), 6.0, atol=1e-9)


def test_a_curve_goes_through_the_poses_of_a_file(tmp_path: Path) -> None:
    scene = true_scene()
    given = [yaw_pose(0.2 * i, [i, i * i, 1.0]) @ EGO_FROM_CAMERA for i in range(4)]
    file = tmp_path / "poses.json"
    file.write_text(json.dumps({"poses": [{"world_from_camera": p.tolist()} for p in given]}))
    path = build_trajectory(scene, TrajectoryConfig(poses=file, frames=7))
    assert len(path) == 7
    for pose_given, shot in zip(given, path[::2]):
        np.testing.assert_allclose(shot.world_from_camera, pose_given, atol=1e-5)  # times are whole microseconds
    assert (path[0].mid_us, path[6].mid_us) == (0, 11 * STEP_US)
    # A parabola is its own cubic spline only with exact ends; the middle must still be near it.
    np.testing.assert_allclose(path[3].world_from_camera[:3, 3], [1.5, 2.25, 2.5], atol=0.05)
    timed = [{"world_from_camera": p.tolist(), "time_us": t} for p, t in zip(given, (0, 10, 20, 900_000))]
    file.write_text(json.dumps({"poses": timed}))
    path = build_trajectory(scene, TrajectoryConfig(poses=file))
    assert path[30].mid_us == 900_000
    (note,) = path.notes
    assert "(31 of 31 far)" in note, "the file's places are far from the scene's"


def test_poses_outside_the_log_are_noted_with_its_span(tmp_path: Path) -> None:
    scene, file = true_scene(), tmp_path / "poses.json"
    for times, said in (
        ((0, 20 * STEP_US), "4 of 11 frames lie up to 0.9 s outside the log, which lasts from 0 to 1100000 us"),
        ((-50 * STEP_US, -40 * STEP_US), "11 of 11 frames lie up to 5 s outside"),
        ((-STEP_US, 12 * STEP_US), None),
    ):
        file.write_text(json.dumps({"poses": [{"world_from_camera": np.eye(4).tolist(), "time_us": t} for t in times]}))
        *notes, far = build_trajectory(scene, TrajectoryConfig(poses=file)).notes
        assert "from where the log was recorded" in far
        assert len(notes) == (said is not None)
        assert said is None or said in notes[0]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"poses": []},
        {"poses": [{"world_from_camera": [[1, 2], [3, 4]]}]},
        {"poses": [{"world_from_camera": (2 * np.eye(4)).tolist()}]},
        {"poses": [{"world_from_camera": [[10**400] * 4] * 4}]},
        {"poses": [{"world_from_camera": np.eye(4).tolist(), "time_us": 5}, {"world_from_camera": np.eye(4).tolist(), "time_us": 5}]},
        {"poses": [{"world_from_camera": np.eye(4).tolist(), "time_us": 5}, {"world_from_camera": np.eye(4).tolist()}]},
        {"poses": [{"world_from_camera": np.eye(4).tolist(), "time_us": "soon"}]},
        {"poses": [{"world_from_camera": np.eye(4).tolist(), "time_us": 0.5}]},
        {"poses": [{"world_from_camera": np.eye(4).tolist(), "time_us": float("inf")}]},
        {"poses": [{"world_from_camera": np.eye(4).tolist(), "time_us": 2**70}]},
    ],
)
def test_broken_files_of_poses_are_refused(tmp_path: Path, content: dict) -> None:
    file = tmp_path / "poses.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"poses\.json"):
        build_trajectory(true_scene(2), TrajectoryConfig(poses=file))


def test_a_scene_without_recorded_cameras_takes_the_files(tmp_path: Path) -> None:
    scene = replace(true_scene(2), shots=())
    with pytest.raises(UserError, match="no recorded path"):
        build_trajectory(scene, TrajectoryConfig())
    file = tmp_path / "poses.json"
    file.write_text(json.dumps({"poses": [{"world_from_camera": np.eye(4).tolist()}]}))
    with pytest.raises(UserError, match="add `camera`"):
        build_trajectory(scene, TrajectoryConfig(poses=file))
    camera = {"width": 40, "height": 30, "focal_px": [30, 30], "principal_px": [20, 15]}
    file.write_text(json.dumps({"poses": [{"world_from_camera": np.eye(4).tolist()}] * 2, "camera": camera}))
    path = build_trajectory(scene, TrajectoryConfig(poses=file))
    assert (len(path), path[0].camera.width) == (11, 40)
    file.write_text(json.dumps({"poses": [{"world_from_camera": np.eye(4).tolist()}], "camera": camera | {"width": float("inf")}}))
    with pytest.raises(UserError, match=r"its `camera` cannot be read \(OverflowError"):
        build_trajectory(scene, TrajectoryConfig(poses=file))


def test_a_camera_beside_the_poses_is_taken_instead_of_the_recorded_one(tmp_path: Path) -> None:
    scene, file = true_scene(2), tmp_path / "poses.json"
    camera = {"width": 40, "height": 30, "focal_px": [30, 30], "principal_px": [20, 15]}
    content = {"poses": [{"world_from_camera": np.eye(4).tolist()}]}
    file.write_text(json.dumps(content | {"camera": camera}))
    taken = build_trajectory(scene, TrajectoryConfig(poses=file))[0].camera
    assert (taken.name, taken.width, taken.height, taken.focal_px, taken.principal_px) == ("front", 40, 30, (30.0, 30.0), (20.0, 15.0))
    with pytest.raises(UserError, match=r"poses\.json: .* and front is asked for as well"):
        build_trajectory(scene, TrajectoryConfig(poses=file, camera="front"))
    file.write_text(json.dumps(content | {"camera": camera | {"name": "other"}}))
    assert build_trajectory(scene, TrajectoryConfig(poses=file))[0].camera.name == "other"
    file.write_text(json.dumps(content | {"camera": None}))
    with pytest.raises(UserError, match="its `camera` cannot be read"):
        build_trajectory(scene, TrajectoryConfig(poses=file))
    file.write_text(json.dumps(content))
    assert build_trajectory(scene, TrajectoryConfig(poses=file, camera="front"))[0].camera == scene.shots[0].shot.camera


def test_actors_are_removed_or_shifted() -> None:
    scene = true_scene()
    path = build_trajectory(scene, TrajectoryConfig(remove_actors=("car/1",)))
    assert path.without == ("car/1",)
    assert not path.extra[0]["recorded"]
    assert path.extra[0]["actors"] == {"removed": ["car/1"], "shifted": {}, "inserted": []}
    assert "actors" not in build_trajectory(scene, TrajectoryConfig()).extra[0]
    shifted = build_trajectory(scene, TrajectoryConfig(shift_actors={"car/1": (0.5, 1.0, 0.0)}, unit=2.0))
    assert shifted.extra[0]["actors"]["shifted"] == {"car/1": [1.0, 2.0, 0.0]}
    assert shifted.actor_poses is not None
    recorded = scene.actors["car/1"].track.world_from_actor(0)
    np.testing.assert_allclose(shifted.actor_poses("car/1", 0), recorded @ pose(np.eye(3), np.array([1.0, 2.0, 0.0])))
    assert shifted.actor_poses("car/1", 10_000_000) is None
    with pytest.raises(UserError, match="no actor bus"):
        build_trajectory(scene, TrajectoryConfig(remove_actors=("bus",)))
    with pytest.raises(UserError, match="both removed and shifted"):
        TrajectoryConfig(remove_actors=("car/1",), shift_actors={"car/1": (0.0, 1.0, 0.0)})
    with pytest.raises(UserError, match="shifts of actors must stay within"):
        TrajectoryConfig(shift_actors={"car/1": (1e30, 0.0, 0.0)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"speed": 0.0},
        {"speed": 1e-9},
        {"speed": float("inf")},
        {"speed": float("nan")},
        {"speed": 2.0, "poses": Path("poses.json")},
        {"ease_s": -1.0},
        {"ease_s": float("inf")},
        {"frames": 0},
        {"unit": 0.0},
        {"unit": float("inf")},
        {"left": float("nan")},
        {"up": float("inf")},
        {"yaw_deg": float("nan")},
        {"shift_actors": {"car/1": (0.0, float("nan"), 0.0)}},
    ],
)
def test_settings_are_checked(wrong: dict) -> None:
    with pytest.raises(UserError, match="trajectory"):
        TrajectoryConfig(**wrong)


def test_an_unknown_camera_is_named_and_pictures_get_smaller() -> None:
    with pytest.raises(UserError, match="no camera rear; it has front"):
        build_trajectory(true_scene(2), TrajectoryConfig(camera="rear"))
    camera = build_trajectory(true_scene(2), TrajectoryConfig(max_width=32))[0].camera
    assert (camera.width, camera.height, camera.focal_px[0]) == (32, 24, 24.0)


def test_the_camera_that_looks_ahead_is_taken_unless_one_is_named() -> None:
    """A second camera that looks to the left comes first in time and is still not the default."""
    scene = true_scene()
    left = pose(yaw_pose(np.pi / 3, [0.0, 0.0, 0.0])[:3, :3], [0.0, 0.0, 0.0]) @ EGO_FROM_CAMERA
    first = scene.shots[0]
    sideways = replace(
        first,
        shot=replace(
            first.shot,
            camera=replace(first.shot.camera, name="a_left"),
            world_from_camera_start=left,
            world_from_camera_end=left,
        ),
    )
    both = replace(scene, shots=(sideways, *scene.shots))
    assert both.cameras[0] == "a_left"
    assert both.front_camera == first.shot.camera.name
    assert {shot.camera.name for shot in build_trajectory(both, TrajectoryConfig())} == {first.shot.camera.name}
    assert {shot.camera.name for shot in build_trajectory(both, TrajectoryConfig(camera="a_left"))} == {"a_left"}


def test_a_global_shutter_reads_all_rows_in_the_middle_of_the_exposure() -> None:
    scene = true_scene(3)
    rolling = []
    for recorded in scene.shots:
        shot, later = recorded.shot, recorded.shot.world_from_camera @ pose(np.eye(3), np.array([0.0, 0.0, 0.5]))
        camera = replace(shot.camera, shutter="top_to_bottom", readout_us=40_000)
        moving = replace(shot, camera=camera, world_from_camera_end=later, end_us=shot.start_us + 40_000)
        rolling.append(replace(recorded, shot=moving))
    scene = replace(scene, shots=tuple(rolling))
    kept = build_trajectory(scene, TrajectoryConfig(left=1.0, ease_s=0.0))
    still = build_trajectory(scene, TrajectoryConfig(left=1.0, ease_s=0.0, shutter="global"))
    for one, other in zip(kept, still, strict=True):
        assert one.camera.shutter == "top_to_bottom"
        assert other.camera.shutter == "global"
        assert other.start_us == other.end_us == one.mid_us
        np.testing.assert_allclose(other.world_from_camera, one.world_from_camera)
        assert np.linalg.norm(one.world_from_camera_end[:3, 3] - one.world_from_camera_start[:3, 3]) > 0.4
    plain = build_trajectory(scene, TrajectoryConfig(shutter="global"))
    assert not any(row["recorded"] for row in plain.extra)


def test_a_path_far_from_all_that_was_recorded_says_so() -> None:
    scene = true_scene()
    assert build_trajectory(scene, TrajectoryConfig(left=20.0)).notes == ()
    (note,) = build_trajectory(scene, TrajectoryConfig(left=1e6)).notes
    assert "up to 1,000,000 m from where the log was recorded (11 of 12 far)" in note
