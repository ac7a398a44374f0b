"""What a scene shows of its light: points of surfaces with their colours, and directions of the sky.

Shape letters: N points on surfaces, M directions of the sky, B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_erosion
from torch import Tensor

from splatmend.datasets.shot import Shot
from splatmend.recon.light.colour import light_from_picture
from splatmend.recon.raster.api import Backend
from splatmend.recon.render import render
from splatmend.recon.scene import RecordedShot, Scene
from splatmend.recon.sky import ray_directions, rotation_to_z

_SOLID = 0.7
"""Opacity above which a pixel shows a surface."""
_CLEAR = 0.25
"""Opacity below which it shows the sky."""
_SKY_M = 120.0
"""Where a scene draws sky with Gaussians, they are farther than this."""
_FLAT = 0.85
"""Cosine to the vertical above which a surface is level."""
_SECTORS = 8
_JUMP = 0.08
"""Relative change of depth over two pixels that is an edge."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """All in the level frame: that of the background turned by `level_from_world`, so that z is up.

    Of N points: `points_m`, unit `normals` towards the camera, `linear` colours without exposure, `shot` numbers the picture (taken at
    `times_us[shot]` from `eyes_m[shot]`), `ground` says whether it is level and below the camera, and `block` which points are likely to
    be of one material: neighbours that face one way, or one actor. Of M pixels of the sky: unit `sky_directions` and their `sky_linear`
    colours, and the picture's number. `unit_m` is a metre in the scene's units, by guess where the scene is not metric.
    """

    points_m: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]
    linear: Float[np.ndarray, "N 3"]
    shot: Int[np.ndarray, "N"]
    ground: Bool[np.ndarray, "N"]
    block: Int[np.ndarray, "N"]
    times_us: tuple[int, ...]
    eyes_m: Float[np.ndarray, "S 3"]
    sky_shot: Int[np.ndarray, "M"]
    sky_directions: Float[np.ndarray, "M 3"]
    sky_linear: Float[np.ndarray, "M 3"]
    level_from_world: Float[np.ndarray, "3 3"]
    unit_m: float


def samples_of(
    scene: Scene, *, shots: int, width_px: int, most_per_shot: int, block_m: float, far_m: float, backend: Backend | None = None
) -> Samples:
    """Draw `shots` recorded shots, spread over cameras and time, at most `width_px` wide and take points from them, evenly over the
    pictures; nothing farther than `far_m`. Points on an actor, or of one direction in a cell of `block_m`, make a block."""
    level_from_world = rotation_to_z(np.asarray(scene.up_world, dtype=np.float64))
    chosen = _spread(scene, shots)
    pictures = [_Picture.drawn(scene, _small(recorded.shot, width_px), level_from_world, backend) for recorded in chosen]
    depths = np.concatenate([picture.depth_m[picture.solid] for picture in pictures])
    # Ten metres are about how far half of what driving cameras show lies.
    unit_m = 1.0 if scene.metric or not len(depths) else float(np.median(depths)) / 10
    parts = [picture.points(number, most_per_shot, far_m * unit_m, unit_m) for number, picture in enumerate(pictures)]
    points, normals, linear, shot, ground, actor = (np.concatenate(columns) for columns in zip(*parts))
    block = _blocks(points, normals, ground, actor, block_m * unit_m)
    return Samples(
        points_m=points,
        normals=_evened(normals, actor < 0, block),
        linear=linear,
        shot=shot,
        ground=ground,
        block=block,
        times_us=tuple(recorded.shot.mid_us for recorded in chosen),
        eyes_m=np.stack([picture.centre_m for picture in pictures]),
        sky_shot=np.repeat(np.arange(len(pictures)), [len(picture.sky_directions) for picture in pictures]),
        sky_directions=np.concatenate([picture.sky_directions for picture in pictures]),
        sky_linear=np.concatenate([picture.sky_linear for picture in pictures]),
        level_from_world=level_from_world,
        unit_m=unit_m,
    )


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """A drawn shot in the level frame: `[H, W, ...]` arrays; `actor` is -1 where the background is, else the actor's number."""

    points_m: np.ndarray
    normals: np.ndarray
    linear: np.ndarray
    depth_m: np.ndarray
    solid: np.ndarray
    smooth: np.ndarray
    actor: np.ndarray
    centre_m: np.ndarray
    sky_directions: np.ndarray
    sky_linear: np.ndarray

    @staticmethod
    def drawn(scene: Scene, shot: Shot, level_from_world: np.ndarray, backend: Backend | None) -> _Picture:
        with torch.no_grad():
            drawn = render(scene, shot, ("rgb", "depth", "opacity", "actors"), exposure=None, backend=backend)
        assert drawn.rgb is not None
        assert drawn.depth_m is not None
        directions = ray_directions(shot, model=scene.camera_model).double().numpy() @ level_from_world.T
        depth = drawn.depth_m.double().cpu()
        opacity = drawn.opacity.double().cpu()
        solid = (opacity > _SOLID).numpy()
        centre = level_from_world @ (shot.world_from_camera[:3, 3] - scene.origin_world_m)
        # The inverse depth of a plane is linear in the picture, so that its mean over a window is that of the middle.
        inverse_depth = _mean_where(1 / depth.clamp_min(1e-6), torch.from_numpy(solid)).numpy()
        smoothed = centre + directions / np.maximum(inverse_depth, 1e-6)[..., None]
        normals = _normals(smoothed, directions)
        linear = light_from_picture(drawn.rgb.clamp(0, 1)).cpu().double().numpy()
        far = depth.numpy() > _SKY_M if scene.metric else np.zeros_like(solid)
        # Not beside anything: what is half drawn there is not the sky's.
        sky = binary_erosion((opacity < _CLEAR).numpy() | far, iterations=3, border_value=1) & (scene.sky is not None)
        unit = directions / np.maximum(np.linalg.norm(directions, axis=-1, keepdims=True), 1e-12)
        points = centre + directions * depth.numpy()[..., None]
        return _Picture(
            points_m=points,
            normals=normals,
            linear=linear,
            depth_m=depth.numpy(),
            solid=solid,
            smooth=_smooth(depth.numpy(), solid),
            actor=_actor_of(scene, shot, points @ level_from_world, drawn.extra["actors"].cpu().numpy() > 0.5),
            centre_m=centre,
            sky_directions=unit[sky][::5],
            sky_linear=linear[sky][::5],
        )

    def points(self, number: int, most: int, far_m: float, unit_m: float) -> tuple[np.ndarray, ...]:
        """Of at most so many good pixels: points, normals, linear colours, the picture's number, whether they are ground, actors."""
        flat = (self.normals[..., 2] > _FLAT) & (self.points_m[..., 2] < self.centre_m[2] - 0.5 * unit_m) & (self.actor < 0)
        good = self.solid & self.smooth & (self.depth_m < far_m)
        # Half of them on the ground: its albedo is the most even.
        generator = np.random.default_rng([number, 7])
        good = np.sort(np.concatenate([self._some(good & kind, most // 2, unit_m, generator) for kind in (flat, ~flat)]))
        points, normals, linear = (array.reshape(-1, 3)[good] for array in (self.points_m, self.normals, self.linear))
        actor = self.actor.ravel()[good]
        return points, normals, linear, np.full(len(good), number, dtype=np.int64), flat.ravel()[good], actor

    def _some(self, good: np.ndarray, most: int, unit_m: float, generator: np.random.Generator) -> np.ndarray:
        rows = np.flatnonzero(good)
        if len(rows) <= most:
            return rows
        # What is near fills many pixels: a pixel counts by how much of the world it shows, to a limit.
        share = np.clip(self.depth_m.ravel()[rows] / (10 * unit_m), 0.2, 1.0)
        return generator.choice(rows, most, replace=False, p=share / share.sum())


def _spread(scene: Scene, count: int) -> list[RecordedShot]:
    """Recorded shots that the fit has seen, evenly over each camera's time."""
    cameras = scene.cameras
    out: list[RecordedShot] = []
    for camera in cameras:
        known = [recorded for recorded in scene.shots_of(camera) if recorded.role != "left_out"]
        take = min(len(known), max(1, round(count / max(len(cameras), 1))))
        out += [known[i] for i in np.unique(np.linspace(0, len(known) - 1, take).round().astype(int))] if known else []
    return out


def _small(shot: Shot, width_px: int) -> Shot:
    """The shot at one moment and with few pixels."""
    camera = replace(shot.camera, shutter="global", readout_us=0)
    if camera.width > width_px:
        camera = camera.resized(width_px, max(8, round(camera.height * width_px / camera.width)))
    return Shot.still(camera, shot.world_from_camera, shot.mid_us)


def _mean_where(values: Float[Tensor, "H W"], where: Bool[Tensor, "H W"], side: int = 5) -> Float[Tensor, "H W"]:
    weights = where.double()
    stacked = torch.stack([values * weights, weights])[:, None]
    pooled = torch.nn.functional.avg_pool2d(stacked, side, 1, side // 2, count_include_pad=False)[:, 0]
    return pooled[0] / pooled[1].clamp_min(1e-9)


def _normals(points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Unit normals of a picture of points, towards the camera."""
    across, down = np.zeros_like(points), np.zeros_like(points)
    across[:, 2:-2] = points[:, 4:] - points[:, :-4]
    down[2:-2] = points[4:] - points[:-4]
    normals = np.cross(across, down)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    return np.where((normals * directions).sum(axis=-1, keepdims=True) > 0, -normals, normals)


def _smooth(depth: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Pixels away from edges of depth, of what is solid, and of the picture."""
    out = np.zeros_like(solid)
    inner = (slice(2, -2), slice(2, -2))
    good = solid[inner].copy()
    for axis in (0, 1):
        before = np.roll(depth, 2, axis)[inner]
        after = np.roll(depth, -2, axis)[inner]
        good &= np.roll(solid, 2, axis)[inner] & np.roll(solid, -2, axis)[inner]
        # Slanted planes change too, but by as much on either side (of the inverse).
        inverse_mean = 0.5 * (1 / np.maximum(before, 1e-6) + 1 / np.maximum(after, 1e-6))
        good &= np.abs(depth[inner] * inverse_mean - 1) < _JUMP
    out[inner] = good
    return out


def _actor_of(scene: Scene, shot: Shot, points: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Numbers of the actors whose middles are nearest to the points that show one."""
    out = np.full(moving.shape, -1, dtype=np.int64)
    poses = [(number, actor.world_from_node(shot.mid_us)) for number, actor in enumerate(scene.actors.values())]
    there = [(number, pose[:3, 3] - scene.origin_world_m) for number, pose in poses if pose is not None]
    if there and moving.any():
        middles = np.stack([middle for _, middle in there])
        nearest = np.linalg.norm(points[moving][:, None] - middles, axis=-1).argmin(axis=1)
        out[moving] = np.array([number for number, _ in there])[nearest]
    return out


def _blocks(points: np.ndarray, normals: np.ndarray, ground: np.ndarray, actor: np.ndarray, cell_m: float) -> Int[np.ndarray, "N"]:
    """Numbers of blocks from 0 on."""
    sector = np.floor((np.arctan2(normals[:, 1], normals[:, 0]) / (2 * np.pi) + 0.5) * _SECTORS).clip(0, _SECTORS - 1)
    kind = np.where(ground, _SECTORS, np.where(np.abs(normals[:, 2]) > _FLAT, _SECTORS + 1, sector)).astype(np.int64)
    cell = np.floor(points / cell_m).astype(np.int64)
    cell[ground, 2] = 0
    key = np.column_stack([kind, cell, np.full(len(points), -1)])
    key[actor >= 0] = 0
    key[:, 4] = actor
    return np.unique(key, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _evened(normals: np.ndarray, standing: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Normals with those of what stands replaced by their block's mean: under a low sun small tilts of the ground count much."""
    sums = np.zeros((int(block.max(initial=0)) + 1, 3))
    np.add.at(sums, block, normals)
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return np.where(standing[:, None], means[block], normals)
