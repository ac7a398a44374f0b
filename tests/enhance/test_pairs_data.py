"""Training clips: pairs indexes, caching, determinism, synthetic artefacts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.enhance.train.data import ClipCache, DataConfig, TrainingClips
from splatmend.enhance.train.degrade import DegradeConfig, degrade
from splatmend.enhance.train.looks import Look, LookConfig, draw_look

CPU = torch.device("cpu")


def write_clip(path: Path, value: int, frames: int = 12, size: tuple[int, int] = (40, 56)) -> Path:
    """A clip whose frame i is grey with value + i, plus a texture."""
    rng = np.random.default_rng(value)
    texture = rng.integers(0, 40, (*size, 3))
    manifest = Manifest(kind="clip", config={})
    with building(path, manifest) as folder:
        with ClipWriter(folder) as writer:
            for i in range(frames):
                writer.write((texture + value + i).astype(np.uint8))
        manifest.facts = writer.facts
    return path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    write_clip(tmp_path / "bad", 40)
    write_clip(tmp_path / "good", 120)
    lines = [
        {"degraded": "bad", "target": "good", "kind": "cycle", "split": "train", "scene": "a"},
        {"degraded": "good", "target": "good", "kind": "cycle", "split": "test", "scene": "b"},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "pairs.jsonl"


def clips_of(config: DataConfig, **settings: int) -> TrainingClips:
    return TrainingClips(config, **({"clip_frames": 5, "crop_px": (32, 32), "batch": 2, "seed": 4} | settings))


def test_pairs_stay_aligned_and_only_the_split_counts(index: Path) -> None:
    clips = clips_of(DataConfig(pairs=(index,), clean_share=0.0, mild_share=0.0))
    assert len(clips.paired) == 1
    firsts = set()
    for step in range(12):
        batch = clips.finish(clips.raw(step), CPU)
        assert batch.target.shape == (2, 3, 5, 32, 32)
        assert batch.kinds == ("pair", "pair")
        # Frame i of both clips is brighter than frame 0 by i levels; windows and crops are cut alike.
        steps = batch.target.diff(dim=2) * 127.5
        torch.testing.assert_close(steps, torch.ones_like(steps), atol=1e-2, rtol=0)
        torch.testing.assert_close(batch.degraded.diff(dim=2) * 127.5, steps, atol=1e-2, rtol=0)
        firsts.add(round(float(batch.target[0].min()), 3))
    assert len(firsts) > 3


def test_a_step_sees_the_same_whenever_it_is_asked(index: Path) -> None:
    config = DataConfig(pairs=(index,), videos=(index.parent / "good",), synthetic_share=0.5)
    one, other = clips_of(config), clips_of(config)
    late = other.finish(other.raw(7), CPU)
    batches = one.batches(5, 0, CPU)
    for _ in range(3):
        batch = next(batches)
    batches.close()
    assert batch.kinds == late.kinds
    assert torch.equal(batch.degraded, late.degraded)
    assert torch.equal(batch.target, late.target)
    assert not np.array_equal(one.raw(7, process=1).target, one.raw(7).target)


def test_workers_prepare_the_same_batches(index: Path) -> None:
    config = DataConfig(pairs=(index,), videos=(index.parent / "good",), synthetic_share=0.5)
    expected = clips_of(config)
    batches = clips_of(dataclasses.replace(config, workers=2)).batches(3, 0, CPU)
    for step in range(3, 8):
        batch, wanted = next(batches), expected.finish(expected.raw(step), CPU)
        assert batch.kinds == wanted.kinds
        assert torch.equal(batch.degraded, wanted.degraded)
        assert torch.equal(batch.target, wanted.target)
    batches.close()


def test_mild_samples_lie_between_input_and_target(index: Path) -> None:
    whole, mild = (clips_of(DataConfig(pairs=(index,), clean_share=0.0, mild_share=share)) for share in (0.0, 1.0))

    def gaps(clips: TrainingClips) -> np.ndarray:
        batches = [clips.raw(step) for step in range(6)]
        return np.concatenate([np.mean(b.target.astype(float) - b.degraded, axis=(1, 2, 3, 4)) for b in batches])

    full, partial = gaps(whole), gaps(mild)
    assert full.min() > 60
    assert partial.min() >= 0
    assert partial.max() < full.max()
    assert np.ptp(partial) > 30


def test_clean_samples_are_their_own_target(index: Path) -> None:
    clips = clips_of(DataConfig(pairs=(index,), clean_share=1.0))
    batch = clips.finish(clips.raw(0), CPU)
    assert batch.kinds == ("clean", "clean")
    assert torch.equal(batch.degraded, batch.target)


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    opened = [open_clip(write_clip(tmp_path / f"clip{i}", 20 * i)) for i in range(4)]
    size = 12 * 40 * 56 * 3
    cache = ClipCache(2 * size)
    for clip in opened:
        cache.frames(clip, 0, 12, None)
        assert cache.bytes <= 2 * size
    assert cache.frames(opened[0], 3, 5, 20).shape == (2, 20, 28, 3)


def test_data_that_cannot_be_used_is_named(index: Path) -> None:
    with pytest.raises(UserError, match="neither pairs nor videos"):
        DataConfig()
    with pytest.raises(UserError, match="smaller than the crop"):
        clips_of(DataConfig(pairs=(index,)), crop_px=(64, 64)).raw(0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="split val"):
        clips_of(DataConfig(pairs=(index,), split="val"))
    broken = index.with_name("broken.jsonl")
    broken.write_text('{"degraded": "bad"}\n')
    with pytest.raises(UserError, match="degraded and target"):
        clips_of(DataConfig(pairs=(broken,)))
    broken.write_text("{")
    with pytest.raises(UserError, match="JSON"):
        clips_of(DataConfig(pairs=(broken,)))
    write_clip(index.parent / "short", 10, frames=3)
    broken.write_text(json.dumps({"degraded": "short", "target": "good"}) + "\n")
    with pytest.raises(UserError, match="3 frames"):
        clips_of(DataConfig(pairs=(broken,)))


def test_a_short_clip_runs_back_and_forth(tmp_path: Path) -> None:
    clips = clips_of(DataConfig(videos=(write_clip(tmp_path / "short", 50, frames=3),), clean_share=1.0))
    seen = set()
    for step in range(12):
        target = clips.finish(clips.raw(step), CPU).target
        # Frame i of the clip is brighter than frame 0 by i levels.
        levels = ((target[0, 0, :, 0, 0] - target[0, 0, :, 0, 0].min()) * 127.5).round().int().tolist()
        assert np.abs(np.diff(levels)).tolist() == [1, 1, 1, 1]
        assert set(levels) == {0, 1, 2}
        seen.add(tuple(levels))
    assert len(seen) > 1


EFFECTS = ("blur", "low_resolution", "ghost", "needles", "floaters", "holes", "colour")


@pytest.mark.parametrize("effect", EFFECTS)
def test_each_artefact_changes_the_clip_coherently(effect: str) -> None:
    generator = torch.Generator().manual_seed(0)
    still = (torch.rand(1, 3, 1, 32, 48, generator=generator) * 1.2 - 0.6).expand(-1, -1, 6, -1, -1).contiguous()
    only = DegradeConfig(**{name: float(name == effect) for name in EFFECTS})  # type: ignore[arg-type]
    outs = [degrade(still, torch.Generator().manual_seed(seed), only) for seed in range(4)]
    assert all(out.isfinite().all() and out.abs().max() <= 1 for out in outs)
    changes = torch.stack([(out - still).abs().mean() for out in outs])
    assert changes.max() > 0.005
    # A still scene keeps artefacts that move a little: frame to frame they change less than they change the picture.
    flicker = torch.stack([out.diff(dim=2).abs().mean() for out in outs])
    assert flicker.sum() < 0.8 * changes.sum()


def test_artefacts_follow_the_generator() -> None:
    x = torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    a, b, c = (degrade(x, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_colour_is_wrong_in_parts_only() -> None:
    """A cast over all of a picture cannot be told from the picture itself."""
    alone = DegradeConfig(blur=0, low_resolution=0, ghost=0, needles=0, floaters=0, holes=0, colour=1)
    clip = torch.full((12, 3, 5, 32, 48), 0.1)
    change = (degrade(clip, torch.Generator().manual_seed(0), alone) - clip).abs().amax(dim=1)
    greatest = change.flatten(1).amax(dim=1)
    assert greatest.min() > 0.01
    left = (change < 0.2 * greatest.view(-1, 1, 1, 1)).float().flatten(1).mean(dim=1)
    assert left.mean() > 0.3


def test_both_clips_of_a_sample_get_the_same_look(index: Path) -> None:
    plain = clips_of(DataConfig(pairs=(index,), clean_share=0.0, mild_share=0.0))
    # Exposure alone, so that what the change was can be read from the two clips.
    look = LookConfig(share=1.0, gain_stops=1.0, channel_gain_stops=0.0, gamma=0.0, grey=0.0, swap=0.0, saturation=(1.0, 1.0))
    clips = clips_of(DataConfig(pairs=(index,), clean_share=0.0, mild_share=0.0, look=look))
    gains = []
    for step in range(6):
        changed = clips.raw(step)
        for degraded, target in zip(changed.degraded.astype(float), changed.target.astype(float), strict=True):
            # The textures' means are those of the whole clips to a few levels: 60 and 140 and what frames add.
            gains.append((degraded.mean() / 64.0, target[target < 255].mean() / 144.0))
            assert gains[-1][0] == pytest.approx(gains[-1][1], rel=0.12)
    assert max(g for g, _ in gains) > 1.2 > 0.9 > min(g for g, _ in gains)
    assert plain.raw(0).target.shape == changed.target.shape


def test_looks_keep_grey_grey_and_their_share() -> None:
    rng = np.random.default_rng(3)
    config = LookConfig(share=0.5, channel_gain_stops=0.0)
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
    looks = [draw_look(rng, config) for _ in range(400)]
    drawn = [look for look in looks if look is not None]
    assert 160 < len(drawn) < 240
    for look in drawn[:40]:
        out = look.of(grey).astype(int)
        assert np.ptp(out, axis=-1).max() <= 1
        assert (np.diff(out[..., 0].ravel()) >= 0).all()
    same = Look(np.ones(3), 1.0, np.eye(3))
    frames = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(same.of(frames), frames)


@pytest.mark.parametrize(("scale", "slope"), [((2.0, 2.0), 1.0), ((0.5, 0.5), 4.0)])
def test_scaled_samples_show_a_larger_or_smaller_piece(tmp_path: Path, scale: tuple[float, float], slope: float) -> None:
    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 80, axis=0).repeat(3, axis=2)
    with building(tmp_path / "ramp", Manifest(kind="clip", config={})) as folder, ClipWriter(folder) as writer:
        for _ in range(5):
            writer.write(ramp)
    config = DataConfig(videos=(tmp_path / "ramp",), clean_share=1.0, flip=False, look=LookConfig(scale=scale))
    target = clips_of(config).raw(0).target.astype(float)
    assert target.shape == (2, 5, 32, 32, 3)
    assert np.diff(target, axis=3)[:, :, 2:-2, 2:-2].mean() == pytest.approx(slope, rel=0.1)


@pytest.mark.parametrize("fault", [{"share": 1.5}, {"gamma": -1.0}, {"scale": (0.0, 1.0)}, {"saturation": (1.0, 0.5)}])
def test_looks_out_of_range_are_refused(fault: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(fault))):
        LookConfig(**fault)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", [{"degraded": 5, "target": "good"}, {"degraded": "bad", "target": None}, {"degraded": "bad"}])
def test_an_index_with_a_wrong_value_is_named(index: Path, line: dict[str, object]) -> None:
    index.write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="every line needs the entries degraded and target"):
        clips_of(DataConfig(pairs=(index,)))


def test_pieces_are_at_least_a_pixel_large(index: Path) -> None:
    config = DataConfig(pairs=(index,), look=LookConfig(scale=(8.0, 8.0)))
    assert clips_of(config, crop_px=(4, 4)).raw(0).target.shape == (2, 5, 4, 4, 3)
