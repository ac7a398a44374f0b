"""Streaming: equal to one shot, constant memory, any size and length, cameras kept."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.enhance.model import Enhancer
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.stream import StreamingEnhancer, enhance_clip
from splatmend.enhance.windows import stream_windows


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    torch.manual_seed(3)
    model = small_enhancer(small_vae(8), small_transformer(1, 1, 32))
    for parameter in (model.vae.decoder.conv_out.weight, model.transformer.proj_out.weight):
        torch.nn.init.normal_(parameter, std=0.2)
    for join in model.join_modules().values():
        torch.nn.init.normal_(join.gate)
    return model.eval().requires_grad_(False)


def frames(count: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def one_shot(enhancer: Enhancer, clip: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    y = ((enhancer(x)[0].clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).numpy()
    return np.rint(y * 255)


@pytest.mark.parametrize("count", [1, 9, 17, 33])
def test_streaming_equals_one_shot(enhancer: Enhancer, count: int) -> None:
    """Within one window and over several: both blend the same windows."""
    clip = frames(count)
    streamed = np.stack(list(StreamingEnhancer(enhancer).frames(clip, count)))
    # Rounding to bytes may fall on either side.
    difference = np.abs(streamed - one_shot(enhancer, clip))
    assert difference.max() <= 1
    assert difference.mean() < 0.01
    assert np.abs(streamed.astype(float) - clip).mean() > 2


def test_odd_sizes_and_lengths_come_back_as_they_were(enhancer: Enhancer) -> None:
    clip = frames(7, 21, 45)
    out = list(StreamingEnhancer(enhancer).frames(clip, 7))
    assert len(out) == 7
    assert all(f.shape == (21, 45, 3) and f.dtype == np.uint8 for f in out)
    whole = np.pad(np.concatenate([clip, clip[-1:], clip[-1:]]), ((0, 0), (0, 11), (0, 3), (0, 0)), mode="symmetric")
    assert np.abs(np.stack(out) - one_shot(enhancer, whole)[:7, :21, :45]).max() <= 1


def test_memory_does_not_grow_with_the_clip(enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    peaks = {}
    original = StreamingEnhancer._to_tensor

    def noted(self: StreamingEnhancer, rgb: np.ndarray) -> torch.Tensor:
        tensor = original(self, rgb)
        alive.add(tensor)
        return tensor

    monkeypatch.setattr(StreamingEnhancer, "_to_tensor", noted)
    one = frames(1, 16, 16)[0]
    for count in (33, 161):
        stream, peak, done = StreamingEnhancer(enhancer), 0, 0
        for out in stream.frames((one for _ in range(count)), count):
            peak, done = max(peak, len(alive)), done + 1
            assert out.shape == (16, 16, 3)
        assert done == count
        gc.collect()
        peaks[count] = (stream.peak_groups, peak)
        assert len(stream._held) == 0
    assert peaks[33] == peaks[161]
    assert peaks[161][0] <= enhancer.spec.window + 1


def test_window_borders_are_no_seams(enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformer that disagrees with itself from window to window: the blend spreads the jump that a cut would show."""
    count = 45
    still = np.repeat(frames(1), count, axis=0)

    def largest_jump(overlap: int) -> float:
        outs = []
        for disagreement in (0.0, 0.2):
            calls = iter(range(100))
            monkeypatch.setattr(enhancer, "predict", lambda z, by=disagreement, calls=calls: z + by * (next(calls) % 2))
            outs.append(np.stack(list(StreamingEnhancer(enhancer, overlap=overlap).frames(still, count))).astype(float))
        offset = (outs[1] - outs[0]).mean(axis=(1, 2, 3))
        assert np.abs(offset).max() > 0.5
        return float(np.abs(np.diff(offset)).max())

    assert largest_jump(overlap=3) < 0.7 * largest_jump(overlap=0)


def write_input(path: Path) -> None:
    camera = Camera(name="front", width=32, height=32, focal_px=(30.0, 30.0), principal_px=(16.0, 16.0))
    manifest = Manifest(kind="clip", config={})
    with building(path, manifest) as folder, ClipWriter(folder, rate_hz=4.0, log_id="drive") as writer:
        for i, rgb in enumerate(frames(6)):
            pose = np.eye(4)
            pose[0, 3] = i
            writer.write(
                rgb,
                Shot.still(camera, pose, i * 100_000),
                opacity=np.full((32, 32), 0.5),
                masks={"car": np.eye(32, dtype=bool)},
                extra={"held_out": i == 2},
            )
        manifest.facts = writer.facts


def test_a_clip_keeps_its_cameras_and_channels(enhancer: Enhancer, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    source = open_clip(tmp_path / "in")
    told: list[tuple[int, int]] = []
    enhance_clip(enhancer, source, tmp_path / "out", strength=0.5, on_progress=lambda done, count: told.append((done, count)))
    out = open_clip(tmp_path / "out")
    assert told == [(i, 6) for i in range(1, 7)]
    assert (out.rate_hz, out.log_id) == (4.0, "drive")
    assert [f.extra["held_out"] for f in out.frames] == [i == 2 for i in range(6)]
    assert all(np.array_equal(a.shot.world_from_camera, b.shot.world_from_camera) for a, b in zip(out.frames, source.frames, strict=True))
    opacity, mask = out.read_channel("opacity", 3), out.read_channel("masks/car", 3)
    assert opacity is not None
    assert abs(float(opacity.mean()) - 0.5) < 0.01
    assert mask is not None
    assert np.array_equal(mask, np.eye(32, dtype=bool))
    with pytest.raises(UserError, match="overwrite"):
        enhance_clip(enhancer, source, tmp_path / "out")


def test_strength_zero_is_the_input(enhancer: Enhancer, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    source = open_clip(tmp_path / "in")
    enhance_clip(enhancer, source, tmp_path / "out", strength=0.0)
    assert all(np.array_equal(a, b) for a, b in zip(open_clip(tmp_path / "out").iter_rgb(), source.iter_rgb(), strict=True))


def test_settings_out_of_range_are_named(enhancer: Enhancer) -> None:
    with pytest.raises(UserError, match="strength"):
        StreamingEnhancer(enhancer, strength=1.5)
    with pytest.raises(UserError, match="overlap"):
        StreamingEnhancer(enhancer, window=3, overlap=3)


@pytest.mark.parametrize("strength", [0.0, 1.0])
@pytest.mark.parametrize(("there", "count"), [(0, 0), (0, 5), (3, 5), (7, 8), (7, 20)])
def test_fewer_frames_than_were_promised_are_an_error(enhancer: Enhancer, there: int, count: int, strength: float) -> None:
    with pytest.raises(UserError, match=rf"there are {there}, but {count}" if count else "at least one frame"):
        list(StreamingEnhancer(enhancer, strength=strength).frames(iter(frames(there)), count))


@pytest.mark.parametrize("bad", [frames(5) / 255.0, frames(5).astype(np.float32), frames(5)[..., 0], frames(5)[..., :2]])
def test_frames_that_are_no_bytes_are_an_error(enhancer: Enhancer, bad: np.ndarray) -> None:
    with pytest.raises(UserError, match="uint8; give colours as bytes"):
        list(StreamingEnhancer(enhancer).frames(iter(bad), 5))


def test_a_stream_of_too_few_latents_is_an_error() -> None:
    latents = (torch.zeros(1, 1, 1, 1, 1) for _ in range(3))
    with pytest.raises(ValueError, match="ended after 3 of its 5 latents"):
        list(stream_windows(latents, 5, 4, 1, lambda z: z))
    with pytest.raises(ValueError, match="at least one latent"):
        list(stream_windows([], 0, 4, 1, lambda z: z))


def test_without_a_strength_the_enhancers_own_counts(enhancer: Enhancer) -> None:
    frames = np.random.default_rng(5).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    half = list(StreamingEnhancer(enhancer, strength=0.5).frames(iter(frames), 5))
    full = list(StreamingEnhancer(enhancer).frames(iter(frames), 5))
    advised = enhancer.spec
    try:
        enhancer.spec = dataclasses.replace(advised, strength=0.5)
        own = list(StreamingEnhancer(enhancer).frames(iter(frames), 5))
    finally:
        enhancer.spec = advised
    assert not np.array_equal(half, full)
    np.testing.assert_array_equal(own, half)
