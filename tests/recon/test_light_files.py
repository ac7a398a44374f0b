"""A light goes to disk and comes back; its panorama shows the sun's side where it is; the verb does both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from light_scenes import direction, lit_scene
from safetensors.torch import save_file

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.errors import UserError
from splatmend.pipelines.cli import main
from splatmend.recon.light.colour import luminance
from splatmend.recon.light.hdr import light_from_hdr
from splatmend.recon.light.light_files import load_light, preview, save_light
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.scene_files import save_scene
from splatmend.recon.sky import rotation_to_z


def _light(up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> SceneLight:
    generator = torch.Generator().manual_seed(4)
    turn = rotation_to_z(np.asarray(up))
    return SceneLight(
        to_sun_world=tuple((turn.T @ direction(-90.0, 30.0)).tolist()),
        sun=(1.5, 1.25, 1.0),
        environment=torch.rand(32, 64, 3, generator=generator),
        environment_from_world=turn,
        made_by="a test",
    )


def test_a_light_comes_back_as_it_was(tmp_path: Path) -> None:
    light = replace(_light((0.0, -1.0, 0.0)), recorded=False, moved_from_deg=(10.0, 20.0))
    save_light(tmp_path / "light", light, facts={"confidence": 0.5})
    again = load_light(tmp_path / "light")
    assert torch.equal(again.environment, light.environment)
    assert np.array_equal(again.environment_from_world, light.environment_from_world)
    assert (again.sun, again.made_by, again.recorded, again.moved_from_deg) == (light.sun, light.made_by, False, (10.0, 20.0))
    assert np.allclose(again.to_sun_world, light.to_sun_world)
    assert read_manifest(tmp_path / "light").facts["confidence"] == 0.5


def test_a_moved_sun_goes_back_to_where_it_was_recorded(tmp_path: Path) -> None:
    light = _light((0.0, -1.0, 0.0))
    save_light(tmp_path / "light", light.with_sun(70.0, 15.0).with_sun(-20.0, 60.0))
    back = load_light(tmp_path / "light").as_recorded()
    assert back is not None
    assert back.recorded
    assert np.allclose(back.to_sun_world, light.to_sun_world, atol=1e-6)
    assert np.allclose(back.sun, light.sun, rtol=1e-5)
    assert np.allclose(back.environment_from_world, light.environment_from_world, atol=1e-6)
    assert replace(light, recorded=False).as_recorded() is None


def test_the_hdr_beside_it_reads_as_the_same_environment(tmp_path: Path) -> None:
    light = _light()
    save_light(tmp_path / "light", light)
    again = light_from_hdr(tmp_path / "light" / "environment.hdr", rows=32)
    assert not again.recorded, "nobody knows that it was taken there and then"
    # RGBE keeps 8 bits of the greatest of three values.
    assert float((again.environment - light.environment).abs().max()) < 0.01


def test_the_preview_marks_the_sun_to_the_right_of_who_looks_along_x() -> None:
    picture = preview(_light())
    row, column = round((0.5 - 30 / 180) * 256), round(0.75 * 512)
    assert picture[row, column].tolist() == [255, 230, 60]


def test_broken_lights_are_refused(tmp_path: Path) -> None:
    save_light(tmp_path / "light", _light())
    file = tmp_path / "light" / "environment.safetensors"
    save_file({"environment": torch.full((32, 64, 3), float("nan")), "environment_from_world": torch.eye(3).double()}, str(file))
    with pytest.raises(UserError, match="no finite numbers"):
        load_light(tmp_path / "light")
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        load_light(tmp_path / "light")
    file.unlink()
    with pytest.raises(UserError, match="missing"):
        load_light(tmp_path / "light")


def test_the_verb_writes_the_light_of_a_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_scene(tmp_path / "scene", lit_scene(direction(140.0, 40.0), sun=3.0), {})
    quick = ["--estimate.shots", "3", "--estimate.width-px", "120", "--estimate.samples-per-shot", "400", "--estimate.roofs-m", "0"]
    scene, out = str(tmp_path / "scene"), tmp_path / "light"
    assert main(["light", scene, "--out", str(out), *quick]) == 0
    light = load_light(out)
    assert np.dot(light.to_sun_world, direction(140.0, 40.0)) > np.cos(np.radians(10))
    assert cv2.imread(str(out / "preview.png")).shape == (256, 512, 3)
    assert "confidence" in capsys.readouterr().out
    assert main(["light", scene, "--out", str(out), "--overwrite", "--sun", "30", "20", *quick]) == 0
    assert np.allclose(load_light(out).to_sun_world, direction(30.0, 20.0), atol=1e-4)
    assert not load_light(out).recorded, "a sun that was moved is not the one of the recording"
    assert main(["light", scene, "--out", str(out), "--overwrite", "--recorded-sun", "140", "40", *quick]) == 0
    assert np.allclose(load_light(out).to_sun_world, direction(140.0, 40.0), atol=1e-4)
    assert load_light(out).recorded
    given = load_light(out)
    strength = float(luminance(torch.tensor(given.sun)) / luminance(given.ambient(torch.tensor([[0.0, 0, 1]])))[0])
    assert strength == pytest.approx(3.0, rel=0.3), "where the sun is says how strong it is"
    place = ["--time", "2011-09-26T13:02:25+02:00", "--latitude", "49.01", "--longitude", "8.43"]
    assert main(["light", scene, "--out", str(out), "--overwrite", *place, *quick]) == 0
    # A little before noon: south (azimuth -90 of a world whose x is east), a little to the east.
    assert load_light(out).sun_azimuth_deg == pytest.approx(-86, abs=6)
    capsys.readouterr()
    assert main(["light", scene, "--out", str(tmp_path / "other"), "--time", "noon", "--latitude", "49", "--longitude", "8"]) == 2
    assert "is no time" in capsys.readouterr().err
    assert main(["light", scene, "--out", str(tmp_path / "other"), "--hdr", str(tmp_path / "absent.hdr"), *quick]) == 2
    assert "absent.hdr" in capsys.readouterr().err
