"""What the street's oracle says must agree with its labels, its LiDAR and itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, inverse, pose, project, transform
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import OracleImage, Street, StreetConfig, Sun, build_street
from splatmend.datasets.street.rays import pixel_directions

CONFIG = StreetConfig(
    seed=5, duration_s=0.5, width=120, height=72, moving_cars=3, parked_cars=4, lidar_beams=24, lidar_columns=256, weather="clear"
)


@pytest.fixture(scope="module")
def street() -> Street:
    return build_street(CONFIG)


@pytest.fixture(scope="module")
def image(street: Street) -> OracleImage:
    return street.render(street.shot("FRONT", 1))


def points_of(shot: Shot, depth_m: np.ndarray) -> np.ndarray:
    """World points `[H, W, 3]` of a global-shutter picture's depth."""
    x, y = np.meshgrid(np.arange(shot.camera.width) + 0.5, np.arange(shot.camera.height) + 0.5)
    in_camera = pixel_directions(shot.camera, np.stack([x, y], -1)) * np.where(np.isfinite(depth_m), depth_m, 0)[..., None]
    return transform(shot.world_from_camera, in_camera)


def largest_actor(image: OracleImage) -> int:
    counts = np.bincount(image.ids.ravel())
    counts[:2] = 0
    return int(counts.argmax())


def test_channels_have_their_shapes_and_ranges(image: OracleImage) -> None:
    assert image.rgb.shape == image.albedo.shape == image.normals_world.shape == (72, 120, 3)
    assert image.rgb.dtype == np.float32
    assert image.ids.dtype == np.int32
    assert 0 <= image.rgb.min() < 0.2
    assert 0.6 < image.rgb.max() <= 1
    sky = image.ids == 0
    assert 0.02 < sky.mean() < 0.7
    assert np.isinf(image.depth_m[sky]).all()
    assert np.isfinite(image.depth_m[~sky]).all()
    assert np.allclose(np.linalg.norm(image.normals_world[~sky], axis=-1), 1, atol=1e-4)
    assert 0.02 < image.shadow[~sky].mean() < 0.98


def test_the_same_seed_is_bit_equal_and_others_differ(image: OracleImage) -> None:
    again = build_street(CONFIG)
    assert np.array_equal(again.render(again.shot("FRONT", 1)).rgb, image.rgb)
    other = build_street(replace(CONFIG, seed=6))
    seen = other.render(other.shot("FRONT", 1))
    assert np.abs(seen.rgb - image.rgb).mean() > 0.05
    assert (seen.ids != image.ids).mean() > 0.05


def test_lidar_points_lie_on_the_depth(street: Street) -> None:
    shot = Shot.still(street.cameras["FRONT"], street.shot("FRONT", 1).world_from_camera, street.shot("FRONT", 1).mid_us)
    depth = street.render(shot, supersample=1, without=[actor.actor_id for actor in street.actors]).depth_m
    turn = street.lidar_turn(1, without=[actor.actor_id for actor in street.actors])
    in_camera = transform(inverse(shot.world_from_camera), turn.points().xyz_world_m)
    pixels, inside = project(shot.camera, in_camera)
    column, row = np.floor(pixels[inside]).astype(int).T
    seen, z = depth[row, column], in_camera[inside, 2]
    assert inside.sum() > 200
    # Sensor and camera sit half a foot apart and a pixel is wide at a distance: most points agree closely.
    assert np.median(np.abs(seen - z) / z) < 0.03


def test_boxes_hold_their_cars(street: Street, image: OracleImage) -> None:
    shot = street.shot("FRONT", 1)
    world = points_of(shot, image.depth_m)
    found = 0
    for actor in street.actors:
        mask = image.ids == street.actor_label(actor.actor_id)
        if not mask.any():
            continue
        found += 1
        inside = np.abs(transform(inverse(actor.world_from_actor(shot.mid_us)), world[mask]))
        assert (inside <= 0.5 * np.array(actor.size_m) + 2e-3).all()
    assert found >= 2
    turn = street.lidar_turn(1)
    for actor in street.actors:
        row, column = np.nonzero(turn.labels == street.actor_label(actor.actor_id))
        vehicle = turn.directions_vehicle[row, column] * turn.range_m[row, column, None] + [1.43, 0, 2.184]
        world_points = transform(turn.world_from_vehicle[column], vehicle)
        local = transform(inverse(actor.track.at(turn.column_time_us[column])), world_points)
        assert (np.abs(local) <= 0.5 * np.array(actor.size_m) + 2e-3).all()


def test_without_an_actor_only_its_surroundings_change(street: Street, image: OracleImage) -> None:
    label = largest_actor(image)
    actor = next(actor for actor in street.actors if street.actor_label(actor.actor_id) == label)
    shot = street.shot("FRONT", 1)
    empty = street.render(shot, without=[actor.actor_id])
    assert not (empty.ids == label).any()
    elsewhere = image.ids != label
    assert np.array_equal(empty.depth_m[elsewhere], image.depth_m[elsewhere])
    assert (empty.depth_m[~elsewhere] > image.depth_m[~elsewhere]).all()
    # Light far from the car (beyond its shadow and its contact shade) is the same.
    distance = np.linalg.norm(points_of(shot, image.depth_m) - actor.world_from_actor(shot.mid_us)[:3, 3], axis=-1)
    far = (distance > 12) & (image.ids != 0) & elsewhere
    assert np.abs(empty.rgb - image.rgb).max(-1)[far].mean() < 1e-3
    assert np.abs(empty.rgb - image.rgb).max(-1)[~elsewhere].mean() > 0.02
    with pytest.raises(KeyError):
        street.render(shot, without=["nobody"])


def test_an_extra_body_appears_with_its_colour_and_shadow(street: Street) -> None:
    shot = street.shot("FRONT", 1)
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.8)
    ball.visual.vertex_colors = np.tile(np.array([[255, 0, 0, 255]], dtype=np.uint8), (len(ball.vertices), 1))
    middle = transform(shot.world_from_camera, np.array([0.0, 1.2, 8.0]))
    track = PoseTrack(times_us=np.array([shot.start_us]), world_from_body=pose(np.eye(3), middle)[None])
    seen = street.render(shot, extra=[(ball, track)])
    mask = seen.ids == 2 + len(street.actors)
    assert mask.sum() > 50
    assert (seen.albedo[mask][:, 0] > 5 * seen.albedo[mask][:, 1]).mean() > 0.8
    assert np.abs(seen.depth_m[mask].min() - 7.2) < 0.15
    plain = street.render(shot)
    assert np.abs(seen.shadow - plain.shadow)[~mask].sum() > 1


def test_sun_and_exposure_change_light_alone(street: Street, image: OracleImage) -> None:
    shot = street.shot("FRONT", 1)
    turned = street.render(shot, sun=Sun(azimuth_rad=street.sun.azimuth_rad + 2.5, elevation_rad=0.9))
    assert np.array_equal(turned.depth_m, image.depth_m)
    assert np.allclose(turned.albedo, image.albedo)
    assert np.abs(turned.shadow - image.shadow).mean() > 0.02
    darker = street.render(shot, exposure=0.5)
    assert np.array_equal(darker.shadow, image.shadow)
    assert darker.rgb.mean() < 0.85 * image.rgb.mean()


def test_rolling_shutter_sees_movers_later_from_row_to_row(street: Street) -> None:
    still = street.shot("FRONT", 1)
    mesh = trimesh.creation.box((0.3, 0.3, 3.0))
    start = transform(still.world_from_camera, np.array([-1.0, 0.0, 6.0]))
    right = still.world_from_camera[:3, 0]
    times = np.array([still.start_us, still.start_us + 60_000])
    track = PoseTrack(times_us=times, world_from_body=np.stack([pose(np.eye(3), start), pose(np.eye(3), start + 1.2 * right)]))
    camera = replace(still.camera, shutter="top_to_bottom", readout_us=60_000)
    rolling = Shot(
        camera=camera,
        world_from_camera_start=still.world_from_camera,
        world_from_camera_end=still.world_from_camera,
        start_us=int(times[0]),
        end_us=int(times[1]),
    )
    others = [actor.actor_id for actor in street.actors]
    label = 2 + len(street.actors)

    def middles(shot: Shot) -> dict[int, float]:
        ids = street.render(shot, extra=[(mesh, track)], without=others, supersample=1).ids
        return {row: float(np.nonzero(ids[row] == label)[0].mean()) for row in range(ids.shape[0]) if (ids[row] == label).sum() > 2}

    leaning = middles(rolling)
    rows = sorted(leaning)
    slope = np.polyfit(rows, [leaning[row] for row in rows], 1)[0]
    # 1.2 m at 6 m over the whole readout, in pixels per row.
    expected = 1.2 / 6.0 * camera.focal_px[0] / camera.height
    assert slope == pytest.approx(expected, rel=0.2)
    upright = middles(Shot.still(still.camera, still.world_from_camera, int(times[0])))
    assert abs(np.polyfit(sorted(upright), [upright[row] for row in sorted(upright)], 1)[0]) < 0.15 * expected


def test_a_distorted_camera_sees_points_where_projection_puts_them(street: Street) -> None:
    still = street.shot("FRONT", 1)
    camera = replace(still.camera, distortion_model="opencv", distortion=(-0.25, 0.06, 0.002, -0.001, 0.0))
    shot = Shot.still(camera, still.world_from_camera, still.mid_us)
    place = transform(shot.world_from_camera, np.array([-2.6, 0.9, 6.0]))
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.3)
    track = PoseTrack(times_us=np.array([shot.start_us]), world_from_body=pose(np.eye(3), place)[None])
    others = [actor.actor_id for actor in street.actors]
    row, column = np.nonzero(street.render(shot, extra=[(ball, track)], without=others, supersample=1).ids == 2 + len(street.actors))
    expected, _ = project(camera, np.array([-2.6, 0.9, 6.0]))
    straight, _ = project(still.camera, np.array([-2.6, 0.9, 6.0]))
    assert np.hypot(column.mean() + 0.5 - expected[0], row.mean() + 0.5 - expected[1]) < 0.6
    assert np.hypot(*(straight - expected)) > 2.0


def test_exposure_drifts_when_asked() -> None:
    street = build_street(replace(CONFIG, exposure_drift=1.0, duration_s=1.0))
    factors = [street.recorded_exposure("FRONT", street.shot("FRONT", frame).mid_us) for frame in range(10)]
    assert max(factors) > 1.5
    assert min(factors) < 0.67


@pytest.mark.parametrize(
    "fault",
    [
        {"width": 4},
        {"cameras": ("SIDE",)},
        {"readout_us": 95_000},
        {"sun_elevation_deg": 1.0},
        {"sun_azimuth_deg": float("nan")},
        {"duration_s": 0.1},
        {"duration_s": float("nan")},
        {"rate_hz": 60.0},
        {"seed": -1},
        {"exposure_drift": float("nan")},
        {"exposure_drift": 1e6},
        {"supersample": 0},
    ],
)
def test_settings_that_make_no_street_are_refused(fault: dict[str, object]) -> None:
    with pytest.raises(UserError, match="street"):
        replace(CONFIG, **fault)  # type: ignore[arg-type]


def test_side_cameras_look_to_the_sides() -> None:
    """As the five of Waymo's vehicles do."""
    street = build_street(replace(CONFIG, cameras=("FRONT", "SIDE_LEFT", "SIDE_RIGHT"), lidar_beams=2, lidar_columns=16))
    ahead, left, right = (street.shot(name, 1).world_from_camera[:3, 2] for name in ("FRONT", "SIDE_LEFT", "SIDE_RIGHT"))
    assert np.cross(ahead, left)[2] > 0.99
    assert np.cross(ahead, right)[2] < -0.99
    ids = street.render(street.shot("SIDE_LEFT", 1), supersample=1).ids
    assert (ids > 0).mean() > 0.3, "houses and the kerb stand there"
