"""Inserted bodies made to belong: lit by the scene's light, shaded by the scene, shading it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.shot import Shot
from splatmend.recon.assets.asset import Asset
from splatmend.recon.exposure import apply_exposure
from splatmend.recon.gaussians import Gaussians, concatenate, left_matrices
from splatmend.recon.light.body_light import BodyLight, BodyShape, SceneOpen
from splatmend.recon.light.colour import light_from_picture, luminance, picture_from_light
from splatmend.recon.light.occlusion import OcclusionMaps, cast
from splatmend.recon.light.probe import light_at
from splatmend.recon.light.receivers import Receivers, receivers
from splatmend.recon.light.relight import relit
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.light.scene_sun import SceneSun
from splatmend.recon.raster.api import Backend
from splatmend.recon.render import Channel, render
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import upload

if TYPE_CHECKING:
    from splatmend.recon.insertion.frame import InsertedFrame


_COLOUR: tuple[Channel, ...] = ("rgb",)
_UNSEEN = 0.002
"""Less of a surface's light than this is no shadow."""


@dataclass(frozen=True, kw_only=True)
class FinishConfig:
    """How light and shadow of inserted bodies are drawn."""

    sky_directions: int = 48
    """Directions from which the sky's light comes, for the dark below a body and in its wheel arches."""
    map_rows: int = 128
    """Rows of the picture of a body, or of the scene around it, that a light sees."""
    own_bias_m: float = 0.06
    """A surface begins to be in a body's shadow where that body lies so much nearer to the light, and is in it at twice that."""
    scene_bias_m: float = 0.25
    """Likewise in the scene's, whose surfaces are less sharp."""
    longest_shadow_m: float = 25.0
    """Shadows reach no farther from a body than this."""
    probe_step_m: float = 3.0
    """The environment is looked up anew so often along a body's way."""
    ground_m: float = 0.3
    """What lies less than this above or below the plane that a body stands on is ground that faces up."""

    def __post_init__(self) -> None:
        if not (4 <= self.sky_directions <= 1024 and 16 <= self.map_rows <= 1024):
            raise UserError(f"light: {self.sky_directions} directions of {self.map_rows} rows; give 4 to 1024 and 16 to 1024.")
        if not 0 < min(self.own_bias_m, self.scene_bias_m, self.longest_shadow_m, self.probe_step_m, self.ground_m) < float("inf"):
            raise UserError("light: the distances of shadows must be positive.")


@dataclass(frozen=True, kw_only=True)
class FinishedFrame:
    """`rgb` is sRGB with the exposure applied, not clamped; `kept` the share of its light that the background keeps, below 1 in shadows."""

    rgb: Float[Tensor, "H W 3"]
    kept: Float[Tensor, "H W 3"]

    @property
    def shadow(self) -> Float[Tensor, "H W"]:
        """Share of the luminance that is taken from a white background, 0 to 1."""
        return 1 - luminance(self.kept).clamp(0, 1)


class Finisher:
    """Draws frames of an edited scene with light. What a body keeps off the sky is drawn once, when it is first seen."""

    def __init__(
        self,
        scene: Scene,
        assets: Mapping[str, Asset | None],
        light: SceneLight,
        config: FinishConfig | None = None,
        *,
        backend: Backend | None = None,
    ) -> None:
        """`scene` holds the inserted actors, `assets` their assets by actor id. An actor whose asset is None or has no material keeps its
        own colours; it casts and takes no less shadow for it on the ground."""
        self.scene, self.assets, self.light = scene, dict(assets), light.to(scene.device)
        self.config, self._backend = config or FinishConfig(), backend
        self._shapes: dict[str, BodyShape] = {}
        self._suns: dict[str, SceneSun] = {}
        self._lights: dict[tuple[str, int], SceneLight] = {}
        self._ways: dict[str, _Way] = {}
        self._scene_from_world = np.eye(4)
        self._scene_from_world[:3, 3] = -scene.origin_world_m

    @torch.no_grad()
    def finish(self, frame: InsertedFrame) -> FinishedFrame:
        """A naive frame with light and shadows."""
        shot, scene = frame.shot, self.scene
        seen = receivers(shot, scene.camera_model, frame.background_depth_m, frame.background_opacity, scene.origin_world_m)
        kept = torch.ones_like(frame.rgb)
        eye = upload(shot.world_from_camera[:3, 3], scene.device)
        actors = dict(scene.actors)
        for name, asset in self.assets.items():
            actor = scene.actors[name]
            pose = actor.world_from_node(shot.mid_us)
            if pose is None:
                continue
            shape = self._shape_of(name)
            scene_from_body = self._scene_from_world @ pose
            scene_open = self._scene_open(name, shot, scene_from_body, shape)
            light = self._light_on(name, shot.mid_us)
            lighting = BodyLight.of(shape, scene_from_body, light, scene_open)
            kept = kept * self._kept(seen, lighting)
            if asset is not None and asset.material is not None:
                lit = relit(
                    actor.gaussians,
                    asset.material,
                    upload(pose, scene.device),
                    eye,
                    light,
                    sun_seen=lighting.sun_on_body(),
                    sky_seen=lighting.sky_on_body(asset.material.normals),
                    near=shape.near,
                )
                actors[name] = replace(actor, gaussians=lit)
        drawn = render(replace(scene, actors=actors), shot, _COLOUR, backend=self._backend, exposure=None)
        assert drawn.rgb is not None
        kept = torch.where(kept > 1 - _UNSEEN, 1.0, kept)
        inserted = sum(frame.shares.values(), torch.zeros_like(frame.opacity)).clamp(0, 1)
        factor = 1 - (1 - kept) * (1 - inserted)[..., None]
        rgb = apply_exposure(picture_from_light(light_from_picture(drawn.rgb) * factor), frame.exposure)
        # What is neither a body nor its shadow stays the same number.
        changed = (inserted > 0) | (kept < 1).any(dim=-1)
        return FinishedFrame(rgb=torch.where(changed[..., None], rgb, frame.rgb), kept=kept)

    def _light_on(self, name: str, t_us: int) -> SceneLight:
        """The light where a body is, mixed between the places along its way where the surroundings are looked up."""
        track = self.scene.actors[name].track.track
        if name not in self._ways:
            self._ways[name] = _Way.of(track)
        way = self._ways[name]
        along = way.at(t_us) / self.config.probe_step_m
        first, share = math.floor(along), along - math.floor(along)
        if share == 0:
            return self._probe(name, first)
        here, ahead = self._probe(name, first), self._probe(name, first + 1)
        return replace(here, environment=torch.lerp(here.environment, ahead.environment, share))

    def _probe(self, name: str, number: int) -> SceneLight:
        if (name, number) not in self._lights:
            t_us = self._ways[name].time_at(number * self.config.probe_step_m)
            place = self.scene.actors[name].track.world_from_actor(t_us)[:3, 3]
            self._lights[name, number] = light_at(self.scene, self.light, place, t_us, backend=self._backend)
        return self._lights[name, number]

    def _shape_of(self, name: str) -> BodyShape:
        if name not in self._shapes:
            config = self.config
            asset = self.assets[name]
            self._shapes[name] = BodyShape(
                self.scene.actors[name].gaussians,
                None if asset is None or asset.material is None else asset.material.normals,
                sky_directions=config.sky_directions,
                rows=config.map_rows,
                bias_m=config.own_bias_m,
                backend=self._backend,
            )
        return self._shapes[name]

    def _scene_open(self, name: str, shot: Shot, scene_from_body: np.ndarray, shape: BodyShape) -> SceneOpen:
        """How the scene without a body lets the sun through, where the body stands."""
        if name not in self._suns:
            track = self._scene_from_world @ self.scene.actors[name].track.track.world_from_body
            self._suns[name] = SceneSun(
                self.scene.background.gaussians,
                track,
                shape.half_height_m,
                shape.reach_m + self.config.longest_shadow_m,
                self.light,
                bias_m=self.config.scene_bias_m,
                backend=self._backend,
            )
        standing, centre = self._suns[name], upload(scene_from_body[:3, 3], self.scene.device)
        geometry = standing.geometry_around(centre, 1.2 * shape.reach_m, self.config.map_rows)
        others = self._others_around(name, shot, centre, shape.reach_m)
        if others is None:
            return lambda points: standing.open_at(points, geometry)
        return lambda points: standing.open_at(points, geometry) * others.open_to(points, self.config.own_bias_m)[:, 0]

    def _others_around(self, name: str, shot: Shot, centre: Tensor, reach_m: float) -> OcclusionMaps | None:
        """Other actors as the sun sees them where the body stands in its way; None where there is none."""
        parts = []
        for other, actor in self.scene.actors.items():
            pose = None if other == name else actor.world_from_node(shot.mid_us)
            if pose is not None:
                parts.append(placed_alone(actor.gaussians_at(shot.mid_us), upload(self._scene_from_world @ pose, self.scene.device)))
        if not parts:
            return None
        sun = centre.new_tensor([self.light.to_sun_world])
        return cast(concatenate(parts), sun, centre, 1.2 * reach_m, self.config.map_rows, backend=self._backend)

    def _kept(self, seen: Receivers, lighting: BodyLight) -> Float[Tensor, "H W 3"]:
        """Share of the background's light that one body leaves, pixel by pixel."""
        shape = lighting.shape
        low = max(float(np.sin(np.radians(self.light.sun_elevation_deg))), 0.05)
        far_m = shape.reach_m + min(2 * shape.half_height_m / low, self.config.longest_shadow_m)
        near = seen.valid & ((seen.points - lighting.centre).square().sum(dim=-1) < far_m**2)
        kept = torch.ones_like(seen.points)
        kept[near] = lighting.kept_beside(seen.points[near], seen.normals[near], self.config.ground_m)
        return kept


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How far a body has come at each time of its track."""

    times_us: np.ndarray
    along_m: np.ndarray

    @staticmethod
    def of(track: PoseTrack) -> _Way:
        steps = np.linalg.norm(np.diff(track.world_from_body[:, :3, 3], axis=0), axis=1)
        return _Way(times_us=track.times_us, along_m=np.concatenate([[0.0], np.cumsum(steps)]))

    def at(self, t_us: int) -> float:
        return float(np.interp(t_us, self.times_us, self.along_m))

    def time_at(self, along_m: float) -> int:
        return round(float(np.interp(along_m, self.along_m, self.times_us)))


def placed_alone(gaussians: Gaussians, a_from_b: Float[Tensor, "4 4"]) -> Gaussians:
    """Gaussians of a frame b in a frame a. Their harmonics stay in b."""
    turn = Rotation.from_matrix(a_from_b[:3, :3].double().cpu().numpy()).as_quat(scalar_first=True)
    left = left_matrices(upload(turn, gaussians.device))
    return replace(gaussians, means=gaussians.means @ a_from_b[:3, :3].T + a_from_b[:3, 3], quats_wxyz=gaussians.quats_wxyz @ left.T)
