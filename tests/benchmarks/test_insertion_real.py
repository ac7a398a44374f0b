"""The benchmark of edits in real logs at toy size: its rows, the lead that it picks, and that it notices what an edit changed elsewhere."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from splatmend.datasets.geometry import PoseTrack, yaw_pose
from splatmend.datasets.images import read_image
from splatmend.recon.scene import Scene


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return importlib.import_module("insertion_real")


@pytest.mark.timeout(600)
def test_rows_of_a_toy_street(benchmark: ModuleType, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "rows.jsonl"
    assert benchmark.main(["--toy", "--work", str(work), "--out", str(out), "--frames", "4", "--oncoming", "3", "14", "6"]) == 0
    environment, *put_in, plain, mended = (json.loads(line) for line in out.read_text().splitlines())
    assert environment["kind"] == "environment"
    assert [(row["mended"], row["clip"]) for row in put_in] == [(m, clip) for m in (False, True) for clip in ("naive", "finished")]
    for row in put_in:
        assert row["frames"] == 4
        assert min(row["mask_px"].values()) > 0
        assert 0.5 < row["outside_share"] < 1
        assert row["raw_db"] > 15
    assert max(row["lost_db_worst_frame"] for row in put_in if not row["mended"]) < 0.5
    assert (plain["mended"], mended["mended"]) == (False, True)
    assert plain["never_seen_share"] == mended["never_seen_share"] > 0
    assert mended["see_through_share"] <= plain["see_through_share"]
    assert read_image(work / "put-in.png").shape == (4 * 80, 4 * 128, 3)
    assert "replace: " + plain["lead"] in (work / "put-in.yaml").read_text()


def test_what_changes_away_from_an_edit_is_noticed(benchmark: ModuleType) -> None:
    random = np.random.default_rng(0)
    photos = random.integers(60, 200, (3, 20, 30, 3), dtype=np.uint8)
    raw = (photos + random.integers(-9, 10, photos.shape)).astype(np.uint8)
    free = [np.ones((20, 30), dtype=bool) for _ in photos]
    for mask in free:
        mask[5:10] = False
    edited = raw.copy()
    edited[:, 5:10] = 0
    same = benchmark.compared(photos, raw, edited, free)
    assert (same["lost_db"], same["lost_db_worst_frame"], same["changed_share"]) == (0, 0, 0)
    assert same["edited_against_raw_db"] is None
    assert same["outside_share"] == 0.75
    edited[1, 15:] = 255 - edited[1, 15:]
    changed = benchmark.compared(photos, raw, edited, free)
    assert changed["lost_db_worst_frame"] > changed["lost_db"] > 3
    assert changed["changed_share"] == pytest.approx(1 / 9, abs=1e-3)


def with_track(scene: Scene, name: str, xy: np.ndarray) -> Scene:
    actor, times_us = scene.actors[name], scene.ego.times_us[: len(xy)]
    track = PoseTrack(times_us=times_us, world_from_body=np.stack([yaw_pose(0.0, np.array([x, y, 0.75])) for x, y in xy]))
    return replace(scene, actors={**scene.actors, name: replace(actor, track=replace(actor.track, track=track))})


def test_the_lead_is_longest_ahead_in_the_lane(benchmark: ModuleType) -> None:
    scene = importlib.import_module("insertion_speed").made_up("ewa", 10, 32, 24, 6)
    with pytest.raises(SystemExit, match="no vehicle is ahead"):
        benchmark.lead_vehicle(scene)
    ego = scene.ego.world_from_body[:, :2, 3]
    scene = with_track(scene, "car-03", ego[:3] + np.array([8, 0]))
    assert benchmark.lead_vehicle(scene) == "car-03"
    scene = with_track(scene, "car-04", ego + np.array([25, 0.5]))
    assert benchmark.lead_vehicle(scene) == "car-04"
    scene = with_track(scene, "car-05", ego + np.array([12, -0.5]))
    assert benchmark.lead_vehicle(scene) == "car-05"
    assert benchmark.lead_vehicle(with_track(scene, "car-06", ego - np.array([6, 0]))) == "car-05"
