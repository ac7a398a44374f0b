"""References: the nearest recorded frames, warped into a view by the depth that the scene has there.

A splat scene blurs what it has seen; the recorded frames still hold it sharp. Each pixel of a view is looked up in recorded frames nearby,
and what one of them shows of the same surface becomes a layer beside the render. (After unstructured lumigraph rendering,
Buehler et al. 2001: the nearest views that see a point speak for it.)

Only frames that the scene was fitted to serve, and none serves its own view: so what a fitted view is given is like what views between the
frames, and those held back to be scored, are given.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.shot import Shot
from splatmend.recon.exposure import apply_exposure, take_off_exposure
from splatmend.recon.point_pixels import point_pixels
from splatmend.recon.raster.api import Backend
from splatmend.recon.reference_frames import SAME_POSE, ServingFrames
from splatmend.recon.reference_pictures import Pictures, log_pictures
from splatmend.recon.reference_views import RecordedView, Surfaces, drawn_surfaces
from splatmend.recon.reference_warp import Places, Warp, sampled, warp
from splatmend.recon.render import ActorPoses, drawn_actors
from splatmend.recon.scene import RecordedShot, Scene

_FAR = 1e6
_MOVES = 0.1
"""An actor whose places lie farther apart than this moves."""


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """Which recorded frames a view is shown."""

    layers: int = 2
    """Recorded frames per pixel, at most: the nearest that see it."""
    candidates: int = 4
    """Recorded frames that a view is looked up in, at most."""
    slack_share: float = 0.05
    """A recorded frame shows a surface if it has one at that depth, to this share of it ..."""
    slack: float = 0.1
    """... and this much more: metres, or median camera steps in scenes without a scale."""
    least_gain: float = 0.005
    """Share of the picture that another camera's frame must add to be looked up."""
    kept: int = 24
    """Recorded frames whose pictures and depths stay in memory."""

    def __post_init__(self) -> None:
        faults = {
            f"layers must be at least 1, not {self.layers}": self.layers < 1,
            f"candidates must be at least as many as layers, not {self.candidates}": self.candidates < self.layers,
            f"slack_share must lie between 0 and 1, not {self.slack_share}": not 0 <= self.slack_share < 1,
            f"slack must be finite and not negative, not {self.slack}": not 0 <= self.slack < np.inf,
            f"least_gain must lie between 0 and 1, not {self.least_gain}": not 0 <= self.least_gain <= 1,
            f"kept must be at least 1, not {self.kept}": self.kept < 1,
        }
        for sentence, wrong in faults.items():
            if wrong:
                raise UserError(f"reference settings: {sentence}.")


class References:
    """Looks up views of a scene in its recorded frames, on the scene's device. Pictures and depths of frames that were asked for last are
    kept.

    Args:
        pictures: the recorded frame of a shot (see `reference_pictures`).
        backend: rasteriser of the depths; by default the one of the device.
    """

    def __init__(self, scene: Scene, pictures: Pictures, config: ReferenceConfig | None = None, *, backend: Backend | None = None) -> None:
        self.scene = scene
        self.pictures = pictures
        self.config = config or ReferenceConfig()
        self.backend = backend
        self._unit = scene.unit
        self._frames = ServingFrames.of(scene, same_pose=SAME_POSE * self._unit)
        self._slack = self.config.slack * self._unit
        self._moving = frozenset(
            name for name, actor in scene.actors.items() if _extent(actor.track.track.world_from_body) > _MOVES * self._unit
        )
        self._kept: OrderedDict[tuple[str, int, tuple[str, ...]], RecordedView] = OrderedDict()

    @torch.no_grad()
    def of(self, shot: Shot, *, without: Collection[str] = (), actor_poses: ActorPoses | None = None) -> UInt8[np.ndarray, "K H W 4"]:
        """Layers of references of a view, RGBA: colours as the view's camera would see them, alpha 255 where a recorded frame shows the
        pixel's surface, else all 0. Layer 0 has, pixel by pixel, the nearest of the frames that do, layer 1 the next one.

        `without` and `actor_poses` are what the view is rendered with. Surfaces on actors are looked up where the actor was.
        """
        scene, config = self.scene, self.config
        here = {actor.actor_id: pose for _, actor, pose in drawn_actors(scene, shot, without, actor_poses)}
        watched = self._watched(shot, here, without, moved=actor_poses is not None)
        surfaces = drawn_surfaces(scene, shot, watched, backend=self.backend, without=without, actor_poses=actor_poses)
        bodies = {number: here[name] for number, name in enumerate(watched, 1) if name in here}
        places = Places.of(shot, scene.camera_model, surfaces, bodies, _FAR * self._unit)
        layers = torch.zeros(config.layers, *surfaces.depth_m.shape, 4, dtype=torch.uint8, device=scene.device)
        found = torch.zeros_like(surfaces.owners)
        for view, seen in self._looked_up(shot, places, watched):
            colours = self._seen_by(shot, view.recorded.shot, sampled(view, seen.pixels))
            rgb = (colours.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
            rgba = torch.cat([rgb, torch.full_like(rgb[..., :1], 255)], dim=-1)
            for number in range(config.layers):
                layers[number] = torch.where((seen.seen & (found == number))[..., None], rgba, layers[number])
            found += seen.seen
        return layers.cpu().numpy()

    def _watched(self, shot: Shot, here: dict[str, np.ndarray], without: Collection[str], *, moved: bool) -> tuple[str, ...]:
        """Actors whose pixels must be told from others': those that move, and those that the view leaves out or has elsewhere."""
        edited = set(without)
        if moved:
            for name, pose in here.items():
                recorded = self.scene.actors[name].world_from_node(shot.mid_us)
                if recorded is None or not np.allclose(recorded, pose, rtol=0.0, atol=SAME_POSE * self._unit):
                    edited.add(name)
        return tuple(sorted(self._moving | edited))

    def _looked_up(self, shot: Shot, places: Places, watched: tuple[str, ...]) -> Iterator[tuple[RecordedView, Warp]]:
        """The recorded frames that a view is looked up in, nearest first, with what they show of it."""
        config = self.config
        ranked = self._frames.ranked(shot, self._median_depth(places.surfaces))
        nearest = ranked[: config.candidates]
        found = {index: self._warped(index, places, watched) for index in nearest}
        covered = torch.zeros_like(places.surfaces.sky)
        for _, seen in found.values():
            covered = covered | seen.seen
        others: dict[str, int] = {}
        for index in ranked:
            name = self._frames.served[index].shot.camera.name
            if name != shot.camera.name:
                others.setdefault(name, index)
        added: list[int] = []
        for index in others.values():
            if index in found or len(added) >= config.candidates // 2:
                continue
            # Most frames of other cameras look elsewhere, which is known before anything is drawn.
            _, _, inside = point_pixels(self._frames.served[index].shot, self.scene.camera_model, places.xyz, places.origin_world_m)
            if float((inside & ~covered).float().mean()) < config.least_gain:
                continue
            view, seen = self._warped(index, places, watched)
            if float((seen.seen & ~covered).float().mean()) >= config.least_gain:
                found[index] = view, seen
                covered = covered | seen.seen
                added.append(index)
        chosen = {*nearest[: config.candidates - len(added)], *added}
        for index in ranked:
            if index in chosen:
                yield found[index]

    def _median_depth(self, surfaces: Surfaces) -> float:
        opaque = surfaces.depth_m[~surfaces.sky]
        return max(float(opaque.median()), 1e-6 * self._unit) if opaque.numel() else self._unit

    def _warped(self, index: int, places: Places, watched: tuple[str, ...]) -> tuple[RecordedView, Warp]:
        recorded = self._frames.served[index]
        view = self._view(recorded, watched)
        there = {actor.actor_id: pose for _, actor, pose in drawn_actors(self.scene, recorded.shot)}
        bodies = {number: there[name] for number, name in enumerate(watched, 1) if name in there}
        return view, warp(places, view, self.scene.camera_model, bodies, slack=self._slack, slack_share=self.config.slack_share)

    def _view(self, recorded: RecordedShot, watched: tuple[str, ...]) -> RecordedView:
        key = (recorded.shot.camera.name, recorded.frame_index, watched)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        picture = torch.from_numpy(np.ascontiguousarray(self.pictures(recorded))).to(self.scene.device)
        view = RecordedView(
            recorded=recorded,
            rgb=picture[..., :3],
            usable=picture[..., 3] > 0 if picture.shape[2] == 4 else None,
            surfaces=drawn_surfaces(self.scene, recorded.shot, watched, backend=self.backend),
        )
        self._kept[key] = view
        while len(self._kept) > self.config.kept:
            self._kept.popitem(last=False)
        return view

    def _seen_by(self, shot: Shot, served: Shot, rgb: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
        """A recorded frame's colours as the view's camera sees them: its exposure taken off and the view's put on, where these are affine
        maps and the recorded one can be taken off."""
        recorded, wanted = (self.scene.exposure.at(s.camera.name, s.mid_us).to(rgb) for s in (served, shot))
        colours = take_off_exposure(rgb, recorded)
        return rgb if colours is None else apply_exposure(colours, wanted)


def references_of(scene: Scene, log: SceneLog, layers: int) -> References | None:
    """So many layers of references from the log that a scene was fitted to; None for 0.

    Raises:
        UserError: those of `log_pictures`.
    """
    if not layers:
        return None
    config = ReferenceConfig(layers=layers, candidates=max(ReferenceConfig().candidates, layers))
    return References(scene, log_pictures(scene, log), config)


def _extent(world_from_body: Float[np.ndarray, "T 4 4"]) -> float:
    """How far apart the places of a path lie, along the axes."""
    return float(np.ptp(world_from_body[:, :3, 3], axis=0).max())
