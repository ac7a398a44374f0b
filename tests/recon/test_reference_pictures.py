"""The recorded pictures of a scene, found in its log."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_log import CAMERA, tiny_log, true_scene

from splatmend.datasets.errors import UserError
from splatmend.recon.fit.config import DataConfig
from splatmend.recon.fit.data import prepared_log, recorded_shots
from splatmend.recon.reference_pictures import log_pictures


def test_pictures_are_those_of_the_fit() -> None:
    """At its size, and without distortion for the pinhole model."""
    bent = replace(CAMERA, distortion_model="opencv", distortion=(-0.1, 0.02, 0.0, 0.0, 0.0))
    log = replace(tiny_log(6), cameras={CAMERA.name: bent})
    data = DataConfig(max_width=40)
    prepared = prepared_log(log, data)
    shots = recorded_shots(prepared, data)
    pictures = log_pictures(replace(true_scene(6), shots=shots), log)
    for shot, frame in zip(shots[:2], prepared.frames):
        picture = pictures(shot)
        assert picture.shape == (30, 40, 4)
        np.testing.assert_array_equal(picture[..., :3], frame.read_image())
        assert (picture[..., 3] == 255).all()


def test_masks_of_the_log_become_alpha() -> None:
    log = tiny_log(3)
    valid, transient = np.ones((48, 64), dtype=bool), np.zeros((48, 64), dtype=bool)
    valid[:10] = False
    transient[:, :5] = True
    masked = replace(log.frames[1], masks={"valid": lambda: valid, "transient": lambda: transient})
    scene = true_scene(3)
    pictures = log_pictures(scene, replace(log, frames=(log.frames[0], masked, log.frames[2])))
    np.testing.assert_array_equal(pictures(scene.shots[1])[..., 3] == 255, valid & ~transient)
    assert (pictures(scene.shots[0])[..., 3] == 255).all()


def test_another_log_is_refused() -> None:
    scene, log = true_scene(3), tiny_log(3)
    with pytest.raises(UserError, match="frame 2 of camera front is missing or of another time than in the scene"):
        log_pictures(scene, replace(log, frames=log.frames[:2]))(scene.shots[2])
    late = replace(log.frames[0], start_us=7, end_us=7)
    with pytest.raises(UserError, match="frame 0 of camera front is missing or of another time"):
        log_pictures(scene, replace(log, frames=(late, *log.frames[1:])))(scene.shots[0])
    wider = replace(CAMERA, focal_px=(60.0, 60.0))
    with pytest.raises(UserError, match="camera front has another calibration or shape in the scene"):
        log_pictures(scene, replace(log, cameras={"front": wider}))
    other = replace(CAMERA, name="back")
    with pytest.raises(UserError, match="the log has no camera front, which the scene shows; its cameras are back"):
        log_pictures(scene, replace(log, cameras={"back": other}, frames=tuple(replace(f, camera="back") for f in log.frames)))
