"""Wrong poses among right ones: which are named, and what a log is without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import PoseTrack, pose, yaw_pose
from splatmend.datasets.jumps import ACTOR, CAMERA, jumping, without_jumps
from splatmend.datasets.log import ActorTrack, Camera, CameraFrame, LidarPoints, LidarSweep, SceneLog

STEP_US = 100_000


def drive(count: int = 40) -> PoseTrack:
    """A hard start to 15 m/s, a bend of 30 degrees a second, a hard stop, and 2 cm of noise."""
    random = np.random.default_rng(0)
    seconds = np.arange(count) * STEP_US * 1e-6
    speed = np.clip(np.minimum(8 * seconds, 8 * (seconds[-1] - seconds)), 0, 15)
    yaw = np.radians(30) * np.clip(seconds - 1, 0, 1)
    steps = 0.1 * speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw), np.zeros(count)], axis=1)
    places = np.cumsum(steps, axis=0) + 0.02 * random.standard_normal((count, 3))
    return PoseTrack(times_us=np.arange(count) * STEP_US, world_from_body=np.stack([yaw_pose(a, p) for a, p in zip(yaw, places)]))


def with_faults(track: PoseTrack, faults: dict[int, np.ndarray]) -> PoseTrack:
    poses = track.world_from_body.copy()
    for index, fault in faults.items():
        poses[index] = poses[index] @ fault
    return PoseTrack(times_us=track.times_us, world_from_body=poses)


def moved(x_m: float, y_m: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    return yaw_pose(np.radians(yaw_deg), np.array([x_m, y_m, 0.0]))


def log_of(frames: PoseTrack, ego: PoseTrack, boxes: PoseTrack, *, metric: bool = True, follows_path: bool = False) -> SceneLog:
    camera = Camera(name="front", width=32, height=32, focal_px=(30.0, 30.0), principal_px=(16.0, 16.0))
    nothing = LidarPoints(xyz_world_m=np.zeros((0, 3)), time_us=np.zeros(0, int), intensity=np.zeros(0), origin_world_m=np.zeros((0, 3)))
    return SceneLog(
        log_id="drive",
        source="made up",
        path=Path("drive"),
        cameras={"front": camera},
        frames=tuple(
            CameraFrame(
                camera="front",
                index=number,
                start_us=int(t) - 5_000,
                end_us=int(t) + 5_000,
                world_from_camera_start=place @ pose(np.eye(3), np.array([-0.05, 0.0, 0.0])),
                world_from_camera_end=place @ pose(np.eye(3), np.array([0.05, 0.0, 0.0])),
                read_image=lambda: np.zeros((32, 32, 3), np.uint8),
            )
            for number, (t, place) in enumerate(zip(frames.times_us, frames.world_from_body))
        ),
        sweeps=tuple(
            LidarSweep(sensor="top", timestamp_us=int(t) - STEP_US // 2, read_points=lambda: nothing, follows_path=follows_path)
            for t in frames.times_us
        ),
        actors=(ActorTrack(actor_id="a", actor_class="vehicle", size_m=(4.0, 2.0, 1.5), track=boxes),),
        ego=ego,
        metric=metric,
        notes=("read",),
    )


def test_a_hard_drive_is_right() -> None:
    assert not jumping(drive(), CAMERA).any()


@pytest.mark.parametrize(
    "faults",
    [
        {7: moved(2.0)},
        {7: moved(0.0, 0.0, 12.0)},
        {0: moved(5.0), 39: moved(-5.0)},
        {5: moved(1.5), 6: moved(-2.0, 1.0), 20: moved(0.0, 3.0), 33: moved(0.0, 0.0, 90.0)},
        {12: moved(4.0), 13: moved(4.0)},
    ],
)
def test_wrong_poses_are_named_and_no_others(faults: dict[int, np.ndarray]) -> None:
    assert np.flatnonzero(jumping(with_faults(drive(), faults), CAMERA)).tolist() == sorted(faults)


def test_a_track_that_is_wrong_for_good_is_left_alone() -> None:
    late = {index: moved(3.0) for index in range(20, 40)}
    assert jumping(with_faults(drive(), late), CAMERA).sum() <= 2
    random = np.random.default_rng(1)
    noise = {index: moved(*random.normal(0, 5, 2)) for index in range(40)}
    assert not jumping(with_faults(drive(), noise), CAMERA).any()
    assert not jumping(PoseTrack(times_us=np.arange(3) * STEP_US, world_from_body=drive().world_from_body[[0, 20, 1]]), CAMERA).any()


def test_people_may_turn_on_the_spot() -> None:
    turning = with_faults(drive(), {index: moved(0.0, 0.0, 35.0 * (index % 2)) for index in range(40)})
    assert not jumping(turning, ACTOR).any()
    assert jumping(with_faults(drive(), {9: moved(0, 0, 35.0)}), CAMERA)[9]
    assert jumping(with_faults(drive(), {9: moved(0, 0, 175.0)}), ACTOR)[9]


def test_a_log_without_jumps_has_their_neighbours_poses() -> None:
    true = drive()
    bad = with_faults(true, {8: moved(3.0), 21: moved(0.0, 0.0, 40.0)})
    boxes = with_faults(true, {15: moved(0.0, 6.0)})
    log = without_jumps(log_of(bad, with_faults(true, {8: moved(3.0)}), boxes))
    assert [frame.index for frame in log.frames if frame.pose_bridged] == [8, 21]
    for index in (8, 21):
        frame = log.frames[index]
        off = np.linalg.inv(true.world_from_body[index]) @ frame.world_from_camera
        assert np.linalg.norm(off[:3, 3]) < 0.1
        assert Rotation.from_matrix(off[:3, :3]).magnitude() < np.radians(2)
        readout = np.linalg.inv(frame.world_from_camera_start) @ frame.world_from_camera_end
        np.testing.assert_allclose(readout[:3, 3], [0.1, 0.0, 0.0], atol=1e-9)
    # The sweep half of whose turn is done then; the next one starts only 50 ms later, but is taken around another pose.
    assert [sweep.middle_us // STEP_US for sweep in log.sweeps] == [i for i in range(40) if i != 8]
    assert len(log.ego.times_us) == 39
    (actor,) = log.actors
    assert actor.track.times_us.tolist() == [STEP_US * i for i in range(40) if i != 15]
    assert log.notes == (
        "read",
        "camera front: 2 of 40 poses jump (8, 21); they are bridged, their pictures are not fitted.",
        "1 of 40 sweeps were taken where the vehicle's pose jumps; they are left out.",
        "actor a: 1 of 40 boxes jump; they are left out.",
    )


def test_wrong_boxes_of_many_actors_are_said_in_one_sentence() -> None:
    log = log_of(drive(), drive(), drive())
    (actor,) = log.actors
    tracks = [with_faults(drive(), {place: moved(3.0) for place in range(10, 10 + 3 * count, 3)}) for count in (1, 2, 1, 3)]
    actors = tuple(replace(actor, actor_id=f"car {number}", track=track) for number, track in enumerate(tracks))
    assert without_jumps(replace(log, actors=actors[:3])).notes[-3:] == tuple(
        f"actor car {number}: {count} of 40 boxes jump; they are left out." for number, count in enumerate((1, 2, 1))
    )
    assert without_jumps(replace(log, actors=actors)).notes[-1] == (
        "4 actors: 7 of their 160 boxes jump, most of car 3 (3 of 40), car 1 (2 of 40), car 0 (1 of 40); they are left out."
    )


def test_of_sweeps_that_follow_the_path_a_jump_spoils_the_ones_beside_it() -> None:
    """A return between the wrong pose and the right one after it is placed between the two."""
    log = without_jumps(log_of(drive(), with_faults(drive(), {8: moved(3.0)}), drive(), follows_path=True))
    assert [sweep.middle_us // STEP_US for sweep in log.sweeps] == [i for i in range(40) if i not in (7, 8, 9)]


def test_a_sweep_goes_where_any_pose_of_its_turn_jumps() -> None:
    """Poses of the vehicle every 10 ms, one of them wrong 30 ms before half of a turn is done."""
    times_us = np.arange(391) * STEP_US // 10
    fine = PoseTrack(times_us=times_us, world_from_body=drive().at(times_us))
    log = without_jumps(log_of(drive(), with_faults(fine, {77: moved(3.0)}), drive()))
    assert [sweep.middle_us // STEP_US for sweep in log.sweeps] == [i for i in range(40) if i != 8]


def test_a_log_without_faults_or_without_a_scale_stays_the_same() -> None:
    right = log_of(drive(), drive(), drive())
    assert without_jumps(right) is right
    scaleless = replace(log_of(with_faults(drive(), {8: moved(3.0)}), drive(), drive()), metric=False)
    assert without_jumps(scaleless) is scaleless
