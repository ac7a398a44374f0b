"""The benchmark of a long drive at toy size: the log is made, and a fit that was cut short ends as one row."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from splatmend.datasets.geometry import pose
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.street.as_waymo import write_street
from splatmend.datasets.street.street import build_street

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "long_log.py"


@pytest.fixture
def long_log() -> ModuleType:
    return importlib.import_module("long_log")


def moment(part: int, s: float, iteration: int) -> dict:
    return {"part": part, "s": s, "iteration": iteration, "gaussians": iteration, "host_mib": 100.0 + s, "device_gb": 1.0}


def end(part: int, s: float) -> dict:
    return {"part": part, "s": s, "host_mib": 90.0, "device_gb": 2.0, "held_out": {"psnr": 20.0}}


@pytest.mark.timeout(900)
def test_a_row_is_whole_after_an_interruption(tmp_path: Path) -> None:
    arguments = ["--toy", "--logs", str(tmp_path), "--processes", "1", "--iterations", "40", "--out", str(tmp_path / "rows.jsonl")]
    command = [sys.executable, str(SCRIPT), *arguments, "--rows", "ewa-coarse"]
    cut = subprocess.run([*command, "--budget-s", "0"], capture_output=True, text=True, check=False)
    assert cut.returncode == 0, cut.stderr[-2000:]
    assert "ewa-coarse is not whole" in cut.stderr
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads(done.stdout.splitlines()[-1])
    assert json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[-1]) == row
    assert row["row"] == "ewa-coarse"
    assert row["iterations"] == 40
    assert row["held_out"]["frames"] == 3
    assert row["whole_s"] == pytest.approx(row["before_first_s"] + row["fitting_s"] + row["scores_s"], abs=0.2)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [json.loads(line)["kind"] for line in again.stdout.splitlines()] == ["environment"], "a row that is whole is not fitted again"


@pytest.mark.timeout(300)
def test_the_log_has_large_pictures_of_the_small_ones(long_log: ModuleType, tmp_path: Path) -> None:
    large_street = importlib.import_module("large_street")
    street = long_log.replace(long_log.TOY_STREET, duration_s=0.2, width=48, height=32)
    pictures = large_street.render_pictures(street, tmp_path / "pictures.zip", 1)
    log = open_log(large_street.write_large_street(street, pictures, tmp_path / "log", 5, 2))
    assert len(log.frames) == 6
    small = build_street(street)
    for frame in log.frames:
        camera, before = log.cameras[frame.camera], small.cameras[frame.camera]
        assert (camera.width, camera.height) == (240, 160)
        assert camera.focal_px == pytest.approx([5 * focal for focal in before.focal_px])
        again = cv2.resize(frame.read_image(), (48, 32), interpolation=cv2.INTER_AREA)
        truth = large_street.recorded_image(small, frame.camera, frame.index)
        assert np.abs(again.astype(int) - truth).mean() < 6
    for number, sweep in enumerate(log.sweeps):
        np.testing.assert_allclose(sweep.read_points().xyz_world_m, small.lidar_turn(number).points().xyz_world_m, atol=2e-3)


def test_what_is_made_ahead_comes_in_order_and_not_too_far(long_log: ModuleType) -> None:
    ahead, begun = importlib.import_module("large_street").ahead, []

    def make(item: int) -> int:
        begun.append(item)
        return 10 * item

    with ThreadPoolExecutor(2) as pool:
        made = ahead(pool, make, range(9), 3)
        assert next(made) == 0
        assert max(begun, default=0) <= 2
        assert list(made) == [10 * item for item in range(1, 9)]


@pytest.mark.timeout(300)
def test_a_sheet_has_recorded_pictures_or_the_oracle_s_beside_the_scene_s(long_log: ModuleType, tmp_path: Path) -> None:
    sheet = importlib.import_module("sheet")
    street = long_log.replace(long_log.TOY_STREET, duration_s=0.9, width=48, height=32)
    log = write_street(build_street(street), tmp_path / "log")
    config = long_log.FitConfig(iterations=4, sky_rows=16, device="cpu", sh_degree=0)
    scene = long_log.fit(open_log(log), tmp_path / "scene", config)
    sheet.main([str(log), str(scene), "--out", str(tmp_path), "--width", "48", "--frames", "2", "--left", "0", "1"])
    on_path, beside = (cv2.imread(str(tmp_path / f"scene-left{left}.jpg"))[..., ::-1].astype(int) for left in (0, 1))
    assert (on_path.shape, beside.shape) == ((32, 96, 3), (64, 96, 3))
    assert np.abs(on_path[:, :48] - open_log(log).frames_of("FRONT")[4].read_image()).mean() < 6, "the frame that was held out"
    built = build_street(street)
    shot = built.shot("FRONT", 8)
    moved = shot.moved(pose(np.eye(3), np.array([-1.0, 0.0, 0.0])))
    truth = 255 * built.render(moved, supersample=1).rgb
    assert np.abs(beside[32:, :48] - truth).mean() < 6
    assert np.abs(beside[32:, 48:] - truth).mean() > 8, "the other half is the scene's"


def test_parts_of_a_fit_are_put_together(long_log: ModuleType) -> None:
    whole = [moment(1, 50.0, 1), moment(1, 55.0, 101), moment(1, 60.0, 201), end(1, 70.0)]
    found = long_log.summary(whole)
    assert (found["before_first_s"], found["fitting_s"], found["scores_s"], found["whole_s"]) == (50.0, 10.0, 10.0, 70.0)
    assert found["ms_per_iteration"] == pytest.approx(50.0)
    assert found["host_mib"] == 160
    # Killed after its checkpoint at 101: what it did beyond counts once, and the second start's 80 s not at all.
    parts = [*whole[:3], moment(2, 80.0, 151), moment(2, 82.5, 201), moment(2, 87.5, 301), end(2, 97.5)]
    found = long_log.summary(parts)
    assert (found["before_first_s"], found["scores_s"], found["parts"]) == (50.0, 10.0, 2)
    assert found["fitting_s"] == pytest.approx(15.0)


def test_rows_are_the_recipe_s_fit(long_log: ModuleType) -> None:
    chosen = long_log.argparse.Namespace(toy=False, iterations=None)
    ewa, ray, little = (long_log.config_of(name, chosen) for name in ("ewa", "ray-coarse", "ewa-little-cache"))
    assert (ewa.iterations, ewa.camera_model, ewa.coarse.until, ewa.data.max_width) == (30_000, "ewa", 0.0, None)
    assert (ray.iterations, ray.camera_model, ray.coarse.until) == (30_000, "ray", 0.5)
    assert long_log.replace(little, data=ewa.data) == ewa
    assert little.data.cache_mib < ewa.data.cache_mib
    # The pictures that are fitted, with a mask for each.
    assert ewa.data.cache_mib * 2**20 > 600 * 7 / 8 * 1920 * 1280 * 4
