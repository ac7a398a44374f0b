"""The ray of every pixel: lens distortion and rolling shutter as one mechanism.

The `ray` model never projects a Gaussian through a lens; it asks of each pixel along which ray, from which place, it looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatmend.datasets.geometry import PoseTrack, distort, inverse, largest_ideal_radius
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.datasets.undistort import ideal_from_pixels
from splatmend.recon.transfer import upload

_WIDEST_RAD = np.radians(85.0)
"""Rays farther than this from the axis are left out: their ideal coordinates run away."""
_CLOCK_US = 1_000_000


@dataclass(frozen=True, kw_only=True)
class RayCamera:
    """A camera with its lens and the poses `[4, 4]` float64 from which its first and last line (row, or column for sideways shutters,
    counted in the order of the picture) look; lines between them look from interpolated poses. Both are the same for a global shutter."""

    camera: Camera
    world_from_first: Float[np.ndarray, "4 4"]
    world_from_last: Float[np.ndarray, "4 4"]

    @staticmethod
    def of(shot: Shot) -> RayCamera:
        """The camera of a shot: a line is read in the middle of its share of the readout (`splatmend.datasets.shot`)."""
        if shot.camera.shutter == "global" or shot.start_us == shot.end_us:
            return RayCamera(camera=shot.camera, world_from_first=shot.world_from_camera, world_from_last=shot.world_from_camera)
        sideways = shot.camera.shutter in ("left_to_right", "right_to_left")
        half_line = 0.5 / (shot.camera.width if sideways else shot.camera.height)
        track = PoseTrack(
            times_us=np.array([0, _CLOCK_US]), world_from_body=np.stack([shot.world_from_camera_start, shot.world_from_camera_end])
        )
        first, last = (track.at(round(share * _CLOCK_US)) for share in (half_line, 1 - half_line))
        if shot.camera.shutter in ("bottom_to_top", "right_to_left"):
            first, last = last, first
        return RayCamera(camera=shot.camera, world_from_first=first, world_from_last=last)

    @property
    def rolls(self) -> bool:
        """Whether lines look from different poses."""
        first, last = self.world_from_first, self.world_from_last
        return first is not last and not np.array_equal(first, last)


def line_views(ray_camera: RayCamera) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "V 4 4"]]:
    """The place half-way between the first and the last line, and the poses from which they look (V = 2, or 1 for all lines), inverted, in
    axes of the world around that place. There float32 is finest."""
    first, last = ray_camera.world_from_first, ray_camera.world_from_last
    if not ray_camera.rolls:
        view = np.zeros((1, 4, 4))
        view[0, :3, :3], view[0, 3, 3] = first[:3, :3].T, 1.0
        return first[:3, 3], view
    eye = (first[:3, 3] + last[:3, 3]) / 2
    around_eye = np.stack([first, last])
    around_eye[:, :3, 3] -= eye
    return eye, inverse(around_eye)


@dataclass(frozen=True, kw_only=True)
class PixelRays:
    """Rays in one common camera frame, float64. `directions` have z = 1 in the frame of their own line; pixels that the lens does not
    reach are not `valid` (their direction is that of the axis)."""

    origins: Float[np.ndarray, "H W 3"]
    directions: Float[np.ndarray, "H W 3"]
    valid: Bool[np.ndarray, "H W"]


def pixel_rays(ray_camera: RayCamera, common_from_world: Float[np.ndarray, "4 4"]) -> PixelRays:
    """Rays through the pixel centres, in a frame into which `common_from_world` leads."""
    camera = ray_camera.camera
    directions, valid = lens_rays(camera)
    common_from_line = common_from_world @ _line_poses(ray_camera)
    if camera.shutter in ("left_to_right", "right_to_left"):
        common_from_line = common_from_line[None]
    else:
        common_from_line = common_from_line[:, None]
    turned = np.matmul(common_from_line[..., :3, :3], directions[..., None])[..., 0]
    origins = np.ascontiguousarray(np.broadcast_to(common_from_line[..., :3, 3], turned.shape))
    return PixelRays(origins=origins, directions=turned, valid=valid)


@dataclass(frozen=True, kw_only=True)
class PixelLines:
    """A picture's pixels as lines that each look from a pose: `lens` are directions (z = 1) in the camera's frame, float32 on a device,
    `world_from_line` float64 has a pose per row (per column where `sideways`), or one for all."""

    lens: Float[Tensor, "H W 3"]
    world_from_line: Float[np.ndarray, "L 4 4"]
    sideways: bool

    @staticmethod
    def of(ray_camera: RayCamera, device: torch.device) -> PixelLines:
        """Those of a lens with its shutter."""
        poses = _line_poses(ray_camera) if ray_camera.rolls else ray_camera.world_from_first[None]
        sideways = ray_camera.camera.shutter in ("left_to_right", "right_to_left")
        return PixelLines(lens=_lens_directions(ray_camera.camera, device), world_from_line=poses, sideways=sideways)

    def turned(self, rotations: Float[Tensor, "L 3 3"]) -> Float[Tensor, "H W 3"]:
        """Directions of all pixels, each turned by the rotation of its line."""
        return turned_lines(self.lens, rotations, sideways=self.sideways)


def turned_lines(lens: Float[Tensor, "H W 3"], rotations: Float[Tensor, "L 3 3"], *, sideways: bool) -> Float[Tensor, "H W 3"]:
    """Directions of all pixels, each turned by the rotation of its row (or column)."""
    if len(rotations) == 1:
        return lens @ rotations[0].T
    turns = rotations.transpose(1, 2)
    return (lens.transpose(0, 1) @ turns).transpose(0, 1) if sideways else lens @ turns


def ray_directions(ray_camera: RayCamera, device: torch.device) -> Float[Tensor, "H W 3"]:
    """The directions of `pixel_rays` in the world, float32, made on a device."""
    lines = PixelLines.of(ray_camera, device)
    return lines.turned(upload(lines.world_from_line[:, :3, :3], device))


def depth_rays(
    lens: Float[Tensor, "H W 3"], common_from_line: Float[Tensor, "L 3 4"], *, sideways: bool
) -> tuple[Float[Tensor, "#H #W"], Float[Tensor, "H W"]]:
    """The z of origins and of directions of `pixel_rays` in a common frame, from poses of all lines."""
    starts, axes = common_from_line[:, 2, 3], common_from_line[:, 2, :3]
    if sideways:
        return starts[None], (lens * axes).sum(dim=-1)
    return starts[:, None], (lens * axes[:, None]).sum(dim=-1)


@lru_cache(maxsize=16)
def _lens_directions(camera: Camera, device: torch.device) -> Float[Tensor, "H W 3"]:
    return torch.tensor(lens_rays(camera)[0], dtype=torch.float32, device=device)


def _line_poses(ray_camera: RayCamera) -> np.ndarray:
    camera = ray_camera.camera
    count = camera.width if camera.shutter in ("left_to_right", "right_to_left") else camera.height
    first, last = ray_camera.world_from_first, ray_camera.world_from_last
    if not ray_camera.rolls or count == 1:
        return np.broadcast_to(first, (count, 4, 4))
    share = np.arange(count) / (count - 1)
    turn = Rotation.from_matrix((inverse(first) @ last)[:3, :3]).as_rotvec()
    out = np.zeros((count, 4, 4))
    out[:, :3, :3] = first[:3, :3] @ Rotation.from_rotvec(share[:, None] * turn).as_matrix()
    out[:, :3, 3] = first[:3, 3] + share[:, None] * (last[:3, 3] - first[:3, 3])
    out[:, 3, 3] = 1.0
    return out


@lru_cache(maxsize=16)
def lens_rays(camera: Camera) -> tuple[Float[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """Directions (z = 1) of pixel centres in the camera's frame, and which pixels the lens model reaches; not to be written to."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    with np.errstate(all="ignore"):
        ideal = _fisheye_ideal(camera, pixels) if camera.distortion_model == "opencv_fisheye" else ideal_from_pixels(camera, pixels)
        back = distort(camera, ideal) * np.asarray(camera.focal_px) + np.asarray(camera.principal_px)
        radius = np.linalg.norm(ideal, axis=-1)
        valid = (np.abs(back - pixels).max(axis=-1) < 1e-3) & (radius < min(largest_ideal_radius(camera), np.tan(_WIDEST_RAD)))
    directions = np.concatenate([np.where(valid[:, None], ideal, 0.0), np.ones((len(ideal), 1))], axis=1)
    directions, valid = directions.reshape(camera.height, camera.width, 3), valid.reshape(camera.height, camera.width)
    directions.flags.writeable = valid.flags.writeable = False
    return directions, valid


def _fisheye_ideal(camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """Ideal coordinates by Newton's method on the angle from the axis, which stays tame where its tangent runs away."""
    bent = (pixels - np.asarray(camera.principal_px)) / np.asarray(camera.focal_px)
    target = np.linalg.norm(bent, axis=-1)
    k = camera.distortion
    theta = np.minimum(target, np.pi / 2)
    for _ in range(20):
        t2 = theta**2
        value = theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))
        slope = 1 + t2 * (3 * k[0] + t2 * (5 * k[1] + t2 * (7 * k[2] + t2 * 9 * k[3])))
        theta = np.clip(theta - (value - target) / np.where(np.abs(slope) < 1e-9, 1e-9, slope), 0.0, np.pi / 2)
    return bent * (np.tan(theta) / np.maximum(target, 1e-12))[:, None]
