from __future__ import annotations

import torch

from splatmend.recon.fit.lean_adam import LeanAdam


def test_it_moves_parameters_as_torch_s_adam_does() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(5, 3, generator=generator), torch.randn(7, generator=generator)]
    ours, theirs = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    groups = [[{"params": [one], "lr": rate} for one, rate in zip(params, (1e-2, 3e-3))] for params in (ours, theirs)]
    lean, plain = LeanAdam(groups[0]), torch.optim.Adam(groups[1], eps=1e-15, fused=True)
    for step in range(5):
        for one, other in zip(ours, theirs):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        if step == 2:  # not seen in this picture
            ours[1].grad = theirs[1].grad = None
        lean.step()
        plain.step()
        for optimizer in (lean, plain):
            optimizer.param_groups[0]["lr"] *= 0.9
    for one, other in zip(ours, theirs):
        assert torch.equal(one, other)
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(lean.state[one][name], plain.state[other][name]), name
    assert int(lean.state[ours[1]]["step"]) == 4
