"""A slow rasteriser in plain torch: the oracle of every fast one.

It evaluates every Gaussian at every pixel in float64, knows no tiles, and leaves all gradients to autograd. It reads the
definitions (EWA splatting, gsplat 1.5.3's constants) anew and shares no code with the package.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ALPHA_THRESHOLD = 1.0 / 255.0
STOP = 1e-4


@dataclass(frozen=True)
class OraclePicture:
    channels: Tensor
    """[H, W, C] float64."""
    opacity: Tensor
    """[H, W] float64."""
    means2d: Tensor
    """[N, 2] float64, keeps its gradient."""
    visible: Tensor
    """[N] bool."""
    decided: Tensor
    """[H, W] bool: False where some Gaussian lies so near to a threshold that float32 may fall on the other side."""


def rotation_matrices(quats_wxyz: Tensor) -> Tensor:
    """[N, 4] -> [N, 3, 3], as `q v q*` applied to the three axes."""
    unit = quats_wxyz / quats_wxyz.norm(dim=1, keepdim=True)
    w, v = unit[:, :1], unit[:, 1:]
    columns = []
    for axis in torch.eye(3, dtype=unit.dtype):
        e = axis.expand_as(v)
        t = 2.0 * torch.linalg.cross(v, e)
        columns.append(e + w * t + torch.linalg.cross(v, t))
    return torch.stack(columns, dim=2)


def rasterize_oracle(
    means: Tensor,
    quats_wxyz: Tensor,
    scales: Tensor,
    opacities: Tensor,
    channels: Tensor,
    camera_from_world: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near_m: float = 0.01,
    far_m: float = 1e10,
    eps2d: float = 0.3,
    background: Tensor | None = None,
) -> OraclePicture:
    means, quats, scales, opacities, channels, view, k = (
        t.double() for t in (means, quats_wxyz, scales, opacities, channels, camera_from_world, intrinsics)
    )
    focal, centre = torch.stack([k[0, 0], k[1, 1]]), k[:2, 2]
    size = torch.tensor([width, height], dtype=torch.float64)
    turn = view[:3, :3]
    centres = means @ turn.T + view[:3, 3]
    z = centres[:, 2]
    drawn = (z >= near_m) & (z <= far_m) & (opacities >= ALPHA_THRESHOLD)
    # Where nothing is drawn any finite depth will do; it keeps infinities out of the gradients.
    z = torch.where(drawn, z, torch.ones_like(z))
    centres = torch.cat([centres[:, :2], z[:, None]], dim=1)

    means2d = focal * centres[:, :2] / z[:, None] + centre
    if means2d.requires_grad:
        means2d.retain_grad()
    margin = 0.3 * 0.5 * size / focal
    ray = (centres[:, :2] / z[:, None]).clamp(min=-(centre / focal) - margin, max=(size - centre) / focal + margin)
    jacobian = torch.cat([torch.diag_embed(focal / z[:, None]), (-focal * ray / z[:, None])[:, :, None]], dim=2)
    axes = rotation_matrices(quats) * scales[:, None, :]
    covariance = jacobian @ turn @ (axes @ axes.transpose(1, 2)) @ turn.T @ jacobian.transpose(1, 2)
    covariance = covariance + eps2d * torch.eye(2, dtype=torch.float64)
    drawn = drawn & (torch.linalg.det(covariance) > 0)
    conics = torch.linalg.inv(covariance)

    extent = (2.0 * (opacities / ALPHA_THRESHOLD).clamp(min=1.0).log()).sqrt().clamp(max=3.33)
    radii = (extent[:, None] * torch.diagonal(covariance, dim1=1, dim2=2).sqrt()).ceil()
    visible = drawn & (radii > 0).all(1) & (means2d + radii > 0).all(1) & (means2d - radii < size).all(1)

    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([columns, rows], dim=2).reshape(-1, 2).double()
    front_to_back = torch.argsort(z[visible], stable=True)
    chosen = visible.nonzero()[:, 0][front_to_back]
    delta = means2d[chosen, None] - pixels
    sigma = 0.5 * torch.einsum("npi,nij,npj->np", delta, conics[chosen], delta)
    raw = opacities[chosen, None] * torch.exp(-sigma)
    alpha = torch.where(raw >= ALPHA_THRESHOLD, raw.clamp(max=0.999), torch.zeros_like(raw))
    light = torch.cumprod(1.0 - alpha, dim=0)
    # Transmittance only falls, so a pixel is closed for good by the first Gaussian that brings it to the stop.
    alpha_drawn = torch.where(light > STOP, alpha, torch.zeros_like(alpha))
    light_behind = torch.cumprod(1.0 - alpha_drawn, dim=0)
    light_before = torch.cat([torch.ones(1, len(pixels), dtype=torch.float64), light_behind])
    picture = torch.einsum("np,nc->pc", alpha_drawn * light_before[:-1], channels[chosen])
    if background is not None:
        picture = picture + light_before[-1][:, None] * background.double()

    near_threshold = ((raw / ALPHA_THRESHOLD - 1.0).abs() < 1e-3) | ((raw / 0.999 - 1.0).abs() < 1e-4)
    near_stop = (light / STOP - 1.0).abs() < 1e-2
    decided = ~(near_threshold | near_stop).any(dim=0)
    return OraclePicture(
        channels=picture.reshape(height, width, -1),
        opacity=(1.0 - light_before[-1]).reshape(height, width),
        means2d=means2d,
        visible=visible,
        decided=decided.reshape(height, width),
    )
