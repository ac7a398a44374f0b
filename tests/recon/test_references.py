"""References against a world whose pictures are known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from wall_world import CAMERA, STEP_US, WallWorld, camera_pose, hidden, recorded

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.raster.api import Model
from splatmend.recon.references import ReferenceConfig, References
from splatmend.recon.scene import RecordedShot, Role

RED = (1.0, 0.0, 0.0)


class Album:
    """A world's photos, which remembers what was asked for."""

    def __init__(self, world: WallWorld) -> None:
        self.world = world
        self.asked: list[tuple[str, int]] = []

    def __call__(self, shot: RecordedShot) -> np.ndarray:
        self.asked.append((shot.shot.camera.name, shot.frame_index))
        return self.world.photo(shot)


def errors(layer: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Mean difference over the colours of each pixel that a layer has, in steps of 8 bits."""
    return np.abs(layer[..., :3] - 255.0 * true).mean(-1)[layer[..., 3] == 255]


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_a_layer_shows_wall_and_sky_as_the_view_would(model: Model) -> None:
    world = WallWorld(model=model)
    shots = recorded([camera_pose(y) for y in (0.0, 1.0, 2.0)])
    view = Shot.still(CAMERA, camera_pose(0.6, x=0.4, yaw_deg=3.0), 50_000)
    layers = References(world.scene(shots), world.photo).of(view)
    assert layers.shape == (2, 48, 64, 4)
    assert layers.dtype == np.uint8
    true = world.picture(view)
    for layer in layers:
        seen = layer[..., 3] == 255
        assert set(np.unique(layer[..., 3])) <= {0, 255}
        assert not layer[~seen].any()
        assert seen.mean() > 0.85
        assert seen[:8].mean() > 0.7  # the sky
        assert np.median(errors(layer, true)) < 1.5
        assert (errors(layer, true) < 6).mean() > 0.96  # but for the wall's upper end
    # The photo itself, in its place, is something else.
    assert np.abs(world.photo(shots[1]) - 255.0 * true).mean() > 15


def test_rolling_shutter_and_distortion_are_followed() -> None:
    camera = replace(
        CAMERA, distortion_model="opencv", distortion=(-0.12, 0.02, 0.001, -0.001, 0.0), shutter="top_to_bottom", readout_us=50_000
    )
    world = WallWorld(model="ray")

    def rolling(y: float, start_us: int) -> Shot:
        return Shot(
            camera=camera,
            world_from_camera_start=camera_pose(y),
            world_from_camera_end=camera_pose(y + 0.8, x=0.3),
            start_us=start_us,
            end_us=start_us + 50_000,
        )

    shots = tuple(RecordedShot(shot=rolling(y, n * STEP_US), frame_index=n, role="train") for n, y in enumerate((0.0, 1.2)))
    view = replace(rolling(0.5, 30_000), world_from_camera_end=camera_pose(0.2))
    layers = References(world.scene(shots), world.photo).of(view)
    assert (layers[0, ..., 3] == 255).mean() > 0.85
    assert np.median(errors(layers[0], world.picture(view))) < 1.5
    assert (errors(layers[0], world.picture(view)) < 6).mean() > 0.97


def test_what_was_held_out_or_left_out_never_serves() -> None:
    world = WallWorld()
    album = Album(world)
    roles: tuple[Role, ...] = ("train", "held_out", "left_out", "train", "held_out", "train")
    shots = recorded([camera_pose(0.3 * n) for n in range(6)], roles)
    References(world.scene(shots), album, ReferenceConfig(candidates=6)).of(Shot.still(CAMERA, camera_pose(0.4), 150_000))
    assert sorted(album.asked) == [("front", 0), ("front", 3), ("front", 5)]
    none = recorded([camera_pose(0.3 * n) for n in range(2)], ("held_out", "held_out"))
    assert not References(world.scene(none), album).of(none[0].shot).any()


def test_a_frame_is_no_reference_of_its_own_view() -> None:
    world = WallWorld()
    album = Album(world)
    shots = recorded([camera_pose(0.3 * n) for n in range(3)])
    references = References(world.scene(shots), album)
    references.of(shots[1].shot)
    assert sorted(album.asked) == [("front", 0), ("front", 2)]
    # Five millimetres beside it, or at another time, it is.
    for other in (Shot.still(CAMERA, camera_pose(0.305), STEP_US), replace(shots[1].shot, start_us=1, end_us=1)):
        album.asked.clear()
        References(world.scene(shots), album).of(other)
        assert ("front", 1) in album.asked


def test_layers_are_in_the_order_of_closeness_and_frames_are_kept() -> None:
    world = WallWorld()
    album = Album(world)
    shots = recorded([camera_pose(0.4 * n) for n in range(6)])
    view = Shot.still(CAMERA, camera_pose(1.3), 0)
    one, two = (Album(replace(world, gains=gains)) for gains in ({3: 0.5}, {4: 0.5}))
    plain = References(world.scene(shots), album, ReferenceConfig(candidates=3)).of(view)
    assert sorted(album.asked) == [("front", 2), ("front", 3), ("front", 4)]
    dark = [References(world.scene(shots), photos).of(view)[..., :3].mean(axis=(1, 2, 3)) for photos in (one, two)]
    light = plain[..., :3].mean(axis=(1, 2, 3))
    assert dark[0][0] < 0.6 * light[0]
    assert dark[0][1] > 0.9 * light[1]
    assert dark[1][0] > 0.9 * light[0]
    assert dark[1][1] < 0.7 * light[1]
    kept = References(world.scene(shots), album, ReferenceConfig(candidates=3))
    album.asked.clear()
    for _ in range(3):
        kept.of(view)
    assert len(album.asked) == 3
    forgetful = References(world.scene(shots), album, ReferenceConfig(candidates=3, kept=1))
    album.asked.clear()
    assert np.array_equal(forgetful.of(view), plain)
    forgetful.of(view)
    assert len(album.asked) == 6


@pytest.mark.parametrize(("scale", "wall_top"), [(1.0, 2.5), (0.05, 2.5), (1.0, 0.3)])
def test_what_stands_before_wall_and_sky_is_not_painted_on_them(scale: float, wall_top: float) -> None:
    """Also in a scene without a scale, where 0.1 is farther than all of it."""
    world = WallWorld(plate_y=lambda t: 0.0, plate_rgb=RED, scale=scale, wall_top=wall_top)
    true = replace(world, scale=1.0)
    still = recorded([camera_pose(1.2), camera_pose(5.0)])
    view = Shot.still(CAMERA, camera_pose(-0.8), 50_000)
    scene = world.scene(world.scaled(still))
    layer = References(scene, world.photo, ReferenceConfig(layers=1)).of(world.scaled_shot(view))[0]
    seen = layer[..., 3] == 255
    plate = true.plate_mask(view, 0.2)
    picture = true.picture(view)
    assert np.median(errors(layer, picture)) < 1.5
    wrong = np.abs(layer[..., :3] - 255.0 * picture).mean(-1) > 25
    # Splats end softly: sky shows a pixel of the plate's rim, where most of what it hides would be wrong.
    assert (seen & wrong & ~plate).sum() <= (0 if wall_top > 1.5 else 25)
    lost = hidden(true, view, still[0].shot) & ~plate
    lost[: 24 - int(48 * wall_top / 8)] = False
    assert lost.sum() > 8
    assert (seen & lost).sum() < 0.1 * lost.sum()  # the other frame looks past it, to elsewhere
    inner = true.plate_mask(view, -0.2)
    assert (seen & inner & ~wrong).sum() > 0.8 * inner.sum()


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_a_moving_body_is_looked_up_where_it_was(model: Model) -> None:
    world = WallWorld(plate_y=lambda t: -1.0 + 2.0 * t / 1_000_000, plate_stands=False, model=model)
    shots = recorded([camera_pose(0.0)])
    view = Shot.still(CAMERA, camera_pose(0.3), 900_000)
    scene = world.scene(shots)
    layer = References(scene, world.photo, ReferenceConfig(layers=1)).of(view)[0]
    body = world.plate_mask(view, -0.2)
    assert (layer[body][:, 3] == 255).mean() > 0.8
    assert errors(layer, world.picture(view)).mean() < 4
    # Where it stood when the frame was taken, the frame knows nothing of the wall.
    lost = hidden(world, view, shots[0].shot) & ~world.plate_mask(view, 0.2)
    assert lost.sum() > 40
    assert not (layer[lost][:, 3] == 255).any()
    # Left out of the view, it is on no pixel; moved elsewhere, its picture goes with it.
    gone = References(scene, world.photo, ReferenceConfig(layers=1)).of(view, without=["plate"])[0]
    assert np.median(errors(gone, WallWorld(model=model).picture(view))) < 1.5
    assert (errors(gone, WallWorld(model=model).picture(view)) < 8).mean() > 0.97
    moved = WallWorld(plate_y=lambda t: -0.2 if t == 900_000 else -1.0, model=model)
    place = scene.actors["plate"].track.track.world_from_body[0].copy()
    place[1, 3] += 0.8
    elsewhere = References(scene, world.photo, ReferenceConfig(layers=1)).of(view, actor_poses=lambda name, t: place)[0]
    body = moved.plate_mask(view, -0.2)
    assert (elsewhere[body][:, 3] == 255).mean() > 0.8
    assert errors(elsewhere, moved.picture(view)).mean() < 4


def test_a_body_that_was_not_there_yet_has_no_reference() -> None:
    world = WallWorld(plate_y=lambda t: -1.0 + 2.0 * t / 1_000_000, plate_stands=False, plate_times_us=(800_000, 1_000_000))
    shots = recorded([camera_pose(0.0)])
    view = Shot.still(CAMERA, camera_pose(0.3), 900_000)
    layer = References(world.scene(shots), WallWorld().photo, ReferenceConfig(layers=1)).of(view)[0]
    assert not (layer[world.plate_mask(view, -0.1)][:, 3] == 255).any()
    assert (layer[~world.plate_mask(view, 0.3)][:, 3] == 255).mean() > 0.9


def test_the_recorded_exposure_is_taken_off_and_the_views_put_on() -> None:
    gains = torch.tensor([0.8, 1.2])
    deltas = torch.zeros(2, 3, 4)
    deltas[:, range(3), range(3)] = (gains - 1)[:, None]
    table = ExposureTable(cameras=("front", "front"), times_us=(0, STEP_US), deltas=deltas)
    world = WallWorld(gains={0: 0.8, 1: 1.2})
    shots = recorded([camera_pose(0.0), camera_pose(1.5)])
    view = Shot.still(CAMERA, camera_pose(0.2), STEP_US)  # near the darker frame, at the time of the lighter
    layer = References(world.scene(shots, table), world.photo, ReferenceConfig(layers=1, candidates=1)).of(view)[0]
    assert np.median(errors(layer, (1.2 * world.picture(view)).clip(0, 1))) < 2.5
    # A map that cannot be taken off leaves the colours as they were recorded.
    singular = table.with_deltas(torch.zeros(2, 3, 4))
    singular.deltas[0, :, :3] = -torch.eye(3)
    singular.deltas[1, :, :3] = torch.eye(3)
    left = References(world.scene(shots, singular), world.photo, ReferenceConfig(layers=1, candidates=1)).of(view)[0]
    assert np.median(errors(left, 0.8 * world.picture(view))) < 1.5


def test_another_camera_serves_where_it_adds_pixels() -> None:
    world = WallWorld()
    side = replace(CAMERA, name="side")
    away = replace(CAMERA, name="away")
    shots = (
        *recorded([camera_pose(0.1 * n) for n in range(5)]),
        *recorded([camera_pose(0.0, yaw_deg=45.0)], camera=side),
        *recorded([camera_pose(0.0, yaw_deg=-60.0)], camera=away),
    )
    album = Album(world)
    view = Shot.still(CAMERA, camera_pose(0.0, yaw_deg=25.0), 50_000)
    layer = References(world.scene(shots), album).of(view)[0]
    assert ("side", 0) in album.asked
    assert ("away", 0) not in album.asked
    assert (layer[..., 3] == 255).mean() > 0.9
    fronts = References(world.scene(shots[:5]), album).of(view)[0]
    assert (fronts[..., 3] == 255).mean() < 0.75
    assert np.median(errors(layer, world.picture(view))) < 1.5


def test_untrusted_pixels_are_not_shown() -> None:
    world = WallWorld()
    shots = recorded([camera_pose(0.0)])

    def photo(shot: RecordedShot) -> np.ndarray:
        alpha = np.full((48, 64, 1), 255, np.uint8)
        alpha[:, :32] = 0
        return np.concatenate([world.photo(shot), alpha], axis=2)

    layer = References(world.scene(shots), photo).of(Shot.still(CAMERA, camera_pose(0.0), 5))[0]
    assert not layer[:, :32].any()
    assert (layer[:, 33:, 3] == 255).mean() > 0.9


@pytest.mark.parametrize(
    "fault",
    [
        {"layers": 0},
        {"layers": 3, "candidates": 2},
        {"slack_share": 1.0},
        {"slack": -0.1},
        {"slack": float("inf")},
        {"least_gain": 2.0},
        {"kept": 0},
    ],
)
def test_settings_that_cannot_be_are_refused(fault: dict) -> None:
    with pytest.raises(UserError, match=r"reference settings: \w+ must"):
        ReferenceConfig(**fault)


def test_pictures_of_another_size_than_the_views_are_looked_up() -> None:
    world = WallWorld()
    large: Camera = CAMERA.resized(128, 96)
    shots = recorded([camera_pose(0.0), camera_pose(1.0)])
    view = Shot.still(large, camera_pose(0.4), 5)
    layer = References(world.scene(shots), world.photo).of(view)[0]
    assert layer.shape == (96, 128, 4)
    assert np.median(errors(layer, world.picture(view))) < 2.5
