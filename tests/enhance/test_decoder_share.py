"""Several processes that share a clip: their losses and gradients add up to those of one process."""

from __future__ import annotations

import itertools

import pytest
import torch

from splatmend.enhance.decoder import TruncatedDecoder
from splatmend.enhance.decoder.spans import passing_cost, span_of_share

SETTINGS = {
    "plain": {"truncation": 1},
    "nothing crosses": {"truncation": 0},
    "far": {"truncation": 2, "memory": "balanced"},
    "small": {"truncation": 1, "memory": "small"},
    "blocks": {"truncation": 1, "block": 2},
    "chunks": {"truncation": 1, "spatial_chunks": (1, 2), "halo": 1},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_shares_add_up(tiny_wan, setting: str) -> None:
    vae = tiny_wan("2.1")
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    params = [vae.decoder.conv_out.weight.requires_grad_(), scale]
    z = torch.randn(1, 4, 6, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spans: list[list[slice]] = []

    def loss(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
        # It looks at the frame before; and a parameter that it reaches past the frames counts once as well.
        assert frames.shape[2] == span.stop - span.start
        assert (previous is None) == (span.start == 0)
        spans[-1].append(span)
        before = frames[:, :, :1] if previous is None else previous
        return scale * (frames - 0.5 * before).square().mean(dim=(0, 1, 3, 4)).sum()

    def run(share: tuple[int, int]):
        spans.append([])
        return TruncatedDecoder(vae, share=share, **SETTINGS[setting]).loss_and_grad(z, loss, params=params, valid_frames=20)

    whole = run((0, 1))
    for count in (2, 9) if setting == "plain" else (3,):
        del spans[1:]
        parts = [run((i, count)) for i in range(count)]
        assert list(itertools.chain(*spans[1:])) == spans[0]
        assert len(spans[1]) < len(spans[0])
        torch.testing.assert_close(sum(part.loss for part in parts), whole.loss, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(sum(part.grad_z for part in parts), whole.grad_z, atol=1e-12, rtol=1e-10)
        for at, both in enumerate(whole.grad_params):
            torch.testing.assert_close(sum(part.grad_params[at] for part in parts), both, atol=1e-12, rtol=1e-10)


def test_a_share_is_one_of_some() -> None:
    for share in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="share"):
            TruncatedDecoder(torch.nn.Identity(), share=share)  # type: ignore[arg-type]


@pytest.mark.parametrize(("groups", "count", "block"), [(21, 4, 1), (21, 2, 1), (5, 3, 2), (2, 5, 1), (1, 1, 1), (41, 8, 3)])
def test_spans_tile_the_clip_and_are_as_even_as_can_be(groups: int, count: int, block: int) -> None:
    passing = passing_cost(1, "small")
    spans = [span_of_share(groups, (i, count), block=block, passing=passing) for i in range(count)]
    assert [group for span in spans for group in span] == list(range(groups))
    assert all(span.start % block == 0 for span in spans if span)

    def slowest(ends: tuple[int, ...]) -> float:
        edges = (0, *ends, -(-groups // block))
        return max((b - a) + passing * a if b > a else 0.0 for a, b in itertools.pairwise(edges))

    blocks = -(-groups // block)
    found = slowest(tuple(-(-span.stop // block) for span in spans[:-1]))
    if count <= 4:
        assert found == pytest.approx(min(slowest(ends) for ends in itertools.combinations_with_replacement(range(blocks + 1), count - 1)))
    assert found <= slowest(tuple(blocks * i // count for i in range(1, count))) + 1e-9
