"""A scene judged on and off its recorded path: a tiny street, fitted to one of its two cameras."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.clip import Clip, ClipFrame
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import read_image
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import StreetConfig, build_street, street_log, write_street
from splatmend.pipelines.cli import main
from splatmend.pipelines.evaluation.distributions import InceptionSet
from splatmend.pipelines.evaluation.lidar_depth import depth_errors_m
from splatmend.pipelines.evaluation.metrics import NETWORK_MISSING
from splatmend.pipelines.evaluation.novel_agents import AgentView, expected_boxes_px, nta_iou
from splatmend.pipelines.evaluation.scene_scores import evaluate_scene
from splatmend.pipelines.evaluation.scene_table import how_to_provide, not_measured, scene_tables
from splatmend.pipelines.evaluation.scores import EvaluateConfig, evaluate
from splatmend.pipelines.evaluation.strips import NEVER_SEEN_RGB, unseen_overlay
from splatmend.pipelines.evaluation.truth import StreetTruth, open_truth
from splatmend.pipelines.evaluation.viewpoints import ViewpointsConfig
from splatmend.recon.fit.config import DataConfig, DensifyConfig, FitConfig, InitConfig
from splatmend.recon.fit.fit import fit
from splatmend.recon.render_clip import render_clip
from splatmend.recon.scene_files import load_scene
from splatmend.recon.trajectory import TrajectoryConfig, build_trajectory

STREET = StreetConfig(
    seed=3,
    duration_s=0.6,
    width=64,
    height=48,
    cameras=("FRONT", "FRONT_LEFT"),
    supersample=1,
    lidar_beams=24,
    lidar_columns=256,
    moving_cars=1,
    parked_cars=1,
)
FIT = FitConfig(
    iterations=60,
    sh_degree=0,
    sky_rows=8,
    data=DataConfig(cameras=("FRONT",), holdout_every=3),
    init=InitConfig(point_count=2_000, ray_count=500, actor_count=50),
    densify=DensifyConfig(cap=2_500, actor_cap=60, start=5, every=10),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`street`, `scene` and the `scores` that the command line made of them."""
    out = tmp_path_factory.mktemp("scene")
    write_street(build_street(STREET), out / "street")
    fit(open_log(out / "street"), out / "scene", replace(FIT, device="cpu"))
    arguments = ["evaluate", out / "scene", "--truth", out / "street", "--out", out / "scores", "--device", "cpu"]
    assert main([str(a) for a in [*arguments, "--shift", "2", "-2", "--height", "1", "--yaw", "90", "--max-frames", "4"]]) == 0
    return out


def read(scores: Path) -> dict:
    return json.loads((scores / "scores.json").read_text())


def test_each_path_is_a_row_with_a_strip_and_lines(folder: Path) -> None:
    scores = read(folder / "scores")
    names = ["recorded", "left 2 m", "right 2 m", "up 1 m", "turned left 90 deg", "camera FRONT_LEFT"]
    assert list(scores["rows"]) == names
    assert [row["frames"] for row in scores["rows"].values()] == [4] * 6
    lines = [json.loads(line) for line in (folder / "scores" / "per_frame.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [name for name in names for _ in range(4)]
    psnrs = [line["psnr"] for line in lines if line["row"] == "left 2 m"]
    assert scores["rows"]["left 2 m"]["mean"]["psnr"] == pytest.approx(np.mean(psnrs))
    assert sorted(path.name for path in (folder / "scores").iterdir()) == ["manifest.json", "per_frame.jsonl", "scores.json", "strips"]
    # Render, truth, and what is unseen, of four frames each, under a band each.
    assert read_image(folder / "scores" / "strips" / "left-2-m.png").shape == (3 * (240 + 18), 4 * 320, 3)
    assert len(list((folder / "scores" / "strips").iterdir())) == 6
    assert read_manifest(folder / "scores").kind == "scene_scores"


def test_pictures_beside_the_path_score_as_a_clip_of_them_does(folder: Path, tmp_path: Path) -> None:
    scene = load_scene(folder / "scene")
    render_clip(scene, build_trajectory(scene, TrajectoryConfig(left=-2.0, ease_s=0.0, frames=4)), tmp_path / "clip")
    expected = evaluate({"raw": tmp_path / "clip"}, open_truth(folder / "street"), tmp_path / "scores", EvaluateConfig())
    row = read(folder / "scores")["rows"]["right 2 m"]
    for name, value in expected["rows"]["raw"]["mean"].items():
        assert row["mean"][name] == (None if value is None else pytest.approx(value, abs=1e-6)), name
    assert row["count"]["warping_error"] == 3


def test_only_held_out_frames_of_the_recorded_path_meet_the_truth(folder: Path) -> None:
    row = read(folder / "scores")["rows"]["recorded"]
    assert row["count"]["psnr"] == sum(recorded.held_out for recorded in load_scene(folder / "scene").shots[:4]) == 1
    assert row["count"]["never_seen"] == 4
    assert row["count"]["own_warping_error"] == 3


def test_the_scene_is_judged_without_a_truth(folder: Path) -> None:
    rows = read(folder / "scores")["rows"]
    means = {name: row["mean"] for name, row in rows.items()}
    assert means["recorded"]["never_seen"] < 10
    assert means["turned left 90 deg"]["never_seen"] > 80
    assert means["recorded"]["never_seen"] < means["left 2 m"]["never_seen"] < means["left 2 m"]["seen_by_few"]
    assert 0 < means["recorded"]["lidar_depth_median_m"] < 3
    assert means["recorded"]["lidar_depth_median_m"] < means["recorded"]["lidar_depth_mean_m"]


def test_tables_show_what_has_a_number_and_name_the_rest(folder: Path) -> None:
    scores = read(folder / "scores")
    pictures, steadiness, depth = scene_tables(scores)
    assert [table.row_count for table in (pictures, steadiness, depth)] == [6, 6, 6]
    assert pictures.caption is None
    nothing = dict.fromkeys(scores["metrics"])
    unseen = scores["rows"] | {"recorded": scores["rows"]["recorded"] | {"mean": nothing}}
    assert [bool(table.caption) for table in scene_tables(scores | {"rows": unseen})] == [True, False, False]
    assert "held out" in str(scene_tables(scores | {"rows": unseen})[0].caption)
    scores["rows"]["left 2 m, enhanced"] = {"clip": "enhanced", "mean": nothing | {"psnr": 20.0}}
    scores["rows"]["left 9 m"] = {"clip": "raw", "mean": nothing}
    tables = scene_tables(scores)
    assert [table.row_count for table in tables] == [8, 8, 7]
    for table in tables:
        assert {list(column.cells)[-1] for column in table.columns} == {"left 9 m", "–"}
    assert "MS-SSIM (needs pictures of more than 160 pixels)" in (not_measured(scores) or "")
    missing = {name: metric | {"missing": None if name == "never_seen" else "no"} for name, metric in scores["metrics"].items()}
    (only,) = scene_tables(scores | {"metrics": missing})
    assert [column.header for column in only.columns] == ["path", "never seen (%) ↓"]
    assert not_measured(scores | {"metrics": {"never_seen": missing["never_seen"]}}) is None


def test_other_logs_have_a_truth_where_pictures_were_taken(folder: Path, tmp_path: Path) -> None:
    """The same log without its oracle, and with enhanced rows of clips that are left as they are."""

    def same(clip: Clip, out: Path) -> Path:
        return shutil.copytree(clip.path, out)

    where = ViewpointsConfig(shift=(2.0,), max_frames=4)
    log = open_log(folder / "street")
    seen: list[tuple[int, int]] = []
    scores = evaluate_scene(
        folder / "scene",
        log,
        None,
        tmp_path / "scores",
        where,
        EvaluateConfig(),
        enhance=same,
        device="cpu",
        on_progress=lambda done, of: seen.append((done, of)),
    )
    assert seen == [(done, 4 + 3 * 4) for done in range(1, 17)]  # training views, then frames
    rows, oracle = scores["rows"], read(folder / "scores")["rows"]
    assert list(rows) == [f"{path}{kind}" for path in ("recorded", "left 2 m", "camera FRONT_LEFT") for kind in ("", ", enhanced")]
    assert rows["left 2 m"]["mean"]["psnr"] is None
    assert rows["left 2 m"]["mean"]["never_seen"] == oracle["left 2 m"]["mean"]["never_seen"]
    # Recorded pictures and the oracle's are the same, but for how the log stores them.
    for name in ("recorded", "camera FRONT_LEFT"):
        assert rows[name]["mean"]["psnr"] == pytest.approx(oracle[name]["mean"]["psnr"], abs=0.3)
    for name in ("recorded", "left 2 m", "camera FRONT_LEFT"):
        raw, enhanced = rows[name]["mean"], rows[f"{name}, enhanced"]["mean"]
        assert enhanced["psnr"] == raw["psnr"]
        assert enhanced["own_warping_error"] == raw["own_warping_error"]
        assert enhanced["never_seen"] is None


def test_a_missing_network_is_no_number(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def scored(out: str) -> dict:
        where = ViewpointsConfig(shift=(2.0,), max_frames=3)
        config = EvaluateConfig(metrics=("kid", "fid"))
        return evaluate_scene(folder / "scene", open_log(folder / "street"), None, tmp_path / out, where, config, device="cpu")

    monkeypatch.setattr("splatmend.pipelines.evaluation.metrics.inception_available", lambda: False)
    absent = scored("absent")
    assert {name: metric["missing"] for name, metric in absent["metrics"].items()} == {"kid": NETWORK_MISSING, "fid": NETWORK_MISSING}
    assert absent["rows"]["left 2 m"]["mean"] == {"kid": None, "fid": None}
    monkeypatch.setattr("splatmend.pipelines.evaluation.metrics.inception_available", lambda: True)
    monkeypatch.setattr("splatmend.pipelines.evaluation.metrics.inception", MeanColour)
    there = scored("there")["rows"]
    assert there["left 2 m"]["mean"]["fid"] > 0
    assert there["left 2 m"]["count"] == {"kid": 3, "fid": 3}
    assert there["camera FRONT_LEFT"]["mean"] == {"kid": None, "fid": None}  # its real frames are other ones


class WholePicture(torch.nn.Module):
    """A detector that sees one vehicle, as large as the picture."""

    def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        box = torch.tensor([[0.0, 0.0, pictures[0].shape[2], pictures[0].shape[1]]])
        return [{"boxes": box, "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.int64)}]


class PaintEverywhere(torch.nn.Module):
    """A lane model to which all is paint."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(picture[:, :1])


def test_vehicles_and_lane_lines_are_looked_for_beside_the_path(folder: Path, tmp_path: Path) -> None:
    torch.jit.script(WholePicture()).save(str(tmp_path / "detector.pt"))
    torch.jit.script(PaintEverywhere()).save(str(tmp_path / "lanes.pt"))
    config = EvaluateConfig(metrics=("nta_iou", "ntl_iou"))
    given = replace(config, detector=tmp_path / "detector.pt", lane_model=tmp_path / "lanes.pt")
    truth = open_truth(folder / "street")
    assert isinstance(truth, StreetTruth)
    where, log = ViewpointsConfig(shift=(2.0,), max_frames=2), open_log(folder / "street")

    def scored(out: str, config: EvaluateConfig) -> dict:
        return evaluate_scene(folder / "scene", log, truth, tmp_path / out, where, config, device="cpu")

    found = scored("given", given)
    path = build_trajectory(load_scene(folder / "scene"), TrajectoryConfig(left=2.0, ease_s=0.0, frames=2))
    # The fit corrected its poses, and the truth is where the log has them.
    logged = [ClipFrame(shot=shot, extra=extra).logged_shot for shot, extra in zip(path.shots, path.extra)]
    shots = [Shot.still(shot.camera, shot.world_from_camera, shot.mid_us) for shot in logged if shot is not None]
    row = found["rows"]["left 2 m"]["mean"]
    assert row["ntl_iou"] == pytest.approx(np.mean([truth.lane_lines(shot).mean() for shot in shots]))
    views = [AgentView(expected_px=expected_boxes_px(log, shot), found_px=np.array([[0.0, 0, 64, 48]])) for shot in shots]
    expected = [value for view in views if (value := nta_iou(view)) is not None]
    assert found["rows"]["left 2 m"]["count"]["nta_iou"] == len(expected)
    assert row["nta_iou"] == (pytest.approx(np.mean(expected)) if expected else None)
    absent = scored("absent", config)
    assert {name: metric["missing"] for name, metric in absent["metrics"].items()} == {"nta_iou": "no detector", "ntl_iou": "no lane model"}
    assert absent["rows"]["left 2 m"]["mean"] == {"nta_iou": None, "ntl_iou": None}
    assert [line.split(":")[0] for line in how_to_provide(absent)] == ["for NTA-IoU", "for NTL-IoU"]
    with pytest.raises(UserError, match="detector: it judges the renders of a scene"):
        given.chosen()


class MeanColour(torch.nn.Module):
    """Stands for the network: three features per picture."""

    num_features = 3

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float().mean(dim=(2, 3))


def test_distances_of_sets_are_the_formulas() -> None:
    generator = np.random.default_rng(0)
    frames = [np.full((8, 8, 3), colour, np.uint8) for colour in generator.integers(50, 150, (30, 1, 1, 3))]
    for kind in ("kid", "fid"):
        gathered = InceptionSet(kind, MeanColour(), torch.device("cpu"))
        for frame in frames:
            gathered.add_real(frame)
        distances = []
        for brighter in (0, 40, 0):
            for frame in frames:
                gathered.add(frame + np.uint8(brighter))
            distances.append(gathered.value())
        # The Frechet distance of two Gaussians with equal covariance is the squared distance of their means.
        if kind == "fid":
            assert distances == pytest.approx([0.0, 3 * 40.0**2, 0.0], abs=0.5)
        assert distances[0] == distances[2] < distances[1]
        gathered.add(frames[0])
        assert gathered.value() is None


@pytest.mark.parametrize("left_m", [0.0, 2.0])
def test_the_oracles_depth_agrees_with_lidar_and_a_wrong_one_does_not(left_m: float) -> None:
    street = build_street(STREET)
    shot = street.shot("FRONT", 2)
    moved = shot.world_from_camera.copy()
    moved[:3, 3] -= left_m * moved[:3, 0]
    shot = Shot.still(shot.camera, moved, shot.mid_us)
    depth_m = street.render(shot, supersample=1).depth_m
    errors = depth_errors_m(street_log(street), shot, depth_m)
    assert len(errors) > 100
    assert np.median(np.abs(errors)) < 0.15
    assert np.median(depth_errors_m(street_log(street), shot, depth_m + 2.0) - errors) == pytest.approx(2.0)
    assert len(depth_errors_m(replace(street_log(street), metric=False), shot, depth_m)) == 0


def test_unseen_pixels_are_red() -> None:
    views = np.full((4, 6), 3, np.uint8)
    views[:, 3:] = 0
    shown = unseen_overlay(np.full((8, 12, 3), 100, np.uint8), views)
    assert (shown[:, :6] == 100).all()
    np.testing.assert_allclose(shown[:, 6:], np.broadcast_to(0.35 * 100 + 0.65 * np.asarray(NEVER_SEEN_RGB), (8, 6, 3)), atol=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shift", "0"], "numbers other than 0"),
        (["--yaw", "5", "5"], "twice"),
        (["--enhanced", "x"], "leave --enhanced and --also out"),
        (["--metrics", "kid", "--frames", "held_out"], "leave --frames out"),
        (["--camera", "BACK"], "no camera BACK"),
        (["--model", "absent"], "no enhancer"),
        (["--max-frames", "0"], "at least 1"),
    ],
)
def test_what_a_scene_cannot_do_is_refused(
    folder: Path, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(folder / "scene"), "--truth", str(folder / "street"), "--out", str(tmp_path / "x"), "--device", "cpu"]
    assert main([*command, *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_truth_and_flags_of_scenes_for_clips_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = load_scene(folder / "scene")
    clip = render_clip(scene, build_trajectory(scene, TrajectoryConfig(frames=2)), tmp_path / "clip")
    out = ["--out", str(tmp_path / "x"), "--device", "cpu"]
    for arguments, said in (
        ([folder / "scene", "--truth", clip], "not a clip"),
        ([clip, "--truth", folder / "street", "--shift", "1"], "are for scenes"),
        ([clip, "--truth", folder / "street", "--metrics", "never_seen"], "give a scene"),
    ):
        assert main(["evaluate", *map(str, arguments), *out]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    log = open_log(folder / "street")
    for other, said in (
        (replace(log, frames=log.frames[2:]), "lacks frames of the recorded path"),
        (replace(log, log_id="street-4"), "this is the log street-4, but .* is of the log street-3"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate_scene(folder / "scene", other, None, tmp_path / "x", ViewpointsConfig(), EvaluateConfig(), device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_a_scene_is_held_against_the_log_that_it_names(folder: Path, tmp_path: Path) -> None:
    """Its street has the truth of every picture."""
    command = ["evaluate", folder / "scene", "--shift", "2", "--max-frames", "4", "--metrics", "psnr", "never_seen", "--device", "cpu"]
    assert main([str(word) for word in [*command, "--out", tmp_path / "scores"]]) == 0
    scores, given = read(tmp_path / "scores"), read(folder / "scores")
    assert scores["truth"] == {"kind": "street", "path": str(folder / "street")}
    for name in ("psnr", "never_seen"):
        assert scores["rows"]["left 2 m"]["mean"][name] == pytest.approx(given["rows"]["left 2 m"]["mean"][name])


def test_a_log_without_an_oracle_gives_what_needs_no_truth(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "street", tmp_path / "street-3", ignore=shutil.ignore_patterns("street.json"))
    scene = scene_of_log(folder / "scene", tmp_path / "scene", str(tmp_path / "street-3"))
    command = ["evaluate", scene, "--shift", "2", "--height", "1", "--yaw", "15", "--max-frames", "4", "--device", "cpu"]
    assert main([str(word) for word in [*command, "--out", tmp_path / "scores"]]) == 0
    assert f"{tmp_path / 'street-3'}: this is no procedural street, so" in " ".join(capsys.readouterr().out.split())
    rows, given = read(tmp_path / "scores")["rows"], read(folder / "scores")["rows"]
    for name in ("never_seen", "lidar_depth_median_m", "own_warping_error"):
        assert rows["left 2 m"]["mean"][name] == pytest.approx(given["left 2 m"]["mean"][name]), name
    assert rows["left 2 m"]["mean"]["psnr"] is None
    assert rows["recorded"]["mean"]["psnr"] is not None


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = scene_of_log(folder / "scene", tmp_path / "gone", str(tmp_path / "log"))
    silent = scene_of_log(folder / "scene", tmp_path / "silent", None)
    scene = load_scene(folder / "scene")
    clip = render_clip(scene, build_trajectory(scene, TrajectoryConfig(frames=2)), tmp_path / "clip")
    elsewhere = scene_of_log(folder / "scene", tmp_path / "elsewhere", str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    unfinished = tmp_path / "scene.partial"
    unfinished.mkdir()
    for arguments, said in (
        ([tmp_path / "scen", "--shift", "1"], f"{tmp_path / 'scen'}: there is no such file or folder; give a scene that splatmend fit"),
        ([gone], f"{gone}: its log is no longer at {tmp_path / 'log'}; give --truth PATH"),
        ([silent], f"{silent}: the scene does not say where its log lies; give --truth PATH"),
        ([clip], f"{clip}: a clip is scored against a truth; give --truth PATH"),
        ([elsewhere], f"{elsewhere}: its log lay at {tmp_path / 'empty'}, where now is none"),
        ([tmp_path / "empty"], f"{tmp_path / 'empty'}: it holds neither a manifest.json nor images"),
        ([unfinished, "--shift", "1"], f"{unfinished}: this is still being written; finish it with --resume"),
    ):
        assert main(["evaluate", *map(str, arguments), "--out", str(tmp_path / "x"), "--device", "cpu"]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x").exists()


def scene_of_log(scene: Path, copy: Path, log_path: str | None) -> Path:
    """A copy of a scene that says its log lies elsewhere, or does not say it."""
    shutil.copytree(scene, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["facts"] |= {"log_path": log_path}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_enhanced_rows_have_references_and_raw_ones_stay_what_they_were(folder: Path, tmp_path: Path) -> None:
    """The bundled enhancer, with and without what fitted frames show of the shifted path."""
    arguments = ["evaluate", folder / "scene", "--truth", folder / "street", "--device", "cpu", "--model", "bundled", "--shift", "1"]
    arguments += ["--max-frames", "4", "--metrics", "psnr", "ssim"]
    for name, more in (("with", []), ("without", ["--no-references"])):
        assert main([str(word) for word in [*arguments, "--out", tmp_path / name, *more]]) == 0
    given, bare = (read(tmp_path / name)["rows"] for name in ("with", "without"))
    assert read_manifest(tmp_path / "with").config["references"] == 2
    assert read_manifest(tmp_path / "without").config["references"] == 0
    for row in ("recorded", "left 1 m"):
        assert given[row]["mean"] == bare[row]["mean"]
        assert given[f"{row}, enhanced"]["mean"]["ssim"] > bare[f"{row}, enhanced"]["mean"]["ssim"] + 0.02
