from __future__ import annotations

import torch
from torch.nn import Parameter

from splatmend.recon.fit.config import DensifyConfig, FitConfig
from splatmend.recon.fit.nodes_optimiser import FittedNode, NodesOptimiser
from splatmend.recon.fit.step_lengths import StepLengths
from splatmend.recon.gaussians import Gaussians

CPU = torch.device("cpu")
CENTRES = torch.tensor([[0.4 * x, 0.0, 1.5] for x in range(500)])


def test_a_share_is_the_distance_from_the_nearest_camera_over_the_extent() -> None:
    steps = StepLengths(CENTRES, 50.0)
    means = torch.tensor([[10.0, 5.0, 1.5], [10.0, -25.0, 1.5], [10.0, 0.0, 1.5], [150.0, 300.0, 1.5], [-10.0, 0.0, 1.5]])
    shares = steps.shares(means, anew=True)
    torch.testing.assert_close(shares[:, 0], torch.tensor([0.1, 0.5, 0.005, 1.0, 0.2]))


def test_fewer_pictures_allow_longer_steps() -> None:
    means = torch.tensor([[9.6, 5.0, 1.5], [9.6, -25.0, 1.5]])
    few = StepLengths(CENTRES[::4], 50.0).shares(means, anew=True)
    torch.testing.assert_close(few[:, 0], torch.tensor([0.2, 1.0]))


def test_shares_are_found_anew_where_that_is_due_or_numbers_have_changed() -> None:
    steps = StepLengths(CENTRES, 50.0)
    means = torch.tensor([[10.0, 5.0, 1.5]])
    first = steps.shares(means, anew=False)
    assert steps.shares(means + 1, anew=False) is first
    assert float(steps.shares(means + 1, anew=True)) != float(first)
    assert len(steps.shares(means.repeat(3, 1), anew=False)) == 3


def _node(means: torch.Tensor, config: FitConfig, steps: StepLengths | None) -> FittedNode:
    count = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1)
    gaussians = Gaussians(
        means=means, quats_wxyz=quats, log_scales=torch.zeros(count, 3), opacity_logits=torch.zeros(count), sh=torch.zeros(count, 1, 3)
    )
    return FittedNode(gaussians, 50.0, 1_000, config, CPU, steps=steps)


def test_what_is_seldom_seen_does_not_jump_past_the_cameras() -> None:
    """A leaf a metre beside the path that one picture in two hundred shows, which pulls it now this way, now that way."""
    config = FitConfig(iterations=4_000, densify=FitConfig().densify)
    generator = torch.Generator().manual_seed(0)
    start = torch.tensor([[20.0, 1.0, 1.5]])
    farthest = {}
    for name, steps in (("scaled", StepLengths(CENTRES, 50.0)), ("full", None)):
        nodes = NodesOptimiser({"background": _node(start, config, steps)}, config)
        path = []
        for iteration in range(1, 2_001):
            means: Parameter = nodes["background"].params["means"]
            pull = torch.randn(1, 3, generator=generator) if iteration % 200 == 0 else torch.zeros(1, 3)
            means.grad = pull
            for other, param in nodes["background"].params.items():
                param.grad = torch.zeros_like(param) if other != "means" else param.grad
            nodes.step(["background"], iteration, generator)
            path.append(float((nodes["background"].params["means"].detach() - start).norm()))
        farthest[name] = max(path)
    assert farthest["full"] > 0.1
    assert farthest["scaled"] < 0.02


def test_noise_is_as_much_smaller_as_steps_are() -> None:
    config = FitConfig(densify=DensifyConfig(strategy="mcmc", start=10_000, stop_share=1.0), iterations=20_000)
    moved = []
    for steps in (StepLengths(CENTRES, 50.0), None):
        nodes = NodesOptimiser({"background": _node(torch.tensor([[20.0, 1.0, 1.5]]), config, steps)}, config)
        with torch.no_grad():
            nodes["background"].params["opacity_logits"].fill_(-6.0)
        nodes.step(["background"], 1, torch.Generator().manual_seed(0))
        moved.append(nodes["background"].params["means"].detach() - torch.tensor([[20.0, 1.0, 1.5]]))
    assert float(moved[1].norm()) > 1e-3
    torch.testing.assert_close(moved[0], 0.02 * moved[1], rtol=1e-2, atol=1e-6)


def test_a_state_keeps_the_shares_that_steps_go_on_with() -> None:
    """They are found once in so many iterations; found again by whoever goes on, they would be others."""
    config = FitConfig(iterations=4_000)
    start = torch.tensor([[20.0, 5.0, 1.5], [20.0, 9.0, 1.5]])
    one, other = (NodesOptimiser({"background": _node(start, config, StepLengths(CENTRES, 50.0))}, config) for _ in range(2))

    def step(nodes: NodesOptimiser, iteration: int) -> None:
        for param in nodes["background"].all_params.values():
            param.grad = torch.ones_like(param)
        nodes.step(["background"], iteration, torch.Generator().manual_seed(0))

    def known(nodes: NodesOptimiser) -> torch.Tensor:
        steps = nodes["background"].steps
        assert steps is not None
        assert steps.known is not None
        return steps.known.clone()

    for iteration in (2, 3, 4):
        step(one, iteration)
    torch.testing.assert_close(known(one)[:, 0], torch.tensor([0.1, 0.18]))
    assert not torch.equal(StepLengths(CENTRES, 50.0).shares(one["background"].params["means"], anew=True), known(one))
    other.load_state_dict(one.state_dict())
    before = known(one)
    for nodes in (one, other):
        step(nodes, 5)
        assert torch.equal(known(nodes), before)
    assert torch.equal(one["background"].params["means"], other["background"].params["means"])
    # Due in the iteration after the one that changes numbers.
    step(one, config.densify.every + 1)
    assert not torch.equal(known(one), before)
