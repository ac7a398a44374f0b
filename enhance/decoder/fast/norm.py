"""Wan's channel normalisation and SiLU as one pass over memory, forward and backward.

`y = silu(scale * gamma * x / max(|x|, 1e-12))` with |x| over channels (`WanRMS_norm`, images=False). Tensors are [B, C, T, H, W] in
channels-last memory, so that a pixel's channels lie together. Sums are in float32 at least. On CUDA devices one Triton kernel each;
elsewhere the same formulas in PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from splatmend.enhance.decoder.fast import triton_norm

EPSILON = 1e-12


def norm_silu_into(x: torch.Tensor, gamma: torch.Tensor, scale: float, out: torch.Tensor) -> None:
    """Write the result for `x` [B, C, T, H, W] into `out`, a view of the last T frames of a channels-last buffer."""
    if triton_norm.usable(x):
        triton_norm.forward(x, gamma, scale, out)
        return
    out.copy_(F.silu(_unit(x) * scale * gamma.view(1, -1, 1, 1, 1)))


def norm_silu_backward(x: torch.Tensor, gamma: torch.Tensor, scale: float, grad: torch.Tensor) -> torch.Tensor:
    """Gradient with respect to `x` for the gradient of the result, any view of a channels-last buffer."""
    if triton_norm.usable(x):
        return triton_norm.backward(x, gamma, scale, grad)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    length = wide.norm(dim=1, keepdim=True).clamp_min(EPSILON)
    unit, gain = wide / length, scale * gamma.view(1, -1, 1, 1, 1)
    normal = unit * gain
    gate = torch.sigmoid(normal)
    to_unit = grad.to(wide.dtype) * (gate * (1 + normal * (1 - gate))) * gain
    return ((to_unit - unit * (to_unit * unit).sum(dim=1, keepdim=True)) / length).to(x.dtype)


def _unit(x: torch.Tensor) -> torch.Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.normalize(wide, dim=1, eps=EPSILON)
