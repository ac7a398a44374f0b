"""A log of a small made-up street: pictures drawn from known Gaussians, LiDAR points on them, and one car that drives along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splatmend.datasets.geometry import PoseTrack, pose, transform, yaw_pose
from splatmend.datasets.log import TURN_US, ActorTrack, Camera, CameraFrame, LidarPoints, LidarSweep, SceneLog
from splatmend.datasets.shot import Shot
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import from_rgb
from splatmend.recon.nodes import RigidActor, StaticNode
from splatmend.recon.render import render
from splatmend.recon.scene import RecordedShot, Scene, median_camera_step
from splatmend.recon.sky import SkyMap

CAMERA = Camera(name="front", width=64, height=48, focal_px=(48.0, 48.0), principal_px=(32.0, 24.0))
EGO_FROM_CAMERA = pose(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0.0, 0, 1.5]))
STEP_US = 100_000
# As far from zero as real logs are: float32 would not hold centimetres here.
ORIGIN_M = np.array([500_000.0, 4_000_000.0, 30.0])


def gaussians(xyz: np.ndarray, rgb: np.ndarray, sigma: float, degree: int = 0, seed: int = 0) -> Gaussians:
    """Round, nearly opaque Gaussians; higher harmonics are random."""
    count = len(xyz)
    sh = 0.2 * torch.randn(count, (degree + 1) ** 2, 3, generator=torch.Generator().manual_seed(seed))
    sh[:, 0] = from_rgb(torch.from_numpy(rgb).float())
    return Gaussians(
        means=torch.from_numpy(xyz).float(),
        quats_wxyz=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        log_scales=torch.full((count, 3), float(np.log(sigma))),
        opacity_logits=torch.full((count,), 3.0),
        sh=sh,
    )


def true_scene(frames: int = 12, actor_id: str = "car/1", degree: int = 0, stretch: float = 1.0) -> Scene:
    """A road, two walls of coloured blocks, a sky that is lighter above, and a red car driving ahead. `stretch` makes street and ways
    longer but no wider: where cameras are far from each other, what stands by them takes shorter steps in a fit."""
    along = np.array([stretch, 1.0, 1.0])
    random = np.random.default_rng(3)
    road = np.stack([random.uniform(0, 16, 260), random.uniform(-3, 3, 260), np.zeros(260)], axis=1)
    walls = np.stack([random.uniform(2, 16, 240), random.choice([-3.2, 3.2], 240), random.uniform(0, 3, 240)], axis=1)
    blocks = 0.5 + 0.4 * np.sin(np.floor(walls) @ np.array([[1.0, 2, 3], [0.3, 0.7, 0.1], [2.0, 1, 0.5]]))
    background = gaussians(
        np.concatenate([road, walls]) * along,
        np.concatenate([np.full((260, 3), 0.35) + random.uniform(-0.1, 0.1, (260, 3)), blocks]),
        0.25,
        degree,
    )
    car = random.uniform(-1, 1, (120, 3)) * [1.0, 0.5, 0.4]
    times_us = np.arange(frames) * STEP_US
    world_from_car = np.stack([yaw_pose(0.1, ORIGIN_M + np.array([5 + 0.35 * stretch * i, 0.8, 0.5])) for i in range(frames)])
    track = ActorTrack(
        actor_id=actor_id,
        actor_class="vehicle",
        size_m=(2.2, 1.2, 1.0),
        track=PoseTrack(times_us=times_us, world_from_body=world_from_car),
    )
    ego_m = [ORIGIN_M + np.array([0.25 * i, 0.02 * i, 0]) * along for i in range(frames)]
    ego = PoseTrack(times_us=times_us, world_from_body=np.stack([yaw_pose(0.0, place) for place in ego_m]))
    shots = tuple(
        RecordedShot(
            shot=Shot.still(CAMERA, ego.at(int(t)) @ EGO_FROM_CAMERA, int(t)), frame_index=i, role="held_out" if i % 8 == 4 else "train"
        )
        for i, t in enumerate(times_us)
    )
    sky = SkyMap.uniform((0.6, 0.7, 0.9), (0, 0, 1), 16)
    return Scene(
        background=StaticNode(gaussians=background, origin_world_m=ORIGIN_M),
        actors={actor_id: RigidActor(gaussians=gaussians(car, np.tile([[0.8, 0.1, 0.1]], (120, 1)), 0.12, degree, 1), track=track)},
        sky=sky,
        exposure=ExposureTable.identity([], []),
        shots=shots,
        ego=ego,
        up_world=(0.0, 0.0, 1.0),
        metric=True,
        source="made up",
        log_id="tiny",
        median_camera_step=median_camera_step(shots),
    )


def tiny_log(
    frames: int = 12,
    *,
    gains: tuple[float, ...] = (),
    metric: bool = True,
    scene: Scene | None = None,
    scanned: Callable[[Tensor], Tensor] = torch.ones_like,
) -> SceneLog:
    """The true scene, or another one like it, as a log. `gains` multiply the pictures' colours, one per frame. `scanned` says of the
    actor's points `[N, 3]` in its own frame, by non-zero numbers in the first column, which of them LiDAR meets."""
    scene = scene or true_scene(frames)

    def reader(number: int) -> np.ndarray:
        with torch.no_grad():
            rgb = render(scene, scene.shots[number].shot, ("rgb",), exposure=None).rgb
        assert rgb is not None
        return np.rint((rgb.numpy() * (gains[number] if gains else 1.0)).clip(0, 1) * 255).astype(np.uint8)

    def scan(number: int) -> LidarPoints:
        t_us = number * STEP_US
        (car,) = scene.actors.values()
        means = car.gaussians_at(t_us).means
        on_car = transform(car.track.world_from_actor(t_us), means[scanned(means)[:, 0] != 0].double().numpy())
        xyz = np.concatenate([scene.background.gaussians.means.double().numpy() + ORIGIN_M, on_car])
        origin = np.broadcast_to(scene.ego.at(t_us)[:3, 3], xyz.shape)
        count = len(xyz)
        return LidarPoints(
            xyz_world_m=xyz, time_us=np.full(count, t_us), intensity=np.zeros(count, np.float32), origin_world_m=np.array(origin)
        )

    shots = [recorded.shot for recorded in scene.shots]
    return SceneLog(
        log_id="tiny",
        source="made up",
        path=Path("tiny"),
        cameras={CAMERA.name: CAMERA},
        frames=tuple(
            CameraFrame(
                camera=CAMERA.name,
                index=number,
                start_us=shot.start_us,
                end_us=shot.end_us,
                world_from_camera_start=shot.world_from_camera_start,
                world_from_camera_end=shot.world_from_camera_end,
                read_image=lambda number=number: reader(number),
            )
            for number, shot in enumerate(shots)
        ),
        sweeps=tuple(
            LidarSweep(sensor="top", timestamp_us=number * STEP_US - TURN_US // 2, read_points=lambda number=number: scan(number))
            for number in range(frames)
        ),
        actors=tuple(actor.track for actor in scene.actors.values()),
        ego=scene.ego,
        metric=metric,
    ).validate()
