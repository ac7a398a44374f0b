"""Sides of harvested bodies that nothing recorded: an asset looks right from where it was seen, and falls apart from where it was not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splatmend.datasets.geometry import inverse, transform
from splatmend.datasets.shot import Shot
from splatmend.recon.assets.sightings import SEEN_FROM, pose_in_picture
from splatmend.recon.edits.apply import EditedScene
from splatmend.recon.nodes import RigidActor

_ASIDE_DEG = 45.0
"""Who looks from farther aside than this from where a body was seen sees what was not."""
_POOR = 0.3
"""Harvested bodies of less quality are rags."""
_OFTEN = 0.25
"""A note is made from this share of the pictures on that show the body."""


def unseen_notes(edited: EditedScene, shots: Sequence[Shot]) -> tuple[str, ...]:
    """A sentence for each inserted body that many of the shots look at from where nothing recorded it."""
    notes = []
    for name, one in edited.inserted.items():
        asset = one.asset
        if asset is None:
            continue
        if asset.quality < _POOR:
            notes.append(f"{name}: {asset.asset_id} was seen poorly (quality {asset.quality:.2f}), and looks it; choose another asset.")
        seen = asset.facts.get(SEEN_FROM)
        if not seen:
            continue
        azimuths = [azimuth for shot in shots if (azimuth := _looked_at_from(edited.scene.actors[name], shot)) is not None]
        unseen = sum(_apart(azimuth, np.asarray(seen, dtype=np.float64)) > _ASIDE_DEG for azimuth in azimuths)
        if azimuths and unseen > _OFTEN * len(azimuths):
            notes.append(
                f"{name}: {unseen} of the {len(azimuths)} pictures with it look from where nothing recorded {asset.asset_id}; what they "
                "show of it is incomplete, so turn it, or put in an asset that was seen from there or a mesh."
            )
    return tuple(notes)


def _looked_at_from(actor: RigidActor, shot: Shot) -> float | None:
    """Azimuth of the camera in the body's frame, degrees; None where its box is not in the picture."""
    pose = pose_in_picture(actor, shot)
    if pose is None:
        return None
    eye = transform(inverse(pose), shot.world_from_camera[:3, 3][None])[0]
    return float(np.degrees(np.arctan2(eye[1], eye[0])))


def _apart(azimuth_deg: float, seen_deg: np.ndarray) -> float:
    return float(np.abs((seen_deg - azimuth_deg + 180) % 360 - 180).min())
