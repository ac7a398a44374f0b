"""What is kept for the backward pass: at most D + 1 groups, however long the clip is."""

from __future__ import annotations

import weakref
from itertools import accumulate

import pytest
import torch
from diffusers import AutoencoderKLWan

from splatmend.enhance.decoder import TruncatedDecoder, WanAdapter, truncated
from splatmend.enhance.decoder.backprop import TruncatedBackprop
from splatmend.enhance.decoder.ends import GraphEnd, pull_back


class SavedBytes:
    """Context in which the bytes that autograd keeps are counted, from saving until the graph lets go of them."""

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0

    def __enter__(self) -> SavedBytes:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda box: box.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.__exit__(*exc)

    def _pack(self, tensor: torch.Tensor) -> Box:
        box = Box(tensor)
        self.live += tensor.nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(box, self._release, tensor.nbytes)
        return box

    def _release(self, size: int) -> None:
        self.live -= size


class Box:
    def __init__(self, tensor: torch.Tensor) -> None:
        # Detached: a node that saves its own result would otherwise keep itself alive through this box.
        self.tensor = tensor.detach()


def squared(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
    return frames.square().sum()


def peak_bytes(decoder: TruncatedDecoder, latents: int) -> int:
    with SavedBytes() as saved:
        decoder.loss_and_grad(torch.ones(1, 4, latents, 2, 2), squared)
    assert saved.live == 0, "a graph outlived the call"
    return saved.peak


@pytest.mark.parametrize("layout", ["2.1", "2.2"])
def test_memory_is_that_of_the_truncation_not_of_the_clip(tiny_wan, layout):
    vae = tiny_wan(layout, dtype=torch.float32)
    peaks = {d: [peak_bytes(TruncatedDecoder(vae, d), latents) for latents in (5, 9)] for d in (0, 1, 2)}
    for short, long in peaks.values():
        assert short == long
    group = peaks[0][0]
    for d, (peak, _) in peaks.items():
        assert peak <= (d + 1) * group
    assert peaks[0][0] < peaks[1][0] < peaks[2][0]
    exact = [peak_bytes(TruncatedDecoder(vae, 99), latents) for latents in (5, 9)]
    assert exact[1] > 1.5 * exact[0], "the counter must see memory grow where it does"


@pytest.mark.parametrize("truncation", [0, 1])
def test_the_memory_setting_keeps_less(tiny_wan, truncation):
    vae = tiny_wan(dtype=torch.float32)
    kept = [peak_bytes(TruncatedDecoder(vae, truncation, memory=memory), 6) for memory in ("fast", "balanced", "small")]
    assert kept[1] < 0.6 * kept[0]
    assert kept[2] < kept[1]


@pytest.mark.parametrize("truncation", [0, 1])
def test_frozen_fast_layers_keep_less_than_the_model(tiny_wan, truncation):
    vae = tiny_wan(dtype=torch.float32).requires_grad_(False)
    reference, fast = (peak_bytes(TruncatedDecoder(vae, truncation, engine=engine), 6) for engine in ("reference", "fast"))
    assert fast < 0.6 * reference


def test_the_losses_own_graph_is_gone_before_the_decoder_is_differentiated(tiny_wan):
    vae = tiny_wan(dtype=torch.float32)
    held: list[weakref.ref] = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, frames):
            big = torch.ones(10)
            ctx.big = big
            held.append(weakref.ref(big))
            return frames * 1

        @staticmethod
        def backward(ctx, grad):
            return grad

    alive = []

    def loss(frames, span, previous):
        alive.append(sum(ref() is not None for ref in held))
        return Watch.apply(frames).sum()

    TruncatedDecoder(vae, 2).loss_and_grad(torch.ones(1, 4, 5, 2, 2), loss)
    assert alive == [0] * 5


def test_decode_stream_keeps_one_group(tiny_wan):
    decoder = TruncatedDecoder(tiny_wan(dtype=torch.float32))
    latents: list[weakref.ref] = []

    def stream():
        for _ in range(6):
            z = torch.ones(1, 4, 1, 2, 2)
            latents.append(weakref.ref(z))
            yield z
            del z

    for frames in decoder.decode_stream(stream()):
        assert not frames.requires_grad
        assert sum(ref() is not None for ref in latents) <= 1


class CacheWatch(torch.nn.Module):
    """Joined after a decoder's last block: how many tensors of the cache before are still there when a group is almost decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref] = []
        self.alive: list[int] = []

    def forward(self, frames, side):
        if not torch.is_grad_enabled():
            self.alive.append(sum(ref() is not None for ref in self.made))
        return frames

    def adapter(self, vae, **settings) -> WanAdapter:
        watch = self

        class Watched(WanAdapter):
            def decode_group(self, *arguments):
                return watch.noting(super().decode_group(*arguments))

            def decode_rest(self, *arguments):
                return watch.noting(super().decode_rest(*arguments))

        return Watched(vae, join={"conv_out": self}, **settings)

    def noting(self, decoded):
        self.made[:] = [weakref.ref(tensor) for tensor in decoded[1].tensors()]
        return decoded


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_a_decoded_group_s_cache_replaces_the_one_before(tiny_wan, engine):
    vae, watch = tiny_wan(dtype=torch.float32), CacheWatch()
    decoder = TruncatedDecoder(watch.adapter(vae, engine=engine))
    z = torch.randn(1, 4, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    side = {"conv_out": torch.zeros(1)}
    frames = torch.cat(list(decoder.decode_stream(z.split(1, dim=2), side=lambda index: side)), dim=2)
    assert watch.alive == [0, 0, 0, 0]
    assert len(watch.made) > 10
    assert torch.equal(frames, TruncatedDecoder(vae, engine=engine).decode(z).detach())


def test_the_pass_over_whole_frames_before_chunks_holds_one_cache(tiny_wan):
    watch = CacheWatch()
    decoder = TruncatedDecoder(watch.adapter(tiny_wan(dtype=torch.float32), engine="fast"), spatial_chunks=(1, 2))
    side = {"conv_out": torch.zeros(1, 3, 1, 16, 16)}
    decoder.loss_and_grad(torch.ones(1, 4, 4, 2, 2), squared, side=lambda index: side)
    assert watch.alive == [0, 0, 0, 0]
    assert len(watch.made) > 10


def allocated_peak(decoder: TruncatedDecoder, latents: int, size: int) -> int:
    """The largest number of bytes of tensors at once, whoever holds them."""
    z = torch.ones(1, decoder.adapter.latent_channels, latents, size, size)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as recorded:
        decoder.loss_and_grad(z, squared)
    assert recorded.profiler is not None
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


@pytest.mark.parametrize("truncation", [0, 1, 2])
def test_small_holds_no_cache_that_nothing_needs_yet(tiny_wan, truncation, monkeypatch):
    """While losses are pulled back, the cache for the next group is not there; gradients are what they are with it."""
    vae, size = tiny_wan("2.1", dtype=torch.float32), 4
    decoder = TruncatedDecoder(vae, truncation, memory="small")
    with torch.no_grad():
        cache = decoder.adapter.initial_decoder_cache()
        for index in range(3):
            _, cache = decoder.adapter.decode_group(torch.ones(1, 4, 1, size, size), cache, index)
    cache_bytes = sum(tensor.nbytes for tensor in decoder.adapter.cache_tensors(cache))
    lean, gradients = allocated_peak(decoder, 5, size), decoder.loss_and_grad(torch.ones(1, 4, 5, size, size), squared).grad_z
    monkeypatch.setattr(truncated, "TruncatedBackprop", lambda *given, **how: TruncatedBackprop(*given, **how | {"rebuild": False}))
    held = allocated_peak(decoder, 5, size)
    assert held - lean > 0.9 * cache_bytes
    assert torch.equal(decoder.loss_and_grad(torch.ones(1, 4, 5, size, size), squared).grad_z, gradients)


def test_a_caches_gradient_goes_as_it_is_used(tiny_wan):
    """A backward pass that starts from tensors of its own would hold all of them until its end."""
    a = torch.ones(4, requires_grad=True)
    b = a * 2.0
    seen: list[bool] = []
    first = b * 3.0
    end = GraphEnd(first)
    cotangent = torch.full((4,), 5.0)
    watched = weakref.ref(cotangent)
    b.register_hook(lambda grad: seen.append(watched() is None))
    cotangents: list[torch.Tensor | None] = [cotangent]
    del cotangent, first
    grads = pull_back([end], cotangents, [a], keep=False)
    assert grads is not None
    torch.testing.assert_close(grads[0], torch.full((4,), 30.0))
    assert cotangents == []
    assert seen == [True]


@pytest.mark.parametrize(("memory", "kept"), [("fast", 268_000), ("small", 64_000)])
def test_memory_grows_with_the_truncation_as_the_cost_model_says(memory, kept):
    """`docs/chopgrad.md`: numbers per latent pixel of what a group keeps (A) and of a cache (C), for Wan 2.1 with its 96 channels."""
    torch.manual_seed(0)
    size, narrower = 4, 6
    vae = AutoencoderKLWan(base_dim=96 // narrower).requires_grad_(False)
    decoders = [TruncatedDecoder(vae, truncation, memory=memory, engine="fast") for truncation in (2, 3)]
    cache = decoders[0].adapter.initial_decoder_cache()
    with torch.no_grad():
        for index in range(3):
            _, cache = decoders[0].adapter.decode_group(torch.ones(1, 16, 1, size, size), cache, index)
    scale = narrower / size**2
    cached = scale * sum(tensor.numel() for tensor in decoders[0].adapter.cache_tensors(cache))
    assert cached == pytest.approx(151_000, rel=0.02)
    allocated_peak(decoders[0], 2, size)  # the fast layers' weights are laid out once
    shallow, deep = (scale * allocated_peak(decoder, 6, size) / 4 for decoder in decoders)
    assert deep - shallow == pytest.approx(kept + cached, rel=0.06)
