"""Blocks of groups whose losses are pulled back together."""

from __future__ import annotations

import pytest
import torch

from splatmend.enhance.decoder import TruncatedDecoder

GROUPS = 5


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squared(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
    return (frames.square() * torch.arange(1, frames.shape[2] + 1).view(1, 1, -1, 1, 1)).sum()


def gradient_with_links_cut(vae, z: torch.Tensor, truncation: int, block: int) -> torch.Tensor:
    """Each group's loss on its own, its past decoded by diffusers' loop and cut `truncation` links before the loss's block."""
    total = torch.zeros_like(z)
    for i in range(GROUPS):
        leaves = [z[:, :, j : j + 1].clone().requires_grad_() for j in range(i + 1)]
        features: list = [None] * 200
        for j, leaf in enumerate(leaves):
            if j <= i - i % block - truncation:
                features = [f.detach() if isinstance(f, torch.Tensor) else f for f in features]
            frames = vae.decoder(vae.post_quant_conv(leaf), feat_cache=features, feat_idx=[0], first_chunk=j == 0)
        grads = torch.autograd.grad(squared(frames, slice(0), None), leaves, allow_unused=True)
        for j, grad in enumerate(grads):
            if grad is not None:
                total[:, :, j : j + 1] += grad
    return total / (1 + 4 * (GROUPS - 1))


@pytest.mark.parametrize("block", [2, 3])
@pytest.mark.parametrize("truncation", [0, 1, 2])
@pytest.mark.parametrize("memory", ["fast", "small"])
def test_a_block_s_losses_cross_its_own_links_and_d_more(tiny_wan, block, truncation, memory):
    vae, z = tiny_wan().requires_grad_(False), randn(1, 4, GROUPS, 2, 3)
    result = TruncatedDecoder(vae, truncation, block=block, memory=memory).loss_and_grad(z, squared)
    torch.testing.assert_close(result.grad_z, gradient_with_links_cut(vae, z, truncation, block), rtol=1e-9, atol=1e-13)


def test_blocks_and_chunks_do_not_mix(tiny_wan):
    with pytest.raises(ValueError, match="spatial chunks"):
        TruncatedDecoder(tiny_wan(), block=2, spatial_chunks=(1, 2))
    with pytest.raises(ValueError, match="block is a whole number of groups"):
        TruncatedDecoder(tiny_wan(), block=0)
