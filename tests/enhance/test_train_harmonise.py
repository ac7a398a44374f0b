"""Training harmonisers: gradients with masks, both recipes of the small and of a Wan model at toy size, and pairs that do not serve."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import load_enhancer
from splatmend.enhance.base import CAPTION_FILE
from splatmend.enhance.harmoniser import SMALL_SKIPS, WAN_SKIPS, told_weights
from splatmend.enhance.insertion import INSERTED
from splatmend.enhance.model import Enhancer, LoraInfo
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.stream import enhance_clip
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import Batch, DataConfig
from splatmend.enhance.train.onestep import OneStepObjective, choose_parameters, train_onestep
from splatmend.enhance.train.recipes import harmonise, harmonise_14b, harmonise_14b_reconstruct, harmonise_reconstruct, starting_enhancer

TOY = {
    "steps": 2, "batch": 1, "clip_frames": 9, "crop_px": (32, 48), "precision": "fp32", "device": "cpu", "log": False, "log_every": 1,
    "losses": {"mse": 1.0},
}  # fmt: skip


def toy(config: OneStepTrainConfig, **others: object) -> OneStepTrainConfig:
    """A recipe at toy size, without the networks that are not on every machine."""
    return dataclasses.replace(config, **(TOY | others))  # type: ignore[arg-type]


def tiny(output: str = "residual") -> Enhancer:
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32), output=output, skips=SMALL_SKIPS, harmonises=True)  # type: ignore[arg-type]
    for weight in told_weights(enhancer):
        torch.nn.init.normal_(weight, std=0.15)
    return enhancer


def write_clip(folder: Path, frames: np.ndarray, masks: np.ndarray | None) -> None:
    with building(folder, manifest := Manifest(kind="clip", config={})) as partial, ClipWriter(partial) as writer:
        for index, rgb in enumerate(frames):
            writer.write(rgb, masks=None if masks is None else {INSERTED: masks[index]})
        manifest.facts = writer.facts


def write_pair(folder: Path, *, masks: bool = True) -> DataConfig:
    """A red body that should be blue, with a shadow to its right, on a grey ground."""
    degraded = np.full((9, 32, 48, 3), 0.6, np.float32)
    degraded[:, :6] = 0.8
    target, mask = degraded.copy(), np.zeros((9, 32, 48), bool)
    for index in range(9):
        left = 12 + index
        mask[index, 10:20, left : left + 12] = True
        target[index, 16:20, left + 12 : left + 20] = 0.3
    degraded[mask], target[mask] = (0.7, 0.3, 0.3), (0.2, 0.3, 0.6)
    write_clip(folder / "bad", degraded, mask if masks else None)
    write_clip(folder / "good", target, None)
    (folder / "pairs.jsonl").write_text(json.dumps({"degraded": "bad", "target": "good", "split": "train"}) + "\n")
    return DataConfig(pairs=(folder / "pairs.jsonl",), clean_share=0.0, mild_share=0.0, flip=False)


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    """A toy Wan base in diffusers' layout, with the blocks of Wan 2.1."""
    torch.manual_seed(0)
    folder = tmp_path / "wan"
    transformer = small_transformer(1, 1, 32)
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
    transformer.save_pretrained(folder / "transformer")
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=2, temperal_downsample=[False, True, True])
    vae.save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text("{}")
    save_file({"caption": torch.randn(1, 3, 64)}, folder / CAPTION_FILE)
    return folder


@pytest.mark.parametrize("output", ["direct", "residual"])
def test_with_enough_links_a_step_with_masks_equals_plain_backpropagation(output: str) -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.rand(1, 3, 9, 16, 16, generator=generator) * 2 - 1 for _ in range(2))
    batch = Batch(a, b, ("pair",), inserted=torch.randint(0, 256, (1, 4, 9, 16, 16), generator=generator).to(torch.uint8))
    found = []
    for truncation in (None, 2):
        torch.manual_seed(4)
        enhancer = tiny(output)
        for module in (enhancer.vae.decoder.conv_out, enhancer.transformer.proj_out):
            torch.nn.init.normal_(module.weight, std=0.2)
        for join in enhancer.join_modules().values():
            torch.nn.init.ones_(join.gate)
        settings = toy(harmonise_reconstruct(), crop_px=(16, 16), losses={"l1": 1.0}, truncation=truncation)
        parameters = choose_parameters(settings, enhancer)
        OneStepObjective(settings, enhancer).add_gradients(batch)
        found.append({name: p.grad for name, p in parameters.items() if p.grad is not None})
    exact, linked = found
    assert exact.keys() == linked.keys()
    assert {"mask_input.mix.weight", "joins.mid_block.fuse.weight", "vae.encoder.conv_in.weight"} <= exact.keys()
    assert exact["mask_input.mix.weight"].abs().max() > 0
    assert exact["joins.mid_block.fuse.weight"][:, -1].abs().max() > 0
    for name in exact:
        torch.testing.assert_close(linked[name], exact[name], atol=2e-5, rtol=2e-3, msg=lambda m, name=name: f"{name}: {m}")


def test_a_small_one_learns_light_and_shadow_and_leaves_the_rest(tmp_path: Path) -> None:
    data = write_pair(tmp_path)
    torch.manual_seed(0)
    first = toy(harmonise_reconstruct(), steps=60, lr=1e-2, warmup_steps=5, ema=None, clip_frames=5)
    out = train_onestep(first, data, tiny(), tmp_path / "one")
    assert out is not None
    out = train_onestep(toy(harmonise(), lr=1e-4, ema=None), data, load_enhancer(out), tmp_path / "two")
    assert out is not None
    harmoniser = load_enhancer(out)
    assert harmoniser.spec.harmonises
    enhance_clip(harmoniser, open_clip(tmp_path / "bad"), tmp_path / "done")
    bad, good, done = (np.stack(list(open_clip(tmp_path / name).iter_rgb())).astype(float) for name in ("bad", "good", "done"))
    shadow = (good != bad).all(axis=-1) & (good[..., 0] == good[..., 1])
    assert shadow.sum() > 200
    assert np.square(done - good).mean() < 0.6 * np.square(bad - good).mean()
    assert np.abs(done - good)[shadow].mean() < 0.95 * np.abs(bad - good)[shadow].mean()
    np.testing.assert_array_equal(done[:, 29:], bad[:, 29:])


def test_a_wan_model_learns_to_give_back_and_then_to_harmonise(wan: Path, tmp_path: Path) -> None:
    data = write_pair(tmp_path)
    lora = LoraInfo(rank=2, alpha=4, targets=())
    first = toy(harmonise_14b_reconstruct(), decoder_lora=lora)
    enhancer = starting_enhancer(wan, harmonises=first.harmonises)
    assert enhancer.spec.skips == WAN_SKIPS
    one = train_onestep(first, data, enhancer, tmp_path / "one")
    assert one is not None
    assert not (one / "transformer").exists()
    second = toy(harmonise_14b(), decoder_lora=lora, transformer_lora=LoraInfo(rank=2, alpha=4))
    two = train_onestep(second, data, starting_enhancer(one, harmonises=True), tmp_path / "two")
    assert two is not None
    harmoniser = load_enhancer(two)
    assert harmoniser.spec.lora is not None
    assert harmoniser.join_modules()["up_blocks.1"].gate.abs().max() > 0
    enhance_clip(harmoniser, open_clip(tmp_path / "bad"), tmp_path / "done")
    bad, done = (np.stack(list(open_clip(tmp_path / name).iter_rgb())) for name in ("bad", "done"))
    np.testing.assert_array_equal(done[:, 29:], bad[:, 29:])
    assert np.abs(done.astype(int) - bad).max() > 3


def test_what_cannot_be_trained_is_said(wan: Path, tmp_path: Path) -> None:
    data = write_pair(tmp_path, masks=False)
    with pytest.raises(UserError, match="bad: it does not say what was put in"):
        train_onestep(toy(harmonise_reconstruct()), data, tiny(), tmp_path / "out")
    with pytest.raises(UserError, match="nothing was put into a plain video"):
        train_onestep(toy(harmonise_reconstruct()), DataConfig(videos=(tmp_path / "good",)), tiny(), tmp_path / "out")
    with pytest.raises(UserError, match="reconstruct leaves the transformer out"):
        toy(harmonise_14b_reconstruct(), output="residual")
    with pytest.raises(UserError, match="its skips know nothing of masks"):
        starting_enhancer("bundled", harmonises=True)
    assert not (tmp_path / "out").exists()
