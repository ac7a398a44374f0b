"""Inserted bodies made to belong: lit by the scene's light, shaded by the scene, shading it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack
from splatmend.recon.assets.asset import Asset
from splatmend.recon.exposure import apply_exposure
from splatmend.recon.gaussians import Gaussians, empty
from splatmend.recon.light.body_light import BodyLight, BodyShape, SceneOpen
from splatmend.recon.light.clearing import clear_of_body
from splatmend.recon.light.colour import luminance, taken_by_shade
from splatmend.recon.light.occlusion import OcclusionMaps, cast, may_shade
from splatmend.recon.light.probe import light_at
from splatmend.recon.light.receivers import Receivers, receivers
from splatmend.recon.light.relight import relit
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.light.scene_sun import SceneSun, recorded_bodies
from splatmend.recon.placement import place
from splatmend.recon.raster.api import Backend
from splatmend.recon.render import Channel
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import upload

if TYPE_CHECKING:
    from splatmend.recon.insertion.frame import InsertedFrame


_COLOUR: tuple[Channel, ...] = ("rgb",)
_UNSEEN = 0.002
"""Less of a surface's light than this is no shadow."""
_AROUND = 1.2
"""What the sun sees around a body is drawn so many times as far as the body reaches."""


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
    """The environment is looked up anew so often along a body's way, and what of the scene is before the sun."""
    ground_m: float = 0.3
    """What lies less than this above or below the plane that a body stands on is ground that faces up."""
    pits_m: float = 1.5
    """What is seen through that plane, down to so far below it, is a pit in what was reconstructed of the ground."""

    def __post_init__(self) -> None:
        if not (4 <= self.sky_directions <= 1024 and 16 <= self.map_rows <= 1024):
            raise UserError(f"light: {self.sky_directions} directions of {self.map_rows} rows; give 4 to 1024 and 16 to 1024.")
        if (
            not 0
            < min(self.own_bias_m, self.scene_bias_m, self.longest_shadow_m, self.probe_step_m, self.ground_m, self.pits_m)
            < float("inf")
        ):
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
        recorded: Scene | None = None,
        backend: Backend | None = None,
    ) -> None:
        """`scene` holds the inserted actors, `assets` their assets by actor id. An actor whose asset is None or has no material keeps its
        own colours; it casts and takes no less shadow for it on the ground. `recorded` is the scene before it was edited, whose actors
        shaded the ground in its pictures; by default those of `scene` that were not inserted did."""
        self.scene, self.assets, self.light = scene, dict(assets), light.to(scene.device)
        self.config, self._backend = config or FinishConfig(), backend
        standing = {name: actor for name, actor in scene.actors.items() if name not in self.assets}
        self._shading = recorded_bodies(recorded or replace(scene, actors=standing))
        self._shapes: dict[str, BodyShape] = {}
        self._scenes: dict[str, Scene] = {}
        self._suns: dict[str, SceneSun] = {}
        self._lights: dict[tuple[str, int], SceneLight] = {}
        self._geometry: dict[str, tuple[int, OcclusionMaps]] = {}
        self._ways: dict[str, _Way] = {}
        self._scene_from_world = np.eye(4)
        self._scene_from_world[:3, 3] = -scene.origin_world_m

    @torch.no_grad()
    def finish(self, frame: InsertedFrame) -> FinishedFrame:
        """A naive frame with light and shadows. `frame` is one of the scene that was given."""
        shot, scene = frame.shot, self.scene
        kept = torch.ones_like(frame.rgb)
        there = [name for name in self.assets if name in frame.world_from_actor]
        near = [name for name in there if frame.may_show(name, self._shaded_m(self._shape_of(name)))]
        if not near:
            return FinishedFrame(rgb=frame.rgb, kept=kept)
        seen = receivers(shot, scene.camera_model, frame.background_depth_m, frame.background_opacity, scene.origin_world_m)
        eye = upload(shot.world_from_camera[:3, 3] - scene.origin_world_m, scene.device)
        lit: dict[str, Gaussians] = {}
        for name in near:
            shape, asset = self._shape_of(name), self.assets[name]
            scene_from_body = self._scene_from_world @ frame.world_from_actor[name]
            light = self._light_on(name, shot.mid_us)
            lighting = BodyLight.of(shape, scene_from_body, light, self._scene_open(name, frame))
            kept = self._less(kept, seen, eye, lighting)
            if name in frame.in_sight and asset is not None and asset.material is not None:
                lit[name] = relit(
                    scene.actors[name].gaussians,
                    asset.material,
                    lighting.scene_from_body,
                    eye,
                    light,
                    sun_seen=lighting.sun_on_body(),
                    sky_seen=lighting.sky_on_body(asset.material.normals),
                    near=shape.near,
                    alike=shape.alike,
                )
        kept = torch.where(kept > 1 - _UNSEEN, 1.0, kept)
        inserted = sum(frame.shares.values(), torch.zeros_like(frame.opacity)).clamp(0, 1)
        # Splats blend colours of pictures, so a body's border keeps its own part of the pixel and the rest is shaded as if it were whole.
        taken = (1 - inserted)[..., None] * taken_by_shade(frame.background_unexposed_rgb, kept)
        rgb = apply_exposure(self._with_lit(frame, lit) - taken, frame.exposure)
        # What is neither a body nor its shadow stays the same number.
        changed = (inserted > 0) | (kept < 1).any(dim=-1)
        return FinishedFrame(rgb=torch.where(changed[..., None], rgb, frame.rgb), kept=kept)

    def _with_lit(self, frame: InsertedFrame, lit: Mapping[str, Gaussians]) -> Float[Tensor, "H W 3"]:
        """The frame without exposure, with some bodies in other colours."""
        if not lit:
            return frame.unexposed_rgb
        actors = {name: replace(self.scene.actors[name], gaussians=gaussians) for name, gaussians in lit.items()}
        rgb = frame.draw(replace(self.scene, actors={**self.scene.actors, **actors}), _COLOUR).rgb
        assert rgb is not None
        return rgb

    def _shaded_m(self, shape: BodyShape) -> float:
        """How far from a body's centre it may keep light off."""
        low = max(float(np.sin(np.radians(self.light.sun_elevation_deg))), 0.05)
        return shape.reach_m + min(2 * shape.half_height_m / low, self.config.longest_shadow_m)

    def _light_on(self, name: str, t_us: int) -> SceneLight:
        """The light where a body is, mixed between the places along its way where the surroundings are looked up."""
        along = self._way_of(name).at(t_us) / self.config.probe_step_m
        first, share = math.floor(along), along - math.floor(along)
        here = self._probe(name, first)
        return here if share == 0 else here.towards(self._probe(name, first + 1), share)

    def _way_of(self, name: str) -> _Way:
        if name not in self._ways:
            self._ways[name] = _Way.of(self.scene.actors[name].track.track)
        return self._ways[name]

    def _probe(self, name: str, number: int) -> SceneLight:
        if (name, number) not in self._lights:
            t_us, place_world_m = self._place(name, number)
            self._lights[name, number] = light_at(self._standing(name), self.light, place_world_m, t_us, backend=self._backend)
        return self._lights[name, number]

    def _place(self, name: str, number: int) -> tuple[int, Float[np.ndarray, "3"]]:
        """When a body comes by the place of that number along its way, and where in the world that is."""
        t_us = self._way_of(name).time_at(number * self.config.probe_step_m)
        return t_us, self.scene.actors[name].track.world_from_actor(t_us)[:3, 3]

    def _standing(self, name: str) -> Scene:
        """The scene without what its background shows in a body's way."""
        if name not in self._scenes:
            track = self.scene.actors[name].track
            poses = self._scene_from_world @ track.track.world_from_body
            self._scenes[name] = self.scene.with_gaussians(clear_of_body(self.scene.background.gaussians, poses, track.size_m))
        return self._scenes[name]

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

    def _scene_open(self, name: str, frame: InsertedFrame) -> SceneOpen:
        """How the scene without a body lets the sun through, where the body stands."""
        shape = self._shape_of(name)
        if name not in self._suns:
            track = self._scene_from_world @ self.scene.actors[name].track.track.world_from_body
            self._suns[name] = SceneSun(
                self._standing(name).background.gaussians,
                track,
                shape.half_height_m,
                shape.reach_m + self.config.longest_shadow_m,
                self.light,
                bias_m=self.config.scene_bias_m,
                shading=self._shading,
                backend=self._backend,
            )
        standing, geometry = self._suns[name], self._geometry_around(name, frame.shot.mid_us)
        others = self._others_around(name, frame)
        if others is None:
            return lambda points: standing.open_at(points, geometry)
        return lambda points: standing.open_at(points, geometry) * others.open_to(points, self.config.own_bias_m)[:, 0]

    def _geometry_around(self, name: str, t_us: int) -> OcclusionMaps:
        """The standing scene as the sun sees it around the nearest place along a body's way; wide enough for all that are near that one."""
        config, reach_m = self.config, _AROUND * self._shape_of(name).reach_m
        number = round(self._way_of(name).at(t_us) / config.probe_step_m)
        if name not in self._geometry or self._geometry[name][0] != number:
            wider = 1 + config.probe_step_m / 2 / reach_m
            centre = upload(self._place(name, number)[1] - self.scene.origin_world_m, self.scene.device)
            drawn = self._suns[name].geometry_around(centre, wider * reach_m, round(wider * config.map_rows))
            self._geometry[name] = number, drawn
        return self._geometry[name][1]

    def _others_around(self, name: str, frame: InsertedFrame) -> OcclusionMaps | None:
        """Other actors as the sun sees them where the body stands in its way; None where there is none."""
        shape, scene = self._shape_of(name), self.scene
        reach_m, centre_m = _AROUND * shape.reach_m, self._scene_from_world[:3, 3] + frame.world_from_actor[name][:3, 3]
        names = [other for other in frame.world_from_actor if other != name]
        if not names:
            return None
        poses = self._scene_from_world @ np.stack([frame.world_from_actor[other] for other in names])
        sizes = np.array([scene.actors[other].track.size_m for other in names])
        before = may_shade(sizes, poses, np.asarray(self.light.to_sun_world), centre_m, reach_m, self._shaded_m(shape))
        parts = [
            (other, scene.actors[other].gaussians_at(frame.shot.mid_us), pose) for other, pose, may in zip(names, poses, before) if may
        ]
        if not parts:
            return None
        together = place(empty(device=scene.device), parts, np.eye(4), None, None, coloured=False)
        centre = upload(centre_m, scene.device)
        return cast(together, self.light.to_sun[None], centre, reach_m, self.config.map_rows, backend=self._backend)

    def _less(self, kept: Float[Tensor, "H W 3"], seen: Receivers, eye: Float[Tensor, "3"], lighting: BodyLight) -> Float[Tensor, "H W 3"]:
        """The share of the background's light that is kept, pixel by pixel, less what one body takes of it."""
        reach_m = self._shaded_m(lighting.shape)
        near = seen.valid & ((seen.points - lighting.centre).square().sum(dim=-1) < reach_m**2)
        # Indices, since each look-up by a mask would wait for the device.
        pixels = near.flatten().nonzero().squeeze(1)
        points, normals = (values.flatten(0, 1).index_select(0, pixels) for values in (seen.points, seen.normals))
        left = lighting.kept_beside(points, normals, eye, self.config.ground_m, self.config.pits_m)
        flat = kept.flatten(0, 1)
        return flat.index_copy(0, pixels, flat.index_select(0, pixels) * left).view(kept.shape)


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
