"""Vehicles put back wrongly: the oracle's frames of a street without some vehicles, and those vehicles' pixels pasted from another light.

`naive` takes them from quite another sun, weather and exposure and gives them no shadow. `relit` takes them from a light that is right but
for an error, with the shadow that this light would cast, as an insertion does that estimated the light of a scene. The target is the
oracle's frame. Mask `inserted` of the degraded clip says where the pasted pixels are. Vehicles are put back into the true frames without
them, which needs no fit, or into a fit to those frames, which is as blurred as the scenes that insertions are made in. What
`reinsert_recorded` does for logs that were driven, where no oracle is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import Clip, ClipWriter, open_clip
from splatmend.datasets.images import read_image, to_uint8
from splatmend.datasets.log import LidarPoints, SceneLog
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import Air, Street, Sun, draw_other_air
from splatmend.enhance.insertion import INSERTED, change_region
from splatmend.pipelines.boxes import actor_outline_px, filled
from splatmend.pipelines.evaluation.truth import StreetTruth
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing import reinsert_recorded
from splatmend.pipelines.pairing.config import Ground, PairsConfig, Reinsertion
from splatmend.pipelines.pairing.vehicles import drawn_vehicles, generator, no_vehicle, plans_of, vehicles_seen
from splatmend.pipelines.pairing.workshop import PairPlan, Workshop
from splatmend.recon.light.colour import linear_from_srgb, srgb_from_linear
from splatmend.recon.render_clip import render_clip
from splatmend.recon.scene_files import file_name
from splatmend.recon.trajectory import Trajectory

_WEAKEST = 0.03
"""Light below which a ratio of two pictures says nothing of a shadow."""


@dataclass(frozen=True, kw_only=True)
class WrongLight:
    """Another light for a vehicle; `gain` is a factor on its exposure."""

    sun: Sun
    air: Air
    gain: float


def plans(config: PairsConfig, source: PairSource, camera: str) -> list[PairPlan]:
    """A pair for each way of putting back; `UserError` where a camera sees no vehicle well."""
    if not isinstance(source.truth, StreetTruth):
        return reinsert_recorded.plans(config, source, camera)
    if not vehicles_seen(source.log.actors, source.shots(camera)):
        raise no_vehicle(source.name, camera)
    return plans_of(config, camera, degrade)


def degrade(shop: Workshop, out: Path, *, camera: str, way: Reinsertion, ground: Ground = "truth") -> Trajectory:
    """The recorded path of a camera with vehicles put back wrongly. Which ones follows from scene and camera, how from the way too."""
    truth = shop.source.truth
    assert isinstance(truth, StreetTruth)
    seen = vehicles_seen(shop.source.log.actors, shop.source.shots(camera))
    names = drawn_vehicles(seen, generator(shop.source.scene, camera))
    light = drawn_light(truth.street, way, generator(shop.source.scene, camera, way))
    trajectory = shop.recorded(camera)
    bare = without(shop, camera, names, trajectory)
    if ground == "fit":
        bare = fit_without(shop, camera, names, bare, trajectory)
    manifest = Manifest(kind="clip", config={"encoding": shop.config.encoding, "reinserted": names, "light": light})
    with (
        building(out, manifest, overwrite=True) as folder,
        ClipWriter(folder, encoding=shop.config.encoding, rate_hz=trajectory.rate_hz, log_id=shop.source.log.log_id) as writer,
    ):
        for shot, extra, picture in zip(trajectory.shots, trajectory.extra, bare.iter_rgb(), strict=True):
            rgb, mask = put_back(truth.street, shot, picture, names, light, with_shadow=way == "relit")
            writer.write(rgb, shot, masks={INSERTED: mask}, extra=extra)
        manifest.facts = writer.facts
    return trajectory


def without(shop: Workshop, camera: str, names: Sequence[str], trajectory: Trajectory) -> Clip:
    """The true frames of a street without some vehicles, which lie beside the fits for all ways of putting back."""
    truth, out = shop.source.truth, shop.fits / f"true-without-{file_name(camera)}"
    assert isinstance(truth, StreetTruth)
    draw = partial(truth.street.render, without=names, supersample=truth.street.config.supersample)
    if not out.exists():
        with building(out, Manifest(kind="clip", config={}), overwrite=True) as folder, ClipWriter(folder) as writer:
            for shot in trajectory.shots:
                writer.write(draw(shot).rgb, shot)
    return open_clip(out)


def fit_without(shop: Workshop, camera: str, names: Sequence[str], bare: Clip, trajectory: Trajectory) -> Clip:
    """A fit to a camera's true frames without some vehicles, seen along the same path."""
    out = shop.fits / f"seen-without-{file_name(camera)}"
    if not out.exists():
        log = log_without(shop.source, camera, names, bare)
        scene = shop.fitted(f"bare-{file_name(camera)}", shop.fit_config, log)
        render_clip(scene, trajectory, out)
    return open_clip(out)


def log_without(source: PairSource, camera: str, names: Sequence[str], bare: Clip) -> SceneLog:
    """A street's log of one camera, with pictures, sweeps and labels as they would be without some vehicles."""
    assert isinstance(source.truth, StreetTruth)
    street, log = source.truth.street, source.log
    frames = [
        replace(frame, read_image=partial(read_image, image), file=image)
        for frame, image in zip(log.frames_of(camera), bare.images, strict=True)
    ]
    sweeps = [replace(sweep, read_points=partial(_points_without, street, number, tuple(names))) for number, sweep in enumerate(log.sweeps)]
    actors = tuple(actor for actor in log.actors if actor.actor_id not in names)
    return replace(log, cameras={camera: log.cameras[camera]}, frames=tuple(frames), sweeps=tuple(sweeps), actors=actors)


def _points_without(street: Street, frame: int, names: Sequence[str]) -> LidarPoints:
    return street.lidar_turn(frame, names).points()


def drawn_light(street: Street, way: Reinsertion, rng: np.random.Generator) -> WrongLight:
    """The light that vehicles are put back with."""
    if way == "naive":
        sun, air = draw_other_air(street.config, int(rng.integers(1 << 31)))
        return WrongLight(sun=sun, air=air, gain=float(2 ** rng.uniform(-0.8, 0.8)))
    turned_rad, raised_rad = np.radians(rng.normal(0.0, (20.0, 5.0)))
    sun = Sun(
        azimuth_rad=street.sun.azimuth_rad + float(turned_rad),
        elevation_rad=float(np.clip(street.sun.elevation_rad + raised_rad, 0.1, 1.4)),
    )
    strength = street.air.sun_strength * float(2 ** rng.uniform(-0.7, 0.5))
    return WrongLight(sun=sun, air=replace(street.air, sun_strength=strength), gain=float(2 ** rng.uniform(-0.3, 0.3)))


def put_back(
    street: Street, shot: Shot, bare: np.ndarray, names: Sequence[str], light: WrongLight, *, with_shadow: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A frame `[H, W, 3]` uint8 with vehicles put back under a wrong light, and where they are, `[H, W]` bool. `bare`: without them."""
    rgb, mask = bare.copy(), np.zeros(bare.shape[:2], bool)
    window = _window(street, shot, names, with_shadow=with_shadow)
    if window is None:
        return rgb, mask
    exposure = light.gain * street.recorded_exposure(shot.camera.name, shot.mid_us)
    draw = partial(
        street.render, shot, sun=light.sun, air=light.air, exposure=exposure, window=window, supersample=street.config.supersample
    )
    lit = draw()
    its = np.isin(lit.ids, [street.actor_label(name) for name in names])
    background = bare[window] / 255.0
    if with_shadow:
        kept = np.clip((_linear(lit.rgb) + _WEAKEST) / (_linear(draw(without=names).rgb) + _WEAKEST), 0.0, 1.0)
        background = _encoded(_linear(background) * kept)
    rgb[window] = to_uint8(np.where(its[..., None], lit.rgb, background))
    mask[window] = its
    return rgb, mask


def _window(street: Street, shot: Shot, names: Sequence[str], *, with_shadow: bool) -> tuple[slice, slice] | None:
    """Rows and columns that vehicles (with what may be changed for them, where their shadows are drawn) lie in; None for none."""
    size = (shot.camera.height, shot.camera.width)
    boxes = np.zeros(size, bool)
    for actor in street.actors:
        if actor.actor_id in names:
            boxes |= filled(actor_outline_px(shot, actor), size)
    if with_shadow:
        boxes = change_region(boxes) > 0
    if not boxes.any():
        return None
    (top, bottom), (left, right) = (np.nonzero(boxes.any(axis=axis))[0][[0, -1]] for axis in (1, 0))
    # Boxes are tight.
    return slice(max(top - 2, 0), bottom + 3), slice(max(left - 2, 0), right + 3)


def _linear(srgb: np.ndarray) -> np.ndarray:
    """Linear light `[H, W, 3]` of sRGB values in [0, 1]."""
    return linear_from_srgb(torch.from_numpy(np.asarray(srgb, np.float64))).numpy()


def _encoded(light: np.ndarray) -> np.ndarray:
    """The inverse of `_linear`."""
    return srgb_from_linear(torch.from_numpy(np.asarray(light, np.float64))).numpy()
