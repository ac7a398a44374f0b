"""The fast layers against the model's own modules: frames, caches and gradients."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm

from splatmend.enhance.causal_lora import add_causal_lora
from splatmend.enhance.decoder import TruncatedDecoder
from splatmend.enhance.decoder.fast.norm import norm_silu_backward, norm_silu_into

LAYOUTS = pytest.mark.parametrize("layout", ["2.1", "2.2"])


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def squared(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
    return (frames.square() * torch.arange(1, frames.shape[2] + 1, device=frames.device).view(1, 1, -1, 1, 1)).sum()


@LAYOUTS
def test_frames_are_those_of_the_model(tiny_wan, layout):
    vae, z = tiny_wan(layout).requires_grad_(False), randn(2, 4, 4, 3, 5)
    expected = TruncatedDecoder(vae, engine="reference").decode(z)
    torch.testing.assert_close(TruncatedDecoder(vae, engine="fast").decode(z), expected, rtol=1e-6, atol=1e-7)


@LAYOUTS
def test_latents_are_those_of_the_model(tiny_wan, layout):
    vae = tiny_wan(layout).requires_grad_(False)
    side = 2 * TruncatedDecoder(vae).adapter.spatial_factor
    clip = randn(1, 3, 9, side, side).clamp(-1, 1)
    expected = TruncatedDecoder(vae, engine="reference").encode(clip)
    torch.testing.assert_close(TruncatedDecoder(vae, engine="fast").encode(clip), expected, rtol=1e-6, atol=1e-7)


@LAYOUTS
@pytest.mark.parametrize("truncation", [0, 1, 2])
@pytest.mark.parametrize("memory", ["fast", "balanced", "small"])
def test_gradients_are_those_of_the_model(tiny_wan, layout, truncation, memory):
    vae, z = tiny_wan(layout).requires_grad_(False), randn(2, 4, 4, 3, 3)
    expected = TruncatedDecoder(vae, truncation, engine="reference").loss_and_grad(z, squared)
    result = TruncatedDecoder(vae, truncation, engine="fast", memory=memory).loss_and_grad(z, squared)
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(result.grad_z, expected.grad_z, rtol=1e-5, atol=1e-7)


@LAYOUTS
def test_trained_layers_keep_their_gradients(tiny_wan, layout):
    vae, z = tiny_wan(layout).requires_grad_(False), randn(1, 4, 3, 3, 3)
    names = ["mid_block.resnets.0.conv1", "up_blocks.1.resnets.0.conv2", "conv_out"]
    params = add_causal_lora(vae.decoder, 2, 2, target_modules=names)
    for index, parameter in enumerate(params):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(index))
    params.append(vae.decoder.up_blocks[0].resnets[0].norm1.gamma.requires_grad_())
    expected = TruncatedDecoder(vae, 1, engine="reference").loss_and_grad(z, squared, params=params)
    result = TruncatedDecoder(vae, 1, engine="fast").loss_and_grad(z, squared, params=params)
    torch.testing.assert_close(result.grad_z, expected.grad_z, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(result.grad_params, expected.grad_params, rtol=1e-5, atol=1e-7)


def test_moved_weights_are_seen(tiny_wan):
    vae, z = tiny_wan().requires_grad_(False), randn(1, 4, 2, 2, 2)
    decoder = TruncatedDecoder(vae, engine="fast")
    before = decoder.decode(z)
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1.5)
    assert not torch.allclose(decoder.decode(z), before)
    torch.testing.assert_close(decoder.decode(z), TruncatedDecoder(vae, engine="reference").decode(z), rtol=1e-6, atol=1e-7)


def test_norm_silu_is_the_model_s_and_its_gradient_right():
    x = randn(2, 6, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    x[0, :, 0, 0, 0] = 0
    norm = WanRMS_norm(6, images=False).double()
    torch.nn.init.normal_(norm.gamma)
    gamma = norm.gamma.detach().flatten()
    buffer = torch.empty(2, 6, 5, 4, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last_3d)
    norm_silu_into(x, gamma, norm.scale, buffer[:, :, 2:])
    leaf = x.clone().requires_grad_()
    expected = torch.nn.functional.silu(norm(leaf))
    torch.testing.assert_close(buffer[:, :, 2:], expected.detach())
    grad = randn(2, 6, 3, 4, 5, seed=1)
    (wanted,) = torch.autograd.grad(expected, leaf, grad)
    found = norm_silu_backward(x, gamma, norm.scale, grad)
    torch.testing.assert_close(found[:, :, 1:], wanted[:, :, 1:], rtol=1e-9, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2, 6, 3, 4, 5), (1, 96, 4, 30, 52), (2, 384, 1, 15, 13), (1, 1024, 2, 5, 7)])
def test_the_kernels_agree_with_pytorch(shape):
    from splatmend.enhance.decoder.fast import triton_norm

    batch, channels, frames, height, width = shape
    x = randn(*shape, dtype=torch.float32).cuda().contiguous(memory_format=torch.channels_last_3d)
    gamma = randn(channels, seed=1, dtype=torch.float32).cuda()
    buffer = torch.zeros(batch, channels, frames + 2, height, width, device="cuda").contiguous(memory_format=torch.channels_last_3d)
    triton_norm.forward(x, gamma, channels**0.5, buffer[:, :, 2:])
    expected = torch.zeros(shape, dtype=torch.float64)
    norm_silu_into(x.double().cpu(), gamma.double().cpu(), channels**0.5, expected)
    torch.testing.assert_close(buffer[:, :, 2:].double().cpu(), expected, rtol=1e-5, atol=1e-5)
    assert float(buffer[:, :, :2].abs().max()) == 0
    grad = randn(batch, channels, frames + 2, height, width, seed=2, dtype=torch.float32).cuda()
    grad = grad.contiguous(memory_format=torch.channels_last_3d)[:, :, 2:]
    wanted = norm_silu_backward(x.double().cpu(), gamma.double().cpu(), channels**0.5, grad.double().cpu())
    found = triton_norm.backward(x, gamma, channels**0.5, grad)
    torch.testing.assert_close(found.double().cpu(), wanted, rtol=1e-5, atol=1e-5)
