"""`splatmend insert` through the command line, and what scores make of its clips."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.datasets.actor_edits import ActorEdits
from splatmend.datasets.artifact import plain, read_manifest
from splatmend.datasets.clip import open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import read_numbers
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.street import StreetConfig, build_street, write_street
from splatmend.enhance.artifact import save_enhancer
from splatmend.enhance.harmoniser import SMALL_SKIPS
from splatmend.enhance.insertion import change_region
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.pipelines.cli import main
from splatmend.pipelines.clip_sets import members
from splatmend.pipelines.commands.insert import Options, _lights
from splatmend.pipelines.evaluation.truth import LogTruth
from splatmend.recon.assets.asset import save_asset
from splatmend.recon.fit import DensifyConfig, FitConfig, InitConfig, fit
from splatmend.recon.light.estimate import estimated_light, guess_note
from splatmend.recon.light.light_files import save_light
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.scene_files import save_scene

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recon"))
from test_edits_apply import suv
from tiny_log import tiny_log, true_scene

EDITS = """\
edits:
  - replace: car/1
    asset: suv
    as: new
  - duplicate: car/1
    as: parked
    path: {parked: {ahead: 6, left: -1.8}}
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a scene, a library of one asset, and a file of edits."""
    save_scene(tmp_path / "scene", true_scene(3), {})
    save_asset(tmp_path / "library" / "suv", suv())
    (tmp_path / "edits.yaml").write_text(EDITS)
    return tmp_path


def _arguments(work: Path, *more: object) -> list[str]:
    words = ["insert", work / "scene", "--edits", work / "edits.yaml", "--out", work / "clips", "--assets", work / "library", *more]
    return [str(word) for word in words]


def _digests(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_edits_are_rendered_and_the_scene_is_left_alone(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _digests(work / "scene")
    assert main(_arguments(work, "--trajectory.left", 0.3, "--trajectory.frames", 2)) == 0
    said = capsys.readouterr()
    assert "clips:" in said.out
    assert said.err == ""
    assert _digests(work / "scene") == before
    manifest = read_manifest(work / "clips", "clips")
    assert manifest.config["trajectory"]["left"] == 0.3
    assert manifest.config["edits"][0]["actor"] == "car/1"
    assert set(manifest.facts["inserted"]) == {"new", "parked"}
    assert manifest.facts["removed"] == ["car/1"]
    finished, naive = (open_clip(clip) for clip in members(work / "clips"))
    assert (finished.path.name, naive.path.name) == ("finished", "naive")
    assert len(finished) == 2
    assert {path.name for path in (finished.path / "shadow").iterdir()} == {"000000.png", "000001.png"}
    assert len(naive) == 2
    assert naive.frames[0].edits == ActorEdits(removed=("car/1",), inserted=("new", "parked"))
    blue = next(naive.iter_rgb())[naive.read_channel("masks/new", 0)].mean(axis=0)
    assert blue[2] > 2 * blue[0]
    rows = [json.loads(line) for line in (work / "clips" / "boxes.jsonl").read_text().splitlines()]
    assert {(row["frame"], row["actor_id"]) for row in rows} == {(frame, name) for frame in (0, 1) for name in ("new", "parked")}
    assert {path.name for path in work.iterdir()} == {"scene", "library", "edits.yaml", "clips"}


def _low_sun() -> SceneLight:
    """From behind, 25 degrees high."""
    elevation = np.radians(25.0)
    return SceneLight(
        to_sun_world=(-float(np.cos(elevation)), 0.0, float(np.sin(elevation))),
        sun=(1.2, 1.2, 1.2),
        environment=torch.full((16, 32, 3), 0.15),
        environment_from_world=np.eye(3),
        made_by="a test",
    )


def test_a_moved_sun_lights_recorded_actors_anew(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recorded car shows the light of the recording, not the one asked for: its rear, in the sun then, is dark where the sun is ahead."""
    (work / "edits.yaml").write_text("edits:\n  - duplicate: car/1\n    as: parked\n    path: {parked: {ahead: 5}}\n")
    light = _low_sun()
    save_light(work / "light", light)
    shown = []
    for name, sun in (("as-it-was", ()), ("moved", ("--sun", 0, 25))):
        arguments = _arguments(work, "--trajectory.frames", 1, "--light", work / "light", "--overwrite", *sun)
        assert main([*arguments[:4], "--out", str(work / name), *arguments[6:]]) == 0
        finished = next(clip for clip in (open_clip(one) for one in members(work / name)) if clip.path.name == "finished")
        shown.append(next(finished.iter_rgb())[finished.read_channel("masks/parked", 0)].astype(float).mean())
    assert shown[1] < 0.75 * shown[0]
    # A light whose sun was moved beforehand knows the recorded one; one without a sun has none to move.
    save_light(work / "moved-light", light.with_sun(0.0, 25.0))
    arguments = _arguments(work, "--trajectory.frames", 1, "--light", work / "moved-light")
    assert main([*arguments[:4], "--out", str(work / "again"), *arguments[6:]]) == 0
    finished = next(clip for clip in (open_clip(one) for one in members(work / "again")) if clip.path.name == "finished")
    assert next(finished.iter_rgb())[finished.read_channel("masks/parked", 0)].astype(float).mean() == pytest.approx(shown[1], abs=1.0)
    save_light(work / "dark", replace(light, sun=(0.0, 0.0, 0.0)))
    capsys.readouterr()
    arguments = _arguments(work, "--trajectory.frames", 1, "--light", work / "dark", "--sun", 0, 25)
    assert main([*arguments[:4], "--out", str(work / "none"), *arguments[6:]]) == 2
    assert "--sun has nothing to move" in capsys.readouterr().err
    assert not (work / "none").exists()


def test_a_panorama_is_not_the_light_of_the_recording(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recorded actors show the light that the scene is found to have had; a guess of it is said, but only where it is needed."""
    cv2.imwrite(str(work / "sky.hdr"), np.full((16, 32, 3), 0.2, dtype=np.float32))
    scene = true_scene(3)
    options = Options(scene=work / "scene", edits=work / "edits.yaml", out=work / "clips", light=str(work / "sky.hdr"))
    light, recorded = _lights(options, scene, own_actors=True)
    assert light is not None
    assert recorded is not None
    assert light.made_by == "sky.hdr"
    assert recorded.made_by == estimated_light(scene).light.made_by
    assert recorded.recorded
    capsys.readouterr()
    light, recorded = _lights(options, scene, own_actors=False)
    assert recorded is light, "nothing of the scene is lit, so nothing is estimated"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("confidence", "said"), [(0.2, True), (0.49, True), (0.5, False), (1.0, False)])
def test_suns_of_little_confidence_are_called_guesses(confidence: float, said: bool) -> None:
    note = guess_note(confidence)
    assert (note is not None) == said
    assert note is None or f"confidence {confidence:.2f}" in note


def test_a_harmoniser_makes_a_third_clip(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harmoniser = small_enhancer(small_vae(8), small_transformer(1, 1, 32), skips=SMALL_SKIPS, harmonises=True)
    torch.nn.init.normal_(harmoniser.vae.decoder.conv_out.weight, std=0.2)
    (work / "harmoniser").mkdir()
    save_enhancer(harmoniser, work / "harmoniser")
    more = ("--trajectory.frames", 2, "--device", "cpu", "--harmonise")
    assert main(_arguments(work, *more, work / "harmoniser")) == 0
    finished, harmonised, naive = (open_clip(clip) for clip in members(work / "clips"))
    assert (harmonised.path.name, naive.path.name) == ("harmonised", "naive")
    assert read_manifest(work / "clips").facts["clips"] == 3
    for index, (before, after) in enumerate(zip(finished.iter_rgb(), harmonised.iter_rgb(), strict=True)):
        masks = [finished.read_channel(f"masks/{name}", index) for name in ("new", "parked")]
        region = change_region(np.logical_or(*masks))
        assert np.array_equal(before[region == 0], after[region == 0])
        assert not np.array_equal(before[region > 0], after[region > 0])
    assert main(_arguments(work, *more, work / "harmoniser", "--light", "none", "--overwrite")) == 0
    assert [clip.name for clip in members(work / "clips")] == ["harmonised", "naive"]
    before = _digests(work / "clips")
    assert main(_arguments(work, *more, "bundled", "--overwrite")) == 2
    assert "bundled: this enhancer does not harmonise" in capsys.readouterr().err
    assert main(_arguments(work, "--enhance", work / "harmoniser", "--overwrite")) == 2
    assert "harmoniser: this enhancer harmonises; give it as --harmonise" in capsys.readouterr().err
    assert _digests(work / "clips") == before


def test_what_is_harmonised_was_enhanced_before(work: Path) -> None:
    """The enhancer's clip is that of the enhancer alone, and the harmoniser's is made of it."""
    networks = ("--enhance", "bundled", "--harmonise", "bundled-harmoniser", "--references", 0)
    assert main(_arguments(work, "--trajectory.frames", 2, "--device", "cpu", *networks)) == 0
    enhanced, finished, harmonised, naive = (open_clip(clip) for clip in members(work / "clips"))
    assert (enhanced.path.name, harmonised.path.name, naive.path.name) == ("enhanced", "harmonised", "naive")
    assert read_manifest(work / "clips").facts["clips"] == 4
    assert main(["enhance", str(finished.path), "--model", "bundled", "--out", str(work / "alone"), "--device", "cpu"]) == 0
    for index, (alone, mended, last) in enumerate(
        zip(open_clip(work / "alone").iter_rgb(), enhanced.iter_rgb(), harmonised.iter_rgb(), strict=True)
    ):
        assert np.array_equal(alone, mended)
        region = change_region(np.logical_or(*(enhanced.read_channel(f"masks/{name}", index) for name in ("new", "parked"))))
        assert np.array_equal(mended[region == 0], last[region == 0])
        assert not np.array_equal(mended[region > 0], last[region > 0])


def test_what_puts_nothing_in_is_not_harmonised(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "edits.yaml").write_text("edits:\n  - remove: car/1\n")
    assert main(_arguments(work, "--trajectory.frames", 1, "--harmonise", "bundled-harmoniser")) == 2
    assert "edits.yaml: it puts nothing in" in capsys.readouterr().err
    assert not (work / "clips").exists()


def test_enhancing_without_the_log_says_how_to_do_without(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(work, "--trajectory.frames", 1, "--enhance", "bundled", "--device", "cpu")) == 2
    assert "or --references 0 to enhance without recorded frames" in capsys.readouterr().err
    assert not (work / "clips").exists()


def test_existing_clips_are_kept_unless_they_are_to_be_replaced(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(work, "--trajectory.frames", 1)) == 0
    first = _digests(work / "clips")
    assert main(_arguments(work, "--trajectory.frames", 2)) == 2
    assert "clips: this exists already" in capsys.readouterr().err
    assert _digests(work / "clips") == first
    assert main(_arguments(work, "--trajectory.frames", 2, "--overwrite", "--light", "none")) == 0
    assert [clip.name for clip in members(work / "clips")] == ["naive"]
    assert len(open_clip(work / "clips" / "naive")) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--light", "nowhere"), "nowhere: there is no such light"),
        (("--light", "none", "--sun", 10, 40), "--sun belongs to a light"),
        (("--sun", 10, -5), "does not shine"),
    ],
)
def test_lights_that_cannot_be_are_refused(work: Path, capsys: pytest.CaptureFixture[str], arguments: tuple, words: str) -> None:
    assert main(_arguments(work, *arguments)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (work / "clips").exists()


@pytest.mark.parametrize(
    ("edits", "line", "words"),
    [
        ("edits:\n  - remove: car/9\n", 2, "the scene has no actor car/9; its actors are car/1"),
        ("edits:\n  - remove: car/1\n  - replace: car/1\n    asset: suv\n", 3, "leave one of them out"),
        ("edits:\n  - replace: car/1\n    asset: bus\n", 2, "the library has no asset bus; it has suv"),
        ("edits:\n  - remove car/1\n", 2, "is no mapping"),
        ("edits: {\n", 2, "this is no YAML"),
    ],
)
def test_faults_are_one_sentence_with_the_line(work: Path, capsys: pytest.CaptureFixture[str], edits: str, line: int, words: str) -> None:
    (work / "edits.yaml").write_text(edits)
    assert main(_arguments(work)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"splatmend: {work / 'edits.yaml'}: line {line}: "), error
    assert words in error
    assert error.count("\n") == 1
    assert not (work / "clips").exists()


def test_assets_come_from_beside_the_edits_too(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "edits.yaml").write_text(EDITS.replace("asset: suv", "asset: library/suv"))
    words = [word for word in _arguments(work, "--trajectory.frames", "1") if word not in ("--assets", str(work / "library"))]
    assert main(words) == 0
    (work / "edits.yaml").write_text(EDITS)
    assert main([*words, "--overwrite"]) == 2
    assert "line 2: the asset suv cannot be taken (suv: there is no such folder of an asset, and no library" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--assets", str(work / "none")]) == 2
    assert "there is no such library of assets" in capsys.readouterr().err


def test_actors_are_edited_in_one_place(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(work, "--trajectory.remove-actors", "car/1")) == 2
    assert "edits.yaml: the trajectory edits actors as well" in capsys.readouterr().err


def test_a_log_is_no_truth_of_what_was_put_in(work: Path) -> None:
    (work / "edits.yaml").write_text("edits:\n  - insert: suv\n    as: new\n    path: {parked: {ahead: 6, left: -1.8}}\n")
    assert main(_arguments(work, "--trajectory.frames", 2)) == 0
    clip = open_clip(work / "clips" / "naive")
    with pytest.raises(UserError, match="leaves out, moves or inserts actors"):
        list(LogTruth(log=tiny_log(3)).frames(clip.frames))
    edits = ActorEdits(inserted=("new",))
    assert edits
    assert ActorEdits.from_json(plain(edits)) == edits
    assert ActorEdits.from_json({"removed": [], "shifted": {}}) == ActorEdits()
    assert np.isfinite(clip.read_channel("opacity", 0)).all()


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a street and a scene that was fitted to it."""
    out = tmp_path_factory.mktemp("driven")
    street = StreetConfig(
        seed=3, duration_s=0.5, width=64, height=48, cameras=("FRONT",), supersample=1, lidar_beams=16, lidar_columns=128, moving_cars=1,
        parked_cars=2,
    )  # fmt: skip
    write_street(build_street(street), out / "street")
    config = FitConfig(
        iterations=40,
        sh_degree=0,
        sky_rows=8,
        device="cpu",
        init=InitConfig(point_count=2_000, ray_count=500, actor_count=50),
        densify=DensifyConfig(cap=2_500, actor_cap=60, start=5, every=10),
    )
    fit(open_log(out / "street"), out / "scene", config)
    save_asset(out / "library" / "suv", suv())
    (out / "edits.yaml").write_text("edits:\n  - insert: suv\n    as: new\n    path: {ego: {ahead: 7, left: 0.5}}\n")
    return out


def test_clips_have_references_behind_what_was_put_in(driven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["insert", driven / "scene", "--edits", driven / "edits.yaml", "--assets", driven / "library", "--trajectory.frames", 3]
    # What a fit of 40 iterations says of the light is anybody's guess.
    save_light(tmp_path / "light", _low_sun())
    arguments += ["--trajectory.left", 0.4, "--device", "cpu", "--light", tmp_path / "light", "--sun", 60, 40]
    assert main([str(word) for word in [*arguments, "--references", 2, "--out", tmp_path / "clips"]]) == 0
    finished, naive = (open_clip(clip) for clip in members(tmp_path / "clips"))
    assert read_manifest(naive.path).config["references"]["layers"] == 2
    for index, shown in enumerate(finished.iter_rgb()):
        layers, mask = finished.read_references(index), finished.read_channel("masks/new", index)
        shadow = read_numbers(finished.path / "shadow" / f"{index:06d}.png")
        assert layers is not None
        assert mask is not None
        plain = naive.read_references(index)
        assert plain is not None
        assert layers.shape == (2, 48, 64, 4)
        assert mask.sum() > 20
        bodies = mask & (layers[0, ..., 3] == 255)
        assert bodies.sum() > 10
        assert np.abs(layers[0, bodies, :3].astype(float) - shown[bodies]).mean() < 20
        # The finished clip's layers have its shadow, too.
        np.testing.assert_array_equal(layers[..., 3], plain[..., 3])
        np.testing.assert_array_equal(layers[:, shadow == 0], plain[:, shadow == 0])
        cast = (shadow > 12) & (layers[0, ..., 3] == 255)
        assert cast.any()
        assert layers[0, cast, :3].mean() < plain[0, cast, :3].mean() - 1
        assert (layers[0, ..., 3] == 255).mean() > 0.1
    assert main([str(word) for word in [*arguments, "--log", driven / "street", "--out", tmp_path / "no"]]) == 2
    assert "a log is read for references only" in capsys.readouterr().err
    assert main([str(word) for word in [*arguments, "--references", 1, "--log", driven / "gone", "--out", tmp_path / "no"]]) == 2
    assert "gone" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
