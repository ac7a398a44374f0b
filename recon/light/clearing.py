"""What stands in a body's way: Gaussians of the background where the body itself is, which neither shade it nor are seen from it.

Fits leave ghosts of vehicles in the background, at the very places where their light is asked for.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from splatmend.recon.gaussians import Gaussians
from splatmend.recon.transfer import upload

_WIDER = 1.15
"""Ghosts are a little larger than the bodies' boxes."""
_GROUND_M = 0.2
"""What lies less than this above the plane that the body stands on is ground."""
_STEPS = 4
"""Poses looked at in a body's length of its way."""


@torch.no_grad()
def clear_of_body(background: Gaussians, scene_from_body: Float[np.ndarray, "T 4 4"], size_m: tuple[float, float, float]) -> Gaussians:
    """The background without what is inside a body's box at any of its poses (metres, in the scene's frame), but for the ground."""
    inside = torch.zeros(len(background), dtype=torch.bool, device=background.device)
    half = _WIDER / 2 * upload(np.asarray(size_m), background.device)
    for body_from_scene in np.linalg.inv(_apart(scene_from_body, size_m[0] / _STEPS)):
        moved = upload(body_from_scene, background.device)
        own = background.means @ moved[:3, :3].T + moved[:3, 3]
        inside |= (own.abs() < half).all(dim=1) & (own[:, 2] > _GROUND_M - size_m[2] / 2)
    return background.select((~inside).nonzero().squeeze(1))


def _apart(poses: Float[np.ndarray, "T 4 4"], step_m: float) -> Float[np.ndarray, "S 4 4"]:
    """Those that are so far on from the one before."""
    kept = [poses[0]]
    for pose in poses[1:]:
        if np.linalg.norm(pose[:3, 3] - kept[-1][:3, 3]) >= step_m:
            kept.append(pose)
    return np.stack(kept)
