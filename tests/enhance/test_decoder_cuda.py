"""The truncated decoder on a CUDA device."""

from __future__ import annotations

import pytest
import torch

from splatmend.enhance.decoder import TruncatedDecoder

pytestmark = pytest.mark.gpu


def squared(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
    return frames.float().square().sum()


@pytest.mark.parametrize("layout", ["2.1", "2.2"])
@pytest.mark.parametrize("options", [{}, {"memory": "small"}, {"spatial_chunks": (2, 2), "halo": 8}])
def test_cuda_agrees_with_the_cpu(tiny_wan, layout, options):
    z = torch.randn(1, 4, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vae = tiny_wan(layout)
    params = [p.requires_grad_() for p in vae.decoder.parameters()]
    expected = TruncatedDecoder(vae, 1).loss_and_grad(z, squared, params=params)
    expected_params = [g.clone() for g in expected.grad_params]
    vae.cuda()
    result = TruncatedDecoder(vae, 1, **options).loss_and_grad(z.cuda(), squared, params=params)
    torch.testing.assert_close(result.grad_z.cpu(), expected.grad_z, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close([g.cpu() for g in result.grad_params], expected_params, rtol=1e-5, atol=1e-8)


def test_bfloat16_autocast_keeps_the_direction(tiny_wan):
    vae = tiny_wan(dtype=torch.float32).cuda()
    z = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0)).cuda()
    exact = TruncatedDecoder(vae, 1).loss_and_grad(z, squared).grad_z
    with torch.autocast("cuda", dtype=torch.bfloat16):
        half = TruncatedDecoder(vae, 1, memory="balanced").loss_and_grad(z, squared).grad_z
    assert torch.cosine_similarity(half.flatten(), exact.flatten(), dim=0) > 0.99


def test_peak_memory_does_not_grow_with_the_clip(tiny_wan):
    vae = tiny_wan(dtype=torch.float32).cuda()

    def peak(latents: int) -> int:
        z = torch.zeros(1, 4, latents, 32, 32, device="cuda")
        TruncatedDecoder(vae, 1).loss_and_grad(z[:, :, :3], squared)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        TruncatedDecoder(vae, 1).loss_and_grad(z, squared)
        return torch.cuda.max_memory_allocated() - before

    assert peak(16) < 1.05 * peak(6)
