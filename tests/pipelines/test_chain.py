"""The whole chain at a tiny size, through the command line: street, fit, render, scores, report; then nothing to do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.clip import open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.street import StreetConfig
from splatmend.pipelines import recipes, runner
from splatmend.pipelines.cli import main
from splatmend.pipelines.evaluation.scores import read_scores
from splatmend.pipelines.planning import plan
from splatmend.pipelines.recipes import RECIPES, RecipeOptions
from splatmend.pipelines.report.from_run import inputs_of_run
from splatmend.pipelines.stage import Stage, StageContext
from splatmend.pipelines.stages import make_street
from splatmend.recon.fit.config import DataConfig, DensifyConfig, FitConfig, InitConfig

FRAMES = 6
TINY_STREET = StreetConfig(
    seed=3,
    duration_s=0.6,
    width=64,
    height=48,
    cameras=("FRONT",),
    supersample=1,
    lidar_beams=8,
    lidar_columns=64,
    moving_cars=1,
    parked_cars=1,
)
TINY_FIT = FitConfig(
    iterations=12,
    sh_degree=0,
    sky_rows=8,
    data=DataConfig(holdout_every=4),
    init=InitConfig(point_count=300, ray_count=100, actor_count=50),
    densify=DensifyConfig(cap=500, actor_cap=60, start=5, every=5),
    checkpoint_every=5,
    log_every=2,
)


def tiny(stages: list[Stage]) -> list[Stage]:
    """The recipe's own stages with a small street and a short fit."""
    small = {"street": TINY_STREET, "fit": TINY_FIT}
    return [replace(stage, config=small.get(stage.name, stage.config)) for stage in stages]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "demo"
    stages = tiny(RECIPES["demo"](None, RecipeOptions(model="none", shift=1.0)))
    runner.run(plan("demo", stages, out), out, device="cpu", say=lambda line: None)
    return out


def test_every_stage_left_its_artefact(demo: Path) -> None:
    kinds = {name: read_manifest(demo / name).kind for name in ("fit", "recorded", "recorded-scores", "shift", "shift-scores", "report")}
    assert kinds == {
        "fit": "scene",
        "recorded": "clip",
        "recorded-scores": "scores",
        "shift": "clip",
        "shift-scores": "scores",
        "report": "report",
    }
    assert (demo / "street" / "street.json").is_file()
    assert not list(demo.glob("*.partial"))


def test_a_street_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int | None]] = []
    monkeypatch.setattr("splatmend.datasets.progress.ConsoleBar.show", lambda bar, done, total=None: shown.append((done, total)))
    make_street(replace(TINY_STREET, duration_s=0.2), {}, tmp_path / "street", StageContext())
    assert shown == [(1, 2), (2, 2)]


def test_held_out_scores_agree_with_the_fit(demo: Path) -> None:
    """The fit scores held-out frames as it ends; the clip went through 8-bit PNG and the log through the same undistortion."""
    scores = read_scores(demo / "recorded-scores")
    fitted = read_manifest(demo / "fit", "scene").facts["held_out"]
    assert scores["count"] == fitted["frames"] > 0
    assert scores["rows"]["raw"]["mean"]["psnr"] == pytest.approx(fitted["psnr"], abs=0.05)
    assert scores["rows"]["raw"]["mean"]["ssim"] == pytest.approx(fitted["ssim"], abs=0.005)


def test_shift_is_scored_against_the_oracle_with_exact_flow(demo: Path) -> None:
    scores = read_scores(demo / "shift-scores")
    assert scores["truth"]["kind"] == "street"
    assert scores["flow"] == "exact"
    assert scores["count"] == FRAMES
    # The oracle's pictures move as its own depth, poses and tracks say; pictures that are a little off do not.
    assert scores["rows"]["truth"]["mean"]["warping_error"] < 8
    centres = np.stack([frame.shot.world_from_camera[:3, 3] for frame in open_clip(demo / "shift").frames])
    recorded = np.stack([frame.shot.world_from_camera[:3, 3] for frame in open_clip(demo / "recorded").frames])
    assert np.linalg.norm(centres - recorded, axis=1)[-1] > 0.2


def test_oracle_and_recorded_frames_are_one_truth(demo: Path, tmp_path: Path) -> None:
    """The log on disk (JPEG, Waymo poses) read back shows what the oracle sees from the same shots."""
    arguments = ["--truth", str(demo / "street"), "--metrics", "psnr", "--overwrite"]
    assert main(["evaluate", str(demo / "recorded"), "--out", str(tmp_path / "scores"), *arguments]) == 0
    by_oracle = read_scores(tmp_path / "scores")
    assert by_oracle["truth"]["kind"] == "street"
    by_frame = {row["frame"]: row["psnr"] for row in by_oracle["rows"]["raw"]["per_frame"]}
    for row in read_scores(demo / "recorded-scores")["rows"]["raw"]["per_frame"]:
        assert row["psnr"] == pytest.approx(by_frame[row["frame"]], abs=0.3)


def test_a_second_run_has_nothing_to_do_and_a_change_runs_what_depends(demo: Path) -> None:
    stages = tiny(RECIPES["demo"](None, RecipeOptions(model="none", shift=1.0)))
    assert {step.reason for step in plan("demo", stages, demo).steps} == {"unchanged"}
    other = tiny(RECIPES["demo"](None, RecipeOptions(model="none", shift=-1.0)))
    found = {step.stage.name: (step.action, step.reason) for step in plan("demo", other, demo).steps}
    assert found["shift"] == ("run", "config changed: trajectory.left 1.0 -> -1.0")
    assert found["fit"][0] == found["recorded"][0] == "skip"
    assert found["shift-scores"][0] == found["report"][0] == "run"


def test_another_recipe_is_refused_and_an_old_report_is_not_announced(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", "waymo", str(demo / "street"), "--out", str(demo), "--model", "none"]) == 2
    assert "holds a run of demo; give another --out for waymo" in capsys.readouterr().err.replace("\n", " ")
    monkeypatch.setitem(RECIPES, "demo", lambda log, options: tiny(recipes.demo(log, options)))
    arguments = ["run", "demo", "--out", str(demo), "--model", "none", "--shift", "1", "--device", "cpu"]
    assert main([*arguments, "--until", "shift"]) == 0
    said = capsys.readouterr().out
    assert "report:" not in said
    assert "PSNR" not in said
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"report: {demo / 'report' / 'report.html'}" in said
    # What was scored is shown, whether it was scored by this run or by one before.
    for stage in ("recorded-scores", "shift-scores"):
        assert f"{stage}: " in said
        assert f"{read_scores(demo / stage)['rows']['raw']['mean']['psnr']:.2f}" in said
    # Only the fit goes on from a checkpoint; the plan says so.
    assert [stage.name for stage in recipes.demo(None, RecipeOptions(model="none")) if stage.resumes] == ["fit"]


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--iterations", "0", "iterations: 0"),
        ("--iterations", "-3", "iterations: -3"),
        ("--max-width", "0", "max-width: 0"),
        ("--shift", "nan", "shift: nan"),
        ("--shift", "inf", "shift: inf"),
        ("--strength", "nan", "strength: nan"),
        ("--seed", "-1", "seed: -1"),
        ("--camera", "BACK", "has no camera BACK; choose among FRONT"),
    ],
)
def test_settings_that_make_no_recipe_are_refused(
    flag: str, value: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "demo", "--out", str(tmp_path / "run"), "--dry-run", flag, value]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_of_several_drives_is_a_log_and_a_truth(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(demo / "street", tmp_path / "log")
    (tmp_path / "log" / "street.json").unlink()
    for file in (tmp_path / "log").glob("*/*.parquet"):
        shutil.copy(file, file.with_name("other.parquet"))
    chosen = f"{tmp_path / 'log'}#street-3"
    assert main(["run", "waymo", chosen, "--out", str(tmp_path / "run"), "--model", "none", "--dry-run"]) == 0
    arguments = ["--truth", chosen, "--metrics", "psnr", "--frames", "held_out", "--out", str(tmp_path / "scores")]
    assert main(["evaluate", str(demo / "recorded"), *arguments]) == 0
    assert read_scores(tmp_path / "scores")["truth"] == {"kind": "log", "path": chosen}
    assert main(["run", "waymo", f"{tmp_path / 'log'}#absent", "--out", str(tmp_path / "run"), "--model", "none", "--dry-run"]) == 2
    assert "no drive absent" in capsys.readouterr().err


def test_report_again_from_the_run(demo: Path, tmp_path: Path) -> None:
    assert main(["report", str(demo), "--out", str(tmp_path / "page"), "--title", "Again"]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "<h1>Again</h1>" in page
    assert page.count("<video") == 4  # raw and truth, recorded path and lane shift


def test_a_run_that_was_moved_reports_what_lies_in_it(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "moved")
    found = inputs_of_run(tmp_path / "moved")
    assert (found.scene, found.log) == (tmp_path / "moved" / "fit", tmp_path / "moved" / "street")


@pytest.mark.parametrize("flag", ["--raw", "--enhanced", "--truth", "--scores", "--scene", "--log"])
def test_what_a_run_brings_itself_is_refused(flag: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(demo), flag, str(tmp_path / "absent"), "--out", str(tmp_path / "page")]) == 2
    assert f"leave {flag} out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_log_export_import_and_render(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", str(demo / "street"), "--overlay", str(tmp_path / "overlay.png")]) == 0
    assert (tmp_path / "overlay.png").stat().st_size > 1000
    assert main(["export", str(demo / "fit"), "--out", str(tmp_path / "background.ply")]) == 0
    assert main(["import", str(tmp_path / "background.ply"), "--like", str(demo / "fit"), "--out", str(tmp_path / "scene")]) == 0
    assert "held_out" not in read_manifest(tmp_path / "scene", "scene").facts
    render = ["render", str(tmp_path / "scene"), "--out", str(tmp_path / "clip"), "--device", "cpu"]
    assert main([*render, "--trajectory.frames", "2"]) == 0
    same = [a.tobytes() == b.tobytes() for a, b in zip(open_clip(tmp_path / "clip").iter_rgb(), open_clip(demo / "recorded").iter_rgb())]
    assert same == [True, True]
    assert "outside the log" not in capsys.readouterr().out
    poses = tmp_path / "poses.json"
    poses.write_text(json.dumps({"poses": [{"world_from_camera": np.eye(4).tolist(), "time_us": 0}]}))
    assert main([*render, "--overwrite", "--trajectory.poses", str(poses)]) == 0
    assert "note: 1 of 1 frames lie up to " in capsys.readouterr().out
    assert main(["export", str(demo / "fit"), "--actor", "nobody", "--out", str(tmp_path / "x.ply")]) == 2
    assert not (tmp_path / "x.ply").exists()


def test_render_with_references(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the log that the scene names, or where that has moved, another path; the recipe's own clips have them too."""
    from splatmend.recon.scene_files import load_scene

    out = tmp_path / "clip"
    render = ["render", str(demo / "fit"), "--out", str(out), "--device", "cpu", "--trajectory.frames", "2"]
    assert main([*render, "--references", "1"]) == 0
    first, of_run = open_clip(out), open_clip(demo / "recorded")
    assert (first.references, of_run.references, open_clip(demo / "shift").references) == (1, 2, 2)
    layers, all_layers = first.read_references(1), of_run.read_references(1)
    assert layers is not None
    assert all_layers is not None
    np.testing.assert_array_equal(layers[0], all_layers[0])
    assert (layers[..., 3] == 255).mean() > 0.05

    scene = shutil.copytree(demo / "fit", tmp_path / "scene")
    manifest = json.loads((scene / "manifest.json").read_text())
    assert manifest["facts"]["log_path"] == str((demo / "street").absolute())

    def refused(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["render", str(scene), "--out", str(tmp_path / "refused"), *arguments]) == 2
        assert not (tmp_path / "refused").exists()
        return capsys.readouterr().err

    manifest["facts"]["log_path"] = str(tmp_path / "gone")
    (scene / "manifest.json").write_text(json.dumps(manifest))
    assert f"its log is no longer at {tmp_path / 'gone'}; give --log PATH" in refused("--references", "2")
    del manifest["facts"]["log_path"]
    (scene / "manifest.json").write_text(json.dumps(manifest))
    assert "does not say where its log lies; give --log PATH" in refused("--references", "2")
    assert "references: -1 is no number of layers" in refused("--references", "-1")
    assert "a log is read for references only" in refused("--log", str(demo / "street"))
    assert "there is no such file or folder" in refused("--references", "2", "--log", str(tmp_path / "absent"))
    manifest["facts"]["log_id"] = "another"
    (scene / "manifest.json").write_text(json.dumps(manifest))
    assert "of the log another" in refused("--references", "2", "--log", str(demo / "street"))
    manifest["facts"]["log_id"] = load_scene(demo / "fit").log_id
    (scene / "manifest.json").write_text(json.dumps(manifest))
    given = ["--references", "2", "--log", str(demo / "street"), "--overwrite"]
    assert main(["render", str(scene), *render[2:], *given]) == 0
    np.testing.assert_array_equal(open_clip(out).read_references(1), all_layers)


def test_held_out_clips_of_photo_sets(demo: Path, tmp_path: Path) -> None:
    """The photo recipe's stages on the street: each held-out pose stands in the middle of its own clip and only it is scored."""
    stages = {stage.name: stage for stage in recipes.photos(demo / "street", RecipeOptions(model="none"))}
    centred = replace(stages["held-out"], config=replace(stages["held-out"].config, around_held_out=5))
    centred = replace(centred, inputs={**centred.inputs, "scene": demo / "fit"})
    planned = plan("photos", [centred, stages["held-out-scores"]], tmp_path / "run")
    runner.run(planned, tmp_path / "run", device="cpu", say=lambda line: None)
    scores = read_scores(tmp_path / "run" / "held-out-scores")
    assert [row["frame"] for row in scores["rows"]["raw"]["per_frame"]] == [2] * scores["count"]
    recorded = read_scores(demo / "recorded-scores")["rows"]["raw"]["mean"]["psnr"]
    assert scores["rows"]["raw"]["mean"]["psnr"] == pytest.approx(recorded, abs=1e-6)
    with pytest.raises(UserError, match="odd number"):
        _shots(demo, 4)


def _shots(demo: Path, frames: int) -> list:
    from splatmend.pipelines.held_out import shots_around_held_out
    from splatmend.recon.scene_files import load_scene

    return list(shots_around_held_out(load_scene(demo / "fit"), frames))


def test_recipes_are_sound_graphs(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for name, recipe in RECIPES.items():
        for preset in ("cpu", "gpu"):
            stages = recipe(None if name == "demo" else tmp_path / "log", RecipeOptions(preset=preset, model="none"))
            seen: set[str] = set()
            for stage in stages:
                assert set(stage.upstream()) <= seen, (name, stage.name)
                assert stage.name not in seen
                seen.add(stage.name)
                json.dumps(stage.config_values())
                assert len(stage.code_key()) == 16
            assert "report" in seen
