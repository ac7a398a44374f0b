from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_log import tiny_log, true_scene

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.clip import open_clip
from splatmend.datasets.errors import UserError
from splatmend.recon.references import references_of
from splatmend.recon.render import render
from splatmend.recon.render_clip import render_clip
from splatmend.recon.trajectory import TrajectoryConfig, build_trajectory


def test_a_clip_holds_what_the_renderer_drew(tmp_path: Path) -> None:
    scene = true_scene(6)
    seen: list[tuple[int, int]] = []
    path = build_trajectory(scene, TrajectoryConfig())
    out = render_clip(scene, path, tmp_path / "clip", depth=True, on_progress=lambda done, of: seen.append((done, of)))
    clip = open_clip(out)
    assert len(clip) == 6
    assert seen[-1] == (6, 6)
    assert [frame.extra["held_out"] for frame in clip.frames] == [i == 4 for i in range(6)]
    assert clip.rate_hz == pytest.approx(10.0)
    assert clip.log_id == scene.log_id
    with torch.no_grad():
        drawn = render(scene, scene.shots[3].shot)
    assert drawn.rgb is not None
    assert drawn.depth_m is not None
    pictures = list(clip.iter_rgb())
    np.testing.assert_allclose(pictures[3] / 255.0, drawn.rgb.clamp(0, 1).numpy(), atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(clip.read_channel("depth", 3), drawn.depth_m.numpy(), atol=1 / 256)
    np.testing.assert_allclose(clip.read_channel("opacity", 3), drawn.opacity.numpy(), atol=0.5 / 255 + 1e-6)
    assert clip.frames[3].shot is not None
    assert clip.frames[3].shot.mid_us == scene.shots[3].shot.mid_us


def test_the_manifest_tells_the_trajectory(tmp_path: Path) -> None:
    scene = true_scene(3)
    config = TrajectoryConfig(left=2.0, remove_actors=("car/1",))
    manifest = read_manifest(render_clip(scene, build_trajectory(scene, config), tmp_path / "clip", inputs={"scene": "abc"}), "clip")
    assert manifest.config["trajectory"]["left"] == 2.0
    assert manifest.config["without"] == ["car/1"]
    assert manifest.facts["unit_of_length"] == "metre"
    assert manifest.facts["rate_hz"] == pytest.approx(10.0)
    assert manifest.inputs == {"scene": "abc"}


def test_edits_of_actors_reach_the_picture(tmp_path: Path) -> None:
    scene = true_scene(2)
    clips = {}
    for name, config in {
        "as it was": TrajectoryConfig(),
        "removed": TrajectoryConfig(remove_actors=("car/1",)),
        "shifted": TrajectoryConfig(shift_actors={"car/1": (0.0, -1.5, 0.0)}),
    }.items():
        clip = open_clip(render_clip(scene, build_trajectory(scene, config), tmp_path / name, opacity=False))
        clips[name] = next(clip.iter_rgb()).astype(int)
        assert clip.read_channel("opacity", 0) is None

    def car_column(picture: np.ndarray) -> float:
        """Where it differs from the street without the car, on average."""
        changed = np.abs(picture - clips["removed"]).sum(axis=(0, 2))
        return float(changed @ np.arange(64) / changed.sum())

    assert car_column(clips["shifted"]) > car_column(clips["as it was"]) + 5


def test_nothing_to_render_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no shot"):
        render_clip(true_scene(2), [], tmp_path / "clip")


def test_a_clip_with_references_has_those_of_its_edited_frames(tmp_path: Path) -> None:
    scene = true_scene(6)
    references = references_of(scene, tiny_log(6, scene=scene), 1)
    assert references is not None
    path = build_trajectory(scene, TrajectoryConfig(left=0.4, ease_s=0.0, remove_actors=("car/1",), frames=3))
    clip = open_clip(render_clip(scene, path, tmp_path / "clip", references=references))
    assert clip.references == 1
    assert read_manifest(clip.path, "clip").config["references"]["layers"] == 1
    for number, (shot, raw) in enumerate(zip(path.shots, clip.iter_rgb())):
        layers = clip.read_references(number)
        np.testing.assert_array_equal(layers, references.of(shot, without={"car/1"}))
        assert layers is not None
        seen = layers[0, ..., 3] == 255
        assert seen.mean() > 0.5
        # The log's pictures are the scene's own renders, so a right warp shows nearly the same, and no red of the car.
        assert np.abs(layers[0][seen][:, :3].astype(float) - raw[seen]).mean() < 12
        red = (layers[0, ..., 0] > 150) & (layers[0, ..., 1] < 60) & (raw[..., 1] > 90)
        assert not red.any()
    assert references_of(scene, tiny_log(6), 0) is None
