"""Rigid poses and projection, in float64 numpy.

Frames: world is right-handed, metres, z up; a camera looks along z (x right, y down); ego and actors x forward, y left, z up.
`a_from_b` maps coordinates in b to coordinates in a. Pixel (0, 0) has its centre at (0.5, 0.5), as in COLMAP and gsplat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from splatmend.datasets.log import Camera

# Turns axes of an OpenGL camera (x right, y up, z backward) into those of an OpenCV camera.
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
# Columns are the axes of an OpenCV camera (x right, y down, z forward) in a body with x forward, y left, z up.
BODY_FROM_OPENCV = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
# A Waymo camera's own frame looks along x, with y to the left and z up.
WAYMO_FROM_OPENCV = BODY_FROM_OPENCV


FARTHEST_M = 1e8
"""No place of a log lies farther from its world's origin: that is more than twice around the earth."""


def pose(rotation: np.ndarray, translation_m: np.ndarray) -> np.ndarray:
    """4x4 pose from a 3x3 rotation and a translation in metres."""
    out = np.eye(4)
    out[:3, :3] = rotation
    out[:3, 3] = translation_m
    return out


def inverse(a_from_b: np.ndarray) -> np.ndarray:
    """Inverse of rigid poses `[..., 4, 4]`."""
    rotation = np.swapaxes(a_from_b[..., :3, :3], -1, -2)
    out = np.zeros_like(a_from_b)
    out[..., :3, :3] = rotation
    out[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, a_from_b[..., :3, 3])
    out[..., 3, 3] = 1.0
    return out


def transform(a_from_b: np.ndarray, points_b: np.ndarray) -> np.ndarray:
    """Points `[..., 3]` of frame b in frame a; the pose is `[4, 4]` or broadcasts as `[..., 4, 4]`."""
    return np.einsum("...ij,...j->...i", a_from_b[..., :3, :3], points_b) + a_from_b[..., :3, 3]


def rotation_fault(a_from_b: np.ndarray, tolerance: float = 1e-3) -> str | None:
    """Why `[..., 4, 4]` are no rigid poses, in a few words; None if they are."""
    if not np.isfinite(a_from_b).all():
        return "a value that is not finite"
    if np.abs(a_from_b[..., 3, :] - (0.0, 0.0, 0.0, 1.0)).max() > tolerance:
        return "a bottom row that is not 0 0 0 1 (is it transposed?)"
    rotation = a_from_b[..., :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(np.swapaxes(rotation, -1, -2) @ rotation - np.eye(3)).max()
    if not off <= tolerance:
        return f"a rotation part that is not orthonormal (off by {off:.2g})"
    if (far := np.abs(a_from_b[..., :3, 3]).max()) > FARTHEST_M:
        return f"a place {far:.2g} from the origin"
    if (np.linalg.det(rotation) < 0).any():
        return "a mirrored rotation part (determinant -1)"
    return None


def orthonormal(a_from_b: np.ndarray) -> np.ndarray:
    """The nearest rigid poses (rounding in text files leaves rotations off by 1e-6 or so)."""
    u, _, vt = np.linalg.svd(a_from_b[..., :3, :3])
    sign = np.ones((*u.shape[:-2], 3))
    sign[..., 2] = np.linalg.det(u @ vt)
    out = np.array(a_from_b, dtype=np.float64)
    out[..., :3, :3] = (u * sign[..., None, :]) @ vt
    out[..., 3, :] = (0, 0, 0, 1)
    return out


def yaw_pose(yaw_rad: float, translation_m: np.ndarray) -> np.ndarray:
    """Pose with a turn about z (counter-clockwise seen from above)."""
    return pose(Rotation.from_euler("z", yaw_rad).as_matrix(), np.asarray(translation_m, dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class PoseTrack:
    """Timed rigid poses of one body; between them rotation goes by slerp and translation linearly.

    `times_us [K]` int64, strictly rising; `world_from_body [K, 4, 4]` float64.
    """

    times_us: np.ndarray
    world_from_body: np.ndarray

    def __post_init__(self) -> None:
        if self.times_us.shape[0] != self.world_from_body.shape[0] or self.world_from_body.shape[1:] != (4, 4):
            raise ValueError(f"{self.times_us.shape[0]} times for poses of shape {self.world_from_body.shape}")
        if self.times_us.size == 0 or (np.diff(self.times_us) <= 0).any():
            raise ValueError("times of a pose track must rise strictly and be at least one")

    @cached_property
    def _turns(self) -> np.ndarray:
        """Rotation vectors `[K - 1, 3]` from each pose to the next, in the axes of the former."""
        rotations = self.world_from_body[:, :3, :3]
        return Rotation.from_matrix(np.swapaxes(rotations[:-1], -1, -2) @ rotations[1:]).as_rotvec()

    @property
    def start_us(self) -> int:
        return int(self.times_us[0])

    @property
    def end_us(self) -> int:
        return int(self.times_us[-1])

    def extended(self, margin_us: int) -> PoseTrack:
        """The track with one pose more at each end, `margin_us` outside it, reached at the speed and turn rate of the end's last two
        poses. A track of one pose stands still."""
        if self.times_us.size == 1:
            before = after = self.world_from_body[0]
        else:
            before = _extrapolated(self.world_from_body[1], self.world_from_body[0], margin_us / (self.times_us[1] - self.times_us[0]))
            after = _extrapolated(self.world_from_body[-2], self.world_from_body[-1], margin_us / (self.times_us[-1] - self.times_us[-2]))
        return PoseTrack(
            times_us=np.concatenate([[self.start_us - margin_us], self.times_us, [self.end_us + margin_us]]).astype(np.int64),
            world_from_body=np.concatenate([before[None], self.world_from_body, after[None]]),
        )

    def at(self, t_us: np.ndarray | int) -> np.ndarray:
        """Poses `[..., 4, 4]` at times in microseconds; outside the track the nearest end is held."""
        t = np.clip(np.asarray(t_us, dtype=np.int64), self.start_us, self.end_us)
        if self.times_us.size == 1:
            return np.broadcast_to(self.world_from_body[0], (*t.shape, 4, 4)).copy()
        flat = t.reshape(-1)
        right = np.clip(np.searchsorted(self.times_us, flat, side="right"), 1, self.times_us.size - 1)
        left = right - 1
        # Relative to the track's start, so that float64 holds every microsecond of an epoch time exactly.
        fraction = (flat - self.times_us[left]) / (self.times_us[right] - self.times_us[left])
        out = np.zeros((flat.size, 4, 4))
        turned = Rotation.from_rotvec(fraction[:, None] * self._turns[left]).as_matrix()
        out[:, :3, :3] = self.world_from_body[left, :3, :3] @ turned
        a, b = self.world_from_body[left, :3, 3], self.world_from_body[right, :3, 3]
        out[:, :3, 3] = a + fraction[:, None] * (b - a)
        out[:, 3, 3] = 1.0
        return out.reshape(*t.shape, 4, 4)


def _extrapolated(world_from_old: np.ndarray, world_from_new: np.ndarray, steps: float) -> np.ndarray:
    """The pose `steps` times the last step further on: the turn in the body's frame, the translation in the world."""
    turn = Rotation.from_matrix(world_from_old[:3, :3].T @ world_from_new[:3, :3]).as_rotvec()
    rotation = world_from_new[:3, :3] @ Rotation.from_rotvec(turn * steps).as_matrix()
    return pose(rotation, world_from_new[:3, 3] + steps * (world_from_new[:3, 3] - world_from_old[:3, 3]))


def box_corners(size_m: tuple[float, float, float]) -> np.ndarray:
    """The 8 corners `[8, 3]` of a box (length x, width y, height z) around its own centre."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
    return 0.5 * signs * np.asarray(size_m)


def project(camera: Camera, xyz_camera_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `[..., 2]` (x, y) of points `[..., 3]` in the camera's frame, distortion included, and which `[...]` lie in front and
    inside the picture. Points behind the camera, or so far aside that the distortion polynomial folds them back towards the picture, get
    NaN. Formula: OpenCV's pinhole (k1 k2 p1 p2 k3) and fisheye (k1..k4) models.
    """
    z = xyz_camera_m[..., 2]
    front = z > 1e-6
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = np.where(front[..., None], xyz_camera_m[..., :2] / z[..., None], np.nan)
    if camera.distortion_model != "none":
        front = front & (np.nan_to_num(np.square(xy).sum(axis=-1)) < largest_ideal_radius(camera) ** 2)
        xy = np.where(front[..., None], xy, np.nan)
    xy = distort(camera, xy)
    pixels = xy * np.asarray(camera.focal_px) + np.asarray(camera.principal_px)
    with np.errstate(invalid="ignore"):
        inside = front & (pixels >= 0).all(-1) & (pixels[..., 0] < camera.width) & (pixels[..., 1] < camera.height)
    return pixels, inside


@lru_cache(maxsize=64)
def largest_ideal_radius(camera: Camera) -> float:
    """Up to which distance from the axis, in normalised coordinates, the distorted radius grows with the ideal one; infinite if it always
    does. Beyond it the radial polynomial was never fitted and bends points back into the picture."""
    if camera.distortion_model == "none":
        return float("inf")
    if camera.distortion_model == "opencv":
        k1, k2, _, _, k3 = camera.distortion
        coefficients: tuple[float, ...] = (k1, k2, k3)
    else:
        coefficients = camera.distortion
    # d/dr of r (1 + k1 r^2 + k2 r^4 + ...) is a polynomial in u = r^2: 1 + 3 k1 u + 5 k2 u^2 + ...
    slope = np.polynomial.Polynomial([1.0, *(k * (2 * power + 3) for power, k in enumerate(coefficients))])
    roots = slope.trim().roots() if any(coefficients) else np.zeros(0)
    real = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)]
    limit = float(np.sqrt(real.min())) if real.size else float("inf")
    if camera.distortion_model == "opencv_fisheye":  # there the polynomial is in the angle from the axis
        return float(np.tan(limit)) if limit < np.pi / 2 else float("inf")
    return limit


def distort(camera: Camera, xy: np.ndarray) -> np.ndarray:
    """Distorted normalised coordinates of ideal ones `[..., 2]`."""
    if camera.distortion_model == "none":
        return xy
    if camera.distortion_model == "opencv_fisheye":
        k = camera.distortion
        r = np.linalg.norm(xy, axis=-1, keepdims=True)
        theta = np.arctan(r)
        t2 = theta**2
        bent = theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))
        return xy * np.where(r > 1e-9, bent / np.maximum(r, 1e-12), 1.0)
    k1, k2, p1, p2, k3 = camera.distortion
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return np.stack(
        [x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y],
        axis=-1,
    )


def ray_directions(camera: Camera) -> np.ndarray:
    """Unit viewing directions `[H, W, 3]` of pixel centres in the frame of an undistorted camera."""
    if camera.distortion_model != "none":
        raise ValueError(f"camera {camera.name} is distorted: undistort it first")
    x = (np.arange(camera.width) + 0.5 - camera.principal_px[0]) / camera.focal_px[0]
    y = (np.arange(camera.height) + 0.5 - camera.principal_px[1]) / camera.focal_px[1]
    grid = np.stack([*np.meshgrid(x, y), np.ones((camera.height, camera.width))], axis=-1)
    return grid / np.linalg.norm(grid, axis=-1, keepdims=True)
