"""Small scenes that each try one hard thing on a rasteriser; shared by the tests of both backends."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

PARAMETERS = ("means", "quats_wxyz", "scales", "opacities", "channels")


@dataclass(frozen=True, kw_only=True)
class RasterScene:
    means: Tensor
    quats_wxyz: Tensor
    scales: Tensor
    opacities: Tensor
    channels: Tensor
    camera_from_world: Tensor
    intrinsics: Tensor
    width: int
    height: int

    def parameters(self, device: str = "cpu") -> list[Tensor]:
        """Fresh leaves in the order of `PARAMETERS`."""
        return [getattr(self, name).detach().clone().to(device).requires_grad_() for name in PARAMETERS]

    def camera(self, device: str = "cpu") -> tuple[Tensor, Tensor, int, int]:
        return self.camera_from_world.to(device), self.intrinsics.to(device), self.width, self.height


def camera_from_world_at(angle_rad: float, shift_m: tuple[float, float, float]) -> Tensor:
    """A camera that is turned about a slanted axis and moved, so that no term of the pose is idle."""
    axis = torch.tensor([0.48, 0.6, 0.64])
    x, y, z = axis.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    pose = torch.eye(4)
    pose[:3, :3] = torch.matrix_exp(angle_rad * cross)
    pose[:3, 3] = torch.tensor(shift_m)
    return pose


def random_scene(
    count: int = 120, width: int = 45, height: int = 37, channel_count: int = 4, seed: int = 0, splat_px: float = 2.5
) -> RasterScene:
    """Gaussians of mixed size in front of the camera and a little beyond its edges. The picture's sides are no multiples of 16."""
    generator = torch.Generator().manual_seed(seed)
    focal = 40.0
    z = 1.0 + 6.0 * torch.rand(count, generator=generator)
    column = width * (1.3 * torch.rand(count, generator=generator) - 0.15)
    row = height * (1.3 * torch.rand(count, generator=generator) - 0.15)
    centres = torch.stack([(column - width / 2) * z / focal, (row - height / 2) * z / focal, z], dim=1)
    view = camera_from_world_at(0.7, (0.3, -0.2, 0.5))
    scales = torch.exp(0.4 * torch.randn(count, 3, generator=generator)) * (splat_px * z / focal)[:, None]
    return RasterScene(
        means=(centres - view[:3, 3]) @ view[:3, :3],
        quats_wxyz=torch.randn(count, 4, generator=generator),
        scales=scales,
        opacities=0.02 + 0.9 * torch.rand(count, generator=generator),
        channels=torch.rand(count, channel_count, generator=generator) - 0.2,
        camera_from_world=view,
        intrinsics=torch.tensor([[focal, 0.0, width / 2], [0.0, focal * 1.1, height / 2], [0.0, 0.0, 1.0]]),
        width=width,
        height=height,
    )


def _centres(scene: RasterScene) -> Tensor:
    return scene.means @ scene.camera_from_world[:3, :3].T + scene.camera_from_world[:3, 3]


def _with_centres(scene: RasterScene, centres: Tensor) -> RasterScene:
    view = scene.camera_from_world
    return replace(scene, means=(centres - view[:3, 3]) @ view[:3, :3])


def near_plane_scene() -> RasterScene:
    """Some centres just before and just behind the near plane, and far off the axis, where the Jacobian is clamped."""
    scene = random_scene(60, seed=1)
    centres = _centres(scene)
    centres[::3, 2] = 0.2
    centres[1::3, 2] = torch.linspace(0.004, 0.03, len(centres[1::3]))
    centres[1::3, :2] *= 0.005
    centres[2::3, :2] *= 1.8
    scales = scene.scales.clone()
    scales[::3] = 0.02
    scales[1::3] = 0.0005
    scales[2::3] *= 6.0
    return replace(_with_centres(scene, centres), scales=scales)


def off_centre_scene() -> RasterScene:
    """A principal point close to one corner: the limits of the Jacobian differ on the two sides."""
    scene = random_scene(80, seed=2, splat_px=5.0)
    intrinsics = scene.intrinsics.clone()
    intrinsics[0, 2], intrinsics[1, 2] = 6.5, 30.25
    return replace(scene, intrinsics=intrinsics)


def opaque_scene() -> RasterScene:
    """Overlapping, nearly or fully opaque splats: the cap and the stop decide."""
    scene = random_scene(150, seed=3, splat_px=6.0)
    opacities = 0.9 + 0.1 * torch.rand(150, generator=torch.Generator().manual_seed(3))
    opacities[::4] = 1.0
    return replace(scene, opacities=opacities)


def needle_scene() -> RasterScene:
    """One axis a hundred times longer than the others."""
    scene = random_scene(80, seed=4, splat_px=0.2)
    scales = scene.scales.clone()
    scales[:, 0] *= 100.0
    return replace(scene, scales=scales)


def behind_scene() -> RasterScene:
    """Half of the Gaussians behind the camera, a few too faint to draw."""
    scene = random_scene(60, seed=5)
    centres = _centres(scene)
    centres[::2, 2] *= -1.0
    opacities = scene.opacities.clone()
    opacities[1::10] = 0.003
    return replace(_with_centres(scene, centres), opacities=opacities)


def empty_scene() -> RasterScene:
    return random_scene(0)


def tied_depth_scene() -> RasterScene:
    """Pairs at exactly the same place: only the order of the indices decides who is in front."""
    scene = random_scene(40, seed=6)
    return replace(scene, means=scene.means.repeat_interleave(2, dim=0)[:40])


SCENES = {
    "random": random_scene,
    "near plane": near_plane_scene,
    "off-centre principal point": off_centre_scene,
    "overlapping opaque": opaque_scene,
    "thin needles": needle_scene,
    "behind the camera": behind_scene,
    "tied depths": tied_depth_scene,
    "empty": empty_scene,
}


def loss_weights(scene: RasterScene, decided: Tensor, channel_count: int) -> tuple[Tensor, Tensor]:
    """Fixed random weights for picture and opacity, zero where float32 may fall on the other side of a threshold."""
    generator = torch.Generator().manual_seed(99)
    picture = torch.randn(scene.height, scene.width, channel_count, generator=generator) * decided[..., None]
    opacity = torch.randn(scene.height, scene.width, generator=generator) * decided * math.sqrt(channel_count)
    return picture, opacity
