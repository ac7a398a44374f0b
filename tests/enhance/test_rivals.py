"""Other ways to a gradient: the exact ones agree with plain autograd, the partial ones are exact for their part of the loss."""

from __future__ import annotations

import inspect

import pytest
import torch
from decoder_parts import JOINED, GatedSkip, randn, two_frame_loss

from splatmend.enhance.decoder import TruncatedDecoder, WanAdapter
from splatmend.enhance.decoder.rivals import RIVALS, ExactCheckpointing, FirstLatent, FrameWise, FullBackprop, PixelGradient, RandomWindow
from splatmend.enhance.kept_bytes import KeptBytes

GROUPS = 4


def by_hand(decoder: TruncatedDecoder, z: torch.Tensor, frame_loss, spans: list[slice]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of some spans and its gradient, by one plain backward pass through the whole decoded clip."""
    leaf = z.clone().requires_grad_()
    clip = decoder.decode(leaf)
    total = torch.zeros((), dtype=z.dtype)
    for span in spans:
        previous = clip[:, :, span.start - 1 : span.start].detach() if span.start else None
        total = total + frame_loss(clip[:, :, span], span, previous)
    mean = total / sum(span.stop - span.start for span in spans)
    (grad,) = torch.autograd.grad(mean, leaf)
    return mean.detach(), grad


SPANS = [slice(0, 1), slice(1, 5), slice(5, 9), slice(9, 13)]


@pytest.fixture
def clip():
    return randn(1, 4, GROUPS, 2, 3), two_frame_loss(randn(1, 3, 13, 8, 12, seed=1))


@pytest.mark.parametrize("layout", ["2.1", "2.2"])
@pytest.mark.parametrize("memory", ["fast", "small"])
def test_exact_ways_agree_with_plain_autograd(tiny_wan, layout, memory):
    vae = tiny_wan(layout)
    factor = TruncatedDecoder(vae).adapter.spatial_factor
    z, loss = randn(1, 4, GROUPS, 2, 3), two_frame_loss(randn(1, 3, 13, 2 * factor, 3 * factor, seed=1))
    expected_loss, expected = by_hand(TruncatedDecoder(vae), z, loss, SPANS)
    for way in (FullBackprop(vae, memory=memory), ExactCheckpointing(vae, memory=memory), TruncatedDecoder(vae, GROUPS, memory=memory)):
        result = way.loss_and_grad(z, loss, loss_scale=4.0)
        torch.testing.assert_close(result.loss, expected_loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(result.grad_z, 4.0 * expected, rtol=1e-9, atol=1e-13)


def test_exact_ways_agree_on_side_features_parameters_and_padding(tiny_wan):
    vae = tiny_wan()
    join = {JOINED: GatedSkip(8)}
    frames = [1, *[4] * (GROUPS - 1)]
    sides = [randn(1, 3, t, 8, 12, seed=10 + i).requires_grad_() for i, t in enumerate(frames)]
    weight = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    params = [*join[JOINED].parameters(), *(p.requires_grad_() for p in vae.decoder.conv_in.parameters()), weight]
    pixels = two_frame_loss(randn(1, 3, 13, 8, 12, seed=1))
    expected, *others = (
        way.loss_and_grad(
            randn(1, 4, GROUPS, 2, 3),
            lambda frames, span, previous: weight * pixels(frames, span, previous),
            side=lambda i: {JOINED: sides[i]},
            params=params,
            valid_frames=7,
        )
        for way in (
            TruncatedDecoder(vae, GROUPS, join=join),
            FullBackprop(TruncatedDecoder(vae, join=join).adapter),
            ExactCheckpointing(TruncatedDecoder(vae, join=join).adapter),
        )
    )
    assert all(grad.abs().sum() > 0 for grad in expected.grad_params)
    for result in others:
        torch.testing.assert_close(result.loss, expected.loss)
        torch.testing.assert_close(result.grad_z, expected.grad_z, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(result.grad_side, expected.grad_side, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(result.grad_params, expected.grad_params, rtol=1e-9, atol=1e-13)


def test_first_latent_is_exact_for_the_first_frame(tiny_wan, clip):
    vae, (z, loss) = tiny_wan(), clip
    expected_loss, expected = by_hand(TruncatedDecoder(vae), z, loss, SPANS[:1])
    result = FirstLatent(vae).loss_and_grad(z, loss)
    torch.testing.assert_close(result.loss, expected_loss)
    torch.testing.assert_close(result.grad_z, expected, rtol=1e-9, atol=1e-13)
    assert result.grad_z[:, :, 1:].abs().max() == 0


def test_random_window_is_exact_for_its_frames_and_its_latents(tiny_wan, clip):
    vae, (z, loss) = tiny_wan(), clip
    way, again = RandomWindow(vae, latents=2, seed=3), RandomWindow(vae, latents=2, seed=3)
    starts = set()
    for _ in range(6):
        result = way.loss_and_grad(z, loss)
        inside = [i for i in range(GROUPS) if result.grad_z[:, :, i].abs().max() > 0]
        start = inside[0]
        assert inside == [start, start + 1]
        expected_loss, expected = by_hand(TruncatedDecoder(vae), z, loss, SPANS[start : start + 2])
        torch.testing.assert_close(result.loss, expected_loss)
        torch.testing.assert_close(result.grad_z[:, :, inside], expected[:, :, inside], rtol=1e-9, atol=1e-13)
        assert torch.equal(again.loss_and_grad(z, loss).grad_z, result.grad_z), "the same seed draws the same windows"
        starts.add(start)
    assert len(starts) > 1
    exact = FullBackprop(vae).loss_and_grad(z, loss)
    torch.testing.assert_close(RandomWindow(vae, latents=9).loss_and_grad(z, loss).grad_z, exact.grad_z, rtol=1e-9, atol=1e-13)


def test_a_windows_prefix_has_no_side_gradients(tiny_wan, clip):
    z, loss = clip
    adapter = WanAdapter(tiny_wan(), join={JOINED: GatedSkip(8)})
    sides = [randn(1, 3, 1 if i == 0 else 4, 8, 12, seed=10 + i).requires_grad_() for i in range(GROUPS)]
    way = RandomWindow(adapter, latents=1, seed=3)
    for _ in range(3):
        result = way.loss_and_grad(z, loss, side=lambda i: {JOINED: sides[i]})
        window = next(i for i in range(GROUPS) if result.grad_z[:, :, i].abs().max() > 0)
        assert [bool(found) for found in result.grad_side] == [i == window for i in range(GROUPS)]


def test_frame_wise_shows_each_latent_as_a_still_picture(tiny_wan, clip):
    vae, (z, loss) = tiny_wan(), clip
    shown = []

    def watching(frames, span, previous):
        assert frames.shape[2] == span.stop - span.start
        shown.append(frames.detach().clone())
        return loss(frames, span, previous)

    result = FrameWise(vae).loss_and_grad(z, watching)
    leaf = z.clone().requires_grad_()
    total, previous = torch.zeros((), dtype=z.dtype), None
    for index, span in enumerate(SPANS):
        still = TruncatedDecoder(vae).decode(leaf[:, :, index : index + 1]).expand(-1, -1, span.stop - span.start, -1, -1)
        torch.testing.assert_close(shown[index], still.detach())
        total = total + loss(still, span, previous)
        previous = still[:, :, -1:].detach()
    (expected,) = torch.autograd.grad(total / 13, leaf)
    torch.testing.assert_close(result.grad_z, expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(result.loss, total.detach() / 13)
    exact = FullBackprop(vae).loss_and_grad(z, loss)
    torch.testing.assert_close(shown[0], TruncatedDecoder(vae).decode(z)[:, :, :1])
    assert (result.grad_z - exact.grad_z).norm() > 0.1 * exact.grad_z.norm(), "another loss, another gradient"


def test_registry_has_one_interface(tiny_wan, clip):
    vae, (z, loss) = tiny_wan(), clip
    arguments = set(inspect.signature(PixelGradient.loss_and_grad).parameters)
    for name, make in RIVALS.items():
        way = make(vae)
        assert arguments <= set(inspect.signature(type(way).loss_and_grad).parameters), name
        assert way.loss_and_grad(z, loss).grad_z.abs().max() > 0, name
    exact = RIVALS["full"](vae).loss_and_grad(z, loss).grad_z
    errors = [float((RIVALS[f"D={d}"](vae).loss_and_grad(z, loss).grad_z - exact).norm()) for d in (0, 1, 2)]
    assert len(set(errors)) == 3
    assert torch.equal(RIVALS["literal"](vae).loss_and_grad(z, loss).grad_z, RIVALS["D=1"](vae).loss_and_grad(z, loss).grad_z)


def test_wrong_arguments(tiny_wan, clip):
    vae, (z, loss) = tiny_wan(), clip
    with pytest.raises(ValueError, match="valid_frames"):
        FullBackprop(vae).loss_and_grad(z, loss, valid_frames=14)
    with pytest.raises(ValueError, match="require a gradient"):
        FullBackprop(vae).loss_and_grad(z, loss, params=[torch.ones(1)])
    for wrong in (0, 1.5, "2"):
        with pytest.raises(ValueError, match="window"):
            RandomWindow(vae, latents=wrong)
    with pytest.raises(ValueError, match="scalar"):
        ExactCheckpointing(vae).loss_and_grad(z, lambda frames, span, previous: frames)


@pytest.mark.parametrize("way", ["full", "D=1"])
def test_parameters_may_come_one_by_one(tiny_wan, clip, way):
    vae, (z, loss) = tiny_wan(), clip
    vae.decoder.requires_grad_()
    wanted = RIVALS[way](vae).loss_and_grad(z, loss, params=list(vae.decoder.parameters())).grad_params
    found = RIVALS[way](vae).loss_and_grad(z, loss, params=vae.decoder.parameters()).grad_params
    assert any(grad.norm() > 0 for grad in wanted)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def kept(vae, way, latents: int) -> int:
    with KeptBytes(vae.parameters()) as bytes_:
        way.loss_and_grad(torch.ones(1, 4, latents, 2, 2), lambda frames, span, previous: frames.square().sum())
    assert bytes_.live == 0, "a graph outlived the call"
    return bytes_.peak


def test_only_full_backpropagation_keeps_more_for_longer_clips(tiny_wan):
    vae = tiny_wan(dtype=torch.float32)
    short, long = ({name: kept(vae, make(vae), latents) for name, make in RIVALS.items()} for latents in (5, 9))
    assert long["full"] > 1.7 * short["full"]
    for name in RIVALS:
        if name != "full":
            assert long[name] == short[name], name
    assert long["checkpointing"] <= 1.3 * long["D=0"], "one group with its incoming cache as leaves"
    assert long["first-latent"] < long["D=0"]
    assert long["frame-wise"] < long["D=0"]
    assert long["D=0"] < long["random-window"] <= 2.1 * long["D=0"]


def test_kept_bytes_counts_a_storage_once():
    x = torch.ones(1000, requires_grad=True)
    with KeptBytes() as nothing, torch.no_grad():
        x.square()
    assert nothing.peak == 0
    with KeptBytes() as counted:
        y = (x * 2).exp()  # keeps its own result
        total = y.square() + y[:10].square().sum()  # keep y twice
    assert counted.live == y.nbytes
    total.sum().backward()
    assert counted.live == 0
    with KeptBytes([x]) as without:
        x.square().sum()
    assert without.peak == 0
