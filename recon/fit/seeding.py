"""The scene before the first iteration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import ActorTrack, CameraFrame, SceneLog
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.fit.box_points import COUNT, box_points
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.points import ColouredPoints, depth_range, joined, lidar_points, scene_extent, sfm_points
from splatmend.recon.fit.rays import RayPoints, ray_points
from splatmend.recon.fit.symmetry import one_sided
from splatmend.recon.gaussians import Gaussians, concatenate
from splatmend.recon.harmonics import from_rgb
from splatmend.recon.motion import still
from splatmend.recon.nodes import DeformableActor, RigidActor, StaticNode
from splatmend.recon.scene import RecordedShot, Scene, median_camera_step
from splatmend.recon.sky import SkyMap

_BARE_M = 0.15
"""A place of an actor that has no point of its own so near takes a mirrored one."""
_STAYS_M = 1.0
"""Boxes of a body that stands move less than this."""


def seed_scene(log: SceneLog, shots: Sequence[RecordedShot], config: FitConfig) -> Scene:
    """Background, actors, sky and colour corrections of a prepared log, ready to be fitted; equal for equal seeds. No node has more
    Gaussians than its cap.

    Raises:
        UserError: where there is not one point to begin with.
    """
    frames = [frame for frame, recorded in zip(log.frames, shots) if recorded.role == "train"]
    trained = [recorded.shot for recorded in shots if recorded.role == "train"]
    generator = np.random.default_rng(config.seed)
    background, actors = lidar_points(log, frames, config.init)
    moving: dict[str, tuple[ActorTrack, ColouredPoints]] = {}
    for actor in log.actors:
        points = actors.get(actor.actor_id, joined([]))
        if len(points) >= config.init.min_actor_points:
            moving[actor.actor_id] = actor, points
        elif not _goes_away(actor):
            middle = actor.world_from_actor((actor.track.start_us + actor.track.end_us) // 2)
            background = joined([background, ColouredPoints(xyz=points.xyz @ middle[:3, :3].T + middle[:3, 3], rgb=points.rgb)])
        elif (sides := box_points(actor, frames, trained, COUNT, generator)) is not None:
            moving[actor.actor_id] = actor, joined([points, sides])
    background = joined([background, sfm_points(log, frames)])
    extent = scene_extent(frames, log.metric)
    limits = depth_range(background, frames, extent, log.metric, config.init.far_m)
    rays = ray_points(log, frames, background.xyz, config.init.ray_count, limits, generator)
    background = _subset(background, config.init.point_count, generator)
    background, rays = _capped(background, rays, config.densify.cap, generator)
    if not len(background) + len(rays.points):
        raise UserError(f"{log.path}: there is no point to begin the fit with; give a larger init.ray_count.")
    origin = np.mean([frame.world_from_camera[:3, 3] for frame in frames], axis=0)
    parts = [
        gaussians_of(background, origin, neighbour_sigma(background.xyz) * config.init.scale, config.init.opacity, config.sh_degree),
        gaussians_of(rays.points, origin, rays.sigma, config.init.ray_opacity, config.sh_degree),
    ]
    nodes = {}
    seen_sides = one_sided([actor for actor, _ in moving.values()], trained, config.actors)
    for actor_id, (actor, points) in moving.items():
        points = _subset(points, min(config.init.actor_count, config.densify.actor_cap), generator)
        if actor_id in seen_sides:
            points = joined([points, _subset(_other_side(points), config.densify.actor_cap - len(points), generator)])
        sigma = neighbour_sigma(points.xyz) * config.init.scale
        gaussians = gaussians_of(points, np.zeros(3), sigma, config.init.opacity, config.sh_degree)
        nodes[actor_id] = _node(actor, gaussians, config)
    return Scene(
        background=StaticNode(gaussians=concatenate(parts), origin_world_m=origin),
        actors=nodes,
        sky=SkyMap.uniform(_brightest(frames), log.up_world, config.sky_rows) if config.sky_rows else None,
        exposure=ExposureTable.identity([shot.camera.name for shot in trained], [shot.mid_us for shot in trained], config.exposure.grid),
        shots=tuple(shots),
        ego=log.ego,
        up_world=log.up_world,
        metric=log.metric,
        source=log.source,
        log_id=log.log_id,
        median_camera_step=median_camera_step(tuple(shots)),
        camera_model=config.camera_model,
    )


def _goes_away(actor: ActorTrack) -> bool:
    """Whether a body does not stay where it is: as part of the background it would be a smear."""
    places_m = actor.track.world_from_body[:, :3, 3]
    return bool(np.linalg.norm(places_m - places_m[0], axis=1).max() > _STAYS_M)


def _node(actor: ActorTrack, gaussians: Gaussians, config: FitConfig) -> RigidActor:
    if actor.actor_class not in config.actors.bending:
        return RigidActor(gaussians=gaussians, track=actor)
    motion = still(
        len(gaussians),
        start_us=actor.track.start_us,
        end_us=actor.track.end_us,
        step_us=round(config.actors.course_step_s * 1e6),
        reach_m=max(actor.size_m[:2]),
        cadences_hz=config.actors.cadences_hz,
    )
    return DeformableActor(gaussians=gaussians, track=actor, motion=motion)


def _other_side(points: ColouredPoints) -> ColouredPoints:
    """Mirror images of an actor's points, where it has none of its own."""
    image = ColouredPoints(xyz=points.xyz * [1.0, -1.0, 1.0], rgb=points.rgb)
    return image.select(cKDTree(points.xyz).query(image.xyz)[0] > _BARE_M)


def neighbour_sigma(xyz: np.ndarray) -> np.ndarray:
    """Mean distance of each point to its three nearest neighbours, `[N]`; never 0, nor above ten times the median."""
    if len(xyz) < 2:
        return np.full(len(xyz), 0.1)
    distance = cKDTree(xyz).query(xyz, k=min(4, len(xyz)), workers=-1)[0][:, 1:]
    mean = distance.mean(axis=1)
    middle = max(float(np.median(mean)), 1e-6)
    return np.clip(mean, 1e-2 * middle, 10 * middle)


def gaussians_of(points: ColouredPoints, origin: np.ndarray, sigma: np.ndarray, opacity: float, sh_degree: int) -> Gaussians:
    """Round Gaussians at points, in a frame at `origin` with the points' axes."""
    count = len(points)
    sh = torch.zeros(count, (sh_degree + 1) ** 2, 3)
    sh[:, 0] = from_rgb(torch.from_numpy(points.rgb).float())
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1.0
    return Gaussians(
        means=torch.from_numpy(points.xyz - origin).float(),
        quats_wxyz=quats,
        log_scales=torch.from_numpy(np.log(np.maximum(sigma, 1e-6))).float()[:, None].repeat(1, 3),
        opacity_logits=torch.full((count,), float(np.log(opacity / (1 - opacity)))),
        sh=sh,
    )


def _subset(points: ColouredPoints, most: int, generator: np.random.Generator) -> ColouredPoints:
    if len(points) <= most:
        return points
    return points.select(np.sort(generator.permutation(len(points))[:most]))


def _capped(points: ColouredPoints, rays: RayPoints, cap: int, generator: np.random.Generator) -> tuple[ColouredPoints, RayPoints]:
    """Points and rays, thinned alike to no more than the cap together."""
    total = len(points) + len(rays.points)
    if total <= cap:
        return points, rays
    kept = np.sort(generator.permutation(total)[:cap])
    of_points, of_rays = kept[kept < len(points)], kept[kept >= len(points)] - len(points)
    return points.select(of_points), RayPoints(points=rays.points.select(of_rays), sigma=rays.sigma[of_rays])


def _brightest(frames: Sequence[CameraFrame]) -> tuple[float, float, float]:
    """Mean colour of the brightest tenth of the upper third of the first, middle and last picture."""
    pixels = [frames[i].read_image() for i in sorted({0, len(frames) // 2, len(frames) - 1})]
    upper = np.concatenate([picture[: picture.shape[0] // 3].reshape(-1, 3) for picture in pixels]) / 255.0
    bright = upper[np.argsort(upper.sum(axis=1))[-max(len(upper) // 10, 1) :]]
    red, green, blue = bright.mean(axis=0)
    return float(red), float(green), float(blue)
