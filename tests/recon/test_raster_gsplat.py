"""gsplat on CUDA against the oracle and against the CPU kernels."""

from __future__ import annotations

import pytest
import torch
from raster_checks import check_against_oracle
from raster_scenes import SCENES, random_scene
from test_raster_ray import LENSES, SHUTTERS, shot_of

from splatmend.datasets.geometry import inverse
from splatmend.recon.raster import rasterize
from splatmend.recon.raster.camera_rays import RayCamera

pytestmark = pytest.mark.gpu

# gsplat projects in float32, where the determinant of a long thin conic cancels, and takes the light that is left from one minus
# opacity, which loses digits where little is left.
LOOSER = {"thin needles": (2e-3, 2e-2), "near plane": (1e-3, 1e-2), "overlapping opaque": (1e-4, 1e-2)}


@pytest.mark.parametrize("name", [name for name in SCENES if name != "empty"])
def test_agrees_with_the_oracle(name: str) -> None:
    values, gradients = LOOSER.get(name, (1e-4, 1e-3))
    check_against_oracle(SCENES[name](), "cuda", values, gradients)


@pytest.mark.parametrize("channel_count", [1, 6, 40])
def test_takes_any_number_of_channels(channel_count: int) -> None:
    check_against_oracle(random_scene(40, channel_count=channel_count), "cuda", 1e-4, 1e-3)


def test_backend_follows_the_device_and_agrees_with_the_cpu() -> None:
    scene = random_scene(2000, width=200, height=150, seed=12)
    with torch.no_grad():
        gpu = rasterize(*scene.parameters("cuda"), *scene.camera("cuda"))
        cpu = rasterize(*scene.parameters(), *scene.camera())
    assert gpu.stats.backend == "gsplat"
    assert gpu.means2d is not None
    assert cpu.means2d is not None
    drawn = cpu.visible
    assert (gpu.visible.cpu() == drawn).float().mean() > 0.999
    both = drawn & gpu.visible.cpu()
    torch.testing.assert_close(gpu.means2d.cpu()[both], cpu.means2d[both], atol=1e-3, rtol=1e-5)
    # A pixel at a threshold may differ by 1/255 of a splat; they are few.
    assert ((gpu.channels.cpu() - cpu.channels).abs() > 1e-4).float().mean() < 1e-3


def test_an_empty_scene_is_the_background() -> None:
    scene = random_scene(0)
    background = torch.tensor([0.1, 0.2, 0.3, 0.4], device="cuda")
    output = rasterize(*scene.parameters("cuda"), *scene.camera("cuda"), background=background)
    torch.testing.assert_close(output.channels, background.expand(scene.height, scene.width, 4))
    assert output.stats.intersections == 0


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("shutter", SHUTTERS)
def test_ray_model_agrees_with_the_cpu(lens: str, shutter: str) -> None:
    """Inside the picture: near its border gsplat leaves Gaussians out by their sigma points, and cuts all at a box in pixels. A motion of
    15 cm and 1 degree: gsplat interpolates views between lines, which is another path by a term of second order."""
    scene = random_scene(150, width=96, height=80, seed=21, splat_px=1.5)
    shot = shot_of(scene, lens, shutter, share=0.25)
    inner = (slice(20, -20), slice(20, -20))
    pictures, gradients = [], []
    for device in ("cpu", "cuda"):
        leaves = scene.parameters(device)
        view = torch.from_numpy(inverse(shot.world_from_camera)).float().to(device)
        output = rasterize(*leaves, view, *scene.camera(device)[1:], model="ray", ray_camera=RayCamera.of(shot))
        pictures.append(output.channels[inner].cpu())
        output.channels[inner].square().sum().backward()
        gradients.append([leaf.grad.cpu() for leaf in leaves])
    assert pictures[0].abs().max() > 0.3
    assert ((pictures[0] - pictures[1]).abs() > 2e-3).float().mean() < 0.02
    for cpu, gpu in zip(*gradients, strict=True):
        assert torch.nn.functional.cosine_similarity(cpu.flatten(), gpu.flatten(), dim=0) > 0.99


def test_an_empty_scene_has_no_rays_to_answer() -> None:
    scene = random_scene(0)
    output = rasterize(*scene.parameters("cuda"), *scene.camera("cuda"), model="ray")
    assert output.channels.abs().max() == 0.0
    assert output.means2d is None
