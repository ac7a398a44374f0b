from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_log import true_scene

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import inverse, pose
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.render import render
from splatmend.recon.scene_files import file_name, load_scene, save_scene
from splatmend.recon.trajectory import TrajectoryConfig, build_trajectory


def test_a_scene_comes_back_and_renders_the_same_picture(tmp_path: Path) -> None:
    scene = true_scene(6, actor_id="../ a:car?*", degree=2)
    deltas = torch.zeros(2, 3, 4)
    deltas[0, 1, 1] = 0.2
    scene = replace(
        scene, exposure=ExposureTable(cameras=("front", "front"), times_us=(0, 500_000), deltas=deltas), facts={"held_out": {"psnr": 1.5}}
    )
    save_scene(tmp_path / "scene", scene, {"why": "test"})
    back = load_scene(tmp_path / "scene")
    assert set(back.actors) == {"../ a:car?*"}
    assert [p.parent.name for p in (tmp_path / "scene").rglob("*.ply") if p.name != "background.ply"] == ["actors"]
    assert back.facts["held_out"] == {"psnr": 1.5}
    assert [(r.role, r.frame_index) for r in back.shots] == [(r.role, r.frame_index) for r in scene.shots]
    np.testing.assert_array_equal(back.origin_world_m, scene.origin_world_m)
    np.testing.assert_array_equal(back.ego.world_from_body, scene.ego.world_from_body)
    for recorded in scene.shots[::3]:
        before, after = render(scene, recorded.shot), render(back, recorded.shot)
        assert before.rgb is not None
        assert after.rgb is not None
        torch.testing.assert_close(after.rgb, before.rgb, atol=1e-6, rtol=0)


def test_exposure_grids_come_back(tmp_path: Path) -> None:
    scene = true_scene(6)
    deltas = 0.2 * torch.randn(2, 3, 4, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    table = ExposureTable(cameras=("front", "front"), times_us=(0, 500_000), deltas=deltas)
    scene = replace(scene, exposure=table.with_deltas(table.centred))
    folder = save_scene(tmp_path / "scene", scene, {})
    back = load_scene(folder)
    assert back.exposure.cameras == ("front", "front")
    torch.testing.assert_close(back.exposure.deltas, scene.exposure.deltas, rtol=0, atol=1e-7)
    again = load_scene(save_scene(tmp_path / "again", back, {}))
    shot = scene.shots[2].shot
    torch.testing.assert_close(render(again, shot).rgb, render(scene, shot).rgb, atol=1e-6, rtol=0)
    assert not torch.allclose(render(scene, shot).rgb, render(scene, shot, exposure=None).rgb, atol=1e-2)
    (folder / "exposure.safetensors").write_text("x")
    with pytest.raises(UserError, match="grids cannot be read"):
        load_scene(folder)
    (folder / "exposure.safetensors").unlink()
    with pytest.raises(UserError, match="grids are missing"):
        load_scene(folder)


def test_a_scene_that_does_not_say_how_exposures_are_kept_has_one_map_per_picture(tmp_path: Path) -> None:
    table = ExposureTable(cameras=("front",) * 2, times_us=(0, 500_000), deltas=torch.stack([torch.ones(3, 4), -torch.ones(3, 4)]))
    folder = save_scene(tmp_path / "scene", replace(true_scene(2), exposure=table), {})
    assert not (folder / "exposure.safetensors").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["facts"]["exposure"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    torch.testing.assert_close(load_scene(folder).exposure.deltas, table.deltas)


def test_file_names_are_plain_and_differ() -> None:
    assert file_name("aB_3-x") == "aB_3-x"
    names = [file_name(name) for name in ("a/b", "a:b", "..", "", "é", "x" * 300, "a b")]
    assert len(set(names)) == len(names)
    assert all(0 < len(name) < 80 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for name in names)


def test_corrected_poses_come_back_with_what_the_log_said(tmp_path: Path) -> None:
    scene = true_scene(4)
    correction = pose(np.eye(3), np.array([0.1, 0.0, -0.2]))
    logged = scene.shots[1]
    moved = replace(logged, shot=logged.shot.moved(correction), logged_from_camera=correction)
    scene = replace(scene, shots=(scene.shots[0], moved, *scene.shots[2:]))
    back = load_scene(save_scene(tmp_path / "scene", scene, {})).shots
    assert [recorded.logged_from_camera is None for recorded in back] == [True, False, True, True]
    np.testing.assert_array_equal(back[1].shot.world_from_camera, moved.shot.world_from_camera)
    as_logged = back[1].shot.world_from_camera @ inverse(back[1].logged_from_camera)
    np.testing.assert_allclose(as_logged, logged.shot.world_from_camera, atol=1e-8)
    (shot, *_) = build_trajectory(replace(scene, shots=back[1:]), TrajectoryConfig()).shots
    np.testing.assert_array_equal(shot.world_from_camera, moved.shot.world_from_camera)


def test_a_scene_without_actors_sky_and_shots(tmp_path: Path) -> None:
    scene = replace(true_scene(2), actors={}, sky=None, shots=())
    back = load_scene(save_scene(tmp_path / "scene", scene, {}))
    assert (back.actors, back.sky, back.shots) == ({}, None, ())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("background.ply", None),
        ("shots.jsonl", None),
        ("tracks.json", '{"ego": {}}'),
        ("shots.jsonl", "{"),
        ("sky.safetensors", "x"),
        ("sky.safetensors", None),
    ],
)
def test_broken_files_are_named_with_their_folder(tmp_path: Path, file: str, content: str | None) -> None:
    folder = save_scene(tmp_path / "scene", true_scene(2), {})
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match="scene"):
        load_scene(folder)


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"\xff\x00\xfe junk", "is no text"), (b'{"shot": 1}\n', "line 1 is no recorded shot"), (b"[" + b"x" * 500, "line 1 is no recorded")],
)
def test_a_broken_list_of_shots_gets_a_short_sentence(tmp_path: Path, content: bytes, fault: str) -> None:
    folder = save_scene(tmp_path / "scene", true_scene(2), {})
    (folder / "shots.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=rf"shots\.jsonl: .*{fault}") as caught:
        load_scene(folder)
    assert len(str(caught.value)) < len(str(folder)) + 250


def test_other_artefacts_are_refused(tmp_path: Path) -> None:
    folder = save_scene(tmp_path / "scene", true_scene(2), {})
    manifest = json.loads((folder / "manifest.json").read_text()) | {"kind": "clip"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="but scene is needed"):
        load_scene(folder)


def test_a_sky_that_is_no_number_is_refused(tmp_path: Path) -> None:
    scene = true_scene(2)
    assert scene.sky is not None
    scene.sky.logits[0, 0, 0] = float("nan")
    folder = save_scene(tmp_path / "scene", scene, {})
    with pytest.raises(UserError, match="sky holds values that are no finite numbers"):
        load_scene(folder)


def test_a_scene_that_does_not_say_whether_it_has_a_sky_has_the_one_there(tmp_path: Path) -> None:
    folder = save_scene(tmp_path / "scene", true_scene(2), {})
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["facts"]["sky"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load_scene(folder).sky is not None
