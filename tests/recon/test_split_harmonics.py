from __future__ import annotations

import pytest
import torch

from splatmend.recon.harmonics import colours
from splatmend.recon.split_harmonics import split_colours


@pytest.mark.parametrize("degree", [0, 1, 2, None])
@pytest.mark.parametrize("counts", [(7,), (7, 3, 4)])
def test_split_harmonics_give_the_colours_and_gradients_of_joined_ones(degree: int | None, counts: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    lowest, higher = ([torch.randn(n, k, 3, generator=generator).requires_grad_() for n in counts] for k in (1, 8))
    directions = torch.randn(sum(counts), 3, generator=generator)
    weights = torch.randn(sum(counts), 3, generator=generator)
    split = split_colours(lowest, higher, directions, degree)
    whole = colours(torch.cat([torch.cat(pair, dim=1) for pair in zip(lowest, higher)]), directions, degree)
    assert torch.equal(split, whole)
    pulled = [torch.autograd.grad((rgb * weights).sum(), [*lowest, *higher]) for rgb in (split, whole)]
    for one, other in zip(*pulled, strict=True):
        assert torch.equal(one, other)
        assert one.is_contiguous()
