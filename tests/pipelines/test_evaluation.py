"""Scores: known values, directions, missing networks, held-out frames, flow."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from splatmend.datasets.artifact import Manifest, building, read_manifest
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import pose
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.pipelines.cli import main
from splatmend.pipelines.evaluation.flow import estimated_flow, exact_flow
from splatmend.pipelines.evaluation.metrics import NETWORK_MISSING, REGISTRY, Metric
from splatmend.pipelines.evaluation.scores import EvaluateConfig, evaluate, read_scores
from splatmend.pipelines.evaluation.table import score_lines, score_table
from splatmend.pipelines.evaluation.truth import ClipTruth

WIDTH, HEIGHT, FRAMES = 64, 48, 5
CAMERA = Camera(name="FRONT", width=WIDTH, height=HEIGHT, focal_px=(60.0, 60.0), principal_px=(32.0, 24.0))


def texture(shift_px: float = 0.0) -> np.ndarray:
    """A smooth pattern `[H, W, 3]` in [0.1, 0.9] that moves to the left with the shift."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    x = columns + shift_px
    waves = [np.sin(x / 5) * np.cos(rows / 4), np.sin(x / 7 + 1) * np.cos(rows / 6 + x / 9), np.cos(x / 4 - rows / 8)]
    return 0.5 + 0.4 * np.stack(waves, axis=-1)


def write_clip(out: Path, frames: list[np.ndarray], held_out: tuple[int, ...] = (), cameras: bool = True, camera: Camera = CAMERA) -> Path:
    with building(out, manifest := Manifest(kind="clip", config={})) as partial, ClipWriter(partial) as writer:
        for index, rgb in enumerate(frames):
            shot = Shot.still(camera, pose(np.eye(3), np.array([0.1 * index, 0, 0])), index * 100_000)
            writer.write(rgb, shot if cameras else None, extra={"held_out": index in held_out})
        manifest.facts = writer.facts
    return out


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    generator = np.random.default_rng(0)
    true = [texture(1.5 * i) for i in range(FRAMES)]
    noisy = [np.clip(rgb + generator.normal(0, 0.1, rgb.shape), 0, 1) for rgb in true]
    better = [0.5 * (a + b) for a, b in zip(true, noisy)]
    return {
        "truth": write_clip(folder / "truth", true),
        "raw": write_clip(folder / "raw", noisy, held_out=(2, 4)),
        "enhanced": write_clip(folder / "enhanced", better, held_out=(2, 4)),
    }


def scored(clips: dict[str, Path], out: Path, **options) -> dict:
    truth = ClipTruth(clip=open_clip(clips["truth"]))
    return evaluate({"raw": clips["raw"], "enhanced": clips["enhanced"]}, truth, out, EvaluateConfig(**options))


def test_scores_are_the_formulas_and_better_is_better(clips: dict[str, Path], tmp_path: Path) -> None:
    scores = scored(clips, tmp_path / "scores")
    raw, enhanced = scores["rows"]["raw"], scores["rows"]["enhanced"]
    expected = []
    for a, b in zip(open_clip(clips["raw"]).iter_rgb(), open_clip(clips["truth"]).iter_rgb()):
        expected.append(-10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2)))
    assert [row["psnr"] for row in raw["per_frame"]] == pytest.approx(expected, abs=1e-4)
    assert raw["mean"]["psnr"] == pytest.approx(np.mean(expected), abs=1e-4)
    for name in scores["metrics"]:
        metric = REGISTRY.metrics[name]
        if scores["metrics"][name]["missing"] is None:
            gain = enhanced["mean"][name] - raw["mean"][name]
            assert gain > 0 if metric.direction == "higher" else gain < 0, name
    assert scores["count"] == FRAMES
    assert raw["count"]["warping_error"] == FRAMES - 1
    assert scores["rows"]["truth"]["mean"]["warping_error"] < enhanced["mean"]["warping_error"]
    assert read_scores(tmp_path / "scores") == scores
    assert read_manifest(tmp_path / "scores", "scores").facts["means"]["raw"]["psnr"] == raw["mean"]["psnr"]


def test_truth_against_itself_is_perfect(clips: dict[str, Path], tmp_path: Path) -> None:
    same = {"raw": clips["truth"], "enhanced": clips["truth"], "truth": clips["truth"]}
    row = scored(same, tmp_path / "scores")["rows"]["raw"]["mean"]
    assert row["psnr"] == pytest.approx(100.0)
    assert row["ssim"] == pytest.approx(1.0, abs=1e-5)
    assert row["gmsd"] == pytest.approx(0.0, abs=1e-5)


def test_only_held_out_frames_count_but_flow_sees_their_neighbours(clips: dict[str, Path], tmp_path: Path) -> None:
    scores = scored(clips, tmp_path / "scores", frames="held_out")
    assert [row["frame"] for row in scores["rows"]["raw"]["per_frame"]] == [2, 4]
    assert scores["rows"]["raw"]["count"]["warping_error"] == 2
    unmarked = {"raw": clips["truth"], "enhanced": clips["truth"], "truth": clips["truth"]}
    with pytest.raises(UserError, match="none is marked as held out"):
        scored(unmarked, tmp_path / "none", frames="held_out")
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "none.partial").exists()


@pytest.mark.parametrize(
    ("size", "scored"), [((8, 9), {"psnr"}), ((12, 20), {"psnr", "ssim"}), ((20, 40), {"psnr", "ssim", "gmsd", "haarpsi"})]
)
def test_small_pictures_are_scored_as_far_as_they_go(tmp_path: Path, size: tuple[int, int], scored: set[str]) -> None:
    frames = [np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8) for i in range(2)]
    camera = CAMERA.resized(size[1], size[0])
    raw, truth = (write_clip(tmp_path / name, given, camera=camera) for name, given in (("raw", frames), ("truth", frames[::-1])))
    assert main(["evaluate", str(raw), "--truth", str(truth), "--out", str(tmp_path / "scores"), "--device", "cpu"]) == 0
    scores = read_scores(tmp_path / "scores")
    found = {name for name, value in scores["rows"]["raw"]["mean"].items() if value is not None}
    assert found - {"warping_error"} == scored
    for name in {"ssim", "gmsd", "haarpsi"} - scored:
        assert "pixels or more" in scores["metrics"][name]["missing"]


def test_missing_network_is_no_number(clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splatmend.pipelines.evaluation.metrics.lpips_available", lambda net: False)
    scores = scored(clips, tmp_path / "scores")
    assert scores["metrics"]["lpips_vgg"]["missing"] == NETWORK_MISSING
    assert scores["rows"]["raw"]["mean"]["lpips_vgg"] is None
    assert all("lpips_vgg" not in row for row in scores["rows"]["raw"]["per_frame"])
    # Pictures of 64x48 have no room for five scales.
    assert "160" in scores["metrics"]["ms_ssim"]["missing"]
    lines = {line.label: line for line in score_lines(scores)}
    assert lines["LPIPS vgg ↓"].values[0] == NETWORK_MISSING
    assert lines["LPIPS vgg ↓"].difference == ""
    assert lines["PSNR (dB) ↑"].better is True
    assert lines["GMSD ↓"].difference.startswith("-")
    assert lines["GMSD ↓"].better is True
    assert score_table(scores).row_count == sum(metric.suits_clips for metric in REGISTRY.metrics.values())


def test_less_warping_error_than_the_truth_is_no_gain(clips: dict[str, Path], tmp_path: Path) -> None:
    scores = scored(clips, tmp_path / "scores", metrics=("warping_error",))
    assert [line.better for line in score_lines(scores)] == [True]
    for row in ("raw", "enhanced"):
        scores["rows"][row]["mean"]["warping_error"] *= 0.01
    line = score_lines(scores)[0]
    assert line.better is None
    assert line.difference.startswith("-")


def test_wrong_clips_are_refused_in_a_sentence(clips: dict[str, Path], tmp_path: Path) -> None:
    short = write_clip(tmp_path / "short", [texture()] * 2)
    with pytest.raises(UserError, match=r"2 frames and .* 5"):
        evaluate({"raw": clips["raw"], "enhanced": short}, ClipTruth(clip=open_clip(clips["truth"])), tmp_path / "a", EvaluateConfig())
    with pytest.raises(UserError, match="2 frames and the clip to score 5"):
        evaluate({"raw": clips["raw"]}, ClipTruth(clip=open_clip(short)), tmp_path / "a", EvaluateConfig())
    small = write_clip(tmp_path / "small", [cv2.resize(texture(), (32, 24))] * FRAMES)
    with pytest.raises(UserError, match="32x24"):
        evaluate({"raw": small}, ClipTruth(clip=open_clip(clips["truth"])), tmp_path / "a", EvaluateConfig())
    with pytest.raises(UserError, match="choose among psnr"):
        EvaluateConfig(metrics=("niqe",))


def test_registry_refuses_a_second_metric_of_one_name() -> None:
    with pytest.raises(ValueError, match="already"):
        REGISTRY.register(Metric(name="psnr", label="", direction="higher", function=lambda view: None))


def test_estimated_flow_finds_a_shift() -> None:
    frames = [(255 * texture(shift)).astype(np.uint8) for shift in (0.0, 2.0)]
    flow = estimated_flow(*frames)
    middle = (slice(12, 36), slice(12, 52))
    # The pattern moved to the left by 2 px, so the previous position lies to the right.
    assert np.median(flow.xy_px[middle][..., 0]) == pytest.approx(2.0, abs=0.3)
    assert np.median(flow.xy_px[middle][..., 1]) == pytest.approx(0.0, abs=0.3)
    warped = flow.warp(frames[0].astype(np.float32))
    assert np.abs(warped - frames[1])[middle].mean() < 0.3 * np.abs(frames[0].astype(float) - frames[1])[middle].mean()


def test_exact_flow_of_a_plane_and_its_occlusion() -> None:
    near, far = 4.0, 8.0
    depth = np.full((HEIGHT, WIDTH), far)
    depth[:, :20] = near
    shots = [Shot.still(CAMERA, pose(np.eye(3), np.array([x, 0, 0])), t) for x, t in ((0.0, 0), (0.4, 100_000))]
    before = np.full((HEIGHT, WIDTH), far)
    before[:, :26] = near  # the near plane stood 60 * 0.4 / 4 = 6 px further to the right
    flow = exact_flow(shots[1], shots[0], depth, before)
    assert flow.xy_px[24, 10] == pytest.approx([6.0, 0.0], abs=1e-4)
    assert flow.xy_px[24, 40] == pytest.approx([3.0, 0.0], abs=1e-4)
    assert flow.visible[24, 10]
    assert flow.visible[24, 40]
    assert not flow.visible[24, 21]  # was behind the near plane
    assert not flow.visible[24, WIDTH - 1]  # was outside the picture
    depth[0, :] = 0.0
    assert not exact_flow(shots[1], shots[0], depth, before).visible[0].any()


def test_exact_flow_moves_actors() -> None:
    depth = np.full((HEIGHT, WIDTH), 6.0)
    shots = [Shot.still(CAMERA, np.eye(4), t) for t in (0, 100_000)]
    flow = exact_flow(shots[1], shots[0], depth, depth, lambda points: points - np.array([0.5, 0.0, 0.0]))
    assert flow.xy_px[24, 30] == pytest.approx([-5.0, 0.0], abs=1e-4)


def test_exact_flow_follows_a_rolling_shutter() -> None:
    from dataclasses import replace

    rolling = replace(CAMERA, shutter="top_to_bottom", readout_us=50_000)
    poses = [pose(np.eye(3), np.array([x, 0, 0])) for x in (0.0, 0.5, 1.0, 1.5)]
    previous = Shot(camera=rolling, world_from_camera_start=poses[0], world_from_camera_end=poses[1], start_us=0, end_us=50_000)
    present = Shot(camera=rolling, world_from_camera_start=poses[2], world_from_camera_end=poses[3], start_us=100_000, end_us=150_000)
    depth = np.full((HEIGHT, WIDTH), 30.0)
    flow = exact_flow(present, previous, depth, depth)
    # Both pictures shear alike, so every row moves by 60 px * 1 m / 30 m.
    assert flow.xy_px[2, 20] == pytest.approx([2.0, 0.0], abs=0.01)
    assert flow.xy_px[-3, 20] == pytest.approx([2.0, 0.0], abs=0.01)
