"""A scene with a light that is known: a grey square with boxes on it, lit by a sun, as Gaussians coloured with what they give back."""

from __future__ import annotations

import math

import numpy as np
import torch

from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import from_rgb
from splatmend.recon.light.colour import srgb_from_linear
from splatmend.recon.nodes import StaticNode
from splatmend.recon.scene import RecordedShot, Scene
from splatmend.recon.sky import SkyMap, rotation_to_z

_BOXES = (((6.0, 2.5), (1.0, 0.8, 3.0)), ((10.0, -2.0), (1.2, 1.2, 2.2)), ((14.0, 3.0), (0.7, 1.5, 3.5)), ((17.0, -3.5), (1.5, 0.8, 2.6)))
"""Middles on the ground and half length, half width and height."""
CAMERA = Camera(name="front", width=160, height=96, focal_px=(120.0, 120.0), principal_px=(80.0, 48.0))


def direction(azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    return np.array([math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)])


def lit_scene(to_sun: np.ndarray, sun: float, up: np.ndarray | None = None) -> Scene:
    """`sun` is what a white surface that faces it adds, in units of what the sky gives one that faces up. With `up` all is turned."""
    points, normals, sizes = _surfaces()
    direct = (normals @ to_sun).clip(min=0) * (~_blocked(points + 0.02 * normals, to_sun))
    ambient = 0.5 + 0.5 * normals[:, 2]
    linear = 0.15 * (ambient + sun * direct)
    linear = linear * (1 + 0.05 * np.random.default_rng(1).normal(size=len(linear)))
    world_from_level = np.eye(3) if up is None else rotation_to_z(up).T
    flat = np.where(
        np.abs(normals[:, [2]]) > 0.5, [[1.0, 1.0, 0.05]], np.where(np.abs(normals[:, [0]]) > 0.5, [[0.05, 1.0, 1.0]], [[1.0, 0.05, 1.0]])
    )
    rgb = srgb_from_linear(torch.from_numpy(linear).float()[:, None].repeat(1, 3))
    turn = _quaternion(world_from_level)
    gaussians = Gaussians(
        means=torch.from_numpy(points @ world_from_level.T).float(),
        quats_wxyz=torch.tensor(turn).float().repeat(len(points), 1),
        log_scales=torch.from_numpy(np.log(flat * sizes[:, None])).float(),
        opacity_logits=torch.full((len(points),), 4.0),
        sh=from_rgb(rgb)[:, None],
    )
    shots = []
    for number in range(4):
        eye = np.array([1.5 * number, -4.0 + 2.5 * number, 3.0])
        ahead = np.array([12.0, 0.0, 0.5]) - eye
        ahead /= np.linalg.norm(ahead)
        right = np.cross(ahead, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = world_from_level @ np.stack([right, np.cross(ahead, right), ahead], axis=1)
        pose[:3, 3] = world_from_level @ eye
        shots.append(RecordedShot(shot=Shot.still(CAMERA, pose, number * 100_000), frame_index=number, role="train"))
    up_world = world_from_level[:, 2]
    return Scene(
        background=StaticNode(gaussians=gaussians, origin_world_m=np.zeros(3)),
        actors={},
        sky=SkyMap.uniform((0.6, 0.7, 0.8), tuple(up_world.tolist()), 16),
        exposure=ExposureTable.identity([], []),
        shots=tuple(shots),
        ego=PoseTrack(
            times_us=np.array([0, 300_000]), world_from_body=np.stack([shots[0].shot.world_from_camera, shots[-1].shot.world_from_camera])
        ),
        up_world=tuple(up_world.tolist()),
        metric=True,
        source="made up",
        log_id="boxes",
        median_camera_step=1.0,
    )


def _quaternion(rotation: np.ndarray) -> list[float]:
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotation).as_quat(scalar_first=True).tolist()


def _surfaces() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, outward normals and spreads of a level square and of boxes without bottoms."""
    step = 0.2
    x, y = np.meshgrid(np.arange(-2, 26, step), np.arange(-9, 9, step), indexing="ij")
    ground = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    inside = np.zeros(len(ground), dtype=bool)
    points, normals = [], []
    for (cx, cy), (a, b, h) in _BOXES:
        inside |= (np.abs(ground[:, 0] - cx) < a) & (np.abs(ground[:, 1] - cy) < b)
        across, up = np.meshgrid(np.arange(-1, 1.01, 0.1), np.arange(0.05, h, 0.1), indexing="ij")
        across, up = across.ravel(), up.ravel()
        for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
            side = np.stack(
                [np.full(len(up), sign * a), across * b, up] if axis == 0 else [across * a, np.full(len(up), sign * b), up], axis=1
            )
            points.append(side + np.array([cx, cy, 0.0]))
            normals.append(np.tile(sign * np.eye(3)[axis], (len(up), 1)))
        u, v = np.meshgrid(np.arange(-1, 1.01, 0.1), np.arange(-1, 1.01, 0.1), indexing="ij")
        points.append(np.stack([cx + a * u.ravel(), cy + b * v.ravel(), np.full(u.size, h)], axis=1))
        normals.append(np.tile([0, 0, 1.0], (u.size, 1)))
    kept = ground[~inside]
    count = sum(map(len, points))
    sizes = np.concatenate([np.full(len(kept), 0.6 * step), np.full(count, 0.09)])
    return np.concatenate([kept, *points]), np.concatenate([np.tile([0, 0, 1.0], (len(kept), 1)), *normals]), sizes


def _blocked(points: np.ndarray, to_sun: np.ndarray) -> np.ndarray:
    """Whether a box stands between points and the sun (the slab test)."""
    out = np.zeros(len(points), dtype=bool)
    inverse = 1 / np.where(np.abs(to_sun) < 1e-9, 1e-9, to_sun)
    for (cx, cy), (a, b, h) in _BOXES:
        ways = [(np.array([cx - a, cy - b, 0]) - points) * inverse, (np.array([cx + a, cy + b, h]) - points) * inverse]
        enters, leaves = np.minimum(*ways).max(axis=1), np.maximum(*ways).min(axis=1)
        out |= (leaves > np.maximum(enters, 0) + 1e-6) & (leaves > 1e-3)
    return out
