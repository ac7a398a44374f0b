"""Training the fusion of references alone: what changes, what does not, and what it learns."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_fusion import LAYERS, as_clip, texture, tiny, write_clip

from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import load_enhancer, load_fusion, save_enhancer
from splatmend.enhance.fusion import ReferenceFusion, fresh_fusion
from splatmend.enhance.lora import add_lora
from splatmend.enhance.model import LoraInfo
from splatmend.enhance.train.config import FusionTrainConfig
from splatmend.enhance.train.data import DataConfig, TrainingClips
from splatmend.enhance.train.fusion import FusionObjective, fused, train_fusion
from splatmend.pipelines.cli import main


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """A blurred clip whose first layer shows the truth."""
    truth = texture(9)
    layers = np.zeros((9, LAYERS, *truth.shape[1:3], 4), np.uint8)
    layers[:, 0, ..., :3], layers[:, 0, ..., 3] = truth, 255
    write_clip(tmp_path / "target", truth)
    write_clip(tmp_path / "degraded", np.stack([cv2.GaussianBlur(frame, (0, 0), 2.0) for frame in truth]), layers)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"degraded": "degraded", "target": "target", "kind": "sparse", "split": "train"}))
    return DataConfig(pairs=(tmp_path / "pairs.jsonl",), clean_share=0.0, mild_share=0.0, bare_share=0.0)


def config(**settings: object) -> FusionTrainConfig:
    defaults: dict[str, object] = {
        "steps": 20, "lr": 3e-3, "warmup_steps": 0, "clip_frames": 5, "crop_px": (32, 48), "batch": 2, "losses": {"l1": 1.0}, "ema": None,
        "references": LAYERS, "device": "cpu", "log": False, "log_every": 1,
    }  # fmt: skip
    return FusionTrainConfig(**(defaults | settings))  # type: ignore[arg-type]


def saved(folder: Path, layers: int = LAYERS, dtype: torch.dtype | None = torch.bfloat16) -> Path:
    model = tiny(layers)
    model.spec = dataclasses.replace(model.spec, strength=0.6, provenance={"stages": ["one"]})
    folder.mkdir()
    save_enhancer(model, folder, dtype=dtype)
    return folder


def test_everything_but_the_fusion_stays_byte_by_byte(data: DataConfig, tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    done = train_fusion(config(), data, base, tmp_path / "out")
    assert done == tmp_path / "out"
    for name in ("vae/diffusion_pytorch_model.safetensors", "transformer/diffusion_pytorch_model.safetensors", "vae/config.json"):
        assert (done / name).read_bytes() == (base / name).read_bytes()
    before, after = load_enhancer(base), load_enhancer(done)
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed
    assert all(name.startswith("fusion.") for name in changed)
    assert after.spec.strength == 0.6
    assert after.spec.window == before.spec.window
    assert after.spec.provenance["stages"] == ["one"]
    assert after.spec.provenance["fusion"]["steps"] == 20
    losses = [json.loads(line)["l1"] for line in (done / "curve.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
    assert list((done / "samples").iterdir())


def test_the_loss_is_that_of_the_output_at_strength_zero(data: DataConfig) -> None:
    model = tiny()
    clips = TrainingClips(data, clip_frames=5, crop_px=(32, 48), batch=2, seed=0, references=LAYERS)
    batch = clips.finish(clips.raw(0), torch.device("cpu"))
    assert model.fusion is not None
    assert batch.references is not None
    model.fusion.requires_grad_(True)
    loss = FusionObjective(config(), model.fusion).add_gradients(batch)["loss"]
    with torch.no_grad():
        out = model(batch.degraded, strength=0.0, references=batch.references.float() / 127.5 - 1)
        assert torch.equal(out, fused(model.fusion, batch))
    assert float(loss) == pytest.approx(float((out - batch.target).abs().mean()), rel=1e-5)
    assert all(p.grad is not None for p in model.fusion.parameters())


def test_any_base_gets_one(data: DataConfig, tmp_path: Path) -> None:
    """An enhancer without references, one with a LoRA, and a Wan folder, whose own weights stay where they are."""
    bare = saved(tmp_path / "bare", layers=0)
    done = train_fusion(config(steps=2), data, bare, tmp_path / "from-bare")
    assert done is not None
    assert load_enhancer(done).spec.references == LAYERS
    wan = tiny(0)
    (tmp_path / "wan").mkdir()
    wan.vae.save_pretrained(tmp_path / "wan/vae")
    wan.transformer.save_pretrained(tmp_path / "wan/transformer")
    (tmp_path / "wan/model_index.json").write_text("{}")
    from safetensors.torch import save_file

    save_file({"caption": wan.caption}, tmp_path / "wan/caption.safetensors")
    done = train_fusion(config(steps=2), data, tmp_path / "wan", tmp_path / "from-wan")
    assert done is not None
    assert not (done / "vae").exists()
    again = load_enhancer(done)
    assert again.spec.output == "direct"
    assert again.spec.references == LAYERS
    assert torch.equal(again.caption, wan.caption)
    lora = load_enhancer(tmp_path / "wan")
    info = LoraInfo(rank=2, alpha=1.0)
    add_lora(lora.transformer, info)
    lora.spec = dataclasses.replace(lora.spec, lora=info)
    (tmp_path / "lora").mkdir()
    save_enhancer(lora, tmp_path / "lora", own_vae=False, own_transformer=False)
    done = train_fusion(config(steps=2), data, tmp_path / "lora", tmp_path / "from-lora")
    assert done is not None
    for file in (tmp_path / "lora/lora").iterdir():
        assert (done / "lora" / file.name).read_bytes() == file.read_bytes()
    assert load_enhancer(done).spec.lora == info


def test_it_goes_on_from_the_fusion_that_is_there_or_begins_anew(data: DataConfig, tmp_path: Path) -> None:
    base = saved(tmp_path / "base", dtype=None)
    held = load_fusion(base)
    assert held is not None
    for fresh, expected in ((False, held), (True, fresh_fusion(LAYERS, 5))):
        done = train_fusion(config(steps=1, lr=1e-9, fresh=fresh, seed=5), data, base, tmp_path / f"fresh-{fresh}")
        assert done is not None
        trained = load_fusion(done)
        assert trained is not None
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(trained.state_dict()[name], value, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(held.shares_out.weight, expected.shares_out.weight)


def test_a_paused_training_goes_on_to_the_same_bits(data: DataConfig, tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    moved = dataclasses.replace(data, displaced_share=0.5)
    settings = config(steps=6, flow_warping=0.5)
    whole = train_fusion(settings, moved, base, tmp_path / "whole")
    assert train_fusion(dataclasses.replace(settings, pause_seconds=0.0), moved, base, tmp_path / "parts") is None
    parts = train_fusion(settings, moved, base, tmp_path / "parts", resume=True)
    assert whole is not None
    assert parts is not None
    assert (whole / "adapter.safetensors").read_bytes() == (parts / "adapter.safetensors").read_bytes()


def test_another_base_does_not_go_on(data: DataConfig, tmp_path: Path) -> None:
    """Even one with the same fusion, whose other parts would be written with it."""
    base, other = saved(tmp_path / "base"), tmp_path / "other"
    shutil.copytree(base, other)
    paused = config(pause_seconds=0.0)
    assert train_fusion(paused, data, base, tmp_path / "out") is None
    assert train_fusion(paused, data, other, tmp_path / "out", resume=True) is None  # a copy is the same one
    weights = other / "vae" / "diffusion_pytorch_model.safetensors"
    held = weights.read_bytes()
    weights.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    with pytest.raises(UserError, match="the enhancer that it begins with is another"):
        train_fusion(paused, data, other, tmp_path / "out", resume=True)


def shifted_layers(truth: torch.Tensor, px: int) -> torch.Tensor:
    layers = -torch.ones(1, 4 * LAYERS, *truth.shape[2:])
    layers[:, :3], layers[:, 3] = truth.roll((px, px), dims=(-2, -1)), 1.0
    return layers


def test_displaced_layers_teach_it_to_move_them(data: DataConfig, tmp_path: Path) -> None:
    """Trained on layers that lie right it takes the truth as it lies; trained on displaced ones as well it mends shifts better."""
    base = saved(tmp_path / "base", layers=0)
    truth = as_clip(texture(2, seed=7))
    blurred = torch.nn.functional.avg_pool3d(truth, (1, 5, 5), 1, (0, 2, 2), count_include_pad=False)
    errors = []
    for share in (0.0, 0.8):
        moved = dataclasses.replace(data, displaced_share=share)
        done = train_fusion(config(steps=60, losses={"mse": 1.0}), moved, base, tmp_path / f"moved{share}")
        assert done is not None
        fusion = load_fusion(done)
        assert isinstance(fusion, ReferenceFusion)
        with torch.no_grad():
            made = [fusion(blurred, shifted_layers(truth, px)) for px in (0, 1, 2)]
        errors.append([float((one - truth)[..., 8:-8, 8:-8].square().mean()) for one in made])
    assert sum(errors[1][1:]) < 0.8 * sum(errors[0][1:])


def test_displaced_layers_are_drawn_by_share(data: DataConfig) -> None:
    def references(**settings: float) -> list[np.ndarray]:
        clips = TrainingClips(dataclasses.replace(data, **settings), clip_frames=5, crop_px=(32, 48), batch=1, seed=0, references=LAYERS)
        drawn = [clips.raw(step).references for step in range(8)]
        return [layers for layers in drawn if layers is not None]

    still, moved, nowhere = references(), references(displaced_share=0.5), references(displaced_share=1.0, displaced_px=0.0)
    assert len(still) == 8
    differ = [bool((a[..., :4] != b[..., :4]).any()) for a, b in zip(still, moved, strict=True)]
    assert 0 < sum(differ) < len(differ)
    assert not any(layers[..., 4:].any() for layers in moved)
    for a, b in zip(still, nowhere, strict=True):
        np.testing.assert_array_equal(a, b)


def test_faults_are_named(data: DataConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="takes no references yet"):
        train_fusion(config(references=None), data, saved(tmp_path / "base", layers=0), tmp_path / "out")
    with pytest.raises(UserError, match="multiples of 4"):
        train_fusion(config(crop_px=(30, 48)), data, tmp_path / "base", tmp_path / "out")
    with pytest.raises(UserError, match="latent_mse has no meaning"):
        config(losses={"latent_mse": 1.0})
    with pytest.raises(UserError, match="references is 0"):
        config(references=0)
    with pytest.raises(UserError, match="displaced_share is 2"):
        dataclasses.replace(data, displaced_share=2.0)
    assert main(["train", "fusion", "--pairs", str(data.pairs[0]), "--out", str(tmp_path / "out")]) == 2
    assert "--base: the fusion is trained for an enhancer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_the_command(data: DataConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = saved(tmp_path / "base")
    arguments = [
        "--losses.lpips-squeeze-views",
        "0",
        "--steps",
        "2",
        "--crop-px",
        "32",
        "48",
        "--batch",
        "1",
        "--device",
        "cpu",
        "--no-log",
    ]
    given = ["train", "fusion", "--base", str(base), "--pairs", str(data.pairs[0]), "--out", str(tmp_path / "out"), *arguments]
    assert main(given) == 0
    assert "trained:" in capsys.readouterr().out
    recorded = json.loads((tmp_path / "out/manifest.json").read_text())["config"]
    assert recorded["data"]["displaced_share"] == 0.5
    assert recorded["data"]["bare_share"] == 0.0
