"""Doubling, splitting, removing and fading by gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_densify import adam, parameters, picture
from torch.nn import Parameter

from splatmend.datasets.errors import UserError
from splatmend.recon.densify import Refinement
from splatmend.recon.densify_classic import Classic, ClassicConfig, gradient_in_picture, note, wishes_to_move

EYE = torch.zeros(3)


def strategy(**config: Any) -> Classic:
    """At work in every iteration; Gaussians above 0.3 m are large."""
    plain = {"refine_start": 0, "refine_stop": 1000, "refine_every": 1, "reset_every": 500, "large": 0.3, "oversized": 100.0}
    return Classic(ClassicConfig(**(plain | config)), 1.0)


def observed(classic: Classic, params: dict[str, Parameter], restless: list[int], size: float = 1.0) -> None:
    """A picture in which some of the Gaussians want to move across the line of sight."""
    gradient = torch.zeros_like(params["means"])
    across = torch.linalg.cross(params["means"].detach(), torch.tensor([0.0, 1.0, 0.0]).expand_as(gradient))
    gradient[restless] = size * torch.nn.functional.normalize(across, dim=1)[restless]
    note([classic], wishes_to_move([gradient], [params["means"].detach() - EYE], 80.0, 64))


def refine(classic: Classic, params: dict[str, Parameter], optimizer: torch.optim.Optimizer, iteration: int = 1) -> Refinement:
    return classic.refine(params, optimizer, iteration, torch.Generator().manual_seed(0))


def test_gradient_is_that_of_the_place_in_the_picture() -> None:
    mean = torch.tensor([[0.0, 0.0, 5.0]], dtype=torch.float64, requires_grad=True)
    place = 80.0 * mean[:, :2] / mean[:, 2:]  # pixels
    (3.0 * place[:, 0] - 4.0 * place[:, 1] + 7.0 * mean[:, 2]).sum().backward()
    assert mean.grad is not None
    size = gradient_in_picture(mean.grad, mean.detach(), 80.0, 64)
    # Per pixel 5, so per half width 5 * 32; the pull along the line of sight does not count.
    assert float(size) == pytest.approx(5.0 * 32)


def test_small_ones_are_doubled_and_large_ones_split() -> None:
    params = parameters(count=20)
    with torch.no_grad():
        params["log_scales"][3] = math.log(0.5)
        params["log_scales"][4] = math.log(0.1)
    optimizer, classic = adam(params), strategy()
    before = {name: value.detach().clone() for name, value in params.items()}
    observed(classic, params, [3, 4])
    assert refine(classic, params, optimizer) == Refinement(added=2)
    assert all(len(value) == 22 for value in params.values())
    doubled, half = 20, 21
    for name, value in params.items():
        assert torch.equal(value[doubled], before[name][4])
        assert torch.equal(value[4], before[name][4])
        untouched = [i for i in range(20) if i != 3]
        assert torch.equal(value[untouched], before[name][untouched])
        assert torch.equal(optimizer.state[value]["exp_avg"][[doubled, half]], torch.zeros_like(value[:2]))
        assert not optimizer.state[value]["exp_avg"][:3].eq(0).all()
        assert any(held is value for group in optimizer.param_groups for held in group["params"])
    for place in (3, half):
        torch.testing.assert_close(params["log_scales"][place].exp(), torch.full((3,), 0.5 / 1.6))
        away = (params["means"][place].detach() - before["means"][3]).norm()
        assert 0.05 < float(away) < 3.0
    assert not torch.equal(params["means"][3], params["means"][half])


def test_the_cap_takes_the_most_restless() -> None:
    params = parameters(count=20)
    optimizer, classic = adam(params), strategy(cap=21)
    observed(classic, params, [3, 4, 5], size=1.0)
    observed(classic, params, [5], size=3.0)
    assert refine(classic, params, optimizer).added == 1
    assert torch.equal(params["sh"][20], params["sh"][5])
    observed(classic, params, [1])
    assert refine(classic, params, optimizer).added == 0


def test_what_wants_to_move_little_stays_alone() -> None:
    params = parameters(count=20)
    classic = strategy(gradient=0.5)
    observed(classic, params, [2], size=0.1)
    assert refine(classic, params, adam(params)) == Refinement()


def test_transparent_and_oversized_ones_go() -> None:
    params = parameters(count=20, dead_share=0.25)
    with torch.no_grad():
        params["log_scales"][1] = math.log(5.0)
    before = params["sh"].detach().clone()
    optimizer, classic = adam(params), strategy(oversized=2.0, reset_every=10)
    assert refine(classic, params, optimizer, 1).removed == 5
    assert torch.equal(params["sh"], before[:15])
    assert refine(classic, params, optimizer, 11).removed == 1
    assert torch.equal(params["sh"], before[[0, *range(2, 15)]])
    with torch.no_grad():
        params["opacity_logits"].fill_(-9.0)
    refine(classic, params, optimizer, 12)
    assert len(params["means"]) == 1


def test_all_fade_at_times() -> None:
    params = parameters(count=20)
    optimizer, classic = adam(params), strategy(reset_every=7)
    refine(classic, params, optimizer, 6)
    assert float(params["opacity_logits"].sigmoid().max()) > 0.1
    refine(classic, params, optimizer, 7)
    assert float(params["opacity_logits"].sigmoid().max()) == pytest.approx(0.01)
    assert float(optimizer.state[params["opacity_logits"]]["exp_avg"].abs().max()) == 0


def test_it_sharpens_a_blurred_picture_and_goes_on_from_its_state() -> None:
    """Few large Gaussians against many small ones: with more of them the picture comes nearer; a copy of the state does the same."""
    truth = picture(parameters(count=300))

    def start() -> tuple[dict[str, Parameter], torch.optim.Optimizer]:
        params = parameters(count=300)
        few = {name: Parameter(value.detach()[:30].clone()) for name, value in params.items()}
        return few, torch.optim.Adam([{"params": [value]} for value in few.values()], lr=5e-3)

    def loss_of(params: dict[str, Parameter]) -> torch.Tensor:
        from splatmend.recon.raster import rasterize

        seen = rasterize(
            params["means"], params["quats"], params["log_scales"].exp(), params["opacity_logits"].sigmoid(), params["sh"][:, 0],
            torch.eye(4), torch.tensor([[80.0, 0.0, 32.0], [0.0, 80.0, 32.0], [0.0, 0.0, 1.0]]), 64, 64,
        ).channels  # fmt: skip
        return (seen - truth).abs().mean()

    def fit(classic: Classic, params: dict[str, Parameter], optimizer: torch.optim.Optimizer, span: range) -> float:
        generator = torch.Generator().manual_seed(1)
        value = torch.zeros(())
        for iteration in span:
            value = loss_of(params)
            value.backward()
            assert params["means"].grad is not None
            note([classic], wishes_to_move([params["means"].grad], [params["means"].detach() - EYE], 80.0, 64))
            optimizer.step()
            optimizer.zero_grad()
            classic.refine(params, optimizer, iteration, generator)
        return float(value)

    fixed, grown = start(), start()
    still = fit(strategy(refine_stop=0), *fixed, range(1, 90))
    classic = strategy(refine_every=15, refine_stop=80, large=0.15, cap=200)
    moved = fit(classic, *grown, range(1, 90))
    assert len(fixed[0]["means"]) == 30 < len(grown[0]["means"]) <= 200
    assert moved < 0.9 * still

    params, optimizer = start()
    classic = strategy()
    observed(classic, params, [2, 3])
    other = strategy()
    other.load_state_dict(classic.state_dict(), torch.device("cpu"))
    assert refine(other, params, optimizer).added == 2


def test_schedules_that_make_no_sense_are_refused() -> None:
    for fault in ({"cap": 0}, {"refine_every": 0}, {"refine_start": 2000}):
        with pytest.raises(UserError, match="densification"):
            strategy(**fault)
