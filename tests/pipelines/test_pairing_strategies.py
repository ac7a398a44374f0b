"""Each strategy of the pair factory: what is fitted, what is rendered, and who cannot be served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.clip import Clip, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import to_uint8
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import StreetConfig
from splatmend.enhance.insertion import INSERTED
from splatmend.pipelines.evaluation.truth import StreetTruth
from splatmend.pipelines.pair_sources import PairSource, open_source
from splatmend.pipelines.pairing import cross_camera, cycle, inpaint, low_resolution, reinsert, shift, sparse, underfit
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.workshop import Workshop, snapshots
from splatmend.recon.fit.config import DensifyConfig, FitConfig, InitConfig
from splatmend.recon.references import references_of
from splatmend.recon.scene_files import load_scene
from splatmend.recon.trajectory import Trajectory

STREET = StreetConfig(
    duration_s=0.5, width=64, height=48, cameras=("FRONT", "FRONT_LEFT"), supersample=1, lidar_beams=8, lidar_columns=64, moving_cars=2,
    parked_cars=3,
)  # fmt: skip
FIT = FitConfig(
    iterations=6,
    sh_degree=0,
    sky_rows=8,
    init=InitConfig(point_count=300, ray_count=100, actor_count=50),
    densify=DensifyConfig(cap=500, actor_cap=60, start=5, every=5),
)
CONFIG = PairsConfig(strategies=("underfit",), every=(2,), shares=(0.5,), fit=FIT, street=STREET)


@pytest.fixture(scope="module")
def source() -> PairSource:
    return open_source("street:5", STREET)


@pytest.fixture(scope="module")
def shop(source: PairSource, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(source=source, config=CONFIG, fits=tmp_path_factory.mktemp("fits"), device="cpu")


def made(shop: Workshop, strategy: object, camera: str, out: Path, number: int = 0) -> tuple[Clip, Trajectory]:
    """The degraded clip of a strategy's plan."""
    plan = strategy.plans(shop.config, shop.source, camera)[number]  # type: ignore[attr-defined]
    trajectory = plan.degrade(shop, out)
    return open_clip(out), trajectory


def is_recorded(clip: Clip, source: PairSource, camera: str) -> bool:
    """Whether a clip shows all recorded shots of a camera at its full size."""
    frames = source.log.frames_of(camera)
    same = [
        f.shot is not None
        and f.shot.camera == source.log.cameras[camera]
        and np.allclose(f.shot.world_from_camera_start, g.world_from_camera_start, atol=1e-9)
        for f, g in zip(clip.frames, frames, strict=True)
    ]
    return all(same) and all(f.extra["source_index"] == g.index for f, g in zip(clip.frames, frames))


def test_sparse_fits_every_nth_frame_and_shows_all(shop: Workshop, source: PairSource, tmp_path: Path) -> None:
    clip, _ = made(shop, sparse, "FRONT", tmp_path / "clip")
    assert is_recorded(clip, source, "FRONT")
    roles = [recorded.role for recorded in load_scene(shop.fits / "sparse2").shots_of("FRONT")]
    assert roles == ["train", "left_out", "train", "left_out", "train"]
    with pytest.raises(UserError, match="of the 5 frames of FRONT every 50th is one frame, and a fit needs 2"):
        sparse.plans(replace(CONFIG, every=(50,)), source, "FRONT")


def test_underfit_looks_at_no_scene_that_has_just_faded() -> None:
    """Splitting fades all opacities now and then; right after it a scene shows next to nothing."""
    fitting = replace(FIT, iterations=1500, densify=replace(FIT.densify, strategy="classic", stop_share=0.8, start=100))
    config = replace(CONFIG, fit=fitting, shares=(0.1, 0.2, 0.25, 0.3, 0.4))
    assert snapshots(config) == (150, 299, 450, 599)
    assert snapshots(replace(config, fit=replace(fitting, densify=replace(fitting.densify, strategy="mcmc")))) == (150, 300, 375, 450, 600)


def test_underfit_shows_the_scene_half_way(shop: Workshop, source: PairSource, tmp_path: Path) -> None:
    clip, _ = made(shop, underfit, "FRONT", tmp_path / "clip")
    assert is_recorded(clip, source, "FRONT")
    assert shop.whole(3).facts["iterations"] == 3
    finished = shop.render(shop.whole(), shop.recorded("FRONT"), tmp_path / "finished")
    assert len(finished) == len(clip)
    pictures = [np.stack(list(open_clip(tmp_path / name).iter_rgb())).astype(int) for name in ("clip", "finished")]
    assert np.abs(pictures[0] - pictures[1]).max() > 0


def test_shift_stands_beside_the_path_and_needs_a_truth_there(shop: Workshop, source: PairSource, tmp_path: Path) -> None:
    clip, _ = made(shop, shift, "FRONT", tmp_path / "clip", number=1)
    last, recorded = clip.frames[-1].shot, source.log.frames_of("FRONT")[-1]
    assert last is not None
    away = last.world_from_camera[:3, 3] - recorded.world_from_camera[:3, 3]
    assert source.log.ego.at(last.mid_us)[:3, 1] @ away == pytest.approx(-2.0 * _eased(0.4 / 0.5), abs=0.05)
    with pytest.raises(UserError, match="needs a truth beside the path"):
        shift.plans(CONFIG, replace(source, sees_everything=False), "FRONT")


def _eased(share: float) -> float:
    return share * share * (3 - 2 * share)


def test_cycle_fits_renders_from_beside_and_comes_back(shop: Workshop, source: PairSource, tmp_path: Path) -> None:
    clip, _ = made(shop, cycle, "FRONT", tmp_path / "clip")
    assert is_recorded(clip, source, "FRONT")
    second = load_scene(shop.fits / "cycle-left2")
    assert set(second.cameras) == {"FRONT", "FRONT_LEFT"}  # all cameras are fitted from over there
    for recorded, frame in zip(second.shots_of("FRONT"), source.log.frames_of("FRONT"), strict=True):
        away = recorded.shot.world_from_camera[:3, 3] - frame.world_from_camera[:3, 3]
        assert np.linalg.norm(away) == pytest.approx(2.0, abs=1e-6)
        assert source.log.ego.at(frame.mid_us)[:3, 1] @ away == pytest.approx(2.0, abs=0.01)
    # What is fitted are renders of the first scene, not photos.
    log = cycle.log_from_beside(shop, shop.whole(), 2.0)
    seen = next(open_clip(shop.fits / "seen-left2-FRONT").iter_rgb())
    assert np.array_equal(next(frame for frame in log.frames if frame.camera == "FRONT").read_image(), seen)
    assert log.sweeps == source.log.sweeps
    # So are the references.
    references = references_of(second, log, 2)
    assert references is not None
    shot = clip.frames[2].shot
    assert shot is not None
    expected = references.of(shot)
    assert (expected[..., 3] == 255).any()
    np.testing.assert_array_equal(clip.read_references(2), expected)


def test_a_camera_is_shown_by_the_others(shop: Workshop, source: PairSource, tmp_path: Path) -> None:
    clip, _ = made(shop, cross_camera, "FRONT_LEFT", tmp_path / "clip")
    assert is_recorded(clip, source, "FRONT_LEFT")
    assert load_scene(shop.fits / "cross-FRONT_LEFT").cameras == ("FRONT",)
    assert clip.references == 2
    alone = replace(source, log=replace(source.log, cameras={"FRONT": source.log.cameras["FRONT"]}))
    with pytest.raises(UserError, match="fits the other cameras to show FRONT, and there is no other"):
        cross_camera.plans(CONFIG, alone, "FRONT")


def test_low_resolution_is_drawn_at_full_size(shop: Workshop, source: PairSource, tmp_path: Path) -> None:
    config = replace(CONFIG, reductions=(2.0,))
    clip, _ = made(replace(shop, config=config), low_resolution, "FRONT", tmp_path / "clip")
    assert is_recorded(clip, source, "FRONT")
    assert {shot.shot.camera.width for shot in load_scene(shop.fits / "low2").shots} == {32}
    layers = clip.read_references(2)
    assert layers is not None
    assert layers.shape == (2, 48, 64, 4)
    with pytest.raises(UserError, match="reduced 3 times would have 21x16 pixels, where 17 rows and columns are needed"):
        low_resolution.plans(CONFIG, source, "FRONT")


def test_an_actor_is_cut_out(shop: Workshop, source: PairSource, tmp_path: Path) -> None:
    names = [plan.name for plan in inpaint.plans(CONFIG, source, "FRONT")]
    assert names == ["FRONT-hole-actor", "FRONT-hole-region"]
    clip, trajectory = made(shop, inpaint, "FRONT", tmp_path / "clip")
    shop.render(shop.whole(), trajectory, tmp_path / "whole")
    actor = inpaint.actor_to_cut(source, "FRONT")
    assert actor is not None
    assert isinstance(source.truth, StreetTruth)
    label = 0
    cut_pixels = 0
    for index, (cut, whole, frame) in enumerate(zip(clip.iter_rgb(), open_clip(tmp_path / "whole").iter_rgb(), clip.frames)):
        mask, opacity = clip.read_channel(f"masks/{inpaint.MASK}", index), clip.read_channel("opacity", index)
        assert mask is not None
        assert opacity is not None
        assert (cut[mask] == inpaint.GREY).all()
        assert (opacity[mask] == 0).all()
        assert np.array_equal(cut[~mask], whole[~mask])
        assert frame.shot is not None
        seen = source.truth.street.render(frame.shot)
        without = source.truth.street.render(frame.shot, without=(actor.actor_id,))
        its_pixels = seen.ids != without.ids
        label += int(its_pixels.sum())
        cut_pixels += int((its_pixels & mask).sum())
    assert label > 20
    assert cut_pixels > 0.97 * label


def test_regions_drift_and_are_found_again(source: PairSource, shop: Workshop) -> None:
    shots = shop.recorded("FRONT")
    masks = inpaint.region_masks("street-5", shots)
    assert all(0.02 < mask.mean() < 0.25 for mask in masks)
    assert not np.array_equal(masks[0], masks[-1])
    assert all(np.array_equal(a, b) for a, b in zip(masks, inpaint.region_masks("street-5", shots)))
    assert not np.array_equal(masks[0], inpaint.region_masks("street-6", shots)[0])
    empty = replace(source, log=replace(source.log, actors=()))
    assert [plan.name for plan in inpaint.plans(CONFIG, empty, "FRONT")] == ["FRONT-hole-region"]
    with pytest.raises(UserError, match="FRONT sees no labelled actor"):
        inpaint.plans(replace(CONFIG, holes=("actor",)), empty, "FRONT")


@pytest.fixture(scope="module")
def sunny() -> PairSource:
    """A street whose cars cast shadows that a camera sees."""
    config = replace(STREET, duration_s=0.3, width=96, height=64, cameras=("FRONT",), weather="clear", sun_elevation_deg=65.0)
    return open_source("street:411", config)


def test_vehicles_are_put_back_under_another_light_and_without_a_shadow(sunny: PairSource, tmp_path: Path) -> None:
    shop = Workshop(source=sunny, config=CONFIG, fits=tmp_path / "fits", device="cpu")
    assert [plan.name for plan in reinsert.plans(CONFIG, sunny, "FRONT")] == ["FRONT-reinsert-naive", "FRONT-reinsert-relit"]
    naive, _ = made(shop, reinsert, "FRONT", tmp_path / "naive")
    relit, _ = made(shop, reinsert, "FRONT", tmp_path / "relit", number=1)
    names = read_manifest(naive.path, "clip").config["reinserted"]
    assert names == read_manifest(relit.path, "clip").config["reinserted"]
    assert isinstance(sunny.truth, StreetTruth)
    street = sunny.truth.street
    labels = [street.actor_label(name) for name in names]
    body, shadow, relit_shadow = [], [], []
    for index, (rgb, cast, frame) in enumerate(zip(naive.iter_rgb(), relit.iter_rgb(), naive.frames, strict=True)):
        assert frame.shot is not None
        truth, bare = (street.render(frame.shot, without=gone, supersample=1) for gone in ((), names))
        mask = naive.read_channel(f"masks/{INSERTED}", index)
        assert mask is not None
        np.testing.assert_array_equal(mask, np.isin(truth.ids, labels))
        np.testing.assert_array_equal(mask, relit.read_channel(f"masks/{INSERTED}", index))
        # Beside the vehicle the frame is as if there were none.
        np.testing.assert_array_equal(rgb[~mask], to_uint8(bare.rgb)[~mask])
        shaded = (np.abs(truth.rgb - bare.rgb).max(-1) > 0.1) & ~mask
        body.append(np.abs(rgb / 255.0 - truth.rgb)[mask].mean())
        shadow.append(np.abs(rgb / 255.0 - truth.rgb)[shaded].mean())
        relit_shadow.append(np.abs(cast / 255.0 - truth.rgb)[shaded].mean())
    assert np.mean(body) > 0.03
    assert np.mean(shadow) > 0.1
    assert np.mean(relit_shadow) < 0.8 * np.mean(shadow)


def test_vehicles_are_put_back_into_a_fit_that_never_saw_them(sunny: PairSource, tmp_path: Path) -> None:
    config = replace(CONFIG, grounds=("truth", "fit"), reinsertions=("naive",))
    shop = Workshop(source=sunny, config=config, fits=tmp_path / "fits", device="cpu")
    assert [plan.name for plan in reinsert.plans(config, sunny, "FRONT")] == ["FRONT-reinsert-naive", "FRONT-reinsert-naive-fit"]
    clip, trajectory = made(shop, reinsert, "FRONT", tmp_path / "clip", number=1)
    assert is_recorded(clip, sunny, "FRONT")
    names = read_manifest(clip.path, "clip").config["reinserted"]
    scene = load_scene(shop.fits / "bare-FRONT")
    assert not set(names) & set(scene.actors)
    assert isinstance(sunny.truth, StreetTruth)
    log = reinsert.log_without(sunny, "FRONT", names, reinsert.without(shop, "FRONT", names, trajectory))
    bare = sunny.truth.street.render(Shot.of(log.frames[1], log.cameras["FRONT"]), without=names, supersample=1)
    np.testing.assert_array_equal(log.frames[1].read_image(), to_uint8(bare.rgb))
    turn = sunny.truth.street.lidar_turn(1, names).points()
    np.testing.assert_array_equal(log.sweeps[1].read_points().xyz_world_m, turn.xyz_world_m)
    shop.render(scene, trajectory, tmp_path / "scene")
    for index, (rgb, seen) in enumerate(zip(clip.iter_rgb(), open_clip(tmp_path / "scene").iter_rgb(), strict=True)):
        mask = clip.read_channel(f"masks/{INSERTED}", index)
        assert mask is not None
        np.testing.assert_array_equal(rgb[~mask], seen[~mask])


def test_a_camera_without_vehicles_in_sight_has_none_to_put_back(source: PairSource) -> None:
    with pytest.raises(UserError, match="FRONT sees no vehicle well whose box"):
        reinsert.plans(CONFIG, replace(source, log=replace(source.log, actors=())), "FRONT")
