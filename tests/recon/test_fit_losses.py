from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_log import true_scene

from splatmend.datasets.errors import UserError
from splatmend.recon.fit.losses import below_horizon, bending, photometric, relative_depth, ssim
from splatmend.recon.fit.trainer import StepReport
from splatmend.recon.sky import ray_directions


def _pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(30, 40, 3, generator=generator)
    return (truth + 0.2 * torch.rand(30, 40, 3, generator=generator)).clamp(0, 1), truth


def test_ssim_equals_that_of_scikit_style_windows() -> None:
    """An explicit loop over all windows is the oracle."""
    picture, truth = _pictures()
    x = np.arange(-5, 6)
    line = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for channel in range(3):
        a, b = picture[..., channel].double().numpy(), truth[..., channel].double().numpy()
        for row in range(20):
            for column in range(30):
                p, q = a[row : row + 11, column : column + 11], b[row : row + 11, column : column + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq, cov = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2, (window * p * q).sum() - mp * mq
                values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    assert float(ssim(picture, truth)) == pytest.approx(np.mean(values), abs=1e-5)
    assert float(ssim(truth, truth)) == pytest.approx(1.0, abs=1e-6)


def test_pixels_that_are_not_valid_do_not_count() -> None:
    picture, truth = _pictures()
    valid = torch.zeros(30, 40, dtype=torch.bool)
    assert float(sum(photometric(picture, truth, valid, 0.2).values())) == pytest.approx(0.0, abs=1e-6)
    terms = photometric(picture, truth, None, 0.25)
    assert float(terms["l1"]) == pytest.approx(0.75 * float((picture - truth).abs().mean()))


def test_depth_error_is_relative_and_bounded() -> None:
    loss = relative_depth(torch.tensor([11.0, 900.0]), torch.tensor([10.0, 3.0]), torch.tensor([0.5, 0.25]))
    assert float(loss) == pytest.approx(0.5 * 0.1 + 0.25 * 1.0)


def test_pixels_below_the_horizon_begin_three_degrees_below_the_horizon() -> None:
    directions = torch.nn.functional.normalize(ray_directions(true_scene(2).shots[0].shot), dim=-1)
    down = below_horizon(directions[..., 2])
    rows = down[:, 32].nonzero()[:, 0]
    # Level camera, horizon at row 24, focal length 48: tan 3 degrees is 2.5 pixels.
    assert rows[0] == 27
    assert len(rows) == 48 - 27


def test_a_value_that_is_not_finite_is_named() -> None:
    report = StepReport(terms={"l1": torch.tensor(0.1), "lidar_depth": torch.tensor(float("nan"))}, squared_error=torch.tensor(0.1))
    with pytest.raises(UserError, match="lidar_depth became nan at iteration 7; lower the learning rates"):
        report.as_row(7, 10)


def test_the_gradient_of_ssim_is_that_of_its_definition() -> None:
    picture, truth = (part.double() for part in _pictures())
    assert torch.autograd.gradcheck(
        lambda part: ssim(part, truth[:13, :14]), picture[:13, :14].clone().requires_grad_(), atol=1e-7, fast_mode=True
    )
    picture.requires_grad_()
    slopes = [torch.autograd.grad(ssim(*pair), picture)[0] for pair in ((picture, truth), (truth, picture))]
    assert torch.equal(*slopes)
    with pytest.raises(ValueError, match="one of its pictures only"):
        ssim(picture, truth.requires_grad_())


def test_planes_do_not_bend_and_steps_do() -> None:
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    plane_m = 1 / (0.05 + 0.004 * rows + 0.002 * columns)
    opaque, grey = torch.ones(20, 30), torch.full((20, 30, 3), 0.5)
    assert float(bending(plane_m, opaque, grey)) == pytest.approx(0.0, abs=1e-5)
    step_m = torch.where(columns < 15, 10.0, 12.0)
    # Two columns of 28 bend by (1/10 - 1/12) over 1/10 or 1/12, which is held to 0.1.
    assert float(bending(step_m, opaque, grey)) == pytest.approx(2 * 0.1 / 28, rel=1e-4)
    edge = torch.where(columns[..., None] < 15, 0.0, 1.0).expand(20, 30, 3)
    assert float(bending(step_m, opaque, edge)) < 1e-4 * 2 / 28
    assert float(bending(step_m, 0.5 * opaque, grey)) == pytest.approx(0.1 / 28, rel=1e-4)
