"""Panoramas: where their parts are in the world, the sun taken out with its energy, and faults in one sentence."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.datasets.errors import UserError
from splatmend.recon.light.hdr import light_from_hdr

_ROWS = 128


def _write(path: Path, panorama: np.ndarray) -> Path:
    cv2.imwrite(str(path), np.ascontiguousarray(panorama[..., ::-1].astype(np.float32)))
    return path


def _panorama_directions() -> tuple[np.ndarray, np.ndarray]:
    """Azimuth (of a heading of 0) and elevation of each pixel: azimuths fall to the right, seen from inside."""
    elevation = (0.5 - (np.arange(_ROWS) + 0.5) / _ROWS) * math.pi
    azimuth = -((np.arange(2 * _ROWS) + 0.5) / (2 * _ROWS) - 0.5) * 2 * math.pi
    return np.meshgrid(azimuth, elevation)


def test_a_red_right_half_looks_red_to_the_right(tmp_path: Path) -> None:
    panorama = np.full((_ROWS, 2 * _ROWS, 3), [0.0, 0.0, 1.0])
    panorama[:, _ROWS:] = [1.0, 0.0, 0.0]
    path = _write(tmp_path / "halves.hdr", panorama)
    # Who looks along x has -y to the right; who looks along y (heading 90) has x to the right.
    for heading, right in ((0.0, [0.0, -1.0, 0.0]), (90.0, [1.0, 0.0, 0.0]), (180.0, [0.0, 1.0, 0.0])):
        light = light_from_hdr(path, heading_deg=heading)
        seen = light.mirrored(torch.tensor([right, [-v for v in right]]), torch.tensor([0.05, 0.05]))
        assert seen[0, 0] > 0.9
        assert seen[0, 2] < 0.1
        assert seen[1, 2] > 0.9


def test_a_planted_sun_comes_out_with_its_direction_and_energy(tmp_path: Path) -> None:
    azimuth, elevation = _panorama_directions()
    to_sun = np.array([0.5, 0.6, 0.62])
    to_sun /= np.linalg.norm(to_sun)
    directions = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1)
    disc = directions @ to_sun > math.cos(math.radians(1.5))
    panorama = np.full((_ROWS, 2 * _ROWS, 3), 0.3)
    colour = np.array([900.0, 800.0, 600.0])
    panorama[disc] += colour
    solid = (np.cos(elevation) * (math.pi / _ROWS) ** 2)[disc].sum()
    light = light_from_hdr(_write(tmp_path / "sun.hdr", panorama))
    assert np.dot(light.to_sun_world, to_sun) > math.cos(math.radians(1.0))
    assert np.allclose(light.sun, colour * solid / math.pi, rtol=0.03)
    assert float(light.environment.max()) < 0.35
    # Up is 0.3 under a sky of 0.3, and the heading turns the sun too.
    assert np.allclose(light.ambient(torch.tensor([[0.0, 0.0, 1.0]]))[0], 0.3, atol=0.02)
    turned = light_from_hdr(tmp_path / "sun.hdr", heading_deg=30.0)
    assert turned.sun_azimuth_deg == pytest.approx(light.sun_azimuth_deg + 30, abs=0.01)


def test_the_sun_follows_up(tmp_path: Path) -> None:
    panorama = np.full((_ROWS, 2 * _ROWS, 3), 0.2)
    panorama[20:22, 100:102] = 3000.0
    path = _write(tmp_path / "sun.hdr", panorama)
    upright, tilted = light_from_hdr(path), light_from_hdr(path, (0.0, -1.0, 0.0))
    assert tilted.sun_elevation_deg == pytest.approx(upright.sun_elevation_deg, abs=1e-3)
    assert -tilted.to_sun_world[1] == pytest.approx(upright.to_sun_world[2], abs=1e-6)


def test_lamps_of_a_night_and_covered_skies_are_no_sun(tmp_path: Path) -> None:
    lamps = np.full((_ROWS, 2 * _ROWS, 3), 0.05)
    lamps[55:57, 30:32] = 3.0
    assert light_from_hdr(_write(tmp_path / "lamps.hdr", lamps)).sun == (0.0, 0.0, 0.0)
    _, elevation = _panorama_directions()
    covered = np.repeat((0.5 + np.sin(elevation).clip(min=0))[..., None], 3, axis=2)
    light = light_from_hdr(_write(tmp_path / "covered.hdr", covered))
    assert light.sun == (0.0, 0.0, 0.0)
    assert float(light.environment.max()) == pytest.approx(1.5, abs=0.05)


def test_the_level_is_that_of_the_scene_or_what_is_asked_for(tmp_path: Path) -> None:
    path = _write(tmp_path / "grey.hdr", np.full((_ROWS, 2 * _ROWS, 3), 4.0))
    own = light_from_hdr(path)
    assert float(own.environment.mean()) == pytest.approx(4.0, rel=0.01)
    assert float(light_from_hdr(path, scale=0.5).environment.mean()) == pytest.approx(2.0, rel=0.01)
    like = light_from_hdr(path, scale=0.1)
    assert float(light_from_hdr(path, like=like).environment.mean()) == pytest.approx(0.4, rel=0.01)


def test_faults_are_one_sentence_with_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = _write(tmp_path / "whole.hdr", np.random.default_rng(0).random((_ROWS, 2 * _ROWS, 3))).read_bytes()
    cut = tmp_path / "cut.hdr"
    cut.write_bytes(whole[: len(whole) // 2])
    square = _write(tmp_path / "square.hdr", np.ones((64, 64, 3)))
    values = np.ones((64, 128, 3), dtype=np.float32)
    values[3, 4] = np.nan
    broken = _write(tmp_path / "broken.pfm", values)
    negative = _write(tmp_path / "negative.pfm", np.where(np.isnan(values), -1.0, values))
    text = tmp_path / "text.hdr"
    text.write_text("no picture")
    for path, says in (
        (cut, "cut short"),
        (square, "twice as wide"),
        (broken, "no finite numbers"),
        (negative, "below 0"),
        (text, "cut short or no"),
        (tmp_path / "absent.hdr", "cannot read"),
        (tmp_path / "picture.png", "convert the panorama"),
        (tmp_path, "convert the panorama"),
    ):
        with pytest.raises(UserError, match=says) as fault:
            light_from_hdr(path)
        assert str(path) in str(fault.value)
    # OpenCV says nothing of its own beside it.
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match="scale"):
        light_from_hdr(square, scale=0.0)
