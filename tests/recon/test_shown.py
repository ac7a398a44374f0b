from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_log import CAMERA, EGO_FROM_CAMERA, ORIGIN_M, STEP_US

from splatmend.datasets.geometry import PoseTrack, yaw_pose
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.shown import shown_shares


def _actor(name: str, place_m: tuple[float, float, float], first: int, count: int, size_m: float = 1.0) -> ActorTrack:
    times_us = np.arange(first, first + count) * STEP_US
    poses = np.tile(yaw_pose(0.3, ORIGIN_M + np.array(place_m)), (count, 1, 1))
    track = PoseTrack(times_us=times_us, world_from_body=poses)
    return ActorTrack(actor_id=name, actor_class="vehicle", size_m=(size_m, size_m, size_m), track=track)


def test_an_actor_is_shown_where_its_box_is_in_the_picture() -> None:
    """Ten times a camera that looks ahead, and one beside it that looks to the left."""
    left = replace(CAMERA, name="left")
    shots = [Shot.still(CAMERA, yaw_pose(0.0, ORIGIN_M) @ EGO_FROM_CAMERA, i * STEP_US) for i in range(10)]
    shots += [Shot.still(left, yaw_pose(np.pi / 2, ORIGIN_M) @ EGO_FROM_CAMERA, i * STEP_US) for i in range(10)]
    actors = [
        _actor("ahead", (8, 0, 1), 0, 10),
        _actor("ahead for two", (8, 0, 1), 4, 2),
        _actor("at the left", (0, 6, 1), 0, 5),
        _actor("behind", (-8, 0, 1), 0, 10),
        # Its corners lie outside the picture, which it fills.
        _actor("before the lens", (6, 0, 1.5), 0, 10, size_m=9.0),
    ]
    expected = {"ahead": 0.5, "ahead for two": 0.1, "at the left": 0.25, "behind": 0.0, "before the lens": 0.5}
    assert shown_shares(actors, shots) == pytest.approx(expected)
    assert shown_shares(actors, []) == dict.fromkeys(expected, 0.0)
