from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from splatmend.recon.harmonics import C0, basis, colours, from_rgb, quadratic_forms


def _complex_harmonic(order: int, degree: int, polar: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    if hasattr(special, "sph_harm_y"):
        return special.sph_harm_y(degree, order, polar, azimuth)
    return special.sph_harm(order, degree, azimuth, polar)


def test_basis_equals_real_harmonics_made_from_scipys_complex_ones() -> None:
    directions = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    x, y, z = directions.numpy().T
    polar, azimuth = np.arccos(z), np.arctan2(y, x) % (2 * np.pi)
    columns = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = _complex_harmonic(abs(order), degree, polar, azimuth)
            columns.append(value.real if order == 0 else np.sqrt(2) * (value.real if order > 0 else value.imag))
    np.testing.assert_allclose(basis(directions, 3).numpy(), np.stack(columns, axis=1), atol=1e-12)


def test_quadratic_forms_are_the_first_nine_harmonics() -> None:
    directions = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), dim=1)
    vectors = np.concatenate([directions.numpy(), np.ones((50, 1))], axis=1)
    values = np.einsum("ni,kij,nj->nk", vectors, quadratic_forms(), vectors)
    np.testing.assert_allclose(values, basis(directions, 2).numpy(), atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_limiting_the_degree_equals_dropping_the_rest(degree: int) -> None:
    torch.manual_seed(0)
    sh, directions = torch.randn(9, 16, 3), torch.randn(9, 3)
    torch.testing.assert_close(colours(sh, directions, degree), colours(sh[:, : (degree + 1) ** 2], directions))


def test_flat_colours_come_back_from_every_side() -> None:
    rgb = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    sh = torch.zeros(4, 16, 3)
    sh[:, 0] = from_rgb(rgb)
    torch.testing.assert_close(colours(sh, torch.randn(4, 3)), rgb, atol=1e-6, rtol=0)


def test_colours_are_never_negative() -> None:
    assert (colours(torch.full((2, 1, 3), -9.0), torch.ones(2, 3)) == 0).all()


def test_a_colour_of_exactly_zero_takes_its_gradient() -> None:
    around = torch.tensor(-0.5 / C0, dtype=torch.float32).view(torch.int32) + torch.arange(-3, 4, dtype=torch.int32)
    sh = around.view(torch.float32)[:, None, None].repeat(1, 1, 3).requires_grad_()
    sums = (sh * C0 + 0.5)[:, 0].detach()
    assert (sums == 0).any()
    assert (sums < 0).any()
    colours(sh, torch.ones(len(sh), 3)).sum().backward()
    assert sh.grad is not None
    assert torch.equal(sh.grad[:, 0] > 0, sums >= 0)
