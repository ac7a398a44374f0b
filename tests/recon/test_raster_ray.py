"""The `ray` model's CPU kernels against the oracle: every lens and shutter, values, gradients, bounds and threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from raster_scenes import PARAMETERS, SCENES, RasterScene, loss_weights, random_scene
from ray_oracle import oracle_rays, rasterize_rays
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import inverse, pose
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.raster import RasterOutput, rasterize
from splatmend.recon.raster.camera_rays import RayCamera

LENSES: dict[str, dict[str, Any]] = {
    "pinhole": {},
    "opencv": {"distortion_model": "opencv", "distortion": (-0.28, 0.09, 0.002, -0.003, -0.01)},
    "fisheye": {"distortion_model": "opencv_fisheye", "distortion": (0.05, -0.02, 0.01, -0.003)},
}
SHUTTERS = ("global", "top_to_bottom", "bottom_to_top", "left_to_right", "right_to_left")


def shot_of(scene: RasterScene, lens: str = "pinhole", shutter: str = "global", share: float = 1.0) -> Shot:
    """The scene's camera with a lens, moving 0.6 m and turning 4 degrees (each times `share`) while it is read."""
    k = scene.intrinsics.double()
    camera = Camera(
        name="test",
        width=scene.width,
        height=scene.height,
        focal_px=(float(k[0, 0]), float(k[1, 1])),
        principal_px=(float(k[0, 2]), float(k[1, 2])),
        shutter=shutter,  # type: ignore[arg-type]
        **LENSES[lens],
    )
    middle = inverse(scene.camera_from_world.double().numpy())
    turn, shift = np.array([0.01, 0.035, -0.02]), np.array([0.1, -0.05, 0.28])
    half_turn = pose(Rotation.from_rotvec(share * turn).as_matrix(), share * shift)
    start, end = (middle @ inverse(half_turn), middle @ half_turn) if shutter != "global" else (middle, middle)
    return Shot(camera=camera, world_from_camera_start=start, world_from_camera_end=end, start_us=0, end_us=30_000_000)


def draw(scene: RasterScene, shot: Shot, leaves: list[torch.Tensor]) -> RasterOutput:
    view = torch.from_numpy(inverse(shot.world_from_camera)).float()
    return rasterize(*leaves, view, *scene.camera()[1:], model="ray", ray_camera=RayCamera.of(shot))


def check(scene: RasterScene, shot: Shot) -> None:
    exact_leaves, leaves = scene.parameters(), scene.parameters()
    view = torch.from_numpy(inverse(shot.world_from_camera)).float()
    exact = rasterize_rays(*exact_leaves, view, *oracle_rays(shot))
    output = draw(scene, shot, leaves)
    decided = exact.decided
    assert decided.float().mean() > 0.9
    assert not (exact.reached & ~output.visible).any()
    assert (output.channels - exact.channels)[decided].abs().amax() < 1e-4
    assert (output.opacity - exact.opacity)[decided].abs().amax() < 1e-4
    for_picture, for_opacity = loss_weights(scene, decided, scene.channels.shape[1])
    ((output.channels * for_picture).sum() + (output.opacity * for_opacity).sum()).backward()
    ((exact.channels * for_picture).sum() + (exact.opacity * for_opacity).sum()).backward()
    for name, leaf, exact_leaf in zip(PARAMETERS, leaves, exact_leaves, strict=True):
        error = (leaf.grad - exact_leaf.grad).abs().amax() / exact_leaf.grad.abs().amax()
        assert error < 1e-3, f"{name}: {error:.2e}"


@pytest.mark.parametrize("name", [name for name in SCENES if name != "empty"])
def test_agrees_with_the_oracle(name: str) -> None:
    scene = SCENES[name]()
    check(scene, shot_of(scene))


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("shutter", SHUTTERS)
def test_draws_every_lens_and_shutter(lens: str, shutter: str) -> None:
    scene = random_scene(100, width=53, height=41, seed=21, splat_px=4.0)
    check(scene, shot_of(scene, lens, shutter))


def test_an_empty_scene_is_empty() -> None:
    scene = SCENES["empty"]()
    leaves = scene.parameters()
    output = draw(scene, shot_of(scene), leaves)
    output.channels.sum().backward()
    assert output.channels.abs().max() == 0.0
    assert output.stats.intersections == 0


def test_the_oracle_passes_gradcheck() -> None:
    scene = random_scene(4, width=8, height=8, channel_count=2, seed=5, splat_px=3.0)
    shot = shot_of(scene, "opencv", "top_to_bottom")
    rays = oracle_rays(shot)
    view = torch.from_numpy(inverse(shot.world_from_camera))

    def picture(*leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = rasterize_rays(*leaves, view, *rays)
        return drawn.channels[drawn.decided], drawn.opacity[drawn.decided]

    assert torch.autograd.gradcheck(picture, [leaf.detach().double().requires_grad_() for leaf in scene.parameters()], eps=1e-7)


def test_a_far_thin_splat_keeps_its_place() -> None:
    """A splat of 5 mm at 80 m: differences of squares in float32 would lose it."""
    view = random_scene(0).camera_from_world
    scene = RasterScene(
        means=((torch.tensor([[0.013, -0.02, 80.0]]) - view[:3, 3]) @ view[:3, :3]),
        quats_wxyz=torch.tensor([[0.9, 0.1, -0.3, 0.2]]),
        scales=torch.tensor([[0.005, 0.004, 0.2]]),
        opacities=torch.tensor([0.9]),
        channels=torch.ones(1, 1),
        camera_from_world=view,
        intrinsics=torch.tensor([[40000.0, 0.0, 16.5], [0.0, 40000.0, 16.5], [0.0, 0.0, 1.0]]),
        width=33,
        height=33,
    )
    shot = shot_of(scene)
    exact = rasterize_rays(*scene.parameters(), view, *oracle_rays(shot))
    assert exact.opacity.max() > 0.5
    output = draw(scene, shot, scene.parameters())
    assert (output.opacity - exact.opacity)[exact.decided].abs().max() < 1e-3


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_and_two_threads_give_the_same_bits(restore_threads: None) -> None:
    scene = random_scene(300, width=90, height=70, seed=8)
    shot = shot_of(scene, "opencv", "top_to_bottom")
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaves = scene.parameters()
        output = draw(scene, shot, leaves)
        ((output.channels**2).sum() + output.opacity.sum()).backward()
        results.append([output.channels.detach(), output.opacity.detach(), *(leaf.grad for leaf in leaves)])
    for one, two in zip(*results, strict=True):
        assert one.abs().max() > 0
        assert torch.equal(one, two)


def test_pixels_that_the_lens_does_not_reach_stay_empty() -> None:
    scene = random_scene(200, width=64, height=64, seed=3, splat_px=12.0)
    camera = Camera(
        name="wide", width=64, height=64, focal_px=(16.0, 16.0), principal_px=(32.0, 32.0), distortion_model="opencv_fisheye",
        distortion=(0.0, 0.0, 0.0, 0.0),
    )  # fmt: skip
    world_from_camera = inverse(scene.camera_from_world.double().numpy())
    output = draw(scene, Shot.still(camera, world_from_camera, 0), scene.parameters())
    radius_rad = (np.hypot(*(np.mgrid[:64, :64] + 0.5 - 32.0))) / 16.0
    assert output.opacity.detach().numpy()[radius_rad > np.radians(85.0)].max() == 0.0
    assert output.opacity.detach().numpy()[radius_rad < 0.5].mean() > 0.1
