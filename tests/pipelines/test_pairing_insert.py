"""Vehicles of a street put somewhere else into its fit, against the oracle's pictures with their meshes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import partial_folder, read_manifest
from splatmend.datasets.clip import Clip, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import to_uint8
from splatmend.datasets.street import StreetConfig, build_street
from splatmend.enhance.insertion import INSERTED, inserted_masks
from splatmend.pipelines.evaluation.truth import LogTruth, StreetTruth
from splatmend.pipelines.pair_sources import PairSource, open_source
from splatmend.pipelines.pairing import insert, making, reinsert_recorded
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.index import part, read_rows
from splatmend.pipelines.pairing.street_light import as_estimated, known_light
from splatmend.pipelines.pairing.vehicles import generator
from splatmend.pipelines.pairing.workshop import NothingToShow, PairPlan, Workshop
from splatmend.recon.edits.types import BodyPath, EgoCourse
from splatmend.recon.fit.config import DensifyConfig, FitConfig, InitConfig

STREET = StreetConfig(
    duration_s=0.4, width=128, height=80, cameras=("FRONT",), supersample=1, lidar_beams=16, lidar_columns=256, weather="clear",
    sun_elevation_deg=60.0,
)  # fmt: skip
CONFIG = PairsConfig(
    strategies=("insert",),
    insertions=2,
    references=1,
    fit=FitConfig(
        iterations=60,
        sh_degree=0,
        sky_rows=16,
        init=InitConfig(point_count=4_000, ray_count=500, actor_count=700),
        densify=DensifyConfig(cap=4_500, actor_cap=800),
    ),
)


ROUGH = 0.45
"""So short a fit shows ragged bodies."""


@pytest.fixture(scope="module", autouse=True)
def rough() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(insert, "_LEAST_OVERLAP", ROUGH)
        yield


@pytest.fixture(scope="module")
def source() -> PairSource:
    return open_source("street:411", STREET)


@pytest.fixture(scope="module")
def folder(source: PairSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene's pairs, made in two runs: the first is interrupted when it has made one."""
    folder = tmp_path_factory.mktemp("pairs")
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        making.make_scene(source, folder, CONFIG, "cpu", interrupt)
    first = sorted(folder.rglob("clips/**/manifest.json"))
    assert len(first) == 2
    before = [path.stat().st_mtime_ns for path in first]
    making.make_scene(source, folder, CONFIG, "cpu", said.append)
    assert said == [f"street-411: FRONT-insert{number}" for number in (0, 1, 1)]
    assert [path.stat().st_mtime_ns for path in first] == before
    return folder


@pytest.fixture(scope="module")
def shop(source: PairSource, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = Workshop(source=source, config=replace(CONFIG, references=0), fits=tmp_path_factory.mktemp("fits"), device="cpu")
    shop.whole()
    return shop


def pair(folder: Path, number: int) -> tuple[Clip, Clip]:
    """Degraded and target."""
    row = read_rows(part(folder, "street-411"))[number]
    return open_clip(folder / row["degraded"]), open_clip(folder / row["target"])


def test_the_target_is_the_street_with_one_vehicle_more(folder: Path, source: PairSource) -> None:
    recorded = [frame.read_image() for frame in source.log.frames]
    for number in range(CONFIG.insertions):
        degraded, target = pair(folder, number)
        assert len(degraded) == len(target) == len(recorded)
        changed, shaded = [], 0
        for mask, true, photo in zip(inserted_masks(degraded), target.iter_rgb(), recorded, strict=True):
            differs = (true != photo).any(-1)
            changed.append((mask & differs).sum() / mask.sum())
            # A vehicle changes what it covers and shades, and everything else is the recorded picture, bit for bit.
            assert 0 < differs.mean() < 0.5
            shaded += int((differs & ~mask).sum())
        # What the fit shows of a body frays beyond its outline.
        assert np.min(changed) > 0.7
        assert shaded > 0
        for a, b in zip(degraded.frames, target.frames, strict=True):
            assert a.shot is not None
            assert b.shot is not None
            assert np.array_equal(a.shot.world_from_camera_start, b.shot.world_from_camera_start)
            assert a.extra["actors"]["inserted"] == [INSERTED]
            assert not a.extra["recorded"]
    assert read_rows(part(folder, "street-411"))[0]["target"] != read_rows(part(folder, "street-411"))[1]["target"]


def test_the_degraded_clip_shows_the_vehicle_where_the_target_has_it(folder: Path, source: PairSource, shop: Workshop) -> None:
    """Its mask is what the oracle gives a label, and it moves with the body."""
    assert isinstance(source.truth, StreetTruth)
    street, moved = source.truth.street, []
    for number in range(CONFIG.insertions):
        degraded, _ = pair(folder, number)
        insert.degrade(shop, shop.fits / f"again{number}", camera="FRONT", number=number)
        kept = json.loads((shop.fits / f"put-in-FRONT-{number}.json").read_text())
        assert kept["vehicle"] == read_manifest(degraded.path, "clip").config["vehicle"]
        mesh = street.actor_meshes[[actor.actor_id for actor in street.actors].index(kept["vehicle"])]
        track = insert._from_json(kept["track"])
        centres, overlaps = [], []
        for frame, mask in zip(degraded.frames, inserted_masks(degraded), strict=True):
            assert frame.shot is not None
            true = street.render(frame.shot, extra=[(mesh, track)], supersample=1).ids == street.actor_label(street.actors[-1].actor_id) + 1
            overlaps.append((true & mask).sum() / (true | mask).sum())
            centres.append([np.argwhere(one).mean(axis=0) for one in (mask, true)])
        assert np.mean(overlaps) > ROUGH
        seen, true_centres = np.array(centres).transpose(1, 0, 2)
        assert np.abs(seen - true_centres).max() < 6
        moved.append(np.stack([seen[-1] - seen[0], true_centres[-1] - true_centres[0]]))
        # What is drawn again from the same names is the same, references or not.
        again = open_clip(shop.fits / f"again{number}")
        for one, other in zip(degraded.iter_rgb(), again.iter_rgb(), strict=True):
            np.testing.assert_array_equal(one, other)
        assert again.references == 0
    assert np.abs(np.array(moved)).max() > 3, "one of them comes nearer or stays behind"
    assert np.abs(np.array(moved)[:, 0] - np.array(moved)[:, 1]).max() < 2


def test_references_lie_behind_the_vehicle(folder: Path) -> None:
    degraded, target = pair(folder, 0)
    assert (degraded.references, target.references) == (1, 0)
    for index, (rgb, mask) in enumerate(zip(degraded.iter_rgb(), inserted_masks(degraded), strict=True)):
        layers = degraded.read_references(index)
        assert layers is not None
        there = layers[0, ..., 3] > 0
        assert there[mask].any()
        # The vehicle is the degraded one's; beside it they are photos.
        assert np.abs(layers[0, mask & there, :3].astype(float) - rgb[mask & there]).mean() < 12
        assert degraded.read_channel("opacity", index) is not None


def test_each_pair_has_another_vehicle_or_place(folder: Path, source: PairSource) -> None:
    settings = [read_manifest(pair(folder, number)[0].path, "clip").config for number in range(2)]
    assert settings[0]["path"] != settings[1]["path"]
    assert settings[0]["light"] != settings[1]["light"]
    orders = [insert.candidates(source, "FRONT", number) for number in range(3)]
    assert len(orders[0]) >= 2
    assert orders[0][0] != orders[1][0]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])


def test_a_body_must_be_free_and_seen(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(shop.source.truth, StreetTruth)
    street, scene = shop.source.truth.street, shop.whole()
    light = insert.light_of(shop, scene)
    name, asset = next(iter(insert.well_harvested(shop.source, scene, "FRONT", insert.candidates(shop.source, "FRONT", 0), light)))
    shots = [recorded.shot for recorded in scene.shots_of("FRONT")]
    behind = insert.placed(scene, name, asset, BodyPath(ego=EgoCourse(ahead=-30.0)))
    assert behind is None or not insert.is_seen(behind, street, shots)
    ways = [BodyPath(parked=insert.ParkedCourse(ahead=10.0, yaw_deg=yaw_deg)) for yaw_deg in (0.0, 180.0)]
    turned = [insert.placed(scene, name, asset, way) for way in ways]
    assert [one is not None and insert.is_seen(one, street, shots) for one in turned].count(True) == 1, "only one end of it was ever seen"
    fit = next(one for one in turned if one is not None and insert.is_seen(one, street, shots))
    monkeypatch.setattr(insert, "_LEAST_OVERLAP", 0.99)
    assert not insert.is_seen(fit, street, shots), "it frays more than that"
    own = scene.actors[name].track
    place = own.world_from_actor(shots[0].mid_us)[:2, 3]
    taken = BodyPath(parked=insert.ParkedCourse(at=(float(place[0]), float(place[1]))))
    assert insert.placed(scene, name, asset, taken) is None, "it stands there itself"


def test_where_no_place_is_free_a_sentence_says_so(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insert, "_LEAST_PX", 10**6)
    with pytest.raises(UserError, match=r"of 24 places drawn for each of car-.* FRONT sees none well that is free; leave insert out"):
        insert.degrade(shop, tmp_path / "clip", camera="FRONT", number=0)
    monkeypatch.setattr(reinsert_recorded, "_LEAST_QUALITY", 0.99)
    with pytest.raises(UserError, match=r"shows no vehicle of FRONT well enough .* leave insert out"):
        insert.degrade(shop, tmp_path / "clip", camera="FRONT", number=0)
    assert not (tmp_path / "clip").exists()


def test_a_scene_without_another_place_has_fewer_pairs(source: PairSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pair must be there, the others may be lacking."""
    free = {0}

    def make(shop: Workshop, plan: PairPlan, folder: Path) -> dict[str, object]:
        if int(plan.name[-1]) not in free:
            raise NothingToShow(f"{plan.name}: no place is free.")
        return {"degraded": f"clips/street-411/{plan.name}/degraded"}

    monkeypatch.setattr(making, "_make_pair", make)
    monkeypatch.setattr(making, "write_contact_sheet", lambda *_: None)
    said: list[str] = []
    making.make_scene(source, tmp_path / "pairs", CONFIG, "cpu", said.append)
    assert [row["degraded"][-18:] for row in read_rows(part(tmp_path / "pairs", "street-411"))] == ["T-insert0/degraded"]
    assert said[-1] == "street-411: FRONT-insert1 is left out: FRONT-insert1: no place is free."
    free.clear()
    with pytest.raises(NothingToShow, match="insert0"):
        making.make_scene(source, tmp_path / "none", CONFIG, "cpu", said.append)


def test_who_cannot_be_served(source: PairSource) -> None:
    driven = replace(source, open_truth=lambda: LogTruth(log=source.log), sees_everything=False)
    with pytest.raises(UserError, match="use reinsert here"):
        insert.plans(CONFIG, driven, "FRONT")
    with pytest.raises(UserError, match=r"sees no vehicle well .* leave insert out"):
        insert.plans(CONFIG, replace(source, log=replace(source.log, actors=())), "FRONT")
    with pytest.raises(UserError, match="insertions: 0"):
        replace(CONFIG, insertions=0)
    assert [plan.name for plan in insert.plans(replace(CONFIG, insertions=3), source, "FRONT")] == [f"FRONT-insert{n}" for n in range(3)]


def test_paths_are_of_three_kinds() -> None:
    drawn = [insert.drawn_path(generator(str(number))) for number in range(60)]
    ahead = [path.ego for path in drawn if path.ego is not None and path.ego.direction == "with"]
    oncoming = [path.ego for path in drawn if path.ego is not None and path.ego.direction == "against"]
    standing = [path.parked for path in drawn if path.parked is not None]
    assert min(len(ahead), len(oncoming), len(standing)) > 8
    assert all(8 <= one.ahead <= 16 for one in ahead)
    assert all(20 <= one.ahead <= 32 and one.speed is not None and 3 <= one.speed.values[0] <= 8 for one in oncoming)
    assert {one.yaw_deg for one in standing} == {0.0, 180.0}
    assert all(-2.8 <= one.left <= -2.0 or 3.6 <= one.left <= 4.4 for one in standing)


def test_the_light_is_the_streets_own_with_the_error_of_an_estimate() -> None:
    street = build_street(replace(STREET, width=64, height=40, seed=411))
    right = known_light(street)
    np.testing.assert_allclose(right.to_sun_world, street.sun.direction_world)
    assert right.sun_elevation_deg == pytest.approx(60.0)
    # A clear sky's sun is brighter than what the sky itself gives the ground.
    assert min(right.sun) > float(right.ambient(torch.tensor([[0.0, 0.0, 1.0]])).max()) > 0
    lights = [as_estimated(right, generator(str(number))) for number in range(200)]
    turned = np.array([light.sun_azimuth_deg - right.sun_azimuth_deg for light in lights])
    raised = np.array([light.sun_elevation_deg - right.sun_elevation_deg for light in lights])
    stops = np.log2([light.sun[0] / right.sun[0] for light in lights])
    assert 5 < turned.std() < 7
    assert 2.4 < raised.std() < 3.6
    assert 0.15 < stops.std() < 0.3
    assert np.abs(stops).max() <= 0.4
    assert as_estimated(right, generator("a")).to_sun_world == as_estimated(right, generator("a")).to_sun_world


def test_pictures_are_drawn_for_the_target_once(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle takes a second for a picture."""
    truth = shop.source.truth
    assert isinstance(truth, StreetTruth)
    trajectory = insert.degrade(shop, tmp_path / "degraded", camera="FRONT", number=0)
    drawn = []
    render = truth.street.render

    def counted(*args: object, **kwargs: object) -> object:
        drawn.append(kwargs)
        return render(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(truth.street, "render", counted)
    insert.write_target(shop, trajectory, tmp_path / "target", camera="FRONT", number=0)
    assert len(drawn) == len(trajectory)
    shot = trajectory.shots[0]
    own = render(shot, extra=drawn[0]["extra"], supersample=STREET.supersample)  # type: ignore[arg-type]
    np.testing.assert_array_equal(next(open_clip(tmp_path / "target").iter_rgb()), to_uint8(own.rgb))
    assert not partial_folder(tmp_path / "target").exists()
