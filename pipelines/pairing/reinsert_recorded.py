"""Vehicles of a recorded log put back wrongly: harvested from an ordinary fit, and drawn where they drove in a light that is not theirs.

No oracle knows a street without its vehicles, so the scene stands in: its background, mended where the vehicles are taken out. `naive`
gives them quite another sun and exposure and no shadow, `relit` an almost right light with the shadow that it casts. Their pixels and what
an enhancer may change around them are the scene's, everything else is the recorded picture (ground `truth`), or all of it is the scene's
(ground `fit`). The target is the recorded picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import to_uint8
from splatmend.enhance.insertion import INSERTED, change_region
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import Ground, PairsConfig, Reinsertion, Strategy
from splatmend.pipelines.pairing.vehicles import drawn_vehicles, generator, no_vehicle, plans_of, vehicles_seen
from splatmend.pipelines.pairing.workshop import PairPlan, Workshop
from splatmend.recon.assets.asset import Asset
from splatmend.recon.assets.harvest import harvest_actor
from splatmend.recon.edits.apply import EditedScene, Inserted
from splatmend.recon.insertion.frame import draw_insertion
from splatmend.recon.insertion.prepare import healed
from splatmend.recon.light.colour import light_from_picture, picture_from_light
from splatmend.recon.light.estimate import estimate_light
from splatmend.recon.light.finish import Finisher
from splatmend.recon.light.light_files import load_light, save_light
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import file_name
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig, build_trajectory
from splatmend.recon.transfer import upload

_LEAST_QUALITY = 0.3
"""Assets below this quality are rags, which teach nothing of light."""
_WHOLE = 0.3
"""Vehicles that fewer of the pictures show whole are left alone."""
_LEAST_SHARE = 0.5
"""A pixel is a vehicle's where it has this share of it."""
_OVERCAST_SUN = 4.0
"""The sun over the ambient light that scenes under a covered sky are given for a wrong light."""
_COVERED = 0.25
"""Share of naive lights without a sun."""


@dataclass(frozen=True, kw_only=True)
class WrongLight:
    """Another light for vehicles; `gain` is a factor on the light that they show."""

    light: SceneLight
    gain: float


def plans(config: PairsConfig, source: PairSource, camera: str) -> list[PairPlan]:
    """A pair for each way of putting back. `UserError` where lengths are not metres, the camera sees no labelled vehicle well, or
    there are no labels and nothing to find vehicles by."""
    log, movers = source.log, config.fit.movers
    if not log.metric:
        raise UserError(f"{source.name}: its lengths are not metres, which light and shadows need; leave reinsert out.")
    labelled = bool(log.actors) and movers in ("auto", "labels")
    if not labelled and (movers in ("off", "labels") or not log.sweeps):
        raise UserError(
            f"{source.name}: with movers {movers}, {len(log.actors)} labelled actors and {len(log.sweeps)} LiDAR sweeps no vehicle becomes "
            "an actor of its fit; leave reinsert out, or let movers be found (auto)."
        )
    if labelled and not vehicles_seen(log.actors, source.shots(camera), whole=_WHOLE):
        raise no_vehicle(source.name, camera)
    return plans_of(config, camera, degrade)


def degrade(shop: Workshop, out: Path, *, camera: str, way: Reinsertion, ground: Ground = "truth") -> Trajectory:
    """The recorded path of a camera with vehicles put back wrongly. Which ones follows from scene and camera, how from the way too."""
    source, scene = shop.source, shop.whole()
    trajectory = build_trajectory(scene, TrajectoryConfig(camera=camera))
    right = light_of(shop, scene)
    assets = assets_of(source, scene, camera, right)
    wrong = drawn_light(right, way, generator(source.scene, camera, way))
    edited = healed(with_assets(scene, assets))
    finisher = Finisher(edited.scene, assets, wrong.light, recorded=edited.recorded)
    facts = {"sun_azimuth_deg": wrong.light.sun_azimuth_deg, "sun_elevation_deg": wrong.light.sun_elevation_deg, "gain": wrong.gain}
    manifest = Manifest(kind="clip", config={"encoding": shop.config.encoding, "reinserted": sorted(assets), "light": facts})
    with (
        building(out, manifest, overwrite=True) as folder,
        ClipWriter(folder, encoding=shop.config.encoding, rate_hz=trajectory.rate_hz, log_id=scene.log_id) as writer,
        torch.no_grad(),
    ):
        photos = recorded_pictures(shop, camera, trajectory)
        for shot, extra, photo in zip(trajectory.shots, trajectory.extra, photos, strict=True):
            frame = draw_insertion(edited, shot)
            lit = finisher.finish(frame).rgb
            body = torch.stack([*frame.shares.values(), torch.zeros_like(frame.opacity)]).sum(dim=0) > _LEAST_SHARE
            around = lit if way == "relit" else frame.background_rgb
            gained = picture_from_light(wrong.gain * light_from_picture(lit))
            drawn = torch.where(body[..., None], gained, around).cpu().numpy()
            mask = body.cpu().numpy()
            writer.write(drawn if ground == "fit" else laid_into(photo, drawn, mask), shot, masks={INSERTED: mask}, extra=extra)
        manifest.facts = writer.facts
    return trajectory


def laid_into(photo: UInt8[np.ndarray, "H W 3"], drawn: Float[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> np.ndarray:
    """A photo in which what an enhancer may change around a mask is drawn, with its soft edge; uint8."""
    region = change_region(mask)[..., None] / 255.0
    return to_uint8(photo / 255.0 + region * (np.clip(drawn, 0, 1) - photo / 255.0))


def recorded_pictures(shop: Workshop, camera: str, trajectory: Trajectory) -> Iterator[np.ndarray]:
    """The pictures that were taken along a trajectory, `[H, W, 3]` uint8, written beside the fits for all ways of putting back."""
    out = shop.fits / f"recorded-{file_name(camera)}"
    if not out.exists():
        shop.source.write_target(trajectory, out, "png")
    return open_clip(out).iter_rgb()


def light_of(shop: Workshop, scene: Scene) -> SceneLight:
    """The estimated light of a scene, which lies beside its fit."""
    out = shop.fits / "light"
    if not out.exists():
        save_light(out, estimate_light(scene))
    return load_light(out, scene.device)


def assets_of(source: PairSource, scene: Scene, camera: str, light: SceneLight) -> dict[str, Asset]:
    """The vehicles that are put back, harvested. `UserError` where the camera sees none that was seen well enough."""
    shots = [recorded.shot for recorded in scene.shots_of(camera)]
    tracks = [actor.track for actor in scene.actors.values()]
    seen = vehicles_seen(tracks, shots, whole=_WHOLE)
    if not seen:
        raise no_vehicle(source.name, camera)
    found = dict(well_harvested(source, scene, camera, seen, light))
    return {name: found[name] for name in drawn_vehicles(list(found), generator(source.scene, camera))}


def well_harvested(
    source: PairSource, scene: Scene, camera: str, names: Sequence[str], light: SceneLight, strategy: Strategy = "reinsert"
) -> Iterator[tuple[str, Asset]]:
    """Those of some vehicles that a fit shows well enough, each harvested when it is due. `UserError` at the end where there is none."""
    found, poor = 0, []
    for name in names:
        try:
            asset = harvest_actor(scene, name, light)
        except UserError as fault:
            poor.append(str(fault).rstrip("."))
            continue
        if asset.quality >= _LEAST_QUALITY:
            found += 1
            yield name, asset
        else:
            poor.append(f"{name} has a quality of {asset.quality:.2f}, below {_LEAST_QUALITY:g}")
    if not found:
        raise UserError(
            f"{source.name}: the fit shows no vehicle of {camera} well enough to be put back ({'; '.join(poor)}); fit larger pictures or "
            f"more iterations into another --out, or leave {strategy} out."
        )


def with_assets(scene: Scene, assets: Mapping[str, Asset]) -> EditedScene:
    """The scene with assets in the places of its actors."""
    actors = {**scene.actors, **{name: replace(scene.actors[name], gaussians=asset.gaussians) for name, asset in assets.items()}}
    inserted = {name: Inserted(actor_id=name, edit=number, asset=asset) for number, (name, asset) in enumerate(assets.items())}
    return EditedScene(scene=replace(scene, actors=actors), recorded=scene, inserted=inserted, removed=(), notes=())


def drawn_light(right: SceneLight, way: Reinsertion, rng: np.random.Generator) -> WrongLight:
    """The light that vehicles are put back with."""
    if way == "naive":
        if not any(right.sun):
            # Under a covered sky the wrong light is that of a sun.
            right = replace(right, sun=_times(_OVERCAST_SUN, right.ambient(upload(right.up_world, right.device)[None])[0].tolist()))
        light = right.with_sun(float(rng.uniform(-180, 180)), float(rng.uniform(10, 65)))
        strength = 0.0 if rng.random() < _COVERED else float(2 ** rng.uniform(-1, 1))
        return WrongLight(light=_sun_times(light, strength), gain=float(2 ** rng.uniform(-0.8, 0.8)))
    turned_deg, raised_deg = rng.normal(0.0, (20.0, 5.0))
    elevation_deg = float(np.clip(right.sun_elevation_deg + raised_deg, 6, 80))
    light = right.with_sun(right.sun_azimuth_deg + float(turned_deg), elevation_deg)
    return WrongLight(light=_sun_times(light, float(2 ** rng.uniform(-0.7, 0.5))), gain=float(2 ** rng.uniform(-0.3, 0.3)))


def _sun_times(light: SceneLight, factor: float) -> SceneLight:
    return replace(light, sun=_times(factor, light.sun))


def _times(factor: float, colour: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (factor * value for value in colour)
    return red, green, blue
