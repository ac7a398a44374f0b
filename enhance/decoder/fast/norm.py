"""Wan's channel normalisation and SiLU as one pass over memory, forward and backward.

`y = silu(scale * gamma * x / max(|x|, 1e-12))` with |x| over channels (`WanRMS_norm`, images=False). Tensors are [B, C, T, H, W] in
channels-last memory, so that a pixel's channels lie together. Sums are in float32 at least. On CUDA devices one Triton kernel each;
elsewhere the same formulas in PyTorch. `bias` [C] is added to `x` first: the bias of the convolution that made `x`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from splatmend.enhance.decoder.fast import launch

EPSILON = 1e-12


def norm_silu_into(x: torch.Tensor, gamma: torch.Tensor, scale: float, out: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Write the result for `x` [B, C, T, H, W] into `out`, a view of the last T frames of a channels-last buffer."""
    if launch.usable(x, out):
        launch.norm_forward(x, bias, gamma, scale, out)
        return
    wide = _biased(x, bias)
    out.copy_(F.silu(F.normalize(wide, dim=1, eps=EPSILON) * scale * gamma.view(1, -1, 1, 1, 1)))


def norm_silu_backward(
    x: torch.Tensor,
    gamma: torch.Tensor,
    scale: float,
    grad: torch.Tensor,
    *,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
    more: torch.Tensor | None = None,
    added: torch.Tensor | None = None,
) -> None:
    """Write into `out` the gradient with respect to `x`, plus `added`, for the gradient `grad + more` of the result."""
    tensors = [t for t in (x, grad, more, added, out) if t is not None]
    if launch.usable(*tensors):
        launch.norm_backward(x, bias, gamma, scale, grad, more, added, out)
        return
    wide = _biased(x, bias)
    pull = grad.to(wide.dtype) if more is None else grad.to(wide.dtype) + more
    length = wide.norm(dim=1, keepdim=True).clamp_min(EPSILON)
    unit, gain = wide / length, scale * gamma.view(1, -1, 1, 1, 1)
    normal = unit * gain
    gate = torch.sigmoid(normal)
    to_unit = pull * (gate * (1 + normal * (1 - gate))) * gain
    result = (to_unit - unit * (to_unit * unit).sum(dim=1, keepdim=True)) / length
    out.copy_(result if added is None else result + added)


def _biased(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide if bias is None else wide + bias.view(1, -1, 1, 1, 1)
