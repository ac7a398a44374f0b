"""Gradients by spatial chunks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splatmend.enhance.causal_lora import add_causal_lora
from splatmend.enhance.decoder import TruncatedDecoder
from splatmend.enhance.decoder.chunks import spatial_crops, whole_frame


class Add(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv3d(2, channels, 1, dtype=torch.float64)

    def forward(self, features: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        return features + self.mix(side).sin()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cores_tile_the_frame():
    for chunks, halo in [((2, 3), 1), ((3, 2), 0), ((1, 1), 4), ((5, 7), 2)]:
        seen = torch.zeros(5, 7)
        for crop in spatial_crops(5, 7, chunks, halo):
            crop.inner(seen).add_(1)
            assert crop.core_of_crop(crop.outer(torch.zeros(10, 14)), 2).shape == crop.inner(torch.zeros(10, 14)).shape
            marked = torch.zeros(10, 14)
            crop.inner(marked).fill_(1)
            assert crop.core_of_crop(crop.outer(marked), 2).min() == 1
            assert crop.outer(marked).sum() == marked.sum()
        assert (seen == 1).all()
    whole = whole_frame(5, 7)
    assert (spatial_crops(5, 7, (2, 2), 9)[0].rows, spatial_crops(5, 7, (2, 2), 9)[0].columns) == (whole.rows, whole.columns)
    assert spatial_crops(5, 7, (2, 2), 0)[0].rows != whole.rows


def loss_of(target: torch.Tensor):
    # Not a sum over pixels: chunks see the loss of the whole frame, so it need not be separable.
    return lambda frames, span, previous: ((frames - target[:, :, span]).mean(dim=(3, 4)).square() + frames.square().mean(dim=(3, 4))).sum()


@pytest.mark.parametrize("layout", ["2.1", "2.2"])
@pytest.mark.parametrize("truncation", [0, 1])
def test_a_halo_over_the_whole_frame_is_exact(tiny_wan, layout, truncation):
    vae = tiny_wan(layout)
    blocks = vae.decoder.up_blocks
    channels = blocks[1].out_dim if layout == "2.2" else blocks[1].out_dim // 2
    torch.manual_seed(1)
    join = {"up_blocks.1": Add(channels)}
    z = randn(1, 4, 3, 3, 4)
    features = [randn(1, 2, 1 if i == 0 else 4, 12, 16, seed=i).requires_grad_() for i in range(3)]
    pixels = TruncatedDecoder(vae).adapter.spatial_factor
    loss = loss_of(randn(1, 3, 9, 3 * pixels, 4 * pixels, seed=8))
    params = [*join["up_blocks.1"].parameters(), vae.decoder.conv_out.weight.requires_grad_()]
    arguments = {"side": lambda i: {"up_blocks.1": features[i]}, "params": params}
    whole = TruncatedDecoder(vae, truncation, join=join).loss_and_grad(z, loss, **arguments)
    chunked = TruncatedDecoder(vae, truncation, join=join, spatial_chunks=(2, 3), halo=4).loss_and_grad(z, loss, **arguments)
    torch.testing.assert_close(chunked.loss, whole.loss)
    torch.testing.assert_close(chunked.grad_z, whole.grad_z, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(chunked.grad_params, whole.grad_params, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(chunked.grad_side, whole.grad_side, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("memory", ["fast", "small"])
def test_lora_in_every_convolution(tiny_wan, memory):
    """The first stage's convolutions are wrapped, too."""
    vae = tiny_wan()
    params = add_causal_lora(vae.decoder, 2, 4)
    torch.manual_seed(2)
    for name, parameter in vae.decoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    z, loss = randn(1, 4, 3, 3, 4), loss_of(randn(1, 3, 9, 12, 16, seed=8))
    whole = TruncatedDecoder(vae, 1).loss_and_grad(z, loss, params=params)
    chunked = TruncatedDecoder(vae, 1, memory=memory, spatial_chunks=(1, 2), halo=4).loss_and_grad(z, loss, params=params)
    torch.testing.assert_close(chunked.grad_z, whole.grad_z, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(chunked.grad_params, whole.grad_params, rtol=1e-6, atol=1e-9)
    assert all(gradient.any() for gradient in whole.grad_params)


def test_a_halo_as_wide_as_the_upsampling_blocks_reach_is_exact(tiny_wan):
    """The middle block attends over the whole frame, which the crops keep; their own borders are the only error."""
    vae = tiny_wan(dim_mult=[1, 1], temperal_downsample=[True])
    # Reach in latent pixels: 4 convolutions before the upsampling, then 6 of half a latent pixel: 7.
    z = randn(1, 4, 3, 2, 32)
    loss = loss_of(randn(1, 3, 5, 4, 64, seed=3))
    whole = TruncatedDecoder(vae, 1).loss_and_grad(z, loss)

    def error(halo: int) -> float:
        chunked = TruncatedDecoder(vae, 1, spatial_chunks=(1, 2), halo=halo).loss_and_grad(z, loss)
        assert torch.equal(chunked.loss, whole.loss), "the loss is that of the whole frame, whatever the chunks"
        return ((chunked.grad_z - whole.grad_z).norm() / whole.grad_z.norm()).item()

    assert error(7) < 1e-12
    assert 1e-9 < error(4) < error(0)


def test_memory_falls_with_the_chunk(tiny_wan):
    vae = tiny_wan(dtype=torch.float32)
    z = torch.ones(1, 4, 3, 8, 8)

    def peak(**options: object) -> int:
        live = [0]
        top = [0]

        def pack(tensor: torch.Tensor) -> tuple[torch.Tensor, object]:
            live[0] += tensor.nbytes
            top[0] = max(top[0], live[0])
            return tensor.detach(), Released(live, tensor.nbytes)

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed[0]):
            TruncatedDecoder(vae, 1, **options).loss_and_grad(z, lambda frames, span, previous: frames.square().sum())
        return top[0]

    assert peak(spatial_chunks=(2, 2), halo=1) < 0.5 * peak()


class Released:
    def __init__(self, live: list[int], size: int) -> None:
        self.live, self.size = live, size

    def __del__(self) -> None:
        self.live[0] -= self.size


def test_errors(tiny_wan):
    vae = tiny_wan()
    z = randn(1, 4, 2, 2, 2)
    with pytest.raises(ValueError, match="cannot be cut into 3x1"):
        TruncatedDecoder(vae, spatial_chunks=(3, 1)).loss_and_grad(z, loss_of(torch.zeros(1, 3, 5, 8, 8)))
    with pytest.raises(ValueError, match="no whole multiple"):
        spatial_crops(4, 4, (2, 2), 0)[0].outer(torch.zeros(6, 8))
