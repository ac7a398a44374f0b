"""Nodes' Gaussians on their way to the rasteriser: coloured in the node's own frame, then brought into the scene's.

All actors go together, so that the work of a picture does not grow with their number but with that of their Gaussians.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from splatmend.datasets.geometry import inverse
from splatmend.recon.gaussians import Gaussians, concatenate
from splatmend.recon.harmonics import colours
from splatmend.recon.transfer import upload


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Gaussians in the scene's frame, without harmonics, and their sRGB (None where it was not asked for)."""

    gaussians: Gaussians
    rgb: Float[Tensor, "N 3"] | None


def placed_background(gaussians: Gaussians, eye_scene_m: Float[np.ndarray, "3"], sh_degree: int | None, *, coloured: bool) -> Placed:
    """Gaussians that are in the scene's frame already, as an eye sees them."""
    rgb = colours(gaussians.sh, gaussians.means, upload(eye_scene_m, gaussians.device), sh_degree) if coloured else None
    return Placed(gaussians=gaussians.colourless(), rgb=rgb)


def placed_actors(
    actors: Sequence[tuple[str, Gaussians, Float[np.ndarray, "4 4"]]],
    eye_scene_m: Float[np.ndarray, "3"],
    sh_degree: int | None,
    twists: Mapping[str, Tensor],
    *,
    coloured: bool,
) -> Placed:
    """At least one actor: id, Gaussians in its own frame, `scene_from_actor`. `twists` are zeros `[6]` that take gradients of poses."""
    ids, parts, poses = zip(*actors)
    scene_from_actor = np.stack(poses)
    together = concatenate(parts)
    device = together.device
    body = _bodies(tuple(len(part) for part in parts), device)
    rgb = None
    if coloured:
        eyes = upload(np.stack([(inverse(pose) @ [*eye_scene_m, 1.0])[:3] for pose in poses]), device)
        rgb = colours(together.sh, together.means, eyes.index_select(0, body), sh_degree)
    rows = None
    if any(name in twists for name in ids):
        rows = torch.stack([twists[name] if name in twists else torch.zeros(6, device=device) for name in ids])
    return Placed(gaussians=together.colourless().placed(scene_from_actor, body, rows), rgb=rgb)


@functools.lru_cache(maxsize=32)
def _bodies(counts: tuple[int, ...], device: torch.device) -> Int[Tensor, "N"]:
    """Which body each Gaussian belongs to, where they stand one after the other."""
    return torch.repeat_interleave(torch.arange(len(counts), dtype=torch.int32), torch.tensor(counts)).to(device)
