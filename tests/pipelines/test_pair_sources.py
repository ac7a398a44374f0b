"""Where pairs come from: streets in memory are drawn once, and only where a truth is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import splatmend.pipelines.pair_sources as pair_sources
from splatmend.datasets.clip import ClipFrame, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import StreetConfig, build_street, write_street
from splatmend.datasets.street.street import Street
from splatmend.pipelines.pair_sources import open_source
from splatmend.pipelines.pairing import cross_camera, reinsert
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.making import plans
from splatmend.recon.fit.config import DataConfig, FitConfig
from splatmend.recon.trajectory import Trajectory

STREET = StreetConfig(seed=5, duration_s=0.3, width=64, height=48, cameras=("FRONT",), supersample=1, lidar_beams=8, lidar_columns=64)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Shot]:
    """The shots that streets are asked for, from now on."""
    shots: list[Shot] = []
    render = Street.render

    def counted(self: Street, shot: Shot, **settings: object) -> object:
        shots.append(shot)
        return render(self, shot, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Street, "render", counted)
    return shots


def test_a_street_in_memory_draws_each_recorded_picture_once(drawn: list[Shot], tmp_path: Path) -> None:
    source = open_source("street:5", STREET)
    frames = source.log.frames_of("FRONT")
    shots = tuple(Shot.of(frame, source.log.cameras["FRONT"]) for frame in frames)
    first = frames[0].read_image()
    first[:] = 0  # whoever reads may change what it was given
    pictures = [frame.read_image() for frame in frames]
    assert pictures[0].any()
    assert len(drawn) == len(frames)
    path = Trajectory(shots=shots, extra=({},) * len(shots), rate_hz=10.0)
    source.write_target(path, tmp_path / "recorded", "png")
    assert len(drawn) == len(frames)
    # What the oracle draws of these very shots.
    truth = source.truth.frames([ClipFrame(shot=shot) for shot in shots])
    for written, true, picture in zip(open_clip(tmp_path / "recorded").iter_rgb(), truth, pictures, strict=True):
        assert true is not None
        np.testing.assert_array_equal(written, true.rgb)
        np.testing.assert_array_equal(written, picture)


def test_shots_that_were_not_recorded_are_drawn(drawn: list[Shot], tmp_path: Path) -> None:
    source = open_source("street:5", STREET)
    frame = source.log.frames_of("FRONT")[0]
    shot = Shot.of(frame, source.log.cameras["FRONT"])
    aside = shot.world_from_camera_start.copy()
    aside[1, 3] += 1.0
    path = Trajectory(shots=(shot, replace(shot, world_from_camera_start=aside, world_from_camera_end=aside)), extra=({}, {}), rate_hz=10.0)
    source.write_target(path, tmp_path / "both", "png")
    recorded, beside = open_clip(tmp_path / "both").iter_rgb()
    np.testing.assert_array_equal(recorded, frame.read_image())
    assert np.abs(recorded.astype(int) - beside).mean() > 2
    assert len(drawn) == 2


def test_a_streets_folder_is_built_only_where_its_truth_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_street(build_street(STREET), tmp_path / "street")
    built: list[Path] = []
    load = pair_sources.load_street

    def counted(path: Path) -> Street:
        built.append(path)
        return load(path)

    monkeypatch.setattr(pair_sources, "load_street", counted)
    source = open_source(str(folder), STREET)
    assert source.sees_everything
    assert not built
    assert source.truth is source.truth
    assert built == [folder]


def test_a_seed_is_a_number_however_it_is_written() -> None:
    street = replace(STREET, seed=0)
    assert open_source("street:07", street).scene == open_source("street:7", street).scene == "street-7"


@pytest.mark.parametrize("option", ["every", "shares", "shifts", "cycle_shifts", "reductions", "holes", "reinsertions", "grounds"])
def test_an_option_without_a_value_is_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"{option}: none is given"):
        PairsConfig(**{option: ()})  # type: ignore[arg-type]


def test_shifts_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="names something twice"):
        PairsConfig(shifts=(2.0, 2.0000001))


def test_strategies_share_no_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same camera: one is of all others, one of that camera without some vehicles."""
    names: list[str] = []

    class Noted(Exception):
        pass

    class Shop(SimpleNamespace):
        def fitted(self, name: str, *_: object) -> None:
            names.append(name)
            raise Noted

    log = SimpleNamespace(cameras={"FRONT": None, "FRONT_LEFT": None})
    shop = Shop(fit_config=FitConfig(), config=PairsConfig(), source=SimpleNamespace(log=log), fits=tmp_path)
    with pytest.raises(Noted):
        cross_camera.degrade(shop, tmp_path / "out", camera="FRONT")  # type: ignore[arg-type]
    monkeypatch.setattr(reinsert, "log_without", lambda *_: log)
    with pytest.raises(Noted):
        reinsert.fit_without(shop, "FRONT", (), None, None)  # type: ignore[arg-type]
    assert len(set(names)) == 2


@pytest.mark.parametrize(
    ("cameras", "fitted", "says"), [((), ("REAR",), "no camera REAR"), (("FRONT",), ("FRONT_LEFT",), "no fit sees camera FRONT;")]
)
def test_cameras_that_no_fit_sees_are_refused_before_any_fit(cameras: tuple[str, ...], fitted: tuple[str, ...], says: str) -> None:
    log = SimpleNamespace(cameras={"FRONT": None, "FRONT_LEFT": None})
    config = PairsConfig(strategies=("underfit",), cameras=cameras, fit=FitConfig(data=DataConfig(cameras=fitted)))
    with pytest.raises(UserError, match=says):
        plans(config, SimpleNamespace(name="log", log=log))  # type: ignore[arg-type]
