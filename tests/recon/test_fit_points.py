from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from tiny_log import ORIGIN_M, tiny_log, true_scene

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import inverse, pose, project, transform
from splatmend.datasets.log import ActorTrack, CameraFrame, SceneLog, SfmPoints
from splatmend.recon.fit.config import DensifyConfig, FitConfig, InitConfig
from splatmend.recon.fit.data import recorded_shots
from splatmend.recon.fit.points import ColouredPoints, Voxels, _grouped, lidar_points, scene_extent, sfm_points, thinned
from splatmend.recon.fit.rays import ray_points
from splatmend.recon.fit.seeding import neighbour_sigma, seed_scene
from splatmend.recon.harmonics import C0


def test_points_in_a_box_become_the_actor_and_leave_the_background() -> None:
    log, scene = tiny_log(6), true_scene(6)
    background, actors = lidar_points(log, log.frames, InitConfig(voxel_m=0.01))
    car = actors["car/1"]
    truth = scene.actors["car/1"].gaussians.means.double().numpy()
    assert (np.abs(car.xyz) <= [1.25, 0.75, 0.65]).all()
    # Six scans of the same car lie on one another in its own frame, though it moved 2 m, and the road under it is not among them.
    assert np.quantile(cKDTree(truth).query(car.xyz)[0], 0.99) < 0.02
    reddest = car.rgb[car.rgb[:, 0] > 0.6]
    assert len(reddest) > 0.5 * len(car)
    for frame in log.frames:
        inside = (np.abs(transform(inverse(log.actors[0].world_from_actor(frame.mid_us)), background.xyz)) < [1.1, 0.6, 0.5]).all(axis=1)
        assert inside.mean() < 0.02


def test_background_points_lie_in_the_world_with_the_colours_of_the_pictures() -> None:
    log = tiny_log(4)
    background, _ = lidar_points(log, log.frames, InitConfig(voxel_m=0.01))
    distance, _ = cKDTree(true_scene(4).background.gaussians.means.double().numpy()).query(background.xyz - ORIGIN_M)
    assert np.quantile(distance, 0.99) < 0.05
    road = np.abs(background.xyz[:, 2] - ORIGIN_M[2]) < 0.01
    assert abs(background.rgb[road].mean() - 0.38) < 0.1


def test_thinning_is_coarser_far_away() -> None:
    random = np.random.default_rng(0)
    near = random.uniform(0, 1, (4000, 3))
    points = ColouredPoints(xyz=np.concatenate([near, near + np.array([100.0, 0, 0])]), rgb=np.concatenate([near, near]))
    kept = thinned(points, cKDTree(np.zeros((1, 3))), 0.1)
    close, far = kept.select(kept.xyz[:, 0] < 50), kept.select(kept.xyz[:, 0] > 50)
    assert 900 < len(close) <= 1331
    assert len(far) <= 8
    np.testing.assert_allclose(far.rgb.mean(), 0.5, atol=0.1)


@pytest.mark.parametrize("reach", [3, 2**40])
def test_thinning_groups_places_however_far_apart_they_are(reach: int) -> None:
    random = np.random.default_rng(0)
    keys = random.integers(-reach, reach, (500, 4))[random.integers(200, size=2000)]
    place, counts = _grouped(keys)
    _, expected, expected_counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(place, expected.reshape(-1))
    np.testing.assert_array_equal(counts, expected_counts)


def test_a_long_way_leaves_a_fair_share_of_its_voxels_and_the_same_ones_in_every_sweep() -> None:
    places = np.random.default_rng(0).uniform(0, 40, (20_000, 3)) * [1, 1, 0]
    colours = np.broadcast_to(places[:, :1] / 40, places.shape)
    centres = cKDTree(np.array([[20.0, 20.0, 0.0]]))
    whole = thinned(ColouredPoints(xyz=places, rgb=colours), centres, 0.2)
    voxels = Voxels(centres, 0.2, 4_000)
    for part in np.array_split(np.tile(np.arange(len(places)), 3), 60):
        voxels.add(ColouredPoints(xyz=places[part], rgb=colours[part]))
    left = voxels.points()
    assert 1_800 < len(left) <= 4_000 < len(whole)
    # What is left are (nearly) the means of whole voxels, not of what one sweep shows of them, and evenly spread.
    assert np.median(cKDTree(whole.xyz).query(left.xyz)[0]) < 0.03
    voxels.add(ColouredPoints(xyz=places, rgb=colours))
    assert abs(len(voxels.points()) - len(left)) < 0.03 * len(left)
    counts = np.histogram2d(left.xyz[:, 0], left.xyz[:, 1], bins=2)[0]
    assert counts.min() > 0.8 * counts.max()
    assert len(_all(centres, places, colours)) == len(whole)
    # What voxels left out does not come back, and what lies elsewhere comes with the same share.
    left = voxels.points()
    assert len(voxels.with_missing(whole)) < 1.02 * len(left)
    aside = thinned(ColouredPoints(xyz=places + np.array([40.0, 0.0, 0.0]), rgb=colours), centres, 0.2)
    coming = len(voxels.with_missing(aside)) - len(left)
    assert coming / len(aside) == pytest.approx(len(left) / len(whole), rel=0.2)


def _all(centres: cKDTree, places: np.ndarray, colours: np.ndarray) -> ColouredPoints:
    voxels = Voxels(centres, 0.2, 1_000_000)
    voxels.add(ColouredPoints(xyz=places, rgb=colours))
    return voxels.points()


def test_rays_avoid_known_points_and_stop_at_the_road() -> None:
    log = tiny_log(4)
    generator = np.random.default_rng(0)
    free = ray_points(log, log.frames, np.zeros((0, 3)), 2000, (3.0, 100.0), generator)
    assert len(free.points) == 2000
    assert (free.points.xyz[:, 2] - ORIGIN_M[2]).min() > -1.2
    known, _ = lidar_points(log, log.frames, InitConfig())
    left = ray_points(log, log.frames, known.xyz, 2000, (3.0, 100.0), generator)
    height = [np.median((found.points.xyz - ORIGIN_M)[:, 2]) for found in (free, left)]
    assert height[1] > height[0] + 0.5
    assert (left.sigma > 0).all()


def test_without_lidar_structure_from_motion_and_rays_seed_the_scene() -> None:
    log = replace(tiny_log(4), sweeps=(), actors=(), metric=False)
    xyz = np.random.default_rng(0).uniform(0, 5, (100, 3)) + ORIGIN_M
    xyz[7] += 1e5
    sfm = replace(log, read_sfm_points=lambda: SfmPoints(xyz_world_m=xyz, rgb=np.full((100, 3), 51, np.uint8)))
    found = sfm_points(sfm, sfm.frames)
    assert len(found) == 99
    np.testing.assert_allclose(found.rgb, 0.2)
    config = FitConfig(init=InitConfig(ray_count=300))
    assert len(seed_scene(sfm, recorded_shots(sfm, config.data), config).background.gaussians) == 399
    assert len(seed_scene(log, recorded_shots(log, config.data), config).background.gaussians) == 300


def test_seeding_is_reproducible_and_lies_around_a_local_origin() -> None:
    log, config = tiny_log(4), FitConfig(init=InitConfig(ray_count=200, point_count=300))
    first, second = (seed_scene(log, recorded_shots(log, config.data), config) for _ in range(2))
    assert (first.background.gaussians.means == second.background.gaussians.means).all()
    assert len(first.background.gaussians) == 500
    assert float(first.background.gaussians.means.abs().max()) < 300
    assert "car/1" in first.actors


def _parked(actor: ActorTrack) -> ActorTrack:
    still = np.repeat(actor.track.world_from_body[:1], len(actor.track.times_us), axis=0)
    return replace(actor, track=replace(actor.track, world_from_body=still))


def test_a_standing_actor_with_few_points_stays_in_the_background() -> None:
    config = FitConfig(init=InitConfig(min_actor_points=100_000))
    log = tiny_log(3)
    log = replace(log, actors=(_parked(log.actors[0]),))
    assert seed_scene(log, recorded_shots(log, config.data), config).actors == {}


def test_a_moving_actor_without_points_begins_with_its_box() -> None:
    """Red as in the pictures, on all its sides and nowhere else; not where no picture shows it."""
    config = FitConfig(init=InitConfig(point_count=300, ray_count=100))
    log = replace(tiny_log(8), sweeps=())
    shots = recorded_shots(log, config.data)
    (car,) = log.actors
    behind = replace(
        car,
        actor_id="behind",
        track=replace(car.track, world_from_body=car.track.world_from_body @ pose(np.eye(3), np.array([-40.0, 0, 0]))),
    )
    scene = seed_scene(replace(log, actors=(car, behind)), shots, config)
    assert list(scene.actors) == [car.actor_id]
    gaussians = scene.actors[car.actor_id].gaussians
    beside = gaussians.means.abs() / (torch.tensor(car.size_m) / 2)
    assert float(beside.max()) <= 0.9 + 1e-6
    assert float((beside.max(dim=1).values - 0.9).abs().max()) < 1e-6
    assert all(int((gaussians.means[:, axis] * side > 0.44 * car.size_m[axis]).sum()) > 15 for axis in range(3) for side in (-1, 1))
    red, green, _ = (0.5 + C0 * gaussians.sh[:, 0]).median(dim=0).values.tolist()
    assert red > 0.5
    assert green < 0.3
    capped = replace(config, densify=DensifyConfig(actor_cap=50))
    assert len(seed_scene(log, shots, capped).actors[car.actor_id].gaussians) == 50


def test_extent_and_spacing() -> None:
    frames = tiny_log(12).frames
    assert scene_extent(frames, metric=True) == 5.0
    assert abs(scene_extent(frames, metric=False) - 1.1 * 1.375 * np.hypot(1, 0.08)) < 1e-3
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0), [0.0]), axis=-1).reshape(-1, 3)
    np.testing.assert_allclose(neighbour_sigma(grid).max(), (1 + 1 + np.sqrt(2)) / 3, atol=1e-9)


def test_no_node_begins_with_more_gaussians_than_its_cap() -> None:
    log = tiny_log(4)
    config = FitConfig(init=InitConfig(ray_count=200, point_count=300), densify=DensifyConfig(cap=70, actor_cap=30))
    scene = seed_scene(log, recorded_shots(log, config.data), config)
    assert len(scene.background.gaussians) == 70
    assert len(scene.actors["car/1"].gaussians) == 30
    again = seed_scene(log, recorded_shots(log, config.data), config)
    assert torch.equal(again.background.gaussians.means, scene.background.gaussians.means)


def test_points_alone_are_enough_and_none_are_refused() -> None:
    log = tiny_log(4)
    config = FitConfig(init=InitConfig(point_count=1, ray_count=0))
    assert len(seed_scene(log, recorded_shots(log, config.data), config).background.gaussians) == 1
    with pytest.raises(UserError, match="no point to begin the fit with"):
        seed_scene(replace(log, sweeps=(), actors=()), recorded_shots(log, config.data), config)


def test_no_colour_is_taken_from_pixels_that_say_nothing_of_the_scene() -> None:
    """A green mask over the right half: a bonnet."""
    log = tiny_log(4)

    def painted(frame: CameraFrame) -> CameraFrame:
        picture = frame.read_image().copy()
        picture[:, 32:] = [0, 255, 0]
        valid = np.ones(picture.shape[:2], dtype=bool)
        valid[:, 32:] = False
        return replace(frame, read_image=lambda: picture, masks={"valid": lambda: valid})

    def greens(log: SceneLog) -> int:
        background, actors = lidar_points(log, log.frames, InitConfig(voxel_m=0.01))
        rays = ray_points(log, log.frames, np.zeros((0, 3)), 500, (3.0, 20.0), np.random.default_rng(0))
        assert len(background) > 50
        assert len(rays.points) > 100
        found = [background, *actors.values(), rays.points]
        return sum(int((points.rgb == [0, 1, 0]).all(axis=1).sum()) for points in found)

    spoilt = replace(log, frames=tuple(painted(frame) for frame in log.frames))
    unmasked = replace(spoilt, frames=tuple(replace(frame, masks={}) for frame in spoilt.frames))
    assert greens(unmasked) > 100
    assert greens(spoilt) == 0


def test_points_take_their_colours_from_the_picture_of_the_middle_of_their_turn() -> None:
    log = tiny_log(4)
    colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]
    frames = [replace(frame, read_image=lambda c=colours[i]: np.tile(np.uint8(c), (48, 64, 1))) for i, frame in enumerate(log.frames)]
    second = replace(log, frames=tuple(frames), sweeps=log.sweeps[1:2])
    background, _ = lidar_points(second, second.frames, InitConfig(voxel_m=0.01))
    assert (background.rgb == [0, 1, 0]).all()


def _one_coloured(frame: CameraFrame, rgb: list[int]) -> CameraFrame:
    return replace(frame, read_image=lambda: np.tile(np.uint8(rgb), (48, 64, 1)))


def test_pictures_near_in_time_come_before_those_of_a_camera_that_is_missing() -> None:
    """The first camera has one red picture, 0.6 s before the sweep; the second, which looks the same way, a green one at its time."""
    log = tiny_log(8)
    cameras = {name: replace(log.cameras["front"], name=name) for name in ("front", "spare")}
    frames = (_one_coloured(log.frames[0], [255, 0, 0]), replace(_one_coloured(log.frames[6], [0, 255, 0]), camera="spare"))
    background, actors = lidar_points(replace(log, cameras=cameras, sweeps=log.sweeps[6:7]), frames, InitConfig(voxel_m=0.01))
    _, shown = project(cameras["spare"], transform(inverse(frames[1].world_from_camera), background.xyz))
    assert shown.sum() > 50
    assert (background.rgb[shown] == [0, 1, 0]).all()
    # Beside and behind the second camera only the first one sees what stands.
    assert (~shown).sum() > 10
    assert (background.rgb[~shown] == [1, 0, 0]).all()
    assert (actors["car/1"].rgb == [0, 1, 0]).all()


def test_what_moves_takes_no_colour_from_a_picture_far_away_in_time() -> None:
    log = tiny_log(8)
    far = replace(log, sweeps=log.sweeps[6:7])
    background, actors = lidar_points(far, log.frames[:1], InitConfig(voxel_m=0.01))
    assert len(background) > 100
    assert not actors
    assert "car/1" in lidar_points(far, log.frames[1:2], InitConfig(voxel_m=0.01))[1]


def test_places_that_a_picture_ever_sees_near_in_time_take_no_colour_from_afar() -> None:
    """The first sweep has a red picture at its time; the other only a green one 0.8 s later, which shows most of the same places."""
    log = tiny_log(21)
    frames = (_one_coloured(log.frames[0], [255, 0, 0]), _one_coloured(log.frames[20], [0, 255, 0]))
    near, both = (
        lidar_points(replace(log, sweeps=sweeps, actors=()), frames, InitConfig(voxel_m=0.01))[0]
        for sweeps in (log.sweeps[:1], (log.sweeps[0], log.sweeps[12]))
    )
    red, green = ((both.rgb == colour).all(axis=1) for colour in ([1, 0, 0], [0, 1, 0]))
    assert (red | green).all()
    assert red.sum() == len(near) > 100
    assert green.sum() > 10


def test_few_points_of_a_body_that_goes_away_are_no_background() -> None:
    log = tiny_log(6)
    config = FitConfig(init=InitConfig(point_count=10_000, ray_count=0, min_actor_points=10_000, voxel_m=0.01))
    shots = recorded_shots(log, config.data)
    car = log.actors[0]

    def in_its_way(log: SceneLog) -> int:
        scene = seed_scene(log, shots, config)
        assert bool(scene.actors) == (log.actors[0] is car)
        xyz = scene.background.gaussians.means.double().numpy() + scene.background.origin_world_m
        middle = log.actors[0].world_from_actor(250_000) if log.actors else car.world_from_actor(250_000)
        return int((np.abs(transform(inverse(middle), xyz)) < [1.0, 0.5, 0.4]).all(axis=1).sum())

    assert in_its_way(log) == 0
    assert in_its_way(replace(log, actors=(_parked(car),))) > 0
