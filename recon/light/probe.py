"""The light at a place: what the scene itself shows from there in all directions, in place of an open sky.

Between houses little of the sky is open, and a bonnet mirrors facades. The sky's own map stays wherever nothing was reconstructed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatmend.datasets.geometry import pose
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.light.colour import light_from_picture, luminance
from splatmend.recon.light.scene_light import SceneLight, environment_directions
from splatmend.recon.raster.api import Backend
from splatmend.recon.render import Channel, render
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import upload

_COLOUR: tuple[Channel, ...] = ("rgb",)
_FACE_PX = 32
_ROWS = 16
_FINE = 2
"""Directions a pixel along each axis."""
_MOST_SCALE = 2.0


def light_at(
    scene: Scene, light: SceneLight, place_world_m: Float[np.ndarray, "3"], t_us: int, *, backend: Backend | None = None
) -> SceneLight:
    """The light with the environment that the scene's background and sky give at a place (metres, float64).

    Level ground there gets from it what the light gives it, which was seen; a factor of at most two brings it there.
    """
    directions, _ = environment_directions(_ROWS * _FINE, scene.device)
    world = directions @ upload(light.environment_from_world, scene.device)
    colour, opacity = _seen_around(scene, place_world_m, t_us, world, backend)
    sky = light.environment_at(world)
    shown = light_from_picture(colour / opacity.clamp_min(1e-3)[:, None]) * opacity[:, None]
    environment = (shown + (1 - opacity)[:, None] * sky).view(_ROWS * _FINE, 2 * _ROWS * _FINE, 3)
    environment = torch.nn.functional.avg_pool2d(environment.permute(2, 0, 1)[None], _FINE)[0].permute(1, 2, 0).contiguous()
    there = replace(light, environment=environment)
    up = upload(light.up_world, scene.device)[None]
    wanted, given = luminance(light.ambient(up)), luminance(there.ambient(up))
    scale = (wanted / given.clamp_min(1e-6)).clamp(1 / _MOST_SCALE, _MOST_SCALE)
    return replace(there, environment=environment * scale)


def _seen_around(
    scene: Scene, place_world_m: np.ndarray, t_us: int, directions: Float[Tensor, "P 3"], backend: Backend | None
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P"]]:
    """sRGB, multiplied by opacity, and opacity of the background along directions of the world, from six square pictures."""
    camera = Camera(name="probe", width=_FACE_PX, height=_FACE_PX, focal_px=(_FACE_PX / 2,) * 2, principal_px=(_FACE_PX / 2,) * 2)
    bare = replace(scene, sky=None, actors={})
    faces = []
    for turn in _FACES:
        drawn = render(bare, Shot.still(camera, pose(turn, place_world_m), t_us), _COLOUR, backend=backend, exposure=None, sh_degree=0)
        assert drawn.rgb is not None
        faces.append(torch.cat([drawn.rgb, drawn.opacity[..., None]], dim=-1))
    inside = directions @ upload(np.stack(_FACES), directions.device)
    ahead = inside[..., 2]
    mine = (ahead > 0) & (inside[..., :2].abs().amax(dim=2) <= ahead)
    at = inside[..., :2] / ahead.clamp_min(1e-6)[..., None]
    pictures = torch.stack(faces).permute(0, 3, 1, 2)
    found = torch.nn.functional.grid_sample(pictures, at[:, None], padding_mode="border", align_corners=False)[:, :, 0]
    # On an edge between faces the last one counts.
    last = mine & (mine.flip(0).cumsum(0).flip(0) == 1)
    colour = (found * last[:, None]).sum(dim=0).T
    return colour[:, :3], colour[:, 3]


_FACES = tuple(
    Rotation.from_euler("YX", angles, degrees=True).as_matrix() for angles in ((0, 0), (90, 0), (180, 0), (270, 0), (0, 90), (0, -90))
)
