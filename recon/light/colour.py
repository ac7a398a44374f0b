"""Colours as pictures hold them (sRGB) and as light adds up (linear), after IEC 61966-2-1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Weights of linear red, green and blue in luminance (ITU-R BT.709)."""


def linear_from_srgb(rgb: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Linear values; negative ones become 0, those above 1 follow the same curve."""
    rgb = rgb.clamp_min(0.0)
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(linear: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The inverse of `linear_from_srgb`."""
    linear = linear.clamp_min(0.0)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


def luminance(linear: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Luminance of linear colours."""
    return (linear * linear.new_tensor(LUMINANCE)).sum(dim=-1)
