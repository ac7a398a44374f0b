from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from tiny_log import tiny_log, true_scene

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import inverse, transform
from splatmend.datasets.log import LidarPoints, LidarSweep
from splatmend.recon.fit.config import DataConfig
from splatmend.recon.fit.data import FrameSource, frame_roles, prepared_log, recorded_shots
from splatmend.recon.fit.lidar_targets import LidarTargets, nearest_sweeps, unoccluded


def test_held_out_frames_have_neighbours_on_both_sides() -> None:
    roles = frame_roles(tiny_log(20).frames, DataConfig())
    assert [i for i, role in enumerate(roles) if role == "held_out"] == [4, 12]
    assert roles.count("train") == 18
    assert frame_roles(tiny_log(12).frames, DataConfig(holdout_every=0)).count("train") == 12


def test_sparse_fits_leave_frames_out_but_hold_the_same_ones_back() -> None:
    roles = frame_roles(tiny_log(12).frames, DataConfig(train_every=4))
    assert [i for i, role in enumerate(roles) if role == "train"] == [0, 5, 9]
    assert roles[4] == "held_out"
    assert roles.count("left_out") == 8


def test_an_unknown_camera_is_named() -> None:
    with pytest.raises(UserError, match="no camera rear"):
        prepared_log(tiny_log(2), DataConfig(cameras=("rear",)))


def test_pictures_are_made_smaller_with_their_cameras() -> None:
    log = prepared_log(tiny_log(2), DataConfig(max_width=32))
    (recorded, _) = recorded_shots(log, DataConfig(holdout_every=0, max_width=32))
    assert recorded.shot.camera.width == 32
    assert FrameSource(log, torch.device("cpu"), 10)[0].rgb.shape == (24, 32, 3)


def test_lidar_depths_are_the_depths_of_the_picture() -> None:
    log, scene = tiny_log(3), true_scene(3)
    sample = FrameSource(log, torch.device("cpu"), 10)[1]
    world_from_camera = scene.shots[1].shot.world_from_camera
    points = log.sweeps[1].read_points().xyz_world_m - world_from_camera[:3, 3]
    in_camera = points @ world_from_camera[:3, :3]
    assert 50 < len(sample.pixels) < 700
    assert len(set(sample.pixels.tolist())) == len(sample.pixels)
    for pixel, depth in zip(sample.pixels.tolist()[::20], sample.depth_m.tolist()[::20]):
        x, y = pixel % 64 + 0.5, pixel // 64 + 0.5
        at = in_camera[:, :2] / in_camera[:, 2:] * 48 + [32, 24]
        hit = (np.abs(at - [x, y]) <= 0.5 + 1e-6).all(axis=1) & (np.abs(in_camera[:, 2] - depth) < 1e-3)
        assert hit.any()


def test_points_behind_a_nearer_neighbour_are_dropped() -> None:
    pixels, depth = unoccluded(np.array([10, 11, 30]), np.array([5, 5, 5]), np.array([20.0, 5.0, 20.0]), 64, 48)
    assert pixels.tolist() == [5 * 64 + 11, 5 * 64 + 30]
    assert depth.tolist() == [5.0, 20.0]
    same, nearest = unoccluded(np.array([10, 10]), np.array([5, 5]), np.array([5.2, 5.0]), 64, 48)
    assert (same.tolist(), nearest.tolist()) == ([330], [5.0])


def test_the_sweep_whose_middle_is_nearest_gives_depth_and_those_far_in_time_do_not() -> None:
    log = tiny_log(3)
    assert [sweep.timestamp_us for sweep in log.sweeps] == [-50_000, 50_000, 150_000]
    # The next sweep starts 1 ms before the picture, but sees most of what it shows 50 ms later.
    assert nearest_sweeps(log.sweeps, 49_000) == [0]
    assert nearest_sweeps(log.sweeps, 51_000) == [1]
    assert nearest_sweeps(log.sweeps, 900_000) == []
    slow = [replace(sweep, turn_us=200_000) for sweep in log.sweeps]
    assert nearest_sweeps(slow, 51_000) == [0]


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_returns_of_a_moving_actor_are_taken_to_the_time_of_the_picture(model: Literal["ewa", "ray"]) -> None:
    """The back of a car that drives ahead, scanned 45 ms after the picture."""
    log = tiny_log(4)
    frame, actor = log.frames[2], log.actors[0]
    face = np.stack(np.meshgrid([-1.0], np.linspace(-0.4, 0.4, 9), np.linspace(-0.3, 0.4, 7)), axis=-1).reshape(-1, 3)
    late_us = frame.mid_us + 45_000
    scan = LidarPoints(
        xyz_world_m=transform(actor.world_from_actor(late_us), face),
        time_us=np.full(len(face), late_us),
        intensity=np.zeros(len(face), np.float32),
        origin_world_m=np.zeros((len(face), 3)),
    )
    standing = replace(log, sweeps=(replace(log.sweeps[2], read_points=lambda: scan),))
    pixels, depth_m = LidarTargets(standing, model).of(2)
    in_camera = transform(inverse(frame.world_from_camera) @ actor.world_from_actor(frame.mid_us), face)
    expected = np.floor(in_camera[:, :2] / in_camera[:, 2:] * 48 + [32, 24]).astype(int)
    shown = ((expected >= 0) & (expected < [64, 48])).all(axis=1)
    assert shown.sum() > 10
    assert set(pixels.tolist()) <= set((expected[shown] @ [1, 64]).tolist())
    assert len(pixels) > 5
    for pixel, depth in zip(pixels, depth_m):
        assert np.abs(in_camera[shown & (expected @ [1, 64] == pixel), 2] - depth).min() < 1e-3
    gone_m = np.linalg.norm(actor.world_from_actor(late_us)[:3, 3] - actor.world_from_actor(frame.mid_us)[:3, 3])
    assert gone_m > 0.1


def test_the_cache_stays_within_its_room() -> None:
    log = tiny_log(4)
    reads: list[int] = []

    def counted(number: int, read):
        def inner() -> np.ndarray:
            reads.append(number)
            return read()

        return inner

    log = replace(log, frames=tuple(replace(f, read_image=counted(f.index, f.read_image)) for f in log.frames))
    roomy = FrameSource(log, torch.device("cpu"), 10)
    for number in (0, 1, 0, 1):
        roomy[number]
    assert reads == [0, 1]
    reads.clear()
    tight = FrameSource(log, torch.device("cpu"), 0)
    for number in (0, 1, 0, 0):
        tight[number]
    assert reads == [0, 1, 0]
    assert len(tight.held) == 1


def test_pictures_too_small_to_be_compared_are_refused() -> None:
    log = tiny_log(2)
    wide = replace(log, cameras={"front": replace(log.cameras["front"], width=160, principal_px=(80.0, 24.0))})
    with pytest.raises(UserError, match=r"fitted at 32x10 pixels.* give at least 57 as max_width"):
        prepared_log(wide, DataConfig(max_width=32))


def test_expected_frames_and_prepared_sweeps_give_the_same_samples() -> None:
    log = tiny_log(6)
    plain, ahead = (FrameSource(log, torch.device("cpu"), 0) for _ in range(2))
    ahead.prepare([3, 1, 4])
    ahead.expect([(3, 0), (1, 0), (4, 0)])
    for number in (3, 1, 4, 2):
        one, other = plain[number], ahead[number]
        assert len(one.pixels) > 0
        for name in ("rgb", "pixels", "depth_m", "depth_shares"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_sweeps_are_read_in_the_order_of_time() -> None:
    log, order = tiny_log(6), []

    def noted(sweep: LidarSweep) -> LidarSweep:
        def read() -> LidarPoints:
            order.append(sweep.timestamp_us)
            return sweep.read_points()

        return replace(sweep, read_points=read)

    log = replace(log, sweeps=tuple(noted(sweep) for sweep in log.sweeps))
    targets = LidarTargets(log, "ewa")
    targets.prepare([5, 0, 3, 2])
    assert order == sorted(order)
    assert len(order) == 4
    before = targets.of(3)
    assert len(order) == 4
    for one, other in zip(before, LidarTargets(log, "ewa").of(3)):
        np.testing.assert_array_equal(one, other)


def test_what_a_reader_says_of_an_expected_frame_reaches_the_fit() -> None:
    log = tiny_log(4)

    def broken() -> np.ndarray:
        raise UserError("frame 2 is damaged; download it again.")

    frames = [replace(frame, read_image=broken) if number == 2 else frame for number, frame in enumerate(log.frames)]
    source = FrameSource(replace(log, frames=tuple(frames)), torch.device("cpu"), 10)
    source.expect([(1, 0), (2, 0)])
    assert source[1].rgb.shape[2] == 3
    with pytest.raises(UserError, match="frame 2 is damaged"):
        source[2]
