"""Truncated gradients against references that cut the graph by hand, with diffusers' own decoder loop and plain autograd."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from decoder_parts import JOINED, GatedSkip, randn, two_frame_loss
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import nn

from splatmend.enhance.decoder import TruncatedDecoder, frame_span, surrogate

LAYOUTS = pytest.mark.parametrize("layout", ["2.1", "2.2"])
GROUPS = 4


def diffusers_group(vae: AutoencoderKLWan, z: torch.Tensor, features: list, first: bool) -> torch.Tensor:
    x = vae.decoder(vae.post_quant_conv(z), feat_cache=features, feat_idx=[0], first_chunk=first)
    return x if vae.config.patch_size is None else unpatchify(x, patch_size=vae.config.patch_size)


def reference(vae, z, frame_loss, *, truncation, side=None, join: Mapping[str, nn.Module] | None = None, params=(), temporal_factor=4):
    """For each group on its own: decode its distant past without gradients, the last `truncation` groups with, and differentiate."""
    groups = z.shape[2]
    leaves = [z[:, :, i : i + 1].clone().requires_grad_() for i in range(groups)]
    sides = [{k: v.detach().clone().requires_grad_() for k, v in side(i).items()} if side else {} for i in range(groups)]
    current = {"group": 0}
    hooks = [
        vae.decoder.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name, module=module: module(out, sides[current["group"]][name])
        )
        for name, module in (join or {}).items()
    ]
    total = 0.0
    inputs = [*leaves, *(t for s in sides for t in s.values()), *params]
    sums = [torch.zeros_like(t) for t in inputs]
    for i in range(groups):
        features: list = [None] * 200
        previous = None
        for j in range(i + 1):
            if j <= i - truncation:
                features = [f.detach() if isinstance(f, torch.Tensor) else f for f in features]
            current["group"] = j
            frames = diffusers_group(vae, leaves[j], features, j == 0)
            if j < i:
                previous = frames[:, :, -1:].detach()
        loss = frame_loss(frames, frame_span(i, temporal_factor), previous)
        total = total + loss.detach()
        for s, g in zip(sums, torch.autograd.grad(loss, inputs, allow_unused=True), strict=True):
            if g is not None:
                s += g
    for hook in hooks:
        hook.remove()
    count = frame_span(groups - 1, temporal_factor).stop
    sums = [s / count for s in sums]
    grad_side = sums[groups : len(sums) - len(params)]
    return total / count, torch.cat(sums[:groups], dim=2), grad_side, sums[len(sums) - len(params) :]


def assert_same(result, expected):
    loss, grad_z, grad_side, grad_params = expected
    torch.testing.assert_close(result.loss, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(result.grad_z, grad_z, rtol=1e-9, atol=1e-13)
    mine = [g for group in result.grad_side for g in group.values()]
    torch.testing.assert_close(mine, list(grad_side), rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(list(result.grad_params), list(grad_params), rtol=1e-9, atol=1e-13)


@pytest.fixture(params=["2.1", "2.2"])
def setting(request, tiny_wan):
    """Autoencoder, join, side features, parameters and loss of a clip of 4 latents."""
    vae = tiny_wan(request.param)
    torch.manual_seed(3)
    join = {JOINED: GatedSkip(vae.decoder.up_blocks[1].out_dim if request.param == "2.2" else vae.decoder.up_blocks[1].out_dim // 2)}
    factor = 4
    features = [randn(1, 3, 1 if i == 0 else 4, 2 * factor, 3 * factor, seed=20 + i).requires_grad_() for i in range(GROUPS)]
    trained = [
        vae.post_quant_conv.weight,
        vae.decoder.conv_in.weight,
        vae.decoder.up_blocks[0].resnets[0].conv1.weight,
        vae.decoder.up_blocks[2].resnets[-1].conv2.bias,
        vae.decoder.conv_out.weight,
    ]
    params = [*(p.requires_grad_() for p in trained), *join[JOINED].parameters()]
    z = randn(1, 4, GROUPS, 2, 3)
    pixels = TruncatedDecoder(vae).adapter.spatial_factor
    loss = two_frame_loss(randn(1, 3, 13, 2 * pixels, 3 * pixels, seed=9))
    return vae, join, lambda i: {JOINED: features[i]}, params, z, loss


@pytest.mark.parametrize("truncation", [0, 1, 2])
def test_truncation_against_hand_cut_graphs(setting, truncation):
    vae, join, side, params, z, loss = setting
    result = TruncatedDecoder(vae, truncation, join=join).loss_and_grad(z, loss, side=side, params=params)
    assert_same(result, reference(vae, z, loss, truncation=truncation, side=side, join=join, params=params))
    assert all(g.abs().sum() > 0 for g in result.grad_params)


def test_large_truncation_is_one_joint_backward(setting):
    vae, join, side, params, z, frame_loss = setting
    decoder = TruncatedDecoder(vae, GROUPS - 1, join=join)
    leaf = z.clone().requires_grad_()
    frames = decoder.decode(leaf, side=side)
    total = sum(
        frame_loss(frames[:, :, span], span, frames[:, :, span.start - 1 : span.start].detach() if span.start else None)
        for span in (frame_span(i, 4) for i in range(GROUPS))
    )
    features = [side(i)[JOINED] for i in range(GROUPS)]
    grads = torch.autograd.grad(total / 13, [leaf, *features, *params])
    expected = total.detach() / 13, grads[0], grads[1 : 1 + GROUPS], grads[1 + GROUPS :]
    assert_same(decoder.loss_and_grad(z, frame_loss, side=side, params=params), expected)
    assert_same(TruncatedDecoder(vae, 99, join=join).loss_and_grad(z, frame_loss, side=side, params=params), expected)


def test_truncation_only_ever_drops_paths(setting):
    vae, join, side, _, z, loss = setting
    exact = TruncatedDecoder(vae, GROUPS, join=join).loss_and_grad(z, loss, side=side)
    for truncation in range(GROUPS - 1):
        cut = TruncatedDecoder(vae, truncation, join=join).loss_and_grad(z, loss, side=side)
        assert torch.equal(cut.loss, exact.loss), "the forward pass must not depend on the truncation"
        # The last group's loss is the only one that reaches its latent, and the D before it are reached within D links.
        torch.testing.assert_close(cut.grad_z[:, :, -1 - truncation :], exact.grad_z[:, :, -1 - truncation :], rtol=1e-10, atol=1e-14)
        assert (cut.grad_z[:, :, 0] - exact.grad_z[:, :, 0]).abs().max() > 1e-6, "a link that carries no gradient tests nothing"


@LAYOUTS
@pytest.mark.parametrize("truncation", [0, 1])
@pytest.mark.parametrize("memory", ["balanced", "small"])
def test_the_memory_setting_changes_no_bit(tiny_wan, layout, truncation, memory):
    vae = tiny_wan(layout)
    params = [p.requires_grad_() for p in vae.decoder.parameters()]
    z = randn(2, 4, 3, 2, 2)
    pixels = TruncatedDecoder(vae).adapter.spatial_factor * 2
    loss = two_frame_loss(randn(2, 3, 9, pixels, pixels, seed=4))
    kept = TruncatedDecoder(vae, truncation).loss_and_grad(z, loss, params=params)
    again = TruncatedDecoder(vae, truncation, memory=memory).loss_and_grad(z, loss, params=params)
    assert torch.equal(kept.loss, again.loss)
    assert torch.equal(kept.grad_z, again.grad_z)
    assert all(torch.equal(a, b) for a, b in zip(kept.grad_params, again.grad_params, strict=True))


def test_gradcheck(tiny_wan):
    """The exact gradient against finite differences, through a function that returns our gradient as its backward."""
    vae = tiny_wan()
    decoder = TruncatedDecoder(vae, 3)
    target = randn(1, 3, 5, 4, 4, seed=5)

    def loss(frames, span, previous):
        return (frames - target[:, :, span]).square().sum()

    class Clip(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            result = decoder.loss_and_grad(z, loss)
            ctx.save_for_backward(result.grad_z)
            return result.loss

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

    assert torch.autograd.gradcheck(Clip.apply, (randn(1, 4, 2, 1, 1).requires_grad_(),), eps=1e-6, atol=1e-6)


def test_side_without_gradient_gets_none(setting):
    vae, join, side, _, z, loss = setting
    frozen = TruncatedDecoder(vae, 1, join=join).loss_and_grad(z, loss, side=lambda i: {JOINED: side(i)[JOINED].detach()})
    trained = TruncatedDecoder(vae, 1, join=join).loss_and_grad(z, loss, side=side)
    assert frozen.grad_side == [{}] * GROUPS
    assert torch.equal(frozen.grad_z, trained.grad_z)


def test_valid_frames_and_scale(tiny_wan):
    vae = tiny_wan()
    decoder = TruncatedDecoder(vae, 1)
    z = randn(1, 4, 4, 2, 2)
    target = randn(1, 3, 13, 8, 8, seed=2)
    spans = []

    def loss(frames, span, previous):
        spans.append((span.start, span.stop))
        assert frames.shape[2] == span.stop - span.start
        return (frames - target[:, :, span]).square().sum()

    result = decoder.loss_and_grad(z, loss, valid_frames=7, loss_scale=8.0)
    assert spans == [(0, 1), (1, 5), (5, 7)]
    leaf = z.clone().requires_grad_()
    exact = (decoder.decode(leaf)[:, :, :7] - target[:, :, :7]).square().sum() / 7
    torch.testing.assert_close(result.loss, exact.detach())
    (expected,) = torch.autograd.grad(8 * exact, leaf)
    torch.testing.assert_close(result.grad_z[:, :, 1:], expected[:, :, 1:])
    assert result.grad_z[:, :, 3].abs().max() == 0, "a latent that no valid frame belongs to"
    for bad in (0, 14):
        with pytest.raises(ValueError, match="valid_frames"):
            decoder.loss_and_grad(z, loss, valid_frames=bad)


def test_surrogate_hands_the_gradient_on(tiny_wan):
    decoder = TruncatedDecoder(tiny_wan(), 1)
    model = nn.Conv3d(4, 4, 1, dtype=torch.float64)
    z = model(randn(1, 4, 3, 2, 2))
    result = decoder.loss_and_grad(z, lambda frames, span, previous: frames.square().sum())
    (by_surrogate,) = torch.autograd.grad(surrogate(z, result.grad_z), model.weight, retain_graph=True)
    (direct,) = torch.autograd.grad(z, model.weight, result.grad_z)
    torch.testing.assert_close(by_surrogate, direct)


def test_a_group_may_have_a_constant_loss_and_params_may_enter_the_loss(tiny_wan):
    decoder = TruncatedDecoder(tiny_wan(), 2)
    z = randn(1, 4, 3, 2, 2)
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def steps_only(frames, span, previous):
        if previous is None:
            return frames.new_zeros(())
        return weight * (frames - torch.cat([previous, frames[:, :, :-1]], dim=2)).square().sum()

    result = decoder.loss_and_grad(z, steps_only, params=[weight])
    torch.testing.assert_close(result.grad_params[0] * 2, result.loss)
    assert result.grad_z[:, :, 0].abs().max() > 0, "group 0 still feeds the later groups' losses"


def test_half_precision_under_autocast_with_params(tiny_wan):
    """Autocast's cache of cast weights must not lose the parameters' gradients, whatever ran without gradients before."""
    vae = tiny_wan(dtype=torch.float32)
    params = [p.requires_grad_() for p in vae.decoder.parameters()]
    z = randn(1, 4, 3, 2, 2).float()
    target = randn(1, 3, 9, 8, 8, seed=1).float()

    def loss(frames, span, previous):
        return (frames.float() - target[:, :, span]).square().sum()

    exact = TruncatedDecoder(vae, 1).loss_and_grad(z, loss, params=params)
    for options in ({}, {"spatial_chunks": (2, 1), "halo": 2}, {"memory": "balanced"}):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = TruncatedDecoder(vae, 1, **options).loss_and_grad(z, loss, params=params)
        assert half.grad_z.dtype == torch.float32
        mine, theirs = (torch.cat([g.flatten() for g in r.grad_params]) for r in (half, exact))
        assert torch.cosine_similarity(mine, theirs, dim=0) > 0.99
        assert all(g.abs().sum() > 0 for g, e in zip(half.grad_params, exact.grad_params, strict=True) if e.abs().sum() > 0)
