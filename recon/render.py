"""The only door from a scene to a rasteriser.

Colours are evaluated per node in that node's frame, then the nodes are brought into the background's frame and drawn together. Depth is
a channel of our own (camera z of each Gaussian), so that it gives gradients to the means on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import inverse, project, transform
from splatmend.datasets.log import Camera
from splatmend.datasets.point_projection import readout_fraction
from splatmend.datasets.shot import Shot
from splatmend.recon.exposure import apply_exposure
from splatmend.recon.nodes import RigidActor, bends_at, gaussians_together
from splatmend.recon.placement import Placed, PoseTwists, place_by
from splatmend.recon.pose_tables import PoseTables
from splatmend.recon.raster import RasterStats, rasterize
from splatmend.recon.raster.api import Backend
from splatmend.recon.raster.camera_rays import PixelLines, RayCamera, depth_rays, line_views, ray_directions
from splatmend.recon.scene import Scene
from splatmend.recon.sky import ray_camera_of
from splatmend.recon.transfer import upload

Channel = Literal["rgb", "depth", "opacity", "actors"]
NEAR_M = 0.01
"""Camera z below which nothing is drawn."""
ActorPoses = Callable[[str, int], "np.ndarray | None"]
"""`(actor_id, t_us) -> world_from_actor [4, 4]`, or None where the actor is not there."""


@dataclass(frozen=True, kw_only=True)
class RenderOutput:
    """One picture, on the scene's device. What was not asked for is None.

    `rgb` is sRGB with the sky behind and the exposure applied, not clamped. `depth_m` is camera z, the mean over what is drawn
    (weighted by its share of the pixel), 0 where nothing is. `extra["actors"]` is the share of each pixel that actors have,
    `extra["log_depth"] [H, W, 2]` the blended natural logarithm of camera z (of each Gaussian's centre) and its square, `extra["shares"]
    [H, W, S]` the share that each of the actors asked for has.
    """

    rgb: Float[Tensor, "H W 3"] | None
    depth_m: Float[Tensor, "H W"] | None
    opacity: Float[Tensor, "H W"]
    extra: Mapping[str, Tensor]
    stats: RasterStats


@dataclass(frozen=True, kw_only=True)
class SplatPicture:
    """What the rasteriser draws of a scene: channels blended by their share of the pixel, without sky and exposure. `named` says which
    channels of `blended` are what: "rgb", "actors", "shares" and "depth", for which see `RenderOutput`.
    `ray_camera` says how the pixels look, in the world; `directions` are those from the camera to each Gaussian, in the axes of its node,
    and `placed` where they are; nodes follow each other as `nodes` says: the background (None), then actors. `probes` are the channels
    of zeros that were asked for: by the gradients that they take one learns which pixels show a Gaussian. `along` is what was sent to the
    device beside the poses."""

    blended: Float[Tensor, "H W C"]
    opacity: Float[Tensor, "H W"]
    named: Mapping[str, slice]
    ray_camera: RayCamera
    directions: Float[Tensor, "N 3"]
    placed: Placed
    nodes: tuple[str | None, ...]
    stats: RasterStats
    along: tuple[Tensor, ...] = ()

    @property
    def depths_m(self) -> Float[Tensor, "N"]:
        """Camera z of each Gaussian, outside the graph."""
        return self.placed.depths_m.detach()

    def __getitem__(self, name: str) -> Float[Tensor, "H W c"]:
        return self.blended[..., self.named[name]]


def render(
    scene: Scene,
    shot: Shot,
    channels: Collection[Channel] = ("rgb", "depth", "opacity"),
    *,
    backend: Backend | None = None,
    exposure: Literal["auto"] | Tensor | None = "auto",
    without: Collection[str] = (),
    actor_poses: ActorPoses | Mapping[str, np.ndarray] | None = None,
    twists: PoseTwists | None = None,
    sh_degree: int | None = None,
    shares: Sequence[str] = (),
    device: str | torch.device | None = None,
) -> RenderOutput:
    """Draw a scene as a shot sees it, with the splat model that it was fitted with (`Scene.camera_model`).

    `ewa` takes the shot's pose and the actors' places in the middle of the exposure. `ray` draws lens distortion and, row by row, the
    camera's way during the readout, with every actor where it is when the row that sees its centre is read.

    Args:
        scene: what to draw; differentiable with respect to its tensors.
        shot: camera, pose and time in the world.
        channels: what to draw ("opacity" always comes along).
        backend: rasteriser; by default the one of the device.
        exposure: "auto" takes the map of the shot's camera and time from the scene's table, None leaves the scene's own colours, a
            tensor `[3, 4]` is used as it is.
        without: ids of actors to leave out.
        actor_poses: where the actors are, instead of their recorded tracks; a mapping has the poses in the world `[4, 4]` at which they
            are drawn whichever row sees them, and an actor that it lacks is not there.
        twists: zeros that take the gradients with respect to the poses of camera and actors. These go through the Gaussians, for no
            backend has them; view-dependent colours and the sky are taken as given.
        sh_degree: use harmonics up to this degree only.
        shares: ids of actors whose shares of the pixels are wanted; one that is not drawn has none.
        device: where to draw; by default where the scene is.

    Raises:
        UserError: for a camera with distortion and a scene of the `ewa` model, or an unknown actor in `without`.
    """
    if device is not None:
        scene = scene.to(device)
    drawn = draw_splats(
        scene,
        shot,
        channels,
        backend=backend,
        without=without,
        actor_poses=actor_poses,
        twists=twists,
        sh_degree=sh_degree,
        shares=shares,
    )
    rgb = drawn["rgb"] if "rgb" in channels else None
    if rgb is not None and scene.sky is not None:
        rgb = rgb + (1.0 - drawn.opacity)[..., None] * scene.sky.colours(ray_directions(drawn.ray_camera, scene.device))
    if rgb is not None and exposure is not None:
        rgb = apply_exposure(rgb, scene.exposure.at(shot.camera.name, shot.mid_us) if isinstance(exposure, str) else exposure)
    depth_m = None
    if "depth" in channels:
        depth_m = normalised_depth(drawn["depth"][..., 0], drawn.opacity)
        if drawn.ray_camera.rolls:
            lines = PixelLines.of(drawn.ray_camera, scene.device)
            camera_from_line = upload((inverse(shot.world_from_camera) @ lines.world_from_line)[:, :3], scene.device)
            depth_m = depth_of_rows(depth_m, drawn.opacity, lines.lens, camera_from_line, sideways=lines.sideways)
    extra = {}
    if "actors" in channels:
        extra["actors"] = drawn["actors"][..., 0]
    if shares:
        extra["shares"] = drawn["shares"]
    return RenderOutput(rgb=rgb, depth_m=depth_m, opacity=drawn.opacity, extra=extra, stats=drawn.stats)


def draw_splats(
    scene: Scene,
    shot: Shot,
    channels: Collection[Channel],
    *,
    backend: Backend | None = None,
    without: Collection[str] = (),
    actor_poses: ActorPoses | Mapping[str, np.ndarray] | None = None,
    twists: PoseTwists | None = None,
    sh_degree: int | None = None,
    shares: Sequence[str] = (),
    ray_camera: RayCamera | None = None,
    along: Sequence[np.ndarray] = (),
    higher: Mapping[str | None, Float[Tensor, "n K-1 3"]] | None = None,
) -> SplatPicture:
    """The part of `render` before sky, exposure and what depends on a pixel's own time; see there.

    Args:
        ray_camera: what `ray_camera_of` says of the shot, where somebody asked already.
        along: arrays that go to the device by the copy that brings the poses there, as float32.
        higher: harmonics above degree 0 of the background (None) and of each actor, where the scene's Gaussians have those of degree 0
            alone, as in a fit.
    """
    camera = shot.camera
    model = scene.camera_model
    if camera.distortion_model != "none" and model == "ewa":
        raise UserError(
            f"camera {camera.name}: its {camera.distortion_model} lens distortion cannot be drawn with the pinhole (ewa) model; "
            "give a camera without distortion, or fit the scene with camera_model ray."
        )
    if unknown := set(without) - set(scene.actors):
        raise UserError(f"actor {sorted(unknown)[0]}: the scene has no such actor; its actors are {listed(scene.actors)}.")
    origin_m, t_us = scene.origin_world_m, shot.mid_us
    background = scene.background.gaussians_at(t_us)
    found = list(drawn_actors(scene, shot, without, actor_poses))
    bodies, poses = [actor for _, actor, _ in found], [_from_origin(pose, origin_m) for _, _, pose in found]
    ray_camera = ray_camera_of(shot, model) if ray_camera is None else ray_camera
    lens = _in_scene(ray_camera, origin_m) if model == "ray" else None
    # All that depends on poses goes to the device by one copy.
    camera_slopes = twists is not None and twists.camera
    tables = PoseTables.of(_from_origin(shot.world_from_camera, origin_m), poses, camera_slopes=camera_slopes)
    lines = () if lens is None else line_views(lens)
    on_device, (bends, *others) = tables.with_others([bends_at(bodies, t_us), *lines, *along], scene.device)
    actors = list(zip([name for name, _, _ in found], gaussians_together(bodies, t_us, bends), poses, strict=True))
    nodes = (None, *(name for name, _, _ in actors))
    rest = None if higher is None else [higher[name] for name in nodes]
    placed = place_by(on_device, background, actors, twists, sh_degree, coloured="rgb" in channels, higher=rest)
    stacked: dict[str, Tensor] = {}
    if placed.rgb is not None:
        stacked["rgb"] = placed.rgb
    if "actors" in channels:
        stacked["actors"] = torch.zeros(len(placed.means), 1, device=scene.device)
        stacked["actors"][len(background) :] = 1.0
    if shares:
        stacked["shares"] = _actor_rows(len(background), [(name, len(gaussians)) for name, gaussians, _ in actors], shares, scene.device)
    if "depth" in channels or not stacked:
        stacked["depth"] = placed.depths_m[:, None]
    raster = rasterize(
        placed.means,
        placed.quats_wxyz,
        placed.scales,
        placed.opacities,
        torch.cat(list(stacked.values()), dim=1) if len(stacked) > 1 else next(iter(stacked.values())),
        placed.camera_from_scene,
        _intrinsics(camera, scene.device),
        camera.width,
        camera.height,
        model=model,
        backend=backend,
        near_m=NEAR_M,
        ray_camera=lens,
        line_views=None if lens is None else (others[0], others[1]),
    )
    named, start = {}, 0
    for name, values in stacked.items():
        named[name] = slice(start, start := start + values.shape[1])
    return SplatPicture(
        blended=raster.channels,
        opacity=raster.opacity,
        named=named,
        ray_camera=ray_camera,
        directions=placed.directions.detach(),
        placed=placed,
        nodes=nodes,
        stats=raster.stats,
        along=tuple(others[len(lines) :]),
    )


@lru_cache(maxsize=64)
def _intrinsics(camera: Camera, device: torch.device) -> Float[Tensor, "3 3"]:
    return upload(camera.intrinsics, device)


def normalised_depth(blended: Float[Tensor, "H W"], opacity: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Mean depth of what is drawn: the blended depth over the opacity; 0 where the opacity is."""
    return blended / opacity.clamp_min(1e-6)


def depth_of_rows(
    depth_m: Float[Tensor, "H W"],
    opacity: Float[Tensor, "H W"],
    lens: Float[Tensor, "H W 3"],
    camera_from_line: Float[Tensor, "L 3 4"],
    *,
    sideways: bool,
) -> Float[Tensor, "H W"]:
    """Camera z at the time of each row, of points on the pixels' rays with that camera z in the middle of the exposure; `camera_from_line`:
    from each row's pose to that in the middle. 0 where nothing is drawn."""
    starts, slopes = depth_rays(lens, camera_from_line, sideways=sideways)
    # Directions have z = 1 in the frame of their own row, so a ray's parameter is the depth there.
    return torch.where(opacity > 0, (depth_m - starts) / slopes, depth_m)


def _in_scene(ray_camera: RayCamera, origin_m: Float[np.ndarray, "3"]) -> RayCamera:
    first = _from_origin(ray_camera.world_from_first, origin_m)
    last = first if not ray_camera.rolls else _from_origin(ray_camera.world_from_last, origin_m)
    return RayCamera(camera=ray_camera.camera, world_from_first=first, world_from_last=last)


def _actor_rows(background_count: int, counts: Sequence[tuple[str, int]], ids: Sequence[str], device: torch.device) -> Float[Tensor, "N S"]:
    """Ones where a Gaussian belongs to an actor of `ids`; the background's come first, then those of each actor in order."""
    rows = torch.zeros(background_count + sum(count for _, count in counts), len(ids), device=device)
    start = background_count
    for name, count in counts:
        if name in ids:
            rows[start : start + count, ids.index(name)] = 1.0
        start += count
    return rows


def drawn_actors(
    scene: Scene, shot: Shot, without: Collection[str] = (), actor_poses: ActorPoses | Mapping[str, np.ndarray] | None = None
) -> Iterator[tuple[str, RigidActor, np.ndarray]]:
    """Actors that a shot finds there, each with the pose in the world at which it is drawn."""
    if isinstance(actor_poses, Mapping):
        yield from ((name, actor, actor_poses[name]) for name, actor in scene.actors.items() if name in actor_poses and name not in without)
        return

    def place(actor_id: str, t_us: int) -> np.ndarray | None:
        return scene.actors[actor_id].world_from_node(t_us) if actor_poses is None else actor_poses(actor_id, t_us)

    there = {actor_id: place(actor_id, shot.mid_us) for actor_id in scene.actors if actor_id not in without}
    poses = {actor_id: pose for actor_id, pose in there.items() if pose is not None}
    if scene.camera_model == "ray":
        poses = _when_seen(place, poses, shot)
    yield from ((actor_id, scene.actors[actor_id], pose) for actor_id, pose in poses.items())


def _when_seen(place: ActorPoses, poses: Mapping[str, np.ndarray], shot: Shot) -> dict[str, np.ndarray]:
    """Actors' poses at the time of the row (or column) that sees the centre of each; those in the middle, which are given, where none
    does."""
    seen = dict(poses)
    asked = [] if shot.camera.shutter == "global" or shot.start_us == shot.end_us else list(poses)
    camera_from_world = inverse(shot.world_from_camera)
    for _ in range(2):  # the row moves by a few pixels only
        if not asked:
            break
        pixels, _inside = project(shot.camera, transform(camera_from_world, np.stack([seen[name][:3, 3] for name in asked])))
        fractions = readout_fraction(shot.camera, pixels).tolist()
        found = []
        for name, missed, fraction in zip(asked, np.isnan(pixels).any(axis=1), fractions):
            pose = None if missed else place(name, shot.start_us + round(fraction * (shot.end_us - shot.start_us)))
            seen[name] = poses[name] if pose is None else pose
            if pose is not None:
                found.append(name)
        asked = found
    return seen


def _from_origin(world_from_body: Float[np.ndarray, "4 4"], origin_m: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """A pose in the world as one in the frame with the world's axes at `origin_m`."""
    out = world_from_body.copy()
    out[:3, 3] -= origin_m
    return out


def listed(names: Collection[str]) -> str:
    """A few names, for a sentence."""
    shown = sorted(names)[:6]
    return (", ".join(shown) + (" ..." if len(names) > 6 else "")) if shown else "none"
