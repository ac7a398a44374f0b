"""Gaussians in another frame: turned, with their view-dependent colours, and scaled."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatmend.recon.gaussians import Gaussians, left_matrices
from splatmend.recon.harmonics import basis


def turned(gaussians: Gaussians, rotation: np.ndarray, centre: np.ndarray, scale: float) -> Gaussians:
    """Gaussians under `x -> rotation @ (x - centre) * scale`, `rotation [3, 3]` proper, `scale` above 0."""
    matrix = torch.from_numpy(np.asarray(rotation)).to(gaussians.means)
    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    quaternion = gaussians.quats_wxyz.new_tensor([w, x, y, z])
    return Gaussians(
        means=(gaussians.means - torch.from_numpy(np.asarray(centre)).to(gaussians.means)) @ matrix.T * scale,
        quats_wxyz=gaussians.quats_wxyz @ left_matrices(quaternion).T,
        log_scales=gaussians.log_scales + math.log(scale),
        opacity_logits=gaussians.opacity_logits,
        sh=turned_harmonics(gaussians.sh, rotation),
    )


def turned_harmonics(sh: Float[Tensor, "N K 3"], rotation: np.ndarray) -> Float[Tensor, "N K 3"]:
    """Coefficients whose colour along `rotation @ d` is what those given show along d.

    Harmonics up to a degree span a space that rotations do not leave, so the matrix between coefficients follows exactly from their values
    along enough directions.
    """
    degree = round(sh.shape[1] ** 0.5) - 1
    if degree == 0:
        return sh
    index = np.arange(64) + 0.5
    up, turn = 1 - 2 * index / 64, index * np.pi * (1 + 5**0.5)
    directions = np.stack([np.sqrt(1 - up**2) * np.cos(turn), np.sqrt(1 - up**2) * np.sin(turn), up], axis=1)
    before = basis(torch.from_numpy(directions), degree)
    after = basis(torch.from_numpy(directions @ rotation.T), degree)
    matrix = torch.linalg.lstsq(after, before).solution.to(sh)
    return torch.einsum("ij,njc->nic", matrix, sh)
