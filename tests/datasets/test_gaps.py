"""A camera that misses pictures for a while is named, with the times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from splatmend.datasets.gaps import with_gaps_noted
from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.log import Camera, CameraFrame, SceneLog


def log_of(times_us: dict[str, list[int]], *, metric: bool = True) -> SceneLog:
    frames = [
        CameraFrame(
            camera=name,
            index=index,
            start_us=start_us,
            end_us=start_us,
            world_from_camera_start=np.eye(4),
            world_from_camera_end=np.eye(4),
            read_image=lambda: np.zeros((8, 8, 3), np.uint8),
        )
        for name, starts_us in times_us.items()
        for index, start_us in enumerate(starts_us)
    ]
    camera = Camera(name="a", width=8, height=8, focal_px=(8.0, 8.0), principal_px=(4.0, 4.0))
    return SceneLog(
        log_id="drive",
        source="made up",
        path=Path("drive"),
        cameras={name: replace(camera, name=name) for name in times_us},
        frames=tuple(sorted(frames, key=lambda frame: (frame.start_us, frame.camera))),
        sweeps=(),
        actors=(),
        ego=PoseTrack(times_us=np.array([0]), world_from_body=np.eye(4)[None]),
        metric=metric,
        notes=("read",),
    )


def test_gaps_within_a_drive_and_at_its_ends_are_named() -> None:
    every = [number * 100_000 for number in range(20)]
    log = log_of(
        {"whole": every, "gap": every[:6] + every[10:], "late": every[4:], "early": every[:-6], "jitter": [t + 9_000 for t in every]}
    )
    assert with_gaps_noted(log).notes == (
        "read",
        "Camera gap has no picture for a while (0.5 to 1.0 s).",
        "Camera late has no picture for a while (0.0 to 0.4 s).",
        "Camera early has no picture for a while (1.3 to 1.9 s).",
    )


def test_two_pictures_that_are_missing_are_a_gap_and_one_is_none() -> None:
    every = [number * 100_000 for number in range(20)]
    assert with_gaps_noted(log_of({"a": every[:6] + every[7:]})).notes == ("read",)
    assert len(with_gaps_noted(log_of({"a": every[:6] + every[8:]})).notes) == 2


def test_photos_have_no_gaps_and_a_single_picture_beside_many_is_told() -> None:
    photos = log_of({"a": [0, 1, 2, 50]}, metric=False)
    assert with_gaps_noted(photos) is photos
    notes = with_gaps_noted(log_of({"a": [0, 100_000, 200_000], "b": [100_000]})).notes
    assert notes == ("read", "Camera b has 1 picture, where others have 3.")
    assert with_gaps_noted(log_of({"a": [0], "b": [0]})).notes == ("read",)
