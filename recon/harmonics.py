"""Colours from real spherical harmonics up to degree 3.

Order and signs are those of the field's .ply files: the real basis with the Condon-Shortley phase, m from -l to l (Kerbl et al. 2023,
"3D Gaussian Splatting"; the polynomials are in Sloan 2013, "Efficient Spherical Harmonic Evaluation", appendix A2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

C0 = math.sqrt(1.0 / (4.0 * math.pi))
"""The constant harmonic: a coefficient times this, plus one half, is the colour of degree 0."""
_C1 = math.sqrt(3.0 / (4.0 * math.pi))
_C2 = math.sqrt(15.0 / (4.0 * math.pi))
_C20 = math.sqrt(5.0 / (16.0 * math.pi))
_C30 = math.sqrt(7.0 / (16.0 * math.pi))
_C31 = math.sqrt(21.0 / (32.0 * math.pi))
_C32 = math.sqrt(105.0 / (4.0 * math.pi))
_C33 = math.sqrt(35.0 / (32.0 * math.pi))


def basis(directions: Float[Tensor, "N 3"], degree: int) -> Float[Tensor, "N K"]:
    """Values of the first `(degree + 1)^2` harmonics for unit directions."""
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, C0)]
    if degree >= 1:
        terms += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        terms += [_C2 * x * y, -_C2 * y * z, _C20 * (3 * zz - 1), -_C2 * x * z, 0.5 * _C2 * (xx - yy)]
    if degree >= 3:
        terms += [
            -_C33 * y * (3 * xx - yy),
            _C32 * x * y * z,
            -_C31 * y * (5 * zz - 1),
            _C30 * z * (5 * zz - 3),
            -_C31 * x * (5 * zz - 1),
            0.5 * _C32 * z * (xx - yy),
            -_C33 * x * (xx - 3 * yy),
        ]
    return torch.stack(terms, dim=-1)


def quadratic_forms() -> Float[np.ndarray, "9 4 4"]:
    """Matrices of the first nine harmonics: each is `v @ matrix @ v` of the vector v = (x, y, z, 1)."""
    forms = np.zeros((9, 4, 4))
    forms[0, 3, 3] = C0
    forms[1, 1, 3], forms[2, 2, 3], forms[3, 0, 3] = -_C1, _C1, -_C1
    forms[4, 0, 1], forms[5, 1, 2], forms[7, 0, 2] = _C2, -_C2, -_C2
    forms[6, 2, 2], forms[6, 3, 3] = 3 * _C20, -_C20
    forms[8, 0, 0], forms[8, 1, 1] = 0.5 * _C2, -0.5 * _C2
    return forms


def colours(sh: Float[Tensor, "N K 3"], directions: Float[Tensor, "N 3"], degree: int | None = None) -> Float[Tensor, "N 3"]:
    """sRGB of Gaussians seen along directions of any length, from the camera to them, in the Gaussians' own frame; never below 0, may
    exceed 1.

    `degree` limits the harmonics that are used (by default all that are stored).
    """
    stored = round(sh.shape[1] ** 0.5) - 1
    used = stored if degree is None else min(degree, stored)
    if used == 0:
        return _NeverNegative.apply(sh[:, 0] * C0)
    if sh.is_cuda:
        # One kernel each way; below, every harmonic is a few of them.
        from splatmend.recon.raster.gsplat_backend import harmonic_sums

        return _NeverNegative.apply(harmonic_sums(directions, sh, used))
    directions = torch.nn.functional.normalize(directions, dim=-1)
    count = (used + 1) ** 2
    return _NeverNegative.apply((basis(directions, used)[:, :, None] * sh[:, :count]).sum(dim=1))


class _NeverNegative(torch.autograd.Function):
    """Sums of harmonics plus one half, 0 where that is below. A colour of exactly 0 still takes its gradient, as with `clamp_min`, whose
    way back is three kernels."""

    @staticmethod
    def forward(ctx: Any, sums: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        shifted = sums + 0.5
        ctx.save_for_backward(shifted)
        return shifted.clamp_min(0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        (shifted,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, shifted, -_SMALLEST)


_SMALLEST = float(np.finfo(np.float32).tiny)


def from_rgb(rgb: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Coefficients of degree 0 that give these colours."""
    return (rgb - 0.5) / C0
