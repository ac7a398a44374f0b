"""Colours as pictures hold them and as light adds up.

Pictures are sRGB (IEC 61966-2-1), but cameras also compress what is bright: a white wall in the sun gets many times the light of one in
the shade and looks half as bright again. `light_from_picture` undoes both, with the shoulder of Reinhard et al. (2002), "Photographic tone
reproduction"; how strong it is differs from camera to camera, and `SHOULDER` is a middle.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Weights of linear red, green and blue in luminance (ITU-R BT.709)."""
SHOULDER = 0.75
"""Light L shows as the linear value L / (1 + SHOULDER L)."""
_MOST = 0.97
"""No picture is taken to come closer than this to the shoulder's end, where light would have no bound."""


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
    return (linear * _luminance_weights(linear.dtype, linear.device)).sum(dim=-1)


@lru_cache(maxsize=16)
def _luminance_weights(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "3"]:
    return torch.tensor(LUMINANCE, dtype=dtype, device=device)


def light_from_picture(rgb: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Light that colours of a picture (without exposure) show: linear, not compressed; negative ones become 0."""
    shown = linear_from_srgb(rgb).clamp_max(_MOST / SHOULDER)
    return shown / (1 - SHOULDER * shown)


def picture_from_light(light: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The inverse of `light_from_picture`."""
    light = light.clamp_min(0.0)
    return srgb_from_linear(light / (1 + SHOULDER * light))


def taken_by_shade(rgb: Float[Tensor, "*batch 3"], kept: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """What colours of a picture (without exposure) lose where that share of their light is kept; nothing where all of it is."""
    light = light_from_picture(rgb)
    left = picture_from_light(light * kept) / picture_from_light(light).clamp_min(1e-6)
    return rgb.clamp_min(0.0) * (1 - left)
