"""Moving and adding Gaussians keeps the picture, the cap, the optimisers' books and the dice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from raster_oracle import rotation_matrices
from torch.nn import Parameter

from splatmend.datasets.errors import UserError
from splatmend.recon.densify import MAX_COPIES, MCMC, MCMCConfig, Refinement, position_noise, relocated_opacity_and_scale, shake
from splatmend.recon.raster import rasterize

NOW = {"refine_start": 0, "refine_stop": 1000, "refine_every": 1}


def parameters(count: int = 200, dead_share: float = 0.0, seed: int = 0) -> dict[str, Parameter]:
    """Gaussians around the point 4 m in front of the camera; the last ones are dead."""
    generator = torch.Generator().manual_seed(seed)
    dead = int(dead_share * count)
    opacities = 0.1 + 0.7 * torch.rand(count, generator=generator)
    opacities[count - dead :] = 0.001
    values = {
        "means": torch.randn(count, 3, generator=generator) * 0.8 + torch.tensor([0.0, 0.0, 4.0]),
        "quats": torch.randn(count, 4, generator=generator),
        "log_scales": torch.randn(count, 3, generator=generator) * 0.3 - 2.0,
        "opacity_logits": torch.logit(opacities),
        "sh": torch.rand(count, 4, 3, generator=generator),
        "semantics": torch.rand(count, 2, generator=generator),
    }
    return {name: Parameter(value) for name, value in values.items()}


def adam(params: dict[str, Parameter]) -> torch.optim.Optimizer:
    """An Adam with the means in a group of their own, after one step of almost no size: moments exist and nothing moved."""
    rest = [value for name, value in params.items() if name != "means"]
    optimizer = torch.optim.Adam([{"params": [params["means"]]}, {"params": rest}], lr=1e-20)
    for parameter in params.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def picture(params: dict[str, Parameter]) -> torch.Tensor:
    with torch.no_grad():
        return rasterize(
            params["means"],
            params["quats"],
            params["log_scales"].exp(),
            params["opacity_logits"].sigmoid(),
            params["sh"][:, 0],
            torch.eye(4),
            torch.tensor([[80.0, 0.0, 32.0], [0.0, 80.0, 32.0], [0.0, 0.0, 1.0]]),
            64,
            64,
        ).channels


def step(
    params: dict[str, Parameter], optimizer: torch.optim.Optimizer | None = None, iteration: int = 1, seed: int = 0, **config: Any
) -> Refinement:
    """One refinement, without growth unless asked for."""
    strategy = MCMC(MCMCConfig(**(NOW | {"grow_factor": 1.0} | config)))
    return strategy.refine(params, optimizer or adam(params), iteration, torch.Generator().manual_seed(seed))


def equation_nine(opacity: float, copies: int) -> tuple[float, float]:
    """New opacity and factor of the scale, as the paper writes them: a double sum, here over exact integers."""
    new = 1.0 - (1.0 - opacity) ** (1.0 / copies)
    divisor = 0.0
    for i in range(1, copies + 1):
        for k in range(i):
            divisor += math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
    return new, opacity / divisor


def test_formula_is_the_papers_double_sum() -> None:
    opacities = torch.tensor([0.01, 0.2, 0.5, 0.9, 0.99, 0.7, 0.999])
    copies = torch.tensor([2, 3, 1, 5, 20, MAX_COPIES, 4])
    scales = torch.arange(1.0, 22.0).reshape(7, 3)
    new_opacities, new_scales = relocated_opacity_and_scale(opacities, scales, copies)
    for row, (opacity, count) in enumerate(zip(opacities.tolist(), copies.tolist(), strict=True)):
        expected, factor = equation_nine(opacity, count)
        assert new_opacities[row].item() == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(new_scales[row], scales[row] * factor, rtol=1e-5, atol=0.0)


def test_formula_counts_no_more_than_its_limit() -> None:
    opacities, scales = torch.full((2,), 0.6), torch.ones(2, 3)
    new_opacities, new_scales = relocated_opacity_and_scale(opacities, scales, torch.tensor([MAX_COPIES, 5000]))
    assert new_opacities[0] == new_opacities[1]
    assert torch.equal(new_scales[0], new_scales[1])


@pytest.mark.gpu
def test_formula_is_gsplats() -> None:
    from gsplat.relocation import compute_relocation

    generator = torch.Generator().manual_seed(0)
    opacities = (0.01 + 0.97 * torch.rand(500, generator=generator)).cuda()
    scales = torch.rand(500, 3, generator=generator).cuda()
    copies = torch.randint(1, 12, (500,), generator=generator).cuda()
    binomials = torch.tensor([[float(math.comb(n, k)) for k in range(MAX_COPIES)] for n in range(MAX_COPIES)]).cuda()
    expected_opacities, expected_scales = compute_relocation(opacities, scales, copies.clone(), binomials)
    new_opacities, new_scales = relocated_opacity_and_scale(opacities, scales, copies)
    torch.testing.assert_close(new_opacities, expected_opacities, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(new_scales, expected_scales, rtol=1e-3, atol=1e-6)


def test_relocation_moves_all_dead_and_keeps_the_picture() -> None:
    params = parameters(dead_share=0.25)
    before = picture(params)
    sloppy = {name: Parameter(value.detach().clone()) for name, value in params.items()}
    assert step(params) == Refinement(relocated=50)
    assert len(params["means"]) == 200
    assert (params["opacity_logits"].sigmoid() > 0.005).all()
    error = (picture(params) - before).abs().mean() / before.abs().mean()
    assert error < 0.02

    # The same moves without the formula show that the picture alone would notice.
    places = torch.cdist(params["means"][150:].detach(), sloppy["means"][:150].detach()).argmin(dim=1)
    with torch.no_grad():
        for value in sloppy.values():
            value[150:] = value[places]
    assert (picture(sloppy) - before).abs().mean() / before.abs().mean() > 4 * error


def test_relocated_gaussians_take_over_every_entry_of_their_host() -> None:
    params = parameters(dead_share=0.25)
    step(params)
    for newcomer in range(150, 200):
        hosts = (params["means"][:150] == params["means"][newcomer]).all(dim=1).nonzero()[:, 0]
        assert len(hosts) == 1
        for value in params.values():
            assert torch.equal(value[newcomer], value[hosts[0]])


def test_growth_keeps_the_picture_and_stops_at_the_cap() -> None:
    params = parameters()
    before = picture(params)
    assert step(params, grow_factor=1.1) == Refinement(added=20)
    assert {len(value) for value in params.values()} == {220}
    assert (picture(params) - before).abs().mean() / before.abs().mean() < 0.02
    optimizer = adam(params)
    assert step(params, optimizer, grow_factor=1.1, cap=225) == Refinement(added=5)
    assert step(params, optimizer, grow_factor=1.1, cap=225) == Refinement()
    assert step(params, optimizer, grow_factor=1.1, cap=100) == Refinement()
    assert {len(value) for value in params.values()} == {225}


def test_opaque_gaussians_are_chosen_more_often() -> None:
    params = parameters(2000)
    with torch.no_grad():
        params["opacity_logits"][:1000] = math.log(0.1 / 0.9)
        params["opacity_logits"][1000:] = math.log(0.4 / 0.6)
    step(params, grow_factor=1.5)
    share = (params["means"][2000:, None, 0] == params["means"][1000:2000, 0]).any(dim=1).float().mean()
    assert 0.75 < share < 0.85


def test_the_optimiser_follows_and_newcomers_and_hosts_start_without_momentum() -> None:
    params = parameters(dead_share=0.1)
    optimizer = adam(params)
    before = {name: value.detach().clone() for name, value in params.items()}
    assert step(params, optimizer, grow_factor=1.05) == Refinement(relocated=20, added=10)
    touched = torch.ones(210, dtype=torch.bool)
    touched[:200] = (params["opacity_logits"][:200] != before["opacity_logits"]).detach()
    assert 30 < touched.sum() < 61
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in params.values()}
    assert set(optimizer.state) == set(held)
    for parameter in params.values():
        state = optimizer.state[parameter]
        assert state["step"] == 1
        for moment in (state["exp_avg"], state["exp_avg_sq"]):
            assert moment.shape == parameter.shape
            assert (moment[touched] == 0).all()
            assert (moment[~touched] > 0).all()
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_before_the_first_optimiser_step_there_is_nothing_to_follow() -> None:
    params = parameters()
    optimizer = torch.optim.Adam(params.values())
    assert step(params, optimizer, grow_factor=1.1) == Refinement(added=20)
    assert not optimizer.state


@pytest.mark.parametrize(("iteration", "refined"), [(100, False), (150, False), (200, True), (250, False), (300, True), (400, False)])
def test_schedule(iteration: int, refined: bool) -> None:
    params = parameters()
    done = step(params, iteration=iteration, grow_factor=1.1, refine_start=100, refine_stop=400, refine_every=100)
    assert done == (Refinement(added=20) if refined else Refinement())


def test_same_dice_same_result_and_totals_are_kept() -> None:
    runs = []
    for seed in (1, 1, 2):
        params = parameters(dead_share=0.1)
        optimizer = adam(params)
        strategy = MCMC(MCMCConfig(**NOW))
        generator = torch.Generator().manual_seed(seed)
        for iteration in (1, 2):
            strategy.refine(params, optimizer, iteration, generator)
            shake([params], [1e-2], generator)
        assert strategy.state_dict() == {"relocated": 20, "added": 10 + 10}
        runs.append(params)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not torch.equal(runs[0]["means"], runs[2]["means"])

    copy = MCMC(MCMCConfig())
    copy.load_state_dict(strategy.state_dict())
    assert copy.state_dict() == strategy.state_dict()


def test_noise_has_the_gaussians_covariance_and_spares_the_opaque() -> None:
    params = parameters(4)
    normal = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    logits = torch.logit(torch.tensor([0.005, 0.005, 0.05, 0.9]))
    noise = position_noise(params["quats"], params["log_scales"], logits, normal).detach()
    axes = rotation_matrices(params["quats"].detach()) * params["log_scales"].detach().exp()[:, None, :]
    carried = (axes @ axes.transpose(1, 2) @ normal[:, :, None])[:, :, 0]
    gate = torch.tensor([0.5, 0.5, 1.0 / (1.0 + math.exp(4.5)), 0.0])
    torch.testing.assert_close(noise, carried * gate[:, None], rtol=1e-4, atol=1e-8)


def test_noise_moves_the_means_of_each_set_by_its_rate() -> None:
    sets = [parameters(120), parameters(80)]
    with torch.no_grad():
        for params in sets:
            params["opacity_logits"].fill_(-4.0)
    starts = [params["means"].detach().clone() for params in sets]
    shake(sets, [1.5, 0.5], torch.Generator().manual_seed(7))
    normal = torch.randn(200, 3, generator=torch.Generator().manual_seed(7)).split([120, 80])
    for params, start, rate, dice in zip(sets, starts, (1.5, 0.5), normal):
        expected = rate * position_noise(params["quats"], params["log_scales"], params["opacity_logits"], dice).detach()
        torch.testing.assert_close(params["means"].detach() - start, expected, rtol=1e-3, atol=1e-6)


def test_nothing_living_means_nothing_to_move_onto() -> None:
    assert step(parameters(dead_share=1.0)) == Refinement()


def test_refuses_an_optimiser_of_other_parameters_and_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="does not hold the parameter 'means'"):
        step(parameters(), adam(parameters()), grow_factor=1.1)
    for wrong in ({"cap": 0}, {"refine_every": 0}, {"refine_start": 9, "refine_stop": 3}, {"min_opacity": 0.0}, {"grow_factor": 0.9}):
        with pytest.raises(UserError, match="densification"):
            MCMCConfig(**wrong)
