"""Undistorted and resized logs: pictures must agree with projected points, and nothing may be black at the border."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from splatmend.datasets import Camera, CameraFrame, SceneLog
from splatmend.datasets.geometry import PoseTrack, largest_ideal_radius, pose, project
from splatmend.datasets.undistort import ideal_from_pixels, resized, undistorted, undistorted_camera

BARREL = Camera(
    name="barrel",
    width=320,
    height=200,
    focal_px=(180.0, 184.0),
    principal_px=(163.0, 97.5),
    distortion_model="opencv",
    distortion=(-0.25, 0.08, 0.002, -0.001, -0.01),
)
PINCUSHION = replace(BARREL, name="pincushion", distortion=(0.15, 0.02, 0.0, 0.0, 0.0))
FISHEYE = replace(
    BARREL, name="fisheye", focal_px=(170.0, 170.0), distortion_model="opencv_fisheye", distortion=(0.03, -0.01, 0.002, -0.0003)
)
CAMERAS = [BARREL, PINCUSHION, FISHEYE]


def dots(camera: Camera, xyz: np.ndarray) -> np.ndarray:
    """A picture of a blurred dot at each point's projection."""
    pixels, inside = project(camera, xyz)
    rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
    image = np.full((camera.height, camera.width), 40.0)
    for x, y in pixels[inside]:
        image += 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.0**2))
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def centroid(image: np.ndarray, near: np.ndarray, radius: int = 7) -> np.ndarray:
    x, y = np.floor(near).astype(int)
    window = image[y - radius : y + radius + 1, x - radius : x + radius + 1, 0].astype(float) - 40
    window = np.where(window > 20, window, 0)
    rows, columns = np.mgrid[y - radius : y + radius + 1, x - radius : x + radius + 1] + 0.5
    return np.array([(window * columns).sum(), (window * rows).sum()]) / window.sum()


def log_of(camera: Camera, image: np.ndarray) -> SceneLog:
    mask = image[..., 0] > 100
    frames = tuple(
        CameraFrame(
            camera=camera.name,
            index=index,
            start_us=index,
            end_us=index,
            world_from_camera_start=np.eye(4),
            world_from_camera_end=np.eye(4),
            read_image=lambda: image,
            masks={"bright": lambda: mask},
        )
        for index in range(2)
    )
    ego = PoseTrack(times_us=np.array([0]), world_from_body=pose(np.eye(3), np.zeros(3))[None])
    return SceneLog(
        log_id="dots",
        source="test",
        path=Path("dots"),
        cameras={camera.name: camera},
        frames=frames,
        sweeps=(),
        actors=(),
        ego=ego,
        metric=True,
    ).validate()


def grid(depth_m: float = 4.0) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(-2.0, 2.0, 5), np.linspace(-1.0, 1.0, 3))
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, depth_m)], axis=-1)


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)
def test_dots_lie_where_points_project_after_undistorting(camera: Camera) -> None:
    xyz = grid()
    log = undistorted(log_of(camera, dots(camera, xyz)))
    new = log.cameras[camera.name]
    assert new.distortion_model == "none"
    image = log.frames[1].read_image()
    pixels, _ = project(new, xyz)
    margin = (pixels > 10).all(axis=1) & (pixels < np.array([new.width, new.height]) - 10).all(axis=1)
    assert margin.sum() >= 6
    for pixel in pixels[margin]:
        np.testing.assert_allclose(centroid(image, pixel), pixel, atol=0.15)
    bright = log.frames[0].masks["bright"]()
    assert bright.dtype == np.bool_
    assert all(bright[int(y), int(x)] for x, y in pixels[margin])


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)
def test_the_border_comes_from_inside_and_nothing_is_wasted(camera: Camera) -> None:
    new = undistorted_camera(camera)

    def source_of_border(candidate: Camera) -> np.ndarray:
        x, y = np.meshgrid(np.linspace(0, candidate.width, 65), np.linspace(0, candidate.height, 65))
        rays = np.stack(
            [(x - candidate.principal_px[0]) / candidate.focal_px[0], (y - candidate.principal_px[1]) / candidate.focal_px[1]], -1
        )
        return project(camera, np.concatenate([rays, np.ones((65, 65, 1))], axis=-1))[0]

    inside = source_of_border(new)
    size = np.array([camera.width, camera.height])
    assert (inside > -0.01).all()
    assert (inside < size + 0.01).all()
    wider = source_of_border(replace(new, focal_px=(new.focal_px[0] * 0.99, new.focal_px[1] * 0.99)))
    assert (wider < 0).any() or (wider > size).any()


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)
def test_ideal_coordinates_invert_the_projection(camera: Camera) -> None:
    pixels = np.random.default_rng(0).uniform((5, 5), (camera.width - 5, camera.height - 5), (100, 2))
    ideal = ideal_from_pixels(camera, pixels)
    back, _ = project(camera, np.concatenate([ideal, np.ones((100, 1))], axis=1))
    np.testing.assert_allclose(back, pixels, atol=1e-6)


def test_projection_agrees_with_opencv() -> None:
    """OpenCV's own functions, whose first pixel's centre is at 0, as an independent source of both formulas."""
    xyz = grid() + np.array([0.1, -0.05, 0.0])
    matrix = BARREL.intrinsics
    expected, _ = cv2.projectPoints(xyz, np.zeros(3), np.zeros(3), matrix, np.array(BARREL.distortion))
    np.testing.assert_allclose(project(BARREL, xyz)[0], expected[:, 0], atol=1e-6)
    expected, _ = cv2.fisheye.projectPoints(xyz[:, None], np.zeros(3), np.zeros(3), FISHEYE.intrinsics, np.array(FISHEYE.distortion))
    np.testing.assert_allclose(project(FISHEYE, xyz)[0], expected[:, 0], atol=1e-6)


def test_points_far_aside_are_not_folded_into_the_picture() -> None:
    camera = replace(BARREL, distortion=(0.04, -0.33, 0.0, 0.0, 0.0))
    limit = largest_ideal_radius(camera)
    assert 1 + 3 * 0.04 * limit**2 - 5 * 0.33 * limit**4 == pytest.approx(0, abs=1e-9)
    pixels, inside = project(camera, np.array([[1.7, 0, 1.0], [0.5, 0, 1.0]]))  # the first would land at the second's side of the middle
    assert inside.tolist() == [False, True]
    assert np.isnan(pixels[0]).all()


def test_cameras_without_distortion_stay_as_they_are() -> None:
    plain = replace(BARREL, distortion_model="none", distortion=())
    log = log_of(plain, np.zeros((200, 320, 3), dtype=np.uint8))
    assert undistorted(log).frames[0] is log.frames[0]


def test_a_fisheye_beyond_half_a_sphere_is_cut_to_a_usable_field() -> None:
    wide = replace(FISHEYE, focal_px=(60.0, 60.0), distortion=(0.0, 0.0, 0.0, 0.0))
    new = undistorted_camera(wide)
    assert np.degrees(np.arctan(new.width / 2 / new.focal_px[0])) <= 60.01


@pytest.mark.parametrize(("change", "size"), [({"scale": 0.5}, (160, 100)), ({"width": 96}, (96, 60)), ({"max_width": 160}, (160, 100))])
def test_resized_dots_lie_where_points_project(change: dict[str, float], size: tuple[int, int]) -> None:
    camera = replace(BARREL, distortion_model="none", distortion=())
    xyz = grid()
    log = resized(log_of(camera, dots(camera, xyz)), **change)  # type: ignore[arg-type]
    new = log.cameras[camera.name]
    assert (new.width, new.height) == size
    image = log.frames[0].read_image()
    assert image.shape == (size[1], size[0], 3)
    pixels, _ = project(new, xyz)
    middle = pixels[np.linalg.norm(pixels - np.array(size) / 2, axis=1).argmin()]
    np.testing.assert_allclose(centroid(image, middle, radius=4), middle, atol=0.15)
    assert log.frames[0].masks["bright"]().shape == (size[1], size[0])


def test_resizing_takes_the_mean_and_never_enlarges_for_a_limit() -> None:
    camera = replace(BARREL, distortion_model="none", distortion=())
    checks = np.repeat((255 * (np.indices((200, 320)).sum(axis=0) % 2)).astype(np.uint8)[..., None], 3, axis=-1)
    log = log_of(camera, checks)
    assert np.abs(resized(log, scale=0.5).frames[0].read_image().astype(int) - 127).max() <= 1
    assert resized(log, max_width=4000).frames[0] is log.frames[0]
    with pytest.raises(ValueError, match="exactly one"):
        resized(log, width=10, scale=0.5)
