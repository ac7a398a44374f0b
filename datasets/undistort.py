"""Cameras without distortion, and pictures of another size: logs whose pictures are changed as they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import distort
from splatmend.datasets.log import Camera, CameraFrame, SceneLog

MAX_HALF_ANGLE_RAD = np.radians(60.0)
_BORDER_STEPS = 128


def ideal_from_pixels(camera: Camera, pixels: np.ndarray, iterations: int = 20) -> np.ndarray:
    """Undistorted normalised coordinates `[N, 2]` of pixels `[N, 2]`: the inverse of the camera's projection, by Newton's method."""
    target = (np.asarray(pixels, dtype=np.float64) - np.asarray(camera.principal_px)) / np.asarray(camera.focal_px)
    if camera.distortion_model == "none":
        return target
    xy = target.copy()
    step = 1e-6
    right, down = np.array([step, 0.0]), np.array([0.0, step])
    for _ in range(iterations):
        error = distort(camera, xy) - target
        along_x = (distort(camera, xy + right) - distort(camera, xy - right)) / (2 * step)
        along_y = (distort(camera, xy + down) - distort(camera, xy - down)) / (2 * step)
        determinant = along_x[..., 0] * along_y[..., 1] - along_y[..., 0] * along_x[..., 1]
        determinant = np.where(np.abs(determinant) < 1e-9, 1e-9, determinant)
        xy[..., 0] -= (along_y[..., 1] * error[..., 0] - along_y[..., 0] * error[..., 1]) / determinant
        xy[..., 1] -= (along_x[..., 0] * error[..., 1] - along_x[..., 1] * error[..., 0]) / determinant
        if np.abs(error).max(initial=0) < 1e-12:
            break
    return xy


def undistorted_camera(camera: Camera) -> Camera:
    """A camera of the same size and principal point without distortion, with the shortest focal length whose whole picture lies
    inside the distorted one (no black border), but no more than 60 degrees to each side (a fisheye's rim would be all blur)."""
    if camera.distortion_model == "none":
        return camera
    widest = max(
        camera.width / 2 / camera.focal_px[0] / np.tan(MAX_HALF_ANGLE_RAD),
        camera.height / 2 / camera.focal_px[1] / np.tan(MAX_HALF_ANGLE_RAD),
    )
    scale = 4.0
    if not _covered(camera, scale):
        raise UserError(f"camera {camera.name}: its distortion leaves no clear middle of the picture; correct the calibration.")
    # Strong polynomials fold back far outside the picture, so the search comes from the narrow side and stops at the first border.
    while scale > widest and _covered(camera, scale * 0.98):
        scale *= 0.98
    low, high = scale * 0.98, scale
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if _covered(camera, middle) else (middle, high)
    scale = max(high, widest)
    return replace(camera, distortion_model="none", distortion=(), focal_px=(camera.focal_px[0] * scale, camera.focal_px[1] * scale))


def undistorted(log: SceneLog) -> SceneLog:
    """The log with every distorted camera replaced by `undistorted_camera` and pictures and masks warped as they are read.

    Rows of a rolling shutter keep their times: the warp moves a pixel by few rows compared with the readout.
    """
    cameras = {name: undistorted_camera(camera) for name, camera in log.cameras.items()}

    def warped(frame: CameraFrame) -> CameraFrame:
        old, new = log.cameras[frame.camera], cameras[frame.camera]
        return frame if new is old else _with_pictures(frame, lambda image: _warp(image, old, new))

    return replace(log, cameras=cameras, frames=tuple(warped(frame) for frame in log.frames))


def resized(log: SceneLog, *, width: int | None = None, max_width: int | None = None, scale: float | None = None) -> SceneLog:
    """The log with pictures of another size, resized (mean over the area) as they are read; give exactly one of the three.

    `width` sets every camera's width, `max_width` only shrinks wider ones, `scale` multiplies; heights follow.
    """
    if sum(value is not None for value in (width, max_width, scale)) != 1:
        raise ValueError("give exactly one of width, max_width and scale")
    if min(value for value in (width, max_width, scale) if value is not None) <= 0:
        raise ValueError("the new size must be positive")
    cameras = {name: _resized_camera(camera, width, max_width, scale) for name, camera in log.cameras.items()}

    def shrunk(frame: CameraFrame) -> CameraFrame:
        new = cameras[frame.camera]
        return frame if new is log.cameras[frame.camera] else _with_pictures(frame, lambda image: resized_picture(image, new))

    return replace(log, cameras=cameras, frames=tuple(shrunk(frame) for frame in log.frames))


def _covered(camera: Camera, scale: float) -> bool:
    """Whether the border of the undistorted picture (focal length times `scale`) lies inside the distorted one."""
    along = np.linspace(0.0, 1.0, _BORDER_STEPS)
    zero, one = np.zeros_like(along), np.ones_like(along)
    border = np.concatenate([np.stack(side, axis=-1) for side in ((along, zero), (along, one), (zero, along), (one, along))])
    pixels = border * (camera.width, camera.height)
    ideal = (pixels - np.asarray(camera.principal_px)) / (np.asarray(camera.focal_px) * scale)
    source = distort(camera, ideal) * np.asarray(camera.focal_px) + np.asarray(camera.principal_px)
    return bool((source >= 0).all() and (source <= (camera.width, camera.height)).all())


@lru_cache(maxsize=8)
def _source_pixels(old: Camera, new: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Where in the distorted picture each pixel of the new one comes from, in OpenCV's count (first centre at 0)."""
    x = (np.arange(new.width) + 0.5 - new.principal_px[0]) / new.focal_px[0]
    y = (np.arange(new.height) + 0.5 - new.principal_px[1]) / new.focal_px[1]
    ideal = np.stack(np.meshgrid(x, y), axis=-1)
    source = distort(old, ideal) * np.asarray(old.focal_px) + np.asarray(old.principal_px) - 0.5
    return source[..., 0].astype(np.float32), source[..., 1].astype(np.float32)


def _warp(image: np.ndarray, old: Camera, new: Camera) -> np.ndarray:
    x, y = _source_pixels(old, new)
    if image.ndim == 2:  # A mask or a map of labels, which must not be blended; OpenCV knows no bool.
        plain = image.astype(np.uint8) if image.dtype == np.bool_ else image
        return cv2.remap(plain, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE).astype(image.dtype)
    return cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _resized_camera(camera: Camera, width: int | None, max_width: int | None, scale: float | None) -> Camera:
    if scale is not None:
        factor = scale
    elif width is not None:
        factor = width / camera.width
    else:
        assert max_width is not None
        factor = min(1.0, max_width / camera.width)
    size = (max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))
    return camera if size == (camera.width, camera.height) else camera.resized(*size)


def resized_picture(image: np.ndarray, camera: Camera) -> np.ndarray:
    """A picture `[H, W, 3]` or a mask `[H, W]` at a camera's size; masks are not blended."""
    size = (camera.width, camera.height)
    if image.ndim == 2:
        plain = image.astype(np.uint8) if image.dtype == np.bool_ else image
        return cv2.resize(plain, size, interpolation=cv2.INTER_NEAREST).astype(image.dtype)
    shrinks = camera.width < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _with_pictures(frame: CameraFrame, change: Callable[[np.ndarray], np.ndarray]) -> CameraFrame:
    masks: Mapping[str, Callable[[], np.ndarray]] = {name: _after(read, change) for name, read in frame.masks.items()}
    return replace(frame, read_image=_after(frame.read_image, change), masks=masks)


def _after(read: Callable[[], np.ndarray], change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
    return lambda: change(read())
