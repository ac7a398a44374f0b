"""A captured training step: the same gradients as the eager one, for every batch and after the weights moved."""

from __future__ import annotations

import pytest
import torch

from splatmend.datasets.errors import UserError
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import Batch
from splatmend.enhance.train.graphed import GraphedStep, graphed
from splatmend.enhance.train.onestep import OneStepObjective, choose_parameters


def settings(truncation: int | None, flow_warping: float = 0.0, pixel_gradient: str = "truncated") -> OneStepTrainConfig:
    return OneStepTrainConfig(
        steps=2, lr=1e-3, clip_frames=9, crop_px=(32, 32), losses={"l1": 1.0, "ssim": 0.5}, truncation=truncation,
        decoder="full", encoder="full", cuda_graph=True, flow_warping=flow_warping,
        pixel_gradient=pixel_gradient,
    )  # fmt: skip


def batch_of(seed: int, device: str = "cuda") -> Batch:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(2, 3, 9, 32, 32, generator=generator).to(device) * 2 - 1 for _ in range(2))
    flow = torch.cat([torch.randn(2, 2, 9, 32, 32, generator=generator), torch.rand(2, 1, 9, 32, 32, generator=generator).round()], dim=1)
    return Batch(a, b, ("pair", "pair"), flow=flow.half().to(device))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("truncation", "flow_warping", "pixel_gradient"),
    [
        (None, 0.0, "truncated"),
        (1, 0.0, "truncated"),
        (None, 0.5, "truncated"),
        (1, 0.5, "truncated"),
        (1, 0.0, "frame-wise"),
        (1, 0.0, "first-latent"),
    ],
)
def test_a_replayed_step_equals_the_eager_one(truncation: int | None, flow_warping: float, pixel_gradient: str) -> None:
    torch.manual_seed(0)
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32)).cuda()
    torch.nn.init.normal_(enhancer.vae.decoder.conv_out.weight, std=0.2)
    config = settings(truncation, flow_warping, pixel_gradient)
    parameters = choose_parameters(config, enhancer)
    objective = OneStepObjective(config, enhancer)

    def eager(batch: Batch, loss_scale: float) -> dict[str, torch.Tensor]:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return objective.add_gradients(batch, loss_scale)

    step = GraphedStep(eager, parameters.values())
    for seed in (1, 2, 3):
        batch = batch_of(seed)
        for parameter in parameters.values():
            parameter.grad = None
        expected = eager(batch, 1.0)
        wanted = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        metrics = step(batch, 1.0)
        torch.testing.assert_close(metrics["loss"], expected["loss"], atol=1e-4, rtol=1e-3)
        for name, gradient in wanted.items():
            found = parameters[name].grad
            assert found is not None
            assert float((found - gradient).norm()) <= 0.02 * float(gradient.norm()) + 1e-6, name
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(0.01 * torch.randn_like(parameter))


def test_elsewhere_the_step_stays_eager() -> None:
    torch.manual_seed(0)
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32))
    config = settings(None, 0.5)
    parameters = choose_parameters(config, enhancer)
    eager = OneStepObjective(config, enhancer).add_gradients
    step = graphed(eager, parameters.values(), config, torch.device("cpu"))
    assert step is eager
    metrics = step(batch_of(1, "cpu"), 1.0)
    assert float(metrics["loss"]) > float(metrics["l1"])
    assert float(metrics["flow_warping"]) > 0
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in parameters.values())


def test_a_captured_step_cannot_accumulate() -> None:
    with pytest.raises(UserError, match="cuda_graph"):
        OneStepTrainConfig(steps=1, lr=1e-3, accumulation=2, cuda_graph=True)
