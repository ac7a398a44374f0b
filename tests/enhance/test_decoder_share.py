"""Several processes that share a clip's chunks: their gradients add up to those of one process."""

from __future__ import annotations

import pytest
import torch

from splatmend.enhance.decoder import TruncatedDecoder


def test_shares_add_up(tiny_wan) -> None:
    vae = tiny_wan("2.1")
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    params = [vae.decoder.conv_out.weight.requires_grad_(), scale]
    z = torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
        # A parameter that the loss reaches past the frames counts once as well.
        return scale * frames.square().mean(dim=(0, 1, 3, 4)).sum()

    settings = {"truncation": 1, "spatial_chunks": (1, 3), "halo": 1}
    whole = TruncatedDecoder(vae, **settings).loss_and_grad(z, loss, params=params)
    parts = [TruncatedDecoder(vae, share=(i, 2), **settings).loss_and_grad(z, loss, params=params) for i in range(2)]
    assert all(torch.equal(part.loss, whole.loss) for part in parts)
    torch.testing.assert_close(parts[0].grad_z + parts[1].grad_z, whole.grad_z, atol=1e-12, rtol=1e-10)
    assert not torch.allclose(parts[0].grad_z, whole.grad_z, rtol=1e-3)
    for one, other, both in zip(parts[0].grad_params, parts[1].grad_params, whole.grad_params, strict=True):
        torch.testing.assert_close(one + other, both, atol=1e-12, rtol=1e-10)
    with pytest.raises(ValueError, match="share"):
        TruncatedDecoder(vae, share=(0, 2))
