"""Holes: renders of an ordinary fit with a piece cut out all through the clip, an actor's box or a region that drifts.

The piece is grey and without opacity in the degraded clip, whose mask `hole` says where it is. Whatever else an enhancer does to a render,
here it must invent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import to_uint8
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.shot import Shot
from splatmend.pipelines.boxes import actor_outline_px, filled
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import Hole, PairsConfig
from splatmend.pipelines.pairing.workshop import PairPlan, Workshop, recorded_target
from splatmend.recon.render import Channel, render
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig, build_trajectory

MASK = "hole"
GREY = 127
_LEAST_SHARE, _MOST_SHARE = 0.002, 0.5
"""An actor is cut out if its box fills at least so much of one picture, and of none more than that."""


def plans(config: PairsConfig, source: PairSource, camera: str) -> list[PairPlan]:
    """A pair for each kind of hole that there is; `UserError` where only actors are asked for and the camera sees none."""
    kinds = [hole for hole in config.holes if hole == "region" or actor_to_cut(source, camera) is not None]
    if not kinds:
        raise UserError(
            f"{source.name}: {camera} sees no labelled actor whose box fills between {100 * _LEAST_SHARE:g} and {100 * _MOST_SHARE:g} % of "
            "a picture; give --holes region as well, or leave inpaint out."
        )
    return [
        PairPlan(
            name=f"{camera}-hole-{hole}",
            kind="inpaint",
            target=recorded_target(camera),
            degrade=partial(degrade, camera=camera, hole=hole),
        )
        for hole in kinds
    ]


def degrade(shop: Workshop, out: Path, *, camera: str, hole: Hole) -> Trajectory:
    """The recorded path through an ordinary fit, with the hole in every picture."""
    scene = shop.whole()
    trajectory = build_trajectory(scene, TrajectoryConfig(camera=camera))
    masks = actor_masks(shop.source, camera, trajectory) if hole == "actor" else region_masks(shop.source.scene, trajectory)
    manifest = Manifest(kind="clip", config={"encoding": shop.config.encoding, "hole": hole})
    channels: tuple[Channel, ...] = ("rgb",)
    with building(out, manifest, overwrite=True) as folder:
        writer = ClipWriter(folder, encoding=shop.config.encoding, rate_hz=trajectory.rate_hz, log_id=scene.log_id)
        with writer, torch.no_grad():
            for shot, extra, mask in zip(trajectory.shots, trajectory.extra, masks, strict=True):
                drawn = render(scene, shot, channels)
                assert drawn.rgb is not None
                rgb, opacity = to_uint8(drawn.rgb.cpu().numpy()), drawn.opacity.cpu().numpy()
                cut = np.where(mask[..., None], np.uint8(GREY), rgb)
                writer.write(cut, shot, opacity=np.where(mask, 0.0, opacity), masks={MASK: mask}, extra=extra)
        manifest.facts = writer.facts
    return trajectory


def actor_to_cut(source: PairSource, camera: str) -> ActorTrack | None:
    """The actor whose box fills most of a camera's pictures, None where there is none of a fit size."""
    shots = [Shot.of(frame, source.log.cameras[camera]) for frame in source.log.frames_of(camera)]
    best, most = None, 0.0
    for actor in source.log.actors:
        shares = [float(filled(actor_outline_px(shot, actor), (shot.camera.height, shot.camera.width)).mean()) for shot in shots]
        if _LEAST_SHARE <= max(shares) <= _MOST_SHARE and sum(shares) > most:
            best, most = actor, sum(shares)
    return best


def actor_masks(source: PairSource, camera: str, trajectory: Trajectory) -> list[np.ndarray]:
    """Where the box of the actor that is cut out stands in each picture, `[H, W]` bool, a few pixels wider: boxes are tight."""
    actor = actor_to_cut(source, camera)
    assert actor is not None
    masks = []
    for shot in trajectory.shots:
        mask = filled(actor_outline_px(shot, actor), (shot.camera.height, shot.camera.width))
        reach = 1 + shot.camera.width // 100
        wider = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
        masks.append(wider.astype(bool))
    return masks


def region_masks(scene: str, shots: Sequence[Shot]) -> list[np.ndarray]:
    """A turned ellipse that drifts over the pictures, `[H, W]` bool each; where it is follows from the names of scene and camera."""
    camera = shots[0].camera
    rng = np.random.default_rng(list(hashlib.sha256(f"{scene} {camera.name}".encode()).digest()[:8]))
    start, end = rng.uniform(0.2, 0.8, size=(2, 2))
    axes = rng.uniform(0.1, 0.25, size=2) * (camera.width, camera.height)
    turned_deg = float(rng.uniform(0.0, 180.0))
    masks = []
    for share in np.linspace(0.0, 1.0, len(shots)):
        middle = (start + share * (end - start)) * (camera.width, camera.height)
        mask = np.zeros((camera.height, camera.width), np.uint8)
        cv2.ellipse(mask, (tuple(middle.tolist()), tuple((2 * axes).tolist()), turned_deg), 1, thickness=-1)
        masks.append(mask.astype(bool))
    return masks
