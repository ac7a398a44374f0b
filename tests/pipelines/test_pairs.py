"""Pairs: what is made, resumed, split and drawn."""

from __future__ import annotations

import json
import operator
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import partial_folder, read_manifest
from splatmend.datasets.clip import open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import OPENGL_FROM_OPENCV, pose
from splatmend.datasets.images import read_image
from splatmend.datasets.street import StreetConfig
from splatmend.pipelines.cli import main
from splatmend.pipelines.pair_sources import open_source
from splatmend.pipelines.pairing import index as index_module
from splatmend.pipelines.pairing import making, workers
from splatmend.pipelines.pairing.index import part as scene_part
from splatmend.pipelines.pairing.index import read_rows, write_rows
from splatmend.pipelines.pairing.making import plans
from splatmend.pipelines.pairing.statistics import statistics
from splatmend.pipelines.pairs import INDEX, PairsConfig, make_pairs, split_of
from splatmend.recon.fit.config import DensifyConfig, FitConfig, InitConfig

# A camera that looks along the file's y with z up, in the axes of transforms.json.
LEVEL = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]) @ OPENGL_FROM_OPENCV[:3, :3]
STREET = StreetConfig(
    duration_s=0.5, width=64, height=48, cameras=("FRONT",), supersample=1, lidar_beams=8, lidar_columns=64, moving_cars=1, parked_cars=1
)
FIT = FitConfig(
    iterations=8,
    sh_degree=0,
    sky_rows=8,
    init=InitConfig(point_count=300, ray_count=100, actor_count=50),
    densify=DensifyConfig(cap=500, actor_cap=60, start=5, every=5),
    log_every=4,
)
CONFIG = PairsConfig(strategies=("sparse", "underfit", "shift"), every=(2,), shares=(0.25,), shifts=(1.0,), fit=FIT, street=STREET)


def rows_of(folder: Path) -> list[dict]:
    return read_rows(folder / INDEX)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made in two runs: the first is interrupted after its first pair."""
    out = tmp_path_factory.mktemp("pairs") / "pairs"
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pairs(["street:5"], out, CONFIG, device="cpu", say=interrupt)
    assert not out.exists()
    first = read_rows(scene_part(partial_folder(out), "street-5"))
    assert [row["kind"] for row in first] == ["sparse"]
    with pytest.raises(UserError, match="other settings or logs; give those with --resume, or start anew with --overwrite in place"):
        make_pairs(["street:6"], out, CONFIG, resume=True, device="cpu")
    made = partial_folder(out) / first[0]["degraded"] / "manifest.json"
    before = made.stat().st_mtime_ns
    more: list[str] = []
    make_pairs(["street:5"], out, CONFIG, resume=True, device="cpu", say=more.append)
    assert (out / made.relative_to(partial_folder(out))).stat().st_mtime_ns == before
    assert [line.split("-")[-1] for line in more] == ["underfit2", "left1"]
    return out


def test_index_names_clips_of_the_same_shots(pairs: Path) -> None:
    rows = rows_of(pairs)
    assert [row["kind"] for row in rows] == ["sparse", "underfit", "shift"]
    for row in rows:
        assert {"degraded", "target", "kind", "split", "scene"} <= row.keys()
        degraded, target = open_clip(pairs / row["degraded"]), open_clip(pairs / row["target"])
        assert len(degraded) == len(target) == row["frames"] == STREET.frame_count
        assert (degraded.references, target.references) == (2, 0)
        layers = degraded.read_references(2)
        assert layers is not None
        assert layers[..., 3].any()
        for a, b in zip(degraded.frames, target.frames):
            assert a.shot is not None
            assert b.shot is not None
            assert np.array_equal(a.shot.world_from_camera_start, b.shot.world_from_camera_start)
            assert a.shot.camera == b.shot.camera
    # Both fits of the recorded path share one target; the shifted path has its own, which shows something else.
    assert rows[0]["target"] == rows[1]["target"] != rows[2]["target"]
    recorded, shifted = (np.stack(list(open_clip(pairs / row["target"]).iter_rgb())) for row in (rows[0], rows[2]))
    assert np.abs(recorded[-1].astype(float) - shifted[-1]).mean() > 1


def test_statistics_sheet_and_manifest(pairs: Path) -> None:
    facts = read_manifest(pairs, "pairs").facts
    assert facts["pairs"] == 3
    assert facts["scenes"] == 1
    for row in rows_of(pairs):
        assert facts["statistics"][row["kind"]]["psnr"]["mean"] == pytest.approx(row["scores"]["psnr"])
        assert 5 < row["scores"]["psnr"] < 40
    sheet = read_image(pairs / "sheets" / "street-5.png")
    assert sheet.shape == (3 * (18 + 2 * 180), 6 * 240, 3)  # the label is as wide as six pictures, though there are five
    assert sorted(path.name for path in pairs.iterdir()) == ["clips", "manifest.json", "pairs.jsonl", "sheets"]


def test_statistics_are_over_frames_of_a_kind() -> None:
    rows = [
        {"kind": "sparse", "frame_scores": {"psnr": [10.0, 20.0, 30.0]}},
        {"kind": "sparse", "frame_scores": {"psnr": [40.0] * 8, "ssim": [0.5]}},
        {"kind": "shift", "frame_scores": {"psnr": [15.0]}},
    ]
    found = statistics(rows)
    assert found["sparse"]["psnr"] == pytest.approx({"mean": 380 / 11, "p10": 20.0, "p50": 40.0, "p90": 40.0})
    assert found["sparse"]["ssim"]["p10"] == 0.5
    assert found["shift"] == {"psnr": {"mean": 15.0, "p10": 15.0, "p50": 15.0, "p90": 15.0}}


def test_training_reads_the_index(pairs: Path) -> None:
    from splatmend.enhance.train.data import DataConfig, TrainingClips

    split = rows_of(pairs)[0]["split"]
    clips = TrainingClips(DataConfig(pairs=(pairs / INDEX,), split=split), clip_frames=5, crop_px=(32, 32), batch=2, seed=0)
    batch = clips.raw(0)
    assert batch.degraded.shape == batch.target.shape == (2, 5, 32, 32, 3)


def test_split_is_by_scene_and_does_not_move(tmp_path: Path) -> None:
    splits = {name: split_of(name, 0.25) for name in (f"street-{i}" for i in range(400))}
    share = list(splits.values()).count("validation") / 400
    assert 0.18 < share < 0.32
    assert splits == {name: split_of(name, 0.25) for name in splits}
    # A larger share keeps what was held out before.
    assert all(split_of(name, 0.5) == "validation" for name, split in splits.items() if split == "validation")
    assert {split_of(name, 0.0) for name in splits} == {"train"}


def test_plans_and_settings() -> None:
    config = replace(CONFIG, every=(4, 8), shares=(0.25, 0.5, 0.75), shifts=(2.0, -2.0))
    source = open_source("street:5", replace(STREET, cameras=("FRONT", "FRONT_LEFT"), duration_s=1.0))
    names = [plan.name for plan in plans(config, source)]
    assert len(names) == len(set(names)) == 2 * (2 + 3 + 2)
    assert "FRONT_LEFT-right2" in names
    for wrong in (
        {"strategies": ()}, {"every": (1,)}, {"shares": (1.0,)}, {"shifts": (0.0,)}, {"shifts": (float("nan"),)}, {"validation_share": 2.0},
        {"cameras": ("A", "A")}, {"cycle_shifts": (0.0,)}, {"reductions": (1.0,)}, {"holes": ("actor", "actor")},
    ):  # fmt: skip
        with pytest.raises(UserError):
            replace(CONFIG, **wrong)


def test_sources_that_cannot_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, part in (
        (["street:x"], "whole number"),
        ([str(tmp_path / "absent")], "absent"),
        (["street:1", "street:1", "--street.width", "64", "--street.height", "48"], "given twice"),
        (["street:1", "--cameras", "REAR", "--street.width", "64", "--street.height", "48"], "no camera REAR"),
    ):
        assert main(["pairs", *arguments, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1
        assert list(tmp_path.iterdir()) == []  # not even a folder to resume


def test_a_fault_before_anything_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise UserError("no room")

    monkeypatch.setattr(making, "_make_pair", no_room)
    with pytest.raises(UserError, match="no room"):
        make_pairs(["street:5"], tmp_path / "out", CONFIG, device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_workers_that_break_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are given is imported by its name in another process; here a function that cannot take what `_begin` does."""
    monkeypatch.setattr(workers, "_begin", operator.add)
    with pytest.raises(UserError, match=r"go on with --resume and fewer --workers"):
        workers.make_scenes(["street:5", "street:6"], tmp_path, CONFIG, "cpu", 2, lambda line: None)


def test_the_index_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / INDEX, [{"kind": "sparse"}])

    def interrupted(path: Path, text: str) -> int:
        with path.open("w") as file:
            file.write(text[: len(text) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(index_module.Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / INDEX, [{"kind": "sparse"}, {"kind": "shift"}])
    assert rows_of(tmp_path) == [{"kind": "sparse"}]


def test_logs_are_worked_on_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, strategies=("sparse",), fit=replace(FIT, iterations=2))
    said: list[str] = []
    both = make_pairs(["street:5", "street:6"], tmp_path / "both", config, device="cpu", workers=2, say=said.append)
    # Threads decide the order of sums: as many here as each of the two workers takes.
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    try:
        alone = make_pairs(["street:6", "street:5"], tmp_path / "alone", config, device="cpu", say=lambda line: None)
    finally:
        torch.set_num_threads(threads)
    assert sorted(said) == ["street-5: FRONT-sparse2", "street-6: FRONT-sparse2"]
    rows = rows_of(both)
    assert [row["scene"] for row in rows] == ["street-5", "street-6"]  # as the logs were given, whichever was done first
    assert rows == rows_of(alone)[::-1]
    assert {path.name for path in (both / "sheets").iterdir()} == {"street-5.png", "street-6.png"}
    with pytest.raises(UserError, match="workers: 0"):
        make_pairs(["street:5"], tmp_path / "none", config, device="cpu", workers=0)


def test_a_fault_in_a_worker_is_said_and_the_others_pairs_are_kept(tmp_path: Path) -> None:
    """Pictures are read when they are due, so a broken one is found in the midst of the work."""
    photos = tmp_path / "photos"
    (photos / "images").mkdir(parents=True)
    entries = []
    for index in range(4):
        cv2.imwrite(str(photos / "images" / f"{index}.png"), np.full((48, 64, 3), 40 * index, np.uint8))
        entries.append({"file_path": f"images/{index}.png", "transform_matrix": pose(LEVEL, np.array([0.5 * index, 0, 1.0])).tolist()})
    intrinsics = {"w": 64, "h": 48, "fl_x": 60.0, "fl_y": 60.0, "cx": 32.0, "cy": 24.0}
    (photos / "transforms.json").write_text(json.dumps({"camera_model": "PINHOLE", **intrinsics, "frames": entries}))
    broken = photos / "images" / "2.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    config = replace(CONFIG, strategies=("sparse",), fit=replace(FIT, iterations=2, init=InitConfig(point_count=0, ray_count=100)))
    sources, out = ["street:5", str(photos)], tmp_path / "out"
    with pytest.raises(UserError, match=r"2\.png"):
        make_pairs(sources, out, config, device="cpu", workers=2, say=lambda line: None)
    kept = read_rows(scene_part(partial_folder(out), "street-5"))
    assert [row["kind"] for row in kept] == ["sparse"]
    broken.write_bytes(whole)
    said: list[str] = []
    make_pairs(sources, out, config, device="cpu", resume=True, say=said.append)  # by one process, which changes nothing
    assert [line.split(": ")[1] for line in said] == ["camera_0-sparse2"]
    assert len(rows_of(out)) == 2
