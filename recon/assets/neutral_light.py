"""The light in which imported bodies show their own colours: an even sky over a grey ground, no sun."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.recon.assets.asset import Material
from splatmend.recon.light.scene_light import SceneLight, environment_directions

_ROWS = 16
_ZENITH, _HORIZON, _GROUND = 1.0, 0.75, 0.3


def neutral_light() -> SceneLight:
    """Grey light from all around, in the frame of the body (z up); a white surface that faces up shows about 0.9."""
    directions, _ = environment_directions(_ROWS)
    height = directions[:, 2]
    radiance = torch.where(height > 0, _HORIZON + (_ZENITH - _HORIZON) * height, torch.full_like(height, _GROUND))
    return SceneLight(
        to_sun_world=(0.0, 0.0, 1.0),
        sun=(0.0, 0.0, 0.0),
        environment=radiance.view(_ROWS, 2 * _ROWS, 1).expand(-1, -1, 3).contiguous(),
        environment_from_world=np.eye(3),
        made_by="neutral",
    )


def own_colours(material: Material) -> Float[Tensor, "N 3"]:
    """Linear colours of surfaces in the neutral light, the same for every eye: what they scatter, and what they mirror as if they scattered
    that as well."""
    return (material.albedo + material.specular) * neutral_light().diffuse(material.normals)
