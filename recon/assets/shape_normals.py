"""Normals of fitted Gaussians: from how they lie about each other and from how each of them lies, which know no side, turned outwards."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize

from splatmend.recon.densify import rotated
from splatmend.recon.gaussians import Gaussians

_NEAR = 16
_ROUNDS = 1
_INNER = 0.75
"""Half sides of the box that all normals point away from, as shares of the body's box (less in long directions: see `outwards`)."""


def nearest(means: Float[Tensor, "N 3"], count: int = _NEAR) -> Int[Tensor, "N k"]:
    """Indices of each Gaussian's nearest ones, itself first."""
    points = means.detach().cpu().numpy()
    index = cKDTree(points).query(points, k=min(count, len(points)))[1]
    return torch.from_numpy(np.asarray(index, dtype=np.int64).reshape(len(points), -1)).to(means.device)


def nearest_distance(points: Float[Tensor, "P 3"], means: Float[Tensor, "N 3"]) -> Float[Tensor, "P"]:
    """From each of P points to the nearest of N."""
    distance = cKDTree(means.detach().cpu().numpy()).query(points.detach().cpu().numpy())[0]
    return torch.from_numpy(np.asarray(distance)).to(points)


def outwards(means: Float[Tensor, "N 3"], size_m: tuple[float, float, float]) -> Float[Tensor, "N 3"]:
    """Unit directions from the core of a box to places in or about it: the core reaches as far along the longer sides as keeps
    it equally far from all faces."""
    half = means.new_tensor(size_m) / 2
    core = (half - _INNER * half.min()).clamp_min(0.0)
    away = means - means.clamp(-core, core)
    return normalize(torch.where(away.norm(dim=1, keepdim=True) > 1e-6, away, means.new_tensor([0.0, 0, 1.0])), dim=1)


def shape_normals(
    gaussians: Gaussians, size_m: tuple[float, float, float], towards_eyes: Float[Tensor, "N 3"] | None = None
) -> Float[Tensor, "N 3"]:
    """Unit normals in the frame of the body.

    The plane of each Gaussian's neighbours and the plane of the Gaussian itself are averaged as tensors n n^T, weighted by how flat either
    is and by opacity, over neighbours; the normal is the main axis of the mean. Of its two sides the one is taken that looks away from the
    core of the box and towards the eyes that saw it.

    Args:
        gaussians: around the centre of a box, N of them.
        size_m: sides of that box.
        towards_eyes: mean direction `[N, 3]` to the cameras that saw each, of a length that says how sure that is; by default unknown.
    """
    means = gaussians.means
    if len(means) < 4:
        return outwards(means, size_m)
    near = nearest(means)
    opacity = gaussians.opacities
    away = outwards(means, size_m)
    # The plane of neighbours, nearer and solid ones first.
    offset = means[near] - means[:, None]
    reach = offset.norm(dim=2).amax(dim=1, keepdim=True).clamp_min(1e-6)
    weight = opacity[near] * torch.exp(-2 * (offset.norm(dim=2) / reach) ** 2)
    centred = offset - (weight[..., None] * offset).sum(dim=1, keepdim=True) / weight.sum(dim=1).clamp_min(1e-6)[:, None, None]
    spread = torch.einsum("nk,nki,nkj->nij", weight, centred, centred) / weight.sum(dim=1).clamp_min(1e-6)[:, None, None]
    values, axes = torch.linalg.eigh(spread.double())
    flat = (1 - values[:, 0] / values[:, 1].clamp_min(1e-12)).clamp(0, 1).float()
    by_neighbours = _squared(axes[..., 0].float()) * flat[:, None, None] ** 2
    # The plane of each Gaussian.
    scales, order = gaussians.scales.sort(dim=1)
    own = rotated(normalize(gaussians.quats_wxyz, dim=1), torch.eye(3, device=means.device)[order[:, 0]])
    thin = (1 - scales[:, 0] / scales[:, 1].clamp_min(1e-9)).clamp(0, 1)
    tensor = by_neighbours + _squared(own) * thin[:, None, None] ** 2 + 0.15 * _squared(away)
    for _ in range(_ROUNDS):
        tensor = (weight[..., None, None] * tensor[near]).sum(dim=1) / weight.sum(dim=1).clamp_min(1e-6)[:, None, None]
    normal = torch.linalg.eigh(tensor.double())[1][..., 2].float()
    guide = away if towards_eyes is None else away + towards_eyes
    normal = normal * torch.where((normal * guide).sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    # Neighbours outvote single ones that were turned the wrong way.
    votes = (normal[near] * normal[:, None]).sum(dim=2)
    normal = normal * torch.where((weight * votes).sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    smooth = (weight[..., None] * normal[near] * ((normal[near] * normal[:, None]).sum(dim=2) > 0.5)[..., None]).sum(dim=1)
    return normalize(smooth + 1e-3 * normal, dim=1)


def _squared(vectors: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3 3"]:
    return vectors[:, :, None] * vectors[:, None, :]
