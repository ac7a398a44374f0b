"""LPIPS as a fused loss: value and gradient are those of the `lpips` package, in half precision as well, and little is kept."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from splatmend.enhance import perceptual
from splatmend.enhance.kept_bytes import KeptBytes
from splatmend.enhance.perceptual import lpips_of_frames

lpips = pytest.importorskip("lpips")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = lpips.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, verbose=False).eval().requires_grad_(False)
    for lin in whole.lins:
        # As in the published ones, no weight is negative.
        lin.model[-1].weight.data.abs_()
    return whole


def clips(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(2, 3, 3, 40, 48, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))
    return a.to(dtype), b.to(dtype)


def plainly(network: nn.Module, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = a.clone().requires_grad_()
    total = network(leaf.transpose(1, 2).flatten(0, 1), b.transpose(1, 2).flatten(0, 1)).sum()
    return total.detach(), torch.autograd.grad(total, leaf)[0]


@pytest.mark.parametrize("at_once", [1, 40 * 48 * 4, 1 << 19])
def test_value_and_gradient_are_those_of_the_package(network: nn.Module, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(perceptual, "PIXELS_AT_ONCE", at_once)
    wide, (a, b) = network.double(), clips()
    total, gradient = plainly(wide, a, b)
    leaf = a.clone().requires_grad_()
    found = lpips_of_frames(wide, leaf, b)
    torch.testing.assert_close(found, total, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(3 * found, leaf)[0], 3 * gradient, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(lpips_of_frames(wide, a, b), total, rtol=1e-9, atol=1e-12)


def test_half_precision_is_close_and_its_sums_are_float32(network: nn.Module) -> None:
    single, (a, b) = network.float(), clips(torch.float32)
    total, gradient = plainly(single, a, b)
    for way in ("autocast", "frames"):
        leaf = (a.bfloat16() if way == "frames" else a.clone()).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way == "autocast"):
            found = lpips_of_frames(single, leaf, b)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, total, rtol=0.02, atol=0)
        half = torch.autograd.grad(found, leaf)[0]
        assert half.dtype == leaf.dtype
        # Rounding turns some rectifiers and maxima of a random network the other way.
        assert torch.cosine_similarity(half.float().flatten(), gradient.flatten(), dim=0) > 0.9
    same = lpips_of_frames(single, a.bfloat16(), a.bfloat16())
    assert float(same) == 0.0


class Dark(nn.Module):
    """A network whose features are all zero, as behind a ReLU that lets nothing through."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=torch.float64), nn.Threshold(1e9, 0.0), nn.Unflatten(0, (1, -1)))
        self.lins = [nn.Module()]
        self.lins[0].model = nn.Sequential(nn.Conv2d(4, 1, 1, bias=False, dtype=torch.float64))
        self.scaling_layer = nn.Identity()


def test_pictures_without_features_have_a_gradient() -> None:
    a, b = clips()
    leaf = a.clone().requires_grad_()
    gradient = torch.autograd.grad(lpips_of_frames(Dark().requires_grad_(False), leaf, b), leaf)[0]
    assert torch.equal(gradient, torch.zeros_like(a))


def test_only_the_gradient_is_kept(network: nn.Module) -> None:
    single, (a, b) = network.float(), clips(torch.float32)
    leaf = a.clone().requires_grad_()
    with KeptBytes(single.parameters()) as plain:
        total = single(leaf.transpose(1, 2).flatten(0, 1), b.transpose(1, 2).flatten(0, 1)).sum()
    del total
    with KeptBytes(single.parameters()) as fused:
        total = lpips_of_frames(single, leaf, b)
        held = fused.live
    assert held <= a.nbytes
    assert fused.peak < plain.peak
    assert total.requires_grad


def test_weights_that_change_are_seen(network: nn.Module) -> None:
    """Copies in another dtype are kept, but not beyond the weights that they were made of."""
    changed, (a, b) = copy.deepcopy(network.float()), clips(torch.float32)
    before = lpips_of_frames(changed, a, b, torch.bfloat16)
    with torch.no_grad():
        for weight in changed.net.parameters():
            weight.copy_(weight.flip(0))
    after = lpips_of_frames(changed, a, b, torch.bfloat16)
    assert after != before
    assert after == lpips_of_frames(copy.deepcopy(changed), a, b, torch.bfloat16)
