from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchmetrics.functional.image import structural_similarity_index_measure

from splatmend.datasets.ssim import structural_similarity

SHAPES = [(1, 3, 11, 11), (2, 3, 13, 90), (3, 1, 20, 12)]
"""Rows whose channels lie together are longer than a block of the kernels in one of them."""


def _pictures(shape: tuple[int, ...], *, together: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(shape, generator=generator)
    picture = (truth + 0.3 * torch.randn(shape, generator=generator)).clamp(0, 1)
    if together:
        return picture.to(memory_format=torch.channels_last), truth.to(memory_format=torch.channels_last)
    return picture, truth


def _slope(picture: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = picture.clone().requires_grad_(True)
    similar = structural_similarity(leaf, truth)
    (by_picture,) = torch.autograd.grad((similar * weights).sum(), leaf)
    return similar.detach(), by_picture


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the kernels give for all shapes, as Triton interprets them on the CPU: in a process of its own, for it is asked for before
    Triton is imported."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton, which comes with torch for CUDA")
    folder = tmp_path_factory.mktemp("ssim")
    for number, shape in enumerate(SHAPES):
        picture, truth = _pictures(shape, together=False)
        save_file({"picture": picture, "truth": truth, "weights": _weights(shape)}, folder / f"given-{number}.safetensors")
    program = Path(__file__).with_name("ssim_kernels_program.py")
    subprocess.run([sys.executable, program, folder], check=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    return folder


def _weights(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(1.0, 1.0 + shape[0])


@pytest.mark.parametrize("number", range(len(SHAPES)))
@pytest.mark.parametrize("layout", ["planes", "together"])
def test_the_kernels_agree_with_the_convolutions(interpreted: Path, number: int, layout: str) -> None:
    picture, truth = _pictures(SHAPES[number], together=False)
    similar, by_picture = _slope(picture, truth, _weights(SHAPES[number]))
    found = load_file(interpreted / f"{layout}-{number}.safetensors")
    torch.testing.assert_close(found["means"], similar, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["by_picture"], by_picture, rtol=1e-4, atol=1e-4 * float(by_picture.abs().max()))
    torch.testing.assert_close(found["without_slopes"], found["means"], rtol=0, atol=0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("shape", [*SHAPES, pytest.param((1, 3, 1280, 1920), marks=pytest.mark.gpu)])
def test_it_is_that_of_torchmetrics_and_its_slope_that_of_its_differences(device: str, shape: tuple[int, ...]) -> None:
    for together in (False, True):
        picture, truth = (x.to(device) for x in _pictures(shape, together=together))
        similar, by_picture = _slope(picture, truth, torch.ones(shape[0], device=device))
        doubles = (picture.double(), truth.double())
        _, windows = structural_similarity_index_measure(*doubles, data_range=1.0, reduction="none", return_full_image=True)
        torch.testing.assert_close(similar.double(), windows[..., 5:-5, 5:-5].mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5)
        way = torch.sign(by_picture)
        ahead, behind = (structural_similarity((picture + side * way).double(), truth.double()) for side in (1e-4, -1e-4))
        torch.testing.assert_close((by_picture.abs().double()).sum(dim=(1, 2, 3)), (ahead - behind) / 2e-4, rtol=2e-2, atol=0)


def test_one_of_the_pictures_may_ask_for_a_gradient() -> None:
    picture, truth = _pictures((1, 3, 20, 20), together=False)
    swapped = truth.clone().requires_grad_(True)
    structural_similarity(picture, swapped).sum().backward()
    assert float(swapped.grad.abs().max()) > 0
    with pytest.raises(ValueError, match="no window"):
        structural_similarity(picture[..., :10], truth[..., :10])
    with pytest.raises(ValueError, match="one of its pictures"):
        structural_similarity(picture.requires_grad_(True), swapped)
