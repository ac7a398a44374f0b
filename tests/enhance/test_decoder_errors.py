"""Mistakes get a sentence, not a wrong result."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn

from splatmend.enhance.causal_lora import add_causal_lora
from splatmend.enhance.decoder import DecoderAdapter, TruncatedDecoder, WanAdapter, surrogate
from splatmend.enhance.decoder.rivals import ExactCheckpointing


def squared(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
    return frames.square().sum()


@pytest.fixture
def vae(tiny_wan):
    return tiny_wan()


Z = torch.ones(1, 4, 2, 2, 2, dtype=torch.float64)


def test_the_adapter_is_one(vae):
    assert isinstance(WanAdapter(vae), DecoderAdapter)
    assert TruncatedDecoder(WanAdapter(vae)).loss_and_grad(Z, squared).grad_z.shape == Z.shape


def test_construction(vae):
    for wrong in (-1, 1.5, "1", None):
        with pytest.raises(ValueError, match="truncation"):
            TruncatedDecoder(vae, wrong)
    for nothing in ({"memory": ""}, {"engine": ""}):
        with pytest.raises(ValueError, match="must be one of"):
            TruncatedDecoder(vae, **nothing)
    for share in ((1, 1), (0, 0), 1, (0, 1.5)):
        with pytest.raises(ValueError, match=r"share is \(i, n\)"):
            TruncatedDecoder(vae, share=share)
    for other in (vae.decoder, "Wan2.1", None):
        with pytest.raises(TypeError, match=f"drives an AutoencoderKLWan or a DecoderAdapter, got {type(other).__name__}"):
            TruncatedDecoder(other)
    with pytest.raises(ValueError, match="to the adapter itself"):
        TruncatedDecoder(WanAdapter(vae), memory="small")
    with pytest.raises(ValueError, match=r"no decoder block named up_blocks\.9"):
        WanAdapter(vae, join={"up_blocks.9": nn.Identity()})


@pytest.mark.parametrize(("bad", "message"), [(Z[0], "4 dimensions"), (Z[:, :3], "4 channels, got 3"), (Z[:, :, :0], "no latent")])
def test_latents(vae, bad, message):
    for call in (lambda z: TruncatedDecoder(vae).loss_and_grad(z, squared), TruncatedDecoder(vae).decode):
        with pytest.raises(ValueError, match=message):
            call(bad)


def test_latents_have_the_dtype_of_the_weights_or_autocast(tiny_wan):
    decoder = TruncatedDecoder(tiny_wan(dtype=torch.bfloat16))
    z = decoder.adapter.denormalise(Z.bfloat16())
    with pytest.raises(ValueError, match=r"latents are torch\.float32 and the autoencoder's weights torch\.bfloat16; cast the latents"):
        decoder.loss_and_grad(z, squared)
    assert decoder.loss_and_grad(z.bfloat16(), squared).grad_z.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decoder.loss_and_grad(z, squared).grad_z.dtype == torch.float32


def test_frames(vae):
    decoder = TruncatedDecoder(vae)
    for shape, message in [
        ((3, 5, 8, 8), "4 dimensions"),
        ((1, 4, 5, 8, 8), "3 channels, got 4"),
        ((1, 3, 6, 8, 8), "whole groups"),
        ((1, 3, 5, 8, 6), "8x6 pixels"),
    ]:
        with pytest.raises(ValueError, match=message):
            decoder.encode(torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match="group 0 must hold 1 frames, got 4"):
        next(decoder.encode_stream([torch.zeros(1, 3, 4, 8, 8, dtype=torch.float64)]))
    with pytest.raises(ValueError, match="no encoder block named up_blocks"):
        next(decoder.encode_stream([torch.zeros(1, 3, 1, 8, 8, dtype=torch.float64)], taps=["up_blocks.0"]))


def test_the_first_group_holds_one_latent(vae):
    adapter = WanAdapter(vae)
    with pytest.raises(ValueError, match="exactly one latent, got 2"):
        adapter.decode_group(Z, adapter.initial_decoder_cache(), 0)


def test_features_between_the_stages(vae):
    adapter = WanAdapter(vae)
    features, _ = adapter.decode_first(Z[:, :, :1], adapter.initial_decoder_cache(), 0)
    wrongs = (features[0], "4 dimensions"), (features[:, 1:], "channels, got"), (features[..., :0], "empty")
    for wrong, message in (*wrongs, (features.float(), "float32"), (torch.cat([features] * 2, 2), "exactly one latent, got 2")):
        with pytest.raises(ValueError, match=message):
            adapter.decode_rest(wrong, adapter.initial_decoder_cache(), 0)


def test_the_first_group_of_the_first_stage_holds_one_latent(vae):
    adapter = WanAdapter(vae)
    with pytest.raises(ValueError, match="exactly one latent, got 2"):
        adapter.decode_first(Z, adapter.initial_decoder_cache(), 0)


@pytest.mark.parametrize("settings", [{}, {"spatial_chunks": (1, 2)}, {"share": (1, 2)}])
@pytest.mark.parametrize(("given", "index"), [(2, 1), (8, 1), (4, 0)])
def test_a_group_gives_the_frames_it_stands_for(vae, given, index, settings):
    class Other(WanAdapter):
        def decode_group(self, z_group, cache, group, side=None):
            return self._repeated(super().decode_group(z_group, cache, group, side), group)

        def decode_rest(self, features, cache, group, side=None):
            return self._repeated(super().decode_rest(features, cache, group, side), group)

        def _repeated(self, decoded, group):
            frames, cache = decoded
            return (frames.repeat(1, 1, 8, 1, 1)[:, :, :given] if group == index else frames), cache

    with pytest.raises(ValueError, match=rf"group {index} stands for \d frames of the clip, but the decoder gave {given}"):
        TruncatedDecoder(Other(vae), **settings).loss_and_grad(Z, squared)


def test_the_dtype_is_that_of_the_weights_everywhere(vae):
    decoder = TruncatedDecoder(vae)
    with pytest.raises(ValueError, match=r"latents are torch\.float32 and the autoencoder's weights torch\.float64"):
        next(decoder.decode_stream([Z[:, :, :1].float()]))
    for dtype in (torch.float32, torch.uint8):
        with pytest.raises(ValueError, match=rf"frames are {dtype} and the autoencoder's weights torch\.float64"):
            decoder.encode(torch.zeros(1, 3, 5, 8, 8, dtype=dtype))
        with pytest.raises(ValueError, match=rf"frames are {dtype} and the autoencoder's weights torch\.float64"):
            next(decoder.encode_stream([torch.zeros(1, 3, 1, 8, 8, dtype=dtype)]))


@pytest.mark.parametrize("empty", [Z[:0], Z[:, :, :, :0], Z[..., :0]])
def test_nothing_is_no_clip(vae, empty):
    decoder = TruncatedDecoder(vae)
    for call in (lambda z: decoder.loss_and_grad(z, squared), decoder.decode, lambda z: next(decoder.decode_stream([z[:, :, :1]]))):
        with pytest.raises(ValueError, match="empty"):
            call(empty)
    with pytest.raises(ValueError, match="empty"):
        decoder.encode(torch.zeros(0, 3, 5, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"spatial_chunks": chunks}, r"two whole numbers \(down, across\)") for chunks in (2, (2,), (2, 2, 2), (2.0, 2), (0, 1), ("2", 2))]
    + [({"spatial_chunks": (2, 2), "halo": halo}, "halo") for halo in (-1, 1.5)]
    + [({"block": block}, "block is a whole number") for block in (0, 1.5)]
    + [({"block": 2, "spatial_chunks": (2, 1)}, "1 with spatial chunks")],
)
def test_settings(vae, settings, message):
    with pytest.raises(ValueError, match=message):
        TruncatedDecoder(vae, **settings)


def test_dtype_and_autocast_must_not_change_within_a_clip(tiny_wan):
    adapter = WanAdapter(tiny_wan(dtype=torch.float32))
    z = Z[:, :, :1].float()
    _, cache = adapter.decode_group(z, adapter.initial_decoder_cache(), 0)
    with pytest.raises(TypeError, match=r"made from torch\.float32 with autocast None, but this group is torch\.bfloat16"):
        adapter.decode_group(z.bfloat16(), cache, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TypeError, match="autocast"):
        adapter.decode_group(z, cache, 1)


def test_side_features_must_match_the_joins(vae):
    class First(nn.Module):
        def forward(self, features, side):
            return features + side.mean()

    side = {"mid_block": torch.ones(1, 1, 1, 2, 2, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"for no block, but modules join after \['mid_block'\]"):
        TruncatedDecoder(vae, join={"mid_block": First()}).loss_and_grad(Z, squared)
    with pytest.raises(ValueError, match=r"for \['mid_block'\], but modules join after no block"):
        TruncatedDecoder(vae).decode(Z, side=lambda i: side)


def test_losses(vae):
    decoder = TruncatedDecoder(vae)
    for bad, message in [
        (lambda frames, span, previous: frames.square(), r"float64 tensor of shape \(1, 3, 1, 8, 8\)"),
        (lambda frames, span, previous: 1.0, "returned a float"),
        (lambda frames, span, previous: frames.detach().sum(), "constants only"),
    ]:
        with pytest.raises(ValueError, match=message):
            decoder.loss_and_grad(Z, bad)


def test_params_must_require_a_gradient(vae):
    with pytest.raises(ValueError, match="require a gradient"):
        TruncatedDecoder(vae).loss_and_grad(Z, squared, params=[vae.decoder.conv_out.weight])


def test_cache_tensors_must_be_as_many(vae):
    adapter = WanAdapter(vae)
    _, cache = adapter.decode_group(Z[:, :, :1], adapter.initial_decoder_cache(), 0)
    with pytest.raises(ValueError, match="tensors, got 1"):
        adapter.replace_cache_tensors(cache, adapter.cache_tensors(cache)[:1])


@pytest.mark.parametrize(("memory", "settings"), [("fast", "memory='balanced' or memory='small'"), ("small", "spatial_chunks")])
def test_full_memory_names_the_settings_that_take_less(vae, memory, settings):
    def greedy(frames, span, previous):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    decoder = TruncatedDecoder(vae, memory=memory)
    pixels = 2 * decoder.adapter.spatial_factor
    with pytest.raises(torch.OutOfMemoryError, match=settings) as caught:
        decoder.loss_and_grad(torch.zeros(1, 4, 2, 2, 2, dtype=torch.float64), greedy)
    assert f"full at 1 x {pixels}x{pixels} with memory='{memory}'" in str(caught.value)
    assert "Tried to allocate" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"truncation": 3, "block": 2}, "take truncation=1, or block=1, or spatial_chunks=(2, 2) with block=1, which takes about half"),
        ({"spatial_chunks": (1, 2), "halo": 1}, "take spatial_chunks=(2, 2) in place of (1, 2)."),
        ({"spatial_chunks": (2, 2), "halo": 1}, "memory='small'; take smaller or fewer clips at a time."),
    ],
)
def test_full_memory_names_what_is_not_set_yet(vae, settings, remedy):
    def greedy(frames, span, previous):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        TruncatedDecoder(vae, memory="small", **settings).loss_and_grad(Z, greedy)
    assert remedy in str(caught.value)


def test_what_full_memory_advises_can_be_taken(vae):
    """Blocks do not go with chunks, so both are named together; in chunks no other memory setting takes less."""

    def greedy(frames, span, previous):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        TruncatedDecoder(vae, memory="fast", spatial_chunks=(2, 2), halo=1).loss_and_grad(Z, greedy)
    assert "memory='small'" not in str(caught.value)
    TruncatedDecoder(vae, spatial_chunks=(2, 2), block=1, halo=1).loss_and_grad(Z, squared)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"z": [1.0]}, TypeError, "latents must be a tensor"),
        ({"frame_loss": None}, TypeError, "frame_loss must be a function"),
        ({"loss_scale": float("nan")}, ValueError, "loss_scale must be a finite number"),
        ({"loss_scale": "2"}, ValueError, "loss_scale must be a finite number"),
        ({"valid_frames": 3.5}, ValueError, "valid_frames is a whole number"),
        ({"params": torch.ones(2, requires_grad=True)}, TypeError, "several tensors, got one"),
        ({"params": [("name", torch.ones(2))]}, TypeError, "params must be tensors, got tuple"),
        ({"side": {}}, TypeError, "side must be a function"),
        ({"side": lambda index: 3}, TypeError, "must give tensors by the names"),
        ({"side": lambda index: {"mid_block": None}}, TypeError, "must give tensors by the names"),
        ({"side": lambda index: {"mid_block": torch.ones(1)}}, ValueError, "for mid_block they have 1 dimensions"),
    ],
)
@pytest.mark.parametrize("way", [TruncatedDecoder, ExactCheckpointing, lambda vae: TruncatedDecoder(vae, spatial_chunks=(1, 2), halo=1)])
def test_what_a_gradient_is_asked_of(vae, way, given, error, message):
    with pytest.raises(error, match=message):
        way(vae).loss_and_grad(**{"z": Z, "frame_loss": squared} | given)


def test_inference_mode_forbids_gradients_but_not_its_latents(vae):
    with torch.inference_mode():
        z = Z * 2.0
        with pytest.raises(RuntimeError, match="inference mode forbids gradients"):
            TruncatedDecoder(vae).loss_and_grad(z, squared)
    expected = TruncatedDecoder(vae).loss_and_grad(Z * 2.0, squared).grad_z
    assert torch.equal(TruncatedDecoder(vae).loss_and_grad(z, squared).grad_z, expected)


def test_dropout_is_refused_where_a_group_is_decoded_more_than_once(vae):
    add_causal_lora(vae.decoder, 2, 2, dropout=0.5)
    vae.decoder.train()
    for settings in ({"memory": "small"}, {"spatial_chunks": (1, 2), "halo": 1}, {"share": (0, 2)}):
        with pytest.raises(ValueError, match="dropout is active"):
            TruncatedDecoder(vae, **settings).loss_and_grad(Z, squared, params=trained(vae))
    TruncatedDecoder(vae, memory="balanced").loss_and_grad(Z, squared, params=trained(vae))
    vae.decoder.eval()
    TruncatedDecoder(vae, memory="small").loss_and_grad(Z, squared, params=trained(vae))


def test_weights_that_nobody_asked_for_are_pointed_out(vae):
    vae.requires_grad_(True)
    with pytest.warns(UserWarning, match=r"vae\.requires_grad_\(False\)"):
        TruncatedDecoder(vae).loss_and_grad(Z, squared)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TruncatedDecoder(vae).loss_and_grad(Z, squared, params=list(vae.decoder.parameters()))
        vae.requires_grad_(False)
        TruncatedDecoder(vae).loss_and_grad(Z, squared)


def trained(vae) -> list[torch.Tensor]:
    return [parameter for parameter in vae.decoder.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("join", [{"mid_block": 3}, ["mid_block"], nn.Identity()])
def test_joins_are_modules_by_name(vae, join):
    with pytest.raises(TypeError, match="modules by the names"):
        WanAdapter(vae, join=join)


def test_autocast_does_not_cast_double_precision(tiny_wan):
    decoder = TruncatedDecoder(tiny_wan(dtype=torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match=r"latents are torch\.float64"):
        decoder.loss_and_grad(Z, squared)
    with pytest.raises(ValueError, match="meta device"):
        decoder.loss_and_grad(Z.bfloat16().to("meta"), squared)


def test_the_gradient_of_a_surrogate_has_the_latents_shape():
    with pytest.raises(ValueError, match="cannot be"):
        surrogate(Z, Z[:, :1])


class OnGpu(torch.Tensor):
    """A tensor that says it lies on a GPU; memory is measured by hand."""

    is_cuda = property(lambda self: True)


def measured(monkeypatch, vae, full, **settings):
    """The advice for a clip on a device that is full, and the pieces that were measured there, with the decoders that walked them."""
    walked = []
    inner = TruncatedDecoder._loss_and_grad

    def walk(self, z, *args):
        walked.append((tuple(z.shape), self))
        if len(walked) == 1 or full:
            raise torch.OutOfMemoryError("still full")
        return inner(self, z.as_subclass(torch.Tensor), *args)

    monkeypatch.setattr(TruncatedDecoder, "_loss_and_grad", walk)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10**9)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2 * 10**9)
    z = torch.zeros(1, 4, 2, 20, 32, dtype=torch.float64).as_subclass(OnGpu)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        TruncatedDecoder(vae, **settings).loss_and_grad(z, squared)
    return str(caught.value), walked[1:]


def test_a_device_that_stays_full_gets_advice_without_figures(vae, monkeypatch):
    message, walked = measured(monkeypatch, vae, full=True)
    assert "memory='fast'; take memory='balanced' or memory='small'; take spatial_chunks=(2, 2)" in message
    assert len(walked) == 1


def test_memory_is_measured_with_the_chunks_that_are_set(vae, monkeypatch):
    message, walked = measured(monkeypatch, vae, full=False, memory="small", spatial_chunks=(1, 17), halo=4)
    assert "needs about 2.4 GB; take spatial_chunks=(2, 17) in place of (1, 17)." in message  # 20 x 32 latents by 16 x 17
    assert [shape for shape, _ in walked] == [(1, 4, 2, 16, 17)] * 2
    assert {(decoder.spatial_chunks, decoder.halo) for _, decoder in walked} == {((1, 17), 4)}


@pytest.mark.gpu
def test_full_memory_of_a_gpu_says_what_each_setting_needs():
    total = torch.cuda.mem_get_info()[1]
    vae = AutoencoderKLWan(base_dim=32, z_dim=4).to("cuda", torch.bfloat16).requires_grad_(False)
    z = torch.zeros(1, 4, 5, 64, 64, device="cuda", dtype=torch.bfloat16)
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**29) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            TruncatedDecoder(vae).loss_and_grad(z, lambda frames, span, previous: frames.square().sum())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    needs = [float(number) for number in re.findall(r"about ([0-9.]+)", str(caught.value))]
    assert len(needs) == 3
    assert needs[0] > needs[1] > 0
    assert needs[0] > needs[2] > 0
