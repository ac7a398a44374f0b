"""`splatmend refine`: rounds of enhanced renders beside the path, from a small street."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.clip import Clip, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import write_image
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.street import StreetConfig, build_street, write_street
from splatmend.pipelines.cli import main
from splatmend.pipelines.refine.config import RefineConfig
from splatmend.pipelines.refine.loop import refine
from splatmend.pipelines.refine.observed import RecordedViews
from splatmend.pipelines.refine.rounds import make_round
from splatmend.recon.fit import CorrectionConfig, DataConfig, DensifyConfig, FitConfig, InitConfig, fit
from splatmend.recon.fit.astray import RecentPictures
from splatmend.recon.fit.continuing import ContinueConfig, ContinuedTrainer, continued_config
from splatmend.recon.fit.data import prepared_log
from splatmend.recon.fit.extra_views import ExtraView
from splatmend.recon.references import references_of
from splatmend.recon.render import render
from splatmend.recon.scene_files import load_scene
from splatmend.recon.trajectory import TrajectoryConfig, build_trajectory

STREET = StreetConfig(
    seed=3,
    duration_s=0.6,
    width=64,
    height=48,
    cameras=("FRONT",),
    supersample=1,
    lidar_beams=24,
    lidar_columns=256,
    moving_cars=1,
    parked_cars=1,
    readout_us=20_000,
)
STILL = CorrectionConfig(on=False)
FIT = FitConfig(
    iterations=60,
    sh_degree=1,
    sh_every=20,
    sky_rows=8,
    device="cpu",
    camera_poses=STILL,
    actor_poses=STILL,
    data=DataConfig(holdout_every=3),
    init=InitConfig(point_count=2_000, ray_count=500, actor_count=50),
    densify=DensifyConfig(cap=2_500, actor_cap=60, start=5, every=10),
)
REFINE = RefineConfig(shifts=(0.5, 1.5), iterations=10)


def left_as_it_is(clip: Clip, out: Path) -> Path:
    return shutil.copytree(clip.path, out)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`street`, and the scenes `ewa` and `ray` that were fitted to it."""
    out = tmp_path_factory.mktemp("refine")
    write_street(build_street(STREET), out / "street")
    log = open_log(out / "street")
    fit(log, out / "ewa", FIT, on_progress=lambda row: None)
    fit(log, out / "ray", replace(FIT, camera_model="ray"), on_progress=lambda row: None)
    return out


def curve(scene: Path) -> list[dict]:
    return [json.loads(line) for line in (scene / "curve.jsonl").read_text().splitlines()]


def test_the_command_refines_a_scene_with_the_bundled_enhancer(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--shifts", "0.5", "1", "--iterations", "6", "--frames", "5", "--keep-clips", "--device", "cpu"]
    assert main(["refine", str(folder / "ewa"), str(folder / "street"), "--out", str(tmp_path / "out"), *few]) == 0
    assert "held-out frames (2)" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "out", "scene")
    assert manifest.config["refine"]["shifts"] == [0.5, 1.0]
    assert manifest.facts["enhancer"]["name"] == "bundled"
    rounds = manifest.facts["rounds"]
    assert [path["name"] for path in rounds[0]["paths"]] == ["FRONT-left-0.5", "FRONT-right-0.5"]
    # Frames 1 and 4 are held out: rendered and enhanced with the others, and not fitted.
    assert all(path["frames"] == [0, 2, 3] for made in rounds for path in made["paths"])
    assert all(0 < path["mean_weight"] < 1 for made in rounds for path in made["paths"])
    raw, enhanced = (open_clip(tmp_path / "out" / "rounds" / "01" / "FRONT-left-1" / name) for name in ("raw", "enhanced"))
    assert len(raw) == len(enhanced) == 5
    layers = raw.read_references(2)
    assert layers is not None
    assert (layers[0, ..., 3] == 255).mean() > 0.2
    assert read_manifest(enhanced.path).config["references"] == 2
    changed = [np.abs(a.astype(int) - b).mean() for a, b in zip(raw.iter_rgb(), enhanced.iter_rgb())]
    assert min(changed) > 0
    refined, before = load_scene(tmp_path / "out"), load_scene(folder / "ewa")
    assert refined.actors.keys() == before.actors.keys() != set()
    assert [r.shot.start_us for r in refined.shots] == [r.shot.start_us for r in before.shots]
    # What is refined can be refined.
    again = refine(tmp_path / "out", open_log(folder / "street"), tmp_path / "again", REFINE, left_as_it_is, device="cpu")
    assert not (again / "rounds").exists()


def test_renders_have_references_of_fitted_frames_alone(folder: Path, tmp_path: Path) -> None:
    """Held-out pictures that are broken are not even read; without references renders are the same."""
    log = open_log(folder / "street")

    def broken() -> np.ndarray:
        raise AssertionError("a held-out picture was read")

    held_out = {r.frame_index for r in load_scene(folder / "ewa").shots if r.role == "held_out"}
    frames = tuple(replace(f, read_image=broken) if f.index in held_out else f for f in log.frames)
    scene = load_scene(folder / "ewa")
    for name, layers in (("with", 2), ("without", 0)):
        references = references_of(scene, replace(log, frames=frames), layers)
        make_round(scene, tmp_path / name, 0.5, replace(REFINE, frames=4), left_as_it_is, references)
    given, bare = (open_clip(tmp_path / name / "FRONT-left-0.5" / "raw") for name in ("with", "without"))
    assert len(held_out) == 2
    for index, (a, b) in enumerate(zip(given.iter_rgb(), bare.iter_rgb(), strict=True)):
        np.testing.assert_array_equal(a, b)
        layers_of_frame = given.read_references(index)
        assert layers_of_frame is not None
        assert layers_of_frame[0, ..., 3].any()
        assert bare.read_references(index) is None


def test_references_may_be_left_out(folder: Path, tmp_path: Path) -> None:
    log = open_log(folder / "street")
    few = replace(REFINE, shifts=(0.5,), iterations=1, frames=2, keep_clips=True)
    for wanted in (True, False):
        out = tmp_path / str(wanted)
        refine(folder / "ewa", log, out, replace(few, references=wanted), left_as_it_is, references=1, device="cpu")
        layers = open_clip(out / "rounds" / "00" / "FRONT-left-0.5" / "raw").read_references(0)
        assert (layers is not None) == wanted


def black(clip: Clip, out: Path) -> Path:
    """As wrong as an enhancer can be."""
    shutil.copytree(clip.path, out)
    for image in open_clip(out).images:
        write_image(image, np.zeros((STREET.height, STREET.width, 3), np.uint8))
    return out


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_what_was_observed_keeps_its_quality_beside_wrong_pictures(
    folder: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(REFINE, shifts=(0.5,), iterations=40, how=ContinueConfig(share=0.9, weight=0.9))
    log, psnr = open_log(folder / "street"), {}
    for name in ("held", "free"):
        if name == "free":  # every pixel counts fully, whoever saw what it shows
            monkeypatch.setattr(RecordedViews, "unobserved", lambda views, shot, depth_m, opacity: np.ones_like(depth_m))
        refine(folder / model, log, tmp_path / name, config, black, device="cpu", on_progress=lambda row: None)
        psnr[name] = read_manifest(tmp_path / name, "scene").facts["held_out"]["psnr"]
    before = read_manifest(tmp_path / "held", "scene").facts["held_out_before"]["psnr"]
    assert psnr["held"] > before - 0.5
    assert psnr["held"] > psnr["free"] + 0.7
    refined, fitted = load_scene(tmp_path / "held"), load_scene(folder / model)
    for a, b in zip(refined.shots, fitted.shots):
        np.testing.assert_array_equal(a.shot.world_from_camera, b.shot.world_from_camera)
    for actor_id, actor in refined.actors.items():
        np.testing.assert_array_equal(actor.track.track.world_from_body, fitted.actors[actor_id].track.track.world_from_body)


def test_an_extra_view_teaches_neither_sky_nor_exposure(folder: Path) -> None:
    scene, log = load_scene(folder / "ewa"), open_log(folder / "street")
    how = ContinueConfig(share=0.5, weight=0.9)
    config = continued_config(FIT, how, 20)
    trainer = ContinuedTrainer(prepared_log(log, config.data), scene, config, how, torch.device("cpu"))
    shot = scene.shots[0].shot
    size = (shot.camera.height, shot.camera.width)
    white = np.full((*size, 3), 255, np.uint8)
    trainer.show_also([ExtraView(shot=shot, read_rgb=lambda: white, read_weight=lambda: np.full(size, 255, np.uint8))])
    seen = []
    for _ in range(4):
        shared = {name: value.detach().clone() for name, value in trainer.shared.items()}
        means = trainer.nodes["background"].params["means"].detach().clone()
        report = trainer.step()
        extra = "extra_l1" in report.terms
        seen.append(extra)
        assert not torch.equal(means, trainer.nodes["background"].params["means"])
        for name, value in trainer.shared.items():
            assert torch.equal(shared[name], value) == extra, name
    assert seen == [False, True, False, True]


def test_a_refinement_that_gets_worse_says_so_by_pictures_of_the_log(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 160 iterations 64 show extra views, which are not counted."""
    counted: list[torch.Tensor] = []
    note = RecentPictures.note

    def worse(recent: RecentPictures, squared_error: torch.Tensor) -> None:
        counted.append(squared_error)
        note(recent, squared_error * (10.0 if len(counted) > 48 else 1.0))

    config = replace(REFINE, iterations=160, shifts=(0.5,))
    logged = json.loads((folder / "ewa" / "manifest.json").read_text())
    scene = shutil.copytree(folder / "ewa", tmp_path / "scene")
    logged["config"]["log_every"] = 5
    (scene / "manifest.json").write_text(json.dumps(logged))
    monkeypatch.setattr(RecentPictures, "note", worse)
    refine(scene, open_log(folder / "street"), tmp_path / "out", config, left_as_it_is, device="cpu", on_progress=lambda row: None)
    assert sum(row.get("pictures", 0) for row in curve(tmp_path / "out")) == len(counted) == 96
    assert f"{tmp_path / 'out'}: the fit has gone astray" in caplog.text


def test_an_interrupted_run_goes_on_to_the_same_scene(folder: Path, tmp_path: Path) -> None:
    log = open_log(folder / "street")
    logged = replace(REFINE, iterations=6, shifts=(0.5, 1.0, 1.5), earlier_views="kept")
    refine(folder / "ewa", log, tmp_path / "whole", logged, left_as_it_is, device="cpu", on_progress=lambda row: None)

    class Stopped(Exception):
        pass

    def enhance_or_stop(clip: Clip, out: Path) -> Path:
        if "1.5" in clip.path.parent.name:
            raise Stopped
        return left_as_it_is(clip, out)

    def interrupt(row: dict) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        refine(folder / "ewa", log, tmp_path / "cut", logged, left_as_it_is, device="cpu", on_progress=interrupt)
    assert [row["iteration"] for row in curve(tmp_path / "cut.partial")] == [1]
    with pytest.raises(Stopped):
        refine(folder / "ewa", log, tmp_path / "cut", logged, enhance_or_stop, device="cpu", resume=True, on_progress=lambda row: None)
    assert (tmp_path / "cut.partial" / "checkpoint.pt").is_file()
    with pytest.raises(UserError, match="other settings"):
        refine(folder / "ewa", log, tmp_path / "cut", replace(logged, observed_deg=3.0), left_as_it_is, device="cpu", resume=True)
    refine(folder / "ewa", log, tmp_path / "cut", logged, left_as_it_is, device="cpu", resume=True, on_progress=lambda row: None)
    assert not (tmp_path / "cut.partial").exists()
    for file in ("background.ply", "curve.jsonl", "exposure.json", "heldout.jsonl", "sky.safetensors"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert [row["iteration"] for row in curve(tmp_path / "whole")] == [1, 6, 12, 18]


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_what_recorded_cameras_saw_counts_little(folder: Path, model: str) -> None:
    scene = load_scene(folder / model)
    recorded = RecordedViews.of(scene, 8.0)

    def unobserved(left: float, turn: float = 0.0) -> np.ndarray:
        shot = build_trajectory(scene, TrajectoryConfig(left=left, yaw_deg=turn, ease_s=0.0))[2]
        with torch.no_grad():
            drawn = render(scene, shot, ("depth",))
        assert drawn.depth_m is not None
        return recorded.unobserved(shot, drawn.depth_m.numpy(), drawn.opacity.numpy())

    # From where a fitted picture was taken nothing is left to say, the farther aside the more, and behind nobody looked.
    means = [float(unobserved(left).mean()) for left in (0.0, 0.5, 1.5, 3.0)]
    assert means[0] < 0.02
    assert means == sorted(means)
    assert means[-1] > 3 * means[1] > 0
    assert unobserved(0.0, 180.0).mean() > 0.8


def test_a_floater_before_what_was_seen_is_not_taken_for_it(folder: Path) -> None:
    scene = load_scene(folder / "ewa")
    recorded = RecordedViews.of(scene, 8.0)
    shot = scene.shots[0].shot
    with torch.no_grad():
        drawn = render(scene, shot, ("depth",))
    assert drawn.depth_m is not None
    depth_m = drawn.depth_m.numpy().copy()
    opaque = np.ones_like(depth_m)
    far = depth_m > 6.0
    assert far.mean() > 0.1
    weight = recorded.unobserved(shot, np.where(far, 1.5, depth_m), opaque)
    assert np.median(weight[far]) > 0.9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shifts", "1", "0.5"], "rising numbers above 0, not 1 0.5"),
        (["--shifts", "-1"], "rising numbers above 0"),
        (["--weight", "1"], "below 1, not 1"),
        (["--share", "0.95"], "share must lie between"),
        (["--iterations", "0"], "iterations must be at least 1"),
        (["--cameras", "BACK", "--model", "bundled"], "no camera BACK; it has FRONT"),
        (["--model", "absent"], "no enhancer"),
        (["--strength", "2"], "strength"),
    ],
)
def test_wrong_settings_are_one_sentence(
    folder: Path, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["refine", str(folder / "ewa"), str(folder / "street"), "--out", str(tmp_path / "x"), "--device", "cpu"]
    assert main([*command, *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_scene_or_log_is_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_street(build_street(replace(STREET, seed=4)), tmp_path / "other")
    assert main(["export", str(folder / "ewa"), "--out", str(tmp_path / "scene.ply")]) == 0
    assert main(["import", str(tmp_path / "scene.ply"), "--like", str(folder / "ewa"), "--out", str(tmp_path / "imported")]) == 0
    for scene, log, said in (
        (folder / "ewa", tmp_path / "other", "is of the log"),
        (tmp_path / "imported", folder / "street", "does not say how it was fitted (there is no setting import)"),
        (folder / "street", folder / "street", "no manifest.json"),
    ):
        assert main(["refine", str(scene), str(log), "--out", str(tmp_path / "x"), "--device", "cpu"]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x").exists()
    log = open_log(folder / "street")
    shorter = replace(log, frames=log.frames[1:])
    with pytest.raises(UserError, match="has changed since"):
        refine(folder / "ewa", shorter, tmp_path / "x", REFINE, left_as_it_is, device="cpu")
