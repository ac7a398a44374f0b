"""What was put into a clip: the region of change, how a model is told, and that everything else stays as it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building, read_json, write_json
from splatmend.datasets.clip import Clip, ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.enhance import bundled
from splatmend.enhance.artifact import INFO, copy_as_bundled, load_enhancer, save_enhancer
from splatmend.enhance.bundled import BUNDLED, BUNDLED_HARMONISER
from splatmend.enhance.harmoniser import SMALL_SKIPS, WAN_SKIPS, as_harmoniser, small_harmoniser
from splatmend.enhance.insertion import INSERTED, change_region, confined, insertion_channels, insertions_of, less_on_bodies
from splatmend.enhance.model import Enhancer
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.stream import StreamingEnhancer, enhance_clip

MASKS = np.zeros((6, 32, 48), bool)
for _number in range(6):
    MASKS[_number, 10:16, 14 + _number : 24 + _number] = True


def awake(enhancer: Enhancer) -> Enhancer:
    """The same with random weights where fresh ones change nothing."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in enhancer.named_parameters():
            if "conv_out" in name or "fuse" in name or "gate" in name or "mask_input" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return enhancer.eval()


def written(folder: Path, masks: dict[str, np.ndarray], facts: dict | None = None) -> Clip:
    rng = np.random.default_rng(0)
    with building(folder, manifest := Manifest(kind="clip", config={})) as partial, ClipWriter(partial) as writer:
        for index in range(6):
            rgb = rng.integers(0, 256, (32, 48, 3)).astype(np.uint8)
            writer.write(rgb, masks={name: mask[index] for name, mask in masks.items()})
        manifest.facts = writer.facts | (facts or {})
    return open_clip(folder)


def test_the_region_holds_each_body_and_what_lies_beside_and_below_it() -> None:
    mask = np.zeros((100, 160), bool)
    mask[40:60, 70:100] = True
    region = change_region(mask)
    assert (region[mask] == 255).all()
    assert region[62, 85] == 255  # below
    assert region[58, 45] == 255  # beside: a shadow on the road
    assert region[58, 5] == 0
    assert region[25, 85] == 0  # the sky above
    assert region[85, 85] == 0
    # It fades: no step on the way out is larger than a tenth or so.
    assert np.abs(np.diff(region[50].astype(int))).max() < 40
    assert not change_region(np.zeros((8, 8), bool)).any()
    # Two bodies far from each other have regions of their own.
    two = mask.copy()
    two[45:50, 2:8] = True
    assert (change_region(two) >= region).all()
    assert change_region(two)[47, 5] == 255
    assert change_region(two)[47, 29] == region[47, 29]


def test_outside_the_region_pixels_stay_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(1, 3, 2, 8, 8, generator=generator) for _ in range(2))
    region = torch.zeros(1, 1, 2, 8, 8)
    region[..., 2:5, 2:5] = 1.0
    region[..., 5, 2:5] = 0.5
    y[..., 7, 7] = float("nan")
    out = confined(x, y, region)
    assert torch.equal(out[..., 6:, :], x[..., 6:, :])
    torch.testing.assert_close(out[..., 2:5, 2:5], y[..., 2:5, 2:5])
    torch.testing.assert_close(out[..., 5, 2:5], (x + y)[..., 5, 2:5] / 2)


def test_a_fresh_harmoniser_changes_nothing_and_fits_beside_the_bundled_enhancer() -> None:
    harmoniser = small_harmoniser()
    assert 2 * sum(p.numel() for p in harmoniser.parameters()) < 8_000_000
    clip = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    inserted = channels_of(MASKS[:5])
    assert torch.equal(harmoniser(clip, inserted=inserted), clip)
    with pytest.raises(ValueError, match="must be told what was put in"):
        harmoniser(clip)
    with pytest.raises(ValueError, match="must be told what was put in"):
        next(StreamingEnhancer(harmoniser).frames(iter([np.zeros((32, 48, 3), np.uint8)]), 1))


def channels_of(masks: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([insertion_channels(mask) for mask in masks])).permute(3, 0, 1, 2)[None].float() / 255


def test_a_mask_counts_for_nothing_until_it_is_trained_and_then_does() -> None:
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32), skips=SMALL_SKIPS, harmonises=True)
    torch.nn.init.normal_(enhancer.vae.decoder.conv_out.weight, std=0.2)
    clip = torch.rand(1, 3, 5, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    everywhere, inserted = torch.ones(1, 4, 5, 32, 48), channels_of(MASKS[:5])
    inserted[:, 3] = 1.0
    with torch.no_grad():
        assert torch.equal(enhancer(clip, inserted=everywhere), enhancer(clip, inserted=inserted))
        awake(enhancer)
        assert (enhancer(clip, inserted=everywhere) - enhancer(clip, inserted=inserted)).abs().max() > 1e-3


def test_a_stream_gives_what_the_whole_clip_does_and_leaves_the_rest_to_the_byte(tmp_path: Path) -> None:
    enhancer = awake(small_harmoniser())
    enhancer.spec = dataclasses.replace(enhancer.spec, window=3, overlap=1)
    clip = written(tmp_path / "clip", {INSERTED: MASKS})
    frames = np.stack(list(clip.iter_rgb()))
    enhance_clip(enhancer, clip, tmp_path / "out")
    out = np.stack(list(open_clip(tmp_path / "out").iter_rgb()))
    region = np.stack([change_region(mask) for mask in MASKS])
    assert np.array_equal(out[region == 0], frames[region == 0])
    assert (region == 0).mean() > 0.2
    assert np.abs(out.astype(int) - frames)[region == 255].max() > 3
    # Six frames are two groups of four and one; the last is filled by repeating. Below, a row of latents is added by reflection.
    more, below = ((0, 3), (0, 0), (0, 0), (0, 0)), ((0, 0), (0, 16), (0, 0), (0, 0))
    channels = np.stack([insertion_channels(mask) for mask in MASKS])
    padded = [np.pad(np.pad(x, more, mode="edge"), below, mode="symmetric") for x in (frames, channels)]
    given, inserted = (torch.from_numpy(x).permute(3, 0, 1, 2)[None].float() for x in padded)
    whole = enhancer(given / 127.5 - 1, inserted=inserted / 255)[0, :, :6, :32].clamp(-1, 1).permute(1, 2, 3, 0)
    assert np.abs((whole.detach().numpy() + 1) * 127.5 - out).max() < 1.0


def test_clips_say_what_was_put_in_by_a_mask_or_by_their_bodies(tmp_path: Path) -> None:
    other = np.roll(MASKS, 9, axis=1)
    plain = written(tmp_path / "plain", {"sky": MASKS})
    with pytest.raises(UserError, match="plain: it does not say what was put in"):
        insertions_of(plain)
    with pytest.raises(UserError, match="does not say what was put in"):
        enhance_clip(small_harmoniser(), plain, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    one = written(tmp_path / "one", {INSERTED: MASKS, "sky": other})
    assert all(np.array_equal(a, insertion_channels(b)) for a, b in zip(insertions_of(one), MASKS, strict=True))
    bodies = {INSERTED: {"new": {"mask": "masks/new"}, "b/2": {"mask": "masks/b_2"}}}
    two = written(tmp_path / "two", {"new": MASKS, "b_2": other}, bodies)
    assert all(np.array_equal(a, insertion_channels(b | c)) for a, b, c in zip(insertions_of(two), MASKS, other, strict=True))
    # An enhanced clip says so too, and can be harmonised.
    enhance_clip(small_enhancer(small_vae(8), small_transformer(1, 1, 32)), two, tmp_path / "enhanced")
    again = insertions_of(open_clip(tmp_path / "enhanced"))
    assert all(np.array_equal(a, insertion_channels(b | c)) for a, b, c in zip(again, MASKS, other, strict=True))
    (two.path / "masks" / "b_2" / "000003.png").unlink()
    with pytest.raises(UserError, match=r"000003.png: this mask is missing"):
        list(insertions_of(two))


def test_a_harmoniser_comes_back_from_its_folder(tmp_path: Path) -> None:
    enhancer = awake(small_harmoniser())
    folder = tmp_path / "harmoniser"
    folder.mkdir()
    save_enhancer(enhancer, folder)
    info = read_json(folder / INFO)
    assert "insertion" in info["requires"]
    again = load_enhancer(folder)
    clip, inserted = torch.rand(1, 3, 5, 32, 48) * 2 - 1, channels_of(MASKS[:5])
    with torch.no_grad():
        assert torch.equal(again(clip, inserted=inserted), enhancer(clip, inserted=inserted))
    write_json(folder / INFO, info | {"requires": [part for part in info["requires"] if part != "insertion"]})
    with pytest.raises(UserError, match="disagree about insertion"):
        load_enhancer(folder)


def test_a_trained_one_is_bundled_beside_the_enhancer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "_FOLDERS", {BUNDLED: str(tmp_path / "a"), BUNDLED_HARMONISER: str(tmp_path / "b")})
    with pytest.raises(UserError, match="comes without bundled weights"):
        load_enhancer(BUNDLED_HARMONISER)
    (tmp_path / "trained").mkdir()
    save_enhancer(small_harmoniser(), tmp_path / "trained")
    assert copy_as_bundled(tmp_path / "trained") < 8_000_000
    assert load_enhancer(BUNDLED_HARMONISER).spec.harmonises
    assert not (tmp_path / "a").exists()


def test_a_wan_model_becomes_one_that_is_told() -> None:
    base = small_enhancer(small_vae(8), small_transformer(1, 1, 32), output="direct", skips=())
    skip = dataclasses.replace(WAN_SKIPS[0], tap="down_blocks.2", join="up_blocks.0")
    told = as_harmoniser(base, (skip,))
    assert told.vae is base.vae
    assert as_harmoniser(told) is told
    clip = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    inserted = torch.ones(1, 4, 5, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(told(clip, inserted=inserted), base(clip), atol=1e-5, rtol=1e-5)


def test_bodies_take_their_share_of_the_change() -> None:
    region, mask = torch.ones(1, 1, 2, 12, 16), torch.zeros(1, 1, 2, 12, 16)
    region[..., :2] = 0.0
    mask[:, :, 1, 4:8, 6:10] = 1.0
    less = less_on_bodies(region, mask, 0.25)
    assert torch.equal(less[:, :, 0], region[:, :, 0])
    assert (less[0, 0, 1, 4:8, 6:10] == 0.25).all()
    assert torch.equal(less[0, 0, 1, :, 12:], region[0, 0, 1, :, 12:])
    assert (less[..., :2] == 0).all()
    torch.manual_seed(0)
    enhancer = awake(small_harmoniser())
    clip = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    inserted = channels_of(MASKS[:5])
    with torch.no_grad():
        whole = enhancer(clip, inserted=inserted)
        enhancer.spec = dataclasses.replace(enhancer.spec, on_bodies=0.5)
        half = enhancer(clip, inserted=inserted)
    body, beside = inserted[:, :1] > 0, less_on_bodies(inserted[:, 3:], inserted[:, :1], 0.5) == inserted[:, 3:]
    assert body.any()
    assert torch.allclose((half - clip)[body.expand_as(clip)], 0.5 * (whole - clip)[body.expand_as(clip)], atol=1e-6)
    assert torch.equal(half[beside.expand_as(clip)], whole[beside.expand_as(clip)])


def test_the_bundled_one_draws_nothing_along_the_lower_edge() -> None:
    """A dark body on a grey road, in frames as high as those of training, which end with whole latents."""
    harmoniser = load_enhancer(BUNDLED_HARMONISER)
    assert harmoniser.spec.on_bodies == 0.5
    frames, masks = np.full((5, 192, 320, 3), 120, np.uint8), np.zeros((5, 192, 320), bool)
    masks[:, 120:180, 60:160] = True
    frames[masks] = 40
    made = StreamingEnhancer(harmoniser).frames(iter(frames), 5, inserted=iter([insertion_channels(mask) for mask in masks]))
    out = np.stack(list(made)).astype(float)
    assert np.abs(out - frames)[:, 150:].max() > 3, "the ground below the body changes"
    alternating = np.abs(out[:, :, 2:] - 2 * out[:, :, 1:-1] + out[:, :, :-2]).mean(axis=(2, 3))
    assert alternating[:, 184:].max() < 3.0
