"""gsplat on CUDA against the oracle and against the CPU kernels."""

from __future__ import annotations

import pytest
import torch
from raster_checks import check_against_oracle
from raster_scenes import SCENES, random_scene

from splatmend.recon.raster import rasterize

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
