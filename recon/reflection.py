"""Gaussians in a mirror: what a body that is alike on its left and right looks like on the side that nobody saw."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.recon.gaussians import Gaussians


def mirrored(gaussians: Gaussians) -> Gaussians:
    """Gaussians reflected about the x-z plane of their frame, in the graph: seen from a mirrored place they look mirrored.

    A rotation R becomes M R M with M = diag(1, -1, 1), which turns about the mirrored axis the other way around. Of the real harmonics
    those with negative m are odd in y and change their signs.
    """
    device = gaussians.means.device
    parity = tuple(-1 if m < 0 else 1 for degree in range(gaussians.sh_degree + 1) for m in range(-degree, degree + 1))
    return replace(
        gaussians,
        means=gaussians.means * _signs((1, -1, 1), device),
        quats_wxyz=gaussians.quats_wxyz * _signs((1, -1, 1, -1), device),
        sh=gaussians.sh * _signs(parity, device)[:, None],
    )


@functools.lru_cache(maxsize=16)
def _signs(values: tuple[int, ...], device: torch.device) -> Float[Tensor, "K"]:
    return torch.tensor(values, dtype=torch.float32, device=device)
