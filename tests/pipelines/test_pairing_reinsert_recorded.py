"""Vehicles of a log without an oracle, put back wrongly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.clip import Clip, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.street import StreetConfig
from splatmend.enhance.insertion import INSERTED, change_region
from splatmend.pipelines.evaluation.truth import LogTruth
from splatmend.pipelines.pair_sources import PairSource, open_source
from splatmend.pipelines.pairing import reinsert, reinsert_recorded
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.reinsert_recorded import drawn_light
from splatmend.pipelines.pairing.vehicles import generator, vehicles_seen
from splatmend.pipelines.pairing.workshop import Workshop
from splatmend.recon.fit.config import DensifyConfig, FitConfig, InitConfig
from splatmend.recon.light.light_files import save_light
from splatmend.recon.light.scene_light import SceneLight

STREET = StreetConfig(
    duration_s=0.4, width=128, height=80, cameras=("FRONT",), supersample=1, lidar_beams=16, lidar_columns=256, weather="clear",
    sun_elevation_deg=45.0,
)  # fmt: skip
CONFIG = PairsConfig(
    strategies=("reinsert",),
    grounds=("truth", "fit"),
    fit=FitConfig(
        iterations=60,
        sh_degree=0,
        sky_rows=16,
        init=InitConfig(point_count=4_000, ray_count=500, actor_count=700),
        densify=DensifyConfig(cap=4_500, actor_cap=800),
    ),
)
LIGHT = SceneLight(
    to_sun_world=(0.48, 0.36, 0.8),
    sun=(2.0, 1.9, 1.7),
    environment=torch.full((16, 32, 3), 0.4),
    environment_from_world=np.eye(3),
    made_by="made up",
)


@pytest.fixture(scope="module")
def driven() -> PairSource:
    """A street's log that knows no more than what was recorded."""
    source = open_source("street:411", STREET)
    return replace(source, open_truth=lambda: LogTruth(log=source.log), sees_everything=False)


@pytest.fixture(scope="module")
def shop(driven: PairSource, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """With a light, since so small a scene shows none."""
    fits = tmp_path_factory.mktemp("fits")
    save_light(fits / "light", LIGHT)
    return Workshop(source=driven, config=CONFIG, fits=fits, device="cpu")


def made(shop: Workshop, out: Path, number: int) -> tuple[Clip, list[np.ndarray]]:
    plan = reinsert.plans(shop.config, shop.source, "FRONT")[number]
    plan.degrade(shop, out)
    clip = open_clip(out)
    masks = [clip.read_channel(f"masks/{INSERTED}", index) for index in range(len(clip))]
    return clip, [mask for mask in masks if mask is not None]


def test_the_recorded_picture_stays_but_around_what_was_put_back(shop: Workshop, driven: PairSource, tmp_path: Path) -> None:
    plans = reinsert.plans(CONFIG, driven, "FRONT")
    assert [plan.name for plan in plans] == [f"FRONT-reinsert-{way}" for way in ("naive", "relit", "naive-fit", "relit-fit")]
    naive, masks = made(shop, tmp_path / "naive", 0)
    relit, others = made(shop, tmp_path / "relit", 1)
    fitted, _ = made(shop, tmp_path / "fit", 2)
    names = read_manifest(naive.path, "clip").config["reinserted"]
    assert names
    assert names == read_manifest(relit.path, "clip").config["reinserted"]
    assert set(names) <= set(vehicles_seen(driven.log.actors, driven.shots("FRONT")))
    assert len(masks) == len(naive) == len(driven.log.frames)
    recorded = [frame.read_image() for frame in driven.log.frames]
    beside, shaded = [], []
    for mask, other, photo, *pictures in zip(masks, others, recorded, naive.iter_rgb(), relit.iter_rgb(), fitted.iter_rgb(), strict=True):
        np.testing.assert_array_equal(mask, other)
        assert mask.any()
        outside = change_region(mask) == 0
        assert outside.any()
        for picture in pictures[:2]:
            np.testing.assert_array_equal(picture[outside], photo[outside])
        bodies = [picture[mask].astype(float) for picture in (photo, *pictures)]
        # The same body in each ground, and another light than the recorded one.
        assert np.abs(bodies[1] - bodies[3]).mean() < 2
        assert np.abs(bodies[0] - bodies[1]).mean() > 8
        beside.append(np.abs(pictures[2][outside].astype(float) - photo[outside]).mean())
        ground = np.arange(len(mask)) > np.nonzero(mask.any(axis=1))[0].max()
        shaded.append((pictures[0].astype(float) - pictures[1])[(change_region(mask) == 255) & ground[:, None]])
    assert np.mean(beside) > 2, "the other ground is the fit's picture"
    # Only the one that is lit almost rightly casts a shadow.
    darker = np.concatenate(shaded)[np.abs(np.concatenate(shaded)) > 3]
    assert darker.size > 100
    assert (darker > 0).mean() > 0.9


def test_lights_follow_from_names_and_differ_as_they_should() -> None:
    def of(way: str, name: str) -> tuple[float, float, float, float]:
        wrong = drawn_light(LIGHT, way, generator(name, way))  # type: ignore[arg-type]
        return wrong.light.sun_azimuth_deg, wrong.light.sun_elevation_deg, max(wrong.light.sun), wrong.gain

    assert of("naive", "a") == of("naive", "a") != of("naive", "b")
    near = [of("relit", str(number)) for number in range(40)]
    far = [of("naive", str(number)) for number in range(40)]

    def spread(of_lights: list[tuple[float, float, float, float]]) -> float:
        return float(np.median([abs((light[0] - LIGHT.sun_azimuth_deg + 180) % 360 - 180) for light in of_lights]))

    assert spread(near) < 30 < 60 < spread(far)
    assert all(light[2] > 0 for light in near)
    assert 0 < sum(light[2] == 0 for light in far) < 25
    covered = replace(LIGHT, sun=(0.0, 0.0, 0.0))
    suns = [max(drawn_light(covered, "naive", generator(str(number), "naive")).light.sun) for number in range(40)]
    assert sum(sun > 0.5 for sun in suns) > 20, "under a covered sky a sun is the wrong light"
    assert max(drawn_light(covered, "relit", generator("a", "relit")).light.sun) == 0


def test_who_cannot_be_served(driven: PairSource) -> None:
    with pytest.raises(UserError, match="are not metres"):
        reinsert.plans(CONFIG, replace(driven, log=replace(driven.log, metric=False)), "FRONT")
    unlabelled = replace(driven.log, actors=())
    assert reinsert.plans(CONFIG, replace(driven, log=unlabelled), "FRONT")
    for log, movers in ((replace(unlabelled, sweeps=()), "auto"), (unlabelled, "off"), (driven.log, "off"), (unlabelled, "labels")):
        config = replace(CONFIG, fit=replace(CONFIG.fit, movers=movers))  # type: ignore[arg-type]
        with pytest.raises(UserError, match="no vehicle becomes an actor"):
            reinsert.plans(config, replace(driven, log=log), "FRONT")


def test_a_fit_that_shows_vehicles_poorly_says_so(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reinsert_recorded, "_LEAST_QUALITY", 0.99)
    with pytest.raises(UserError, match=r"shows no vehicle of FRONT well enough to be put back \(.* has a quality of 0\."):
        made(shop, tmp_path / "clip", 0)
    assert not (tmp_path / "clip").exists()
