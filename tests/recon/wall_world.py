"""A world whose depth and pictures are known exactly: a painted wall, perhaps a plate before it, and a painted sky above."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from splatmend.datasets.geometry import PoseTrack, pose
from splatmend.datasets.log import ActorTrack, Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.nodes import RigidActor, StaticNode
from splatmend.recon.raster.api import Model
from splatmend.recon.scene import RecordedShot, Role, Scene
from splatmend.recon.surfaces import PictureRays

CAMERA = Camera(name="front", width=64, height=48, focal_px=(48.0, 48.0), principal_px=(32.0, 24.0))
WORLD_FROM_OPENCV = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
ORIGIN_M = np.array([500_000.0, 4_000_000.0, 30.0])
WALL_X, PLATE_X, PLATE_HALF = 8.0, 6.5, 0.6
STEP_US = 100_000


def camera_pose(y: float, x: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    """A camera so far to the left, that looks along x, turned to the left."""
    angle = np.radians(yaw_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return pose(turn @ WORLD_FROM_OPENCV, ORIGIN_M + np.array([x, y, 0.0]))


def recorded(places: Sequence[np.ndarray], roles: Sequence[Role] = (), camera: Camera = CAMERA) -> tuple[RecordedShot, ...]:
    """Shots of a camera from poses, one every tenth of a second."""
    kinds = roles or ["train"] * len(places)
    return tuple(
        RecordedShot(shot=Shot.still(camera, place, number * STEP_US), frame_index=number, role=role)
        for number, (place, role) in enumerate(zip(places, kinds, strict=True))
    )


def paint(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Colours of a surface by its own coordinates, in waves of some pixels."""
    phases = np.stack([3.0 * across + up, 2.1 * up - across + 1.0, 1.7 * (across + up) + 2.0], axis=-1)
    return 0.5 + 0.4 * np.sin(phases)


@dataclass(frozen=True, kw_only=True)
class WallWorld:
    """`plate_y` says where the plate's middle is at a time (None: there is none); it is one of the actors unless `plate_stands`."""

    plate_y: Callable[[int], float] | None = None
    plate_stands: bool = True
    plate_times_us: tuple[int, ...] = (0, 1_000_000)
    wall_top: float = 2.5
    model: Model = "ewa"
    scale: float = 1.0
    plate_rgb: tuple[float, float, float] | None = None
    gains: Mapping[int, float] = field(default_factory=dict)

    def picture(self, shot: Shot) -> np.ndarray:
        """What a shot sees, `[H, W, 3]` in [0, 1], before exposure."""
        rays = PictureRays.of(shot, self.model, torch.device("cpu"), self.origin_m)
        starts, directions = (part.double().numpy() / s for part, s in ((rays.starts, self.scale), (rays.directions, 1.0)))
        ahead = np.maximum(directions[..., :1], 1e-9)
        wall = starts + directions * ((WALL_X - starts[..., :1]) / ahead)
        seen = paint(wall[..., 1], wall[..., 2])
        aim = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
        seen = np.where((wall[..., 2] > self.wall_top)[..., None], paint(4.0 * aim[..., 1], 4.0 * aim[..., 2])[..., ::-1], seen)
        if self.plate_y is not None:
            plate = starts + directions * ((PLATE_X - starts[..., :1]) / ahead)
            own = plate[..., 1] - self.plate_y(shot.mid_us)
            rgb = paint(own + 5.0, 2.0 * plate[..., 2]) if self.plate_rgb is None else np.broadcast_to(self.plate_rgb, seen.shape)
            seen = np.where(((np.abs(own) < PLATE_HALF) & (np.abs(plate[..., 2]) < 1.5))[..., None], rgb, seen)
        return seen

    def plate_mask(self, shot: Shot, margin_m: float) -> np.ndarray:
        """Where a shot sees the plate, that much wider, `[H, W]`."""
        rays = PictureRays.of(shot, self.model, torch.device("cpu"), self.origin_m)
        starts, directions = rays.starts.double().numpy() / self.scale, rays.directions.double().numpy()
        plate = starts + directions * ((PLATE_X - starts[..., :1]) / directions[..., :1])
        assert self.plate_y is not None
        own = plate[..., 1] - self.plate_y(shot.mid_us)
        return (np.abs(own) < PLATE_HALF + margin_m) & (np.abs(plate[..., 2]) < 1.5 + margin_m)

    @property
    def origin_m(self) -> np.ndarray:
        return ORIGIN_M

    def photo(self, shot: RecordedShot) -> np.ndarray:
        """The recorded picture, as bytes, with its frame's gain."""
        seen = self.picture(shot.shot) * self.gains.get(shot.frame_index, 1.0)
        return np.rint(seen.clip(0, 1) * 255).astype(np.uint8)

    def scaled(self, shots: Sequence[RecordedShot]) -> tuple[RecordedShot, ...]:
        """Shots with their distances from the origin multiplied by the scale."""
        return tuple(replace(one, shot=self.scaled_shot(one.shot)) for one in shots)

    def scaled_shot(self, shot: Shot) -> Shot:
        ends = [
            pose(end[:3, :3], ORIGIN_M + self.scale * (end[:3, 3] - ORIGIN_M))
            for end in (shot.world_from_camera_start, shot.world_from_camera_end)
        ]
        return replace(shot, world_from_camera_start=ends[0], world_from_camera_end=ends[1])

    def scene(self, shots: Sequence[RecordedShot], exposure: ExposureTable | None = None) -> Scene:
        """Flat Gaussians on wall and plate, close enough to hide what is behind."""
        wall = _sheet(WALL_X, (-12.0, 12.0), (-6.0, self.wall_top - 0.1))
        plate = _sheet(0.0, (-PLATE_HALF + 0.08, PLATE_HALF - 0.08), (-1.42, 1.42))
        actors = {}
        if self.plate_y is not None and self.plate_stands:
            wall = np.concatenate([wall, plate + np.array([PLATE_X, self.plate_y(0), 0.0])])
        elif self.plate_y is not None:
            times = np.array(self.plate_times_us)
            places = [pose(np.eye(3), ORIGIN_M + self.scale * np.array([PLATE_X, self.plate_y(int(t)), 0.0])) for t in times]
            track = ActorTrack(
                actor_id="plate",
                actor_class="vehicle",
                size_m=(0.2 * self.scale, 2 * PLATE_HALF * self.scale, 3.0 * self.scale),
                track=PoseTrack(times_us=times, world_from_body=np.stack(places)),
            )
            actors["plate"] = RigidActor(gaussians=self._gaussians(plate), track=track)
        return Scene(
            background=StaticNode(gaussians=self._gaussians(wall), origin_world_m=ORIGIN_M),
            actors=actors,
            sky=None,
            exposure=exposure or ExposureTable.identity([], []),
            shots=tuple(shots),
            ego=PoseTrack(times_us=np.array([0]), world_from_body=pose(np.eye(3), ORIGIN_M)[None]),
            up_world=(0.0, 0.0, 1.0),
            metric=self.scale == 1.0,
            source="made up",
            log_id="wall",
            median_camera_step=0.5 * self.scale,
            camera_model=self.model,
        )

    def _gaussians(self, xyz: np.ndarray) -> Gaussians:
        count = len(xyz)
        return Gaussians(
            means=torch.from_numpy(xyz * self.scale).float(),
            quats_wxyz=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
            log_scales=torch.log(torch.tensor([[0.01, 0.09, 0.09]]) * self.scale).repeat(count, 1),
            opacity_logits=torch.full((count,), 4.0),
            sh=torch.zeros(count, 1, 3),
        )


def _sheet(x: float, across: tuple[float, float], up: tuple[float, float]) -> np.ndarray:
    ys, zs = np.meshgrid(np.arange(*across, 0.16), np.arange(*up, 0.16))
    return np.stack([np.full(ys.size, x), ys.reshape(-1), zs.reshape(-1)], axis=1)


def hidden(world: WallWorld, shot: Shot, by: Shot) -> np.ndarray:
    """Which wall pixels of a shot another shot cannot see for the plate, `[H, W]`."""
    assert world.plate_y is not None
    rays = PictureRays.of(shot, world.model, torch.device("cpu"), ORIGIN_M)
    starts, directions = rays.starts.double().numpy(), rays.directions.double().numpy()
    wall = starts + directions * ((WALL_X - starts[..., :1]) / directions[..., :1])
    eye = by.world_from_camera[:3, 3] - ORIGIN_M
    crossing = eye + (wall - eye) * ((PLATE_X - eye[0]) / (WALL_X - eye[0]))
    own = crossing[..., 1] - world.plate_y(by.mid_us)
    return (np.abs(own) < PLATE_HALF) & (np.abs(crossing[..., 2]) < 1.5)
