"""Decoding and encoding group by group against diffusers' own loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

from splatmend.enhance.decoder import TruncatedDecoder, WanAdapter, pad_to_whole_groups, regroup_frames

LAYOUTS = pytest.mark.parametrize("layout", ["2.1", "2.2"])


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@LAYOUTS
@torch.no_grad()
def test_decode_is_vae_decode(tiny_wan, layout):
    vae = tiny_wan(layout)
    z = randn(2, 4, 4, 3, 2)
    decoder = TruncatedDecoder(vae)
    expected = vae.decode(z).sample
    assert expected.shape[2] == 13
    # diffusers runs the first 1x1x1 convolution over all latents at once, which may round differently.
    torch.testing.assert_close(decoder.decode(z, clamp=True), expected, rtol=0, atol=1e-13)
    assert decoder.decode(z).abs().max() > 1, "the comparison must cover pixels that the clamp changes"


@LAYOUTS
@torch.no_grad()
def test_blocks_are_bit_identical_to_the_whole_decoder(tiny_wan, layout):
    vae = tiny_wan(layout, dtype=torch.float32)
    z = randn(1, 4, 4, 3, 2, dtype=torch.float32)
    features: list = [None] * 100
    expected = []
    for i in range(4):
        x = vae.decoder(vae.post_quant_conv(z[:, :, i : i + 1]), feat_cache=features, feat_idx=[0], first_chunk=i == 0)
        expected.append(unpatchify(x, patch_size=2) if layout == "2.2" else x)
    assert torch.equal(TruncatedDecoder(vae).decode(z), torch.cat(expected, dim=2))


@LAYOUTS
@torch.no_grad()
def test_encode_is_vae_encode(tiny_wan, layout):
    vae = tiny_wan(layout)
    side = WanAdapter(vae).spatial_factor * 2
    x = randn(2, 3, 13, side, side)
    mean = TruncatedDecoder(vae).encode(x)
    assert mean.shape == (2, 4, 4, 2, 2)
    torch.testing.assert_close(mean, vae.encode(x).latent_dist.mode(), rtol=0, atol=1e-13)


@torch.no_grad()
def test_temporal_factor_two(tiny_wan):
    vae = tiny_wan(temperal_downsample=[False, True])
    decoder = TruncatedDecoder(vae)
    x = randn(1, 3, 5, 8, 8)
    z = decoder.encode(x)
    assert (decoder.adapter.temporal_factor, z.shape[2]) == (2, 3)
    torch.testing.assert_close(z, vae.encode(x).latent_dist.mode(), rtol=0, atol=1e-12)
    torch.testing.assert_close(decoder.decode(z, clamp=True), vae.decode(z).sample, rtol=0, atol=1e-12)


@LAYOUTS
def test_streams_give_the_same_and_leave_gradients_on(tiny_wan, layout):
    vae = tiny_wan(layout)
    decoder = TruncatedDecoder(vae)
    pixels = decoder.adapter.spatial_factor * 2
    x = randn(1, 3, 9, pixels, pixels)
    encoded = []
    for group in decoder.encode_stream(regroup_frames(x.split(2, dim=2), 4), taps=("down_blocks.0", "mid_block")):
        assert torch.is_grad_enabled(), "the generator must not switch gradients off for its consumer"
        encoded.append(group)
    z = torch.cat([group.latent for group in encoded], dim=2)
    torch.testing.assert_close(z, decoder.encode(x), rtol=0, atol=0)
    assert [group.taps["down_blocks.0"].shape[2] for group in encoded] == ([1, 4, 4] if layout == "2.1" else [1, 2, 2])
    frames = list(decoder.decode_stream((z[:, :, i : i + 1].requires_grad_() for i in range(3)), clamp=True))
    assert [f.shape[2] for f in frames] == [1, 4, 4]
    assert not frames[1].requires_grad
    assert torch.equal(torch.cat(frames, dim=2), decoder.decode(z, clamp=True))


@LAYOUTS
@torch.no_grad()
def test_taps_are_the_blocks_outputs(tiny_wan, layout):
    vae = tiny_wan(layout)
    adapter = WanAdapter(vae)
    pixels = adapter.spatial_factor * 2
    x = randn(1, 3, 5, pixels, pixels)
    seen: dict[str, list[torch.Tensor]] = {"down_blocks.1": [], "conv_in": []}
    hooks = [
        vae.encoder.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen[name].append(out.clone()))
        for name in seen
    ]
    vae.encode(x)
    for hook in hooks:
        hook.remove()
    cache = adapter.initial_encoder_cache()
    for index, group in enumerate([x[:, :, :1], x[:, :, 1:]]):
        _, cache, taps = adapter.encode_group(group, cache, index, taps=tuple(seen))
        for name in seen:
            assert torch.equal(taps[name], seen[name][index])


@torch.no_grad()
def test_frame_features_carry_nothing_over(tiny_wan):
    adapter = WanAdapter(tiny_wan())
    x = randn(2, 3, 3, 8, 12)
    alone = adapter.frame_features(x, ("down_blocks.0", "down_blocks.2"))
    for frame in range(3):
        _, _, taps = adapter.encode_group(x[:, :, frame : frame + 1], adapter.initial_encoder_cache(), 0, taps=tuple(alone))
        for name, features in alone.items():
            torch.testing.assert_close(features[:, :, frame : frame + 1], taps[name], rtol=0, atol=1e-13)


@LAYOUTS
@torch.no_grad()
def test_caches_are_never_changed(tiny_wan, layout):
    adapter = WanAdapter(tiny_wan(layout))
    z = randn(1, 4, 3, 2, 2)
    caches = [adapter.initial_decoder_cache()]
    frames = []
    for i in range(3):
        x, cache = adapter.decode_group(z[:, :, i : i + 1], caches[-1], i)
        frames.append(x)
        caches.append(cache)
    copies = [[t.clone() for t in adapter.cache_tensors(c)] for c in caches]
    again = [adapter.decode_group(z[:, :, i : i + 1], caches[i], i)[0] for i in (2, 1, 0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(frames, again, strict=True))
    for cache, copy in zip(caches, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(adapter.cache_tensors(cache), copy, strict=True))


@torch.no_grad()
def test_later_groups_may_hold_several_latents(tiny_wan):
    adapter = WanAdapter(tiny_wan())
    z = randn(1, 4, 4, 2, 3)
    first, cache = adapter.decode_group(z[:, :, :1], adapter.initial_decoder_cache(), 0)
    rest, _ = adapter.decode_group(z[:, :, 1:], cache, 1)
    torch.testing.assert_close(torch.cat([first, rest], dim=2), TruncatedDecoder(adapter).decode(z), rtol=0, atol=1e-12)


def test_latent_statistics(tiny_wan):
    adapter = WanAdapter(tiny_wan())
    z = torch.ones(1, 4, 1, 1, 1, dtype=torch.bfloat16)
    raw = adapter.denormalise(z)
    assert raw.dtype == torch.float32
    torch.testing.assert_close(raw.flatten(), torch.tensor([1.6, 1.8, 0.8, 1.0]))
    torch.testing.assert_close(adapter.normalise(raw), z.float())
    with pytest.raises(ValueError, match="latents_mean"):
        WanAdapter(tiny_wan(latents_mean=[0.0] * 16)).normalise(z)


def test_regroup_frames():
    clip = torch.arange(11.0).view(1, 1, 11, 1, 1)
    for size in (1, 3, 11):
        groups = list(regroup_frames(clip.split(size, dim=2), 4, pad=True))
        assert [g.shape[2] for g in groups] == [1, 4, 4, 4]
        assert torch.equal(torch.cat(groups, dim=2), pad_to_whole_groups(clip, 4))
    assert pad_to_whole_groups(clip, 4).flatten()[-3:].tolist() == [10.0, 10.0, 10.0]
    assert pad_to_whole_groups(clip[:, :, :9], 4).shape[2] == 9
    with pytest.raises(ValueError, match="2 of the 4 frames"):
        list(regroup_frames([clip], 4))
    assert list(itertools.islice(regroup_frames(iter([]), 4), 1)) == []


def test_blocks_that_were_compiled_are_taken_apart_all_the_same(tiny_wan):
    vae = tiny_wan()
    z = torch.ones(1, 4, 2, 2, 2, dtype=torch.float64)
    plain = TruncatedDecoder(vae).loss_and_grad(z, lambda frames, span, previous: frames.square().sum())
    vae.decoder.mid_block = torch.compile(vae.decoder.mid_block, backend="eager")
    vae.decoder.up_blocks[0] = torch.compile(vae.decoder.up_blocks[0], backend="eager")
    compiled = TruncatedDecoder(vae).loss_and_grad(z, lambda frames, span, previous: frames.square().sum())
    assert torch.equal(compiled.loss, plain.loss)
    assert torch.equal(compiled.grad_z, plain.grad_z)
