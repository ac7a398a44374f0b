"""Opacity-aware input: noise in the latents of what is empty, in one pass, in a stream, in training and on disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import Clip, ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import load_enhancer, save_enhancer
from splatmend.enhance.model import Enhancer, EnhancerSpec
from splatmend.enhance.opacity import fixed_noise, group_opacity, latent_opacity, with_noise
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.stream import StreamingEnhancer, enhance_clip
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import DataConfig, TrainingClips
from splatmend.enhance.train.onestep import train_onestep


def tiny(opacity_noise: float = 1.0) -> Enhancer:
    torch.manual_seed(3)
    model = small_enhancer(small_vae(8), small_transformer(1, 1, 32))
    for parameter in (model.vae.decoder.conv_out.weight, model.transformer.proj_out.weight):
        torch.nn.init.normal_(parameter, std=0.2)
    model.spec = dataclasses.replace(model.spec, opacity_noise=opacity_noise, window=3, overlap=1)
    return model.eval().requires_grad_(False)


def frames(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def hole(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Opacity `[T, H, W]`: nothing in a part of the later frames, some in another."""
    opacity = np.ones((count, height, width), np.float32)
    opacity[3:, :16, :16] = 0.0
    opacity[:, 16:, 32:] = 128 / 255
    return opacity


def as_tensors(clip: np.ndarray, opacity: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1, torch.from_numpy(opacity)[None, None]


def test_latents_take_the_mean_of_their_group() -> None:
    opacity = torch.rand(2, 1, 9, 16, 24)
    small = latent_opacity(opacity, 4, 8)
    assert small.shape == (2, 1, 3, 2, 3)
    torch.testing.assert_close(small[1, 0, 0, 1, 2], opacity[1, 0, 0, 8:, 16:].mean())
    torch.testing.assert_close(small[0, 0, 2, 0, 1], opacity[0, 0, 5:9, :8, 8:16].mean())
    torch.testing.assert_close(group_opacity(opacity[:, :, 1:5], 8), small[:, :, 1:2])


def test_variance_stays_and_the_share_says_how_much() -> None:
    z, noise = (torch.randn(1, 16, 4, 40, 40, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for opacity in (0.0, 0.3, 0.8):
        mixed = with_noise(z, torch.full((1, 1, 4, 40, 40), opacity), 1.0, noise)
        assert float(mixed.std()) == pytest.approx(1.0, abs=0.02)
        assert float((mixed * z).mean()) == pytest.approx(opacity, abs=0.02)
    assert torch.equal(with_noise(z, torch.zeros(1, 1, 4, 40, 40), 1.0, noise), noise)
    assert float((with_noise(z, torch.zeros(1, 1, 4, 40, 40), 0.25, noise) * z).mean()) == pytest.approx(0.75, abs=0.02)


def test_noise_follows_from_number_and_size() -> None:
    latents = torch.zeros(2, 4, 3, 5, 6)
    noise = fixed_noise(latents, range(7, 10))
    torch.testing.assert_close(noise[:, :, 1:2], fixed_noise(latents[:, :, :1], [8]))
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[:, :, 0], noise[:, :, 1])


def test_full_opacity_changes_nothing_and_holes_do() -> None:
    enhancer, off = tiny(), tiny(0.0)
    clip, opacity = as_tensors(frames(9), hole(9))
    plain = off(clip)
    assert torch.equal(enhancer(clip), plain)
    assert torch.equal(enhancer(clip, opacity=torch.ones_like(opacity)), plain)
    assert torch.equal(off(clip, opacity=opacity), plain)
    holed = enhancer(clip, opacity=opacity)
    assert not torch.allclose(holed, plain, atol=1e-2)
    assert torch.equal(holed, enhancer(clip, opacity=opacity))


def test_latents_change_only_where_something_is_missing() -> None:
    enhancer = tiny()
    clip, opacity = as_tensors(frames(9), hole(9))
    before = enhancer.encode(clip)
    after = enhancer.emptied(before, opacity)
    small = latent_opacity(opacity, 4, enhancer.adapter().spatial_factor)
    changed = (after.latents != before.latents).any(1, keepdim=True)
    assert torch.equal(changed, small < 1)
    assert 0 < changed.float().mean() < 1


@pytest.mark.parametrize("count", [1, 9, 14, 29])
def test_streaming_equals_one_pass(count: int) -> None:
    """Over several windows and with a last group that is not full."""
    enhancer, clip, opacity = tiny(), frames(count), hole(count)
    streamed = np.stack(list(StreamingEnhancer(enhancer).frames(iter(clip), count, iter(opacity))))
    missing = -(count - 1) % 4
    whole = [np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) for x in (clip, opacity)]
    x, alpha = as_tensors(*whole)
    once = ((enhancer(x, opacity=alpha)[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 3, 0).numpy()[:count]
    assert np.abs(streamed - np.rint(once)).max() <= 1
    opaque = np.stack(list(StreamingEnhancer(enhancer).frames(iter(clip), count)))
    assert np.abs(streamed.astype(int) - opaque).max() > 3
    unknown = np.stack(list(StreamingEnhancer(enhancer).frames(iter(clip), count, [None] * count)))
    assert np.array_equal(unknown, opaque)


def write_clip(path: Path, rgb: np.ndarray, opacity: np.ndarray | None = None) -> Clip:
    manifest = Manifest(kind="clip", config={})
    with building(path, manifest) as folder, ClipWriter(folder) as writer:
        for number, frame in enumerate(rgb):
            writer.write(frame, opacity=None if opacity is None else opacity[number])
        manifest.facts = writer.facts
    return open_clip(path)


def test_a_clips_own_opacity_is_read(tmp_path: Path) -> None:
    enhancer, rgb, opacity = tiny(), frames(5), hole(5)
    clip = write_clip(tmp_path / "clip", rgb, opacity)
    enhance_clip(enhancer, clip, tmp_path / "enhanced")
    expected = np.stack(list(StreamingEnhancer(enhancer).frames(iter(rgb), 5, iter(opacity))))
    assert np.array_equal(np.stack(list(open_clip(tmp_path / "enhanced").iter_rgb())), expected)
    known = open_clip(tmp_path / "enhanced").read_channel("opacity", 4)
    assert known is not None
    np.testing.assert_allclose(known, opacity[4], atol=1e-6)


def test_a_folder_says_that_it_looks_at_opacity(tmp_path: Path) -> None:
    for share in (0.0, 0.6):
        save_enhancer(tiny(share), tmp_path)
        info = json.loads((tmp_path / "enhancer.json").read_text())
        assert ("opacity" in info["requires"]) == (share > 0)
        assert load_enhancer(tmp_path).spec.opacity_noise == share
    info["requires"].remove("opacity")
    (tmp_path / "enhancer.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="disagree about opacity"):
        load_enhancer(tmp_path)
    del info["spec"]["opacity_noise"]  # as it was written before there was such a thing
    (tmp_path / "enhancer.json").write_text(json.dumps(info))
    assert load_enhancer(tmp_path).spec.opacity_noise == 0.0
    with pytest.raises(ValueError, match="opacity_noise must be a number from 0 to 1"):
        EnhancerSpec(base="x", opacity_noise=1.5)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """A pair whose degraded frames say in green and blue where and in red how opaque they are."""
    rng = np.random.default_rng(1)
    opacity = np.round(255 * rng.random((9, 5, 6), dtype=np.float32).repeat(8, axis=1).repeat(8, axis=2)) / 255
    rgb = np.zeros((*opacity.shape, 3), np.uint8)
    rgb[..., 0] = np.rint(255 * opacity)
    write_clip(tmp_path / "bad", rgb, opacity)
    write_clip(tmp_path / "good", np.full_like(rgb, 255))
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"degraded": "bad", "target": "good", "split": "train"}) + "\n")
    return DataConfig(pairs=(tmp_path / "pairs.jsonl",), clean_share=0.0, mild_share=0.0)


def drawn(data: DataConfig, **settings: object) -> TrainingClips:
    return TrainingClips(data, clip_frames=5, crop_px=(24, 24), batch=3, seed=1, **settings)  # type: ignore[arg-type]


def test_pairs_carry_their_opacity(data: DataConfig) -> None:
    clips = drawn(data, opacity=True)
    for number in range(4):
        raw = clips.raw(number)
        assert raw.opacity is not None
        assert np.array_equal(raw.opacity, raw.degraded[..., 0])  # cut and flipped alike
    batch = clips.finish(raw, torch.device("cpu"))
    assert batch.opacity is not None
    assert batch.opacity.shape == (3, 1, 5, 24, 24)
    assert drawn(data).raw(0).opacity is None
    assert np.array_equal(drawn(data).raw(0).degraded, clips.raw(0).degraded)  # asking for it draws nothing else


def test_clean_and_mixed_samples_are_as_opaque_as_they_are_true(data: DataConfig) -> None:
    clean = drawn(dataclasses.replace(data, clean_share=1.0), opacity=True).raw(0)
    assert clean.opacity is not None
    assert (clean.opacity == 255).all()
    for number in range(4):
        mixed = drawn(dataclasses.replace(data, mild_share=1.0), opacity=True).raw(number)
        assert mixed.opacity is not None
        # The target is white, so red goes from the degraded frame's opacity to 255 with the target's share, and so does opacity.
        assert np.array_equal(mixed.opacity, mixed.degraded[..., 0])


def test_training_looks_at_opacity_and_says_so(data: DataConfig, tmp_path: Path) -> None:
    settings = OneStepTrainConfig(
        steps=2, lr=1e-3, precision="fp32", device="cpu", clip_frames=5, crop_px=(32, 32), losses={"l1": 1.0}, truncation=None,
        decoder="full", ema=None, log=False, sample_every=2, opacity_noise=0.7,
    )  # fmt: skip
    train_onestep(settings, data, tiny(0.0), tmp_path / "noisy")
    assert load_enhancer(tmp_path / "noisy").spec.opacity_noise == 0.7
    train_onestep(dataclasses.replace(settings, opacity_noise=0.0), data, tiny(0.0), tmp_path / "plain")
    first = [json.loads((tmp_path / name / "curve.jsonl").read_text().splitlines()[0]) for name in ("noisy", "plain")]
    assert first[0]["loss"] != first[1]["loss"]
    # On from it without saying so: it stays what it is.
    again = dataclasses.replace(settings, opacity_noise=None, steps=1)
    train_onestep(again, data, load_enhancer(tmp_path / "noisy"), tmp_path / "again")
    assert load_enhancer(tmp_path / "again").spec.opacity_noise == 0.7
    with pytest.raises(UserError, match="opacity_noise is"):
        dataclasses.replace(settings, opacity_noise=1.2)
