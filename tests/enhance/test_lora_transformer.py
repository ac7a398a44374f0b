"""A transformer LoRA on disk is what diffusers loads, at the same strength."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file

from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import load_enhancer, save_enhancer
from splatmend.enhance.base import CAPTION_FILE, load_base
from splatmend.enhance.lora import add_lora, lora_parameters
from splatmend.enhance.model import Enhancer, LoraInfo
from splatmend.enhance.small import small_transformer, small_vae


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    """A toy Wan base model in diffusers' layout."""
    torch.manual_seed(0)
    folder = tmp_path / "base"
    transformer = small_transformer(1, 2, 32)
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
    transformer.save_pretrained(folder / "transformer")
    small_vae(8).save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text("{}")
    save_file({"caption": torch.randn(1, 3, 64)}, folder / CAPTION_FILE)
    return folder


def with_lora(base_folder: Path) -> Enhancer:
    import dataclasses

    enhancer = load_base(str(base_folder))
    info = LoraInfo(rank=4, alpha=2)
    add_lora(enhancer.transformer, info)
    for parameter in lora_parameters(enhancer.transformer):
        torch.nn.init.normal_(parameter, std=0.3)
    enhancer.spec = dataclasses.replace(enhancer.spec, lora=info)
    return enhancer.eval()


def test_alpha_survives_in_our_loader_and_in_diffusers(base_folder: Path, tmp_path: Path) -> None:
    enhancer, z = with_lora(base_folder), torch.randn(1, 16, 2, 4, 4)
    folder = tmp_path / "enhancer"
    folder.mkdir()
    save_enhancer(enhancer, folder, own_vae=False, own_transformer=False)
    assert not (folder / "vae").exists()
    assert not (folder / "transformer").exists()
    with torch.no_grad():
        expected, plain = enhancer.predict(z), load_base(str(base_folder)).predict(z)
        ours = load_enhancer(folder).predict(z)
        other = load_base(str(base_folder))
        pipeline = WanPipeline(
            tokenizer=None,
            text_encoder=None,
            transformer=other.transformer,
            vae=other.vae,
            scheduler=None,  # type: ignore[arg-type]
        )
        pipeline.load_lora_weights(folder / "lora")
        theirs = other.predict(z)
    assert (expected - plain).abs().max() > 1e-2
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=1e-5)


def test_a_lora_that_is_gone_or_fits_nothing_is_an_error(base_folder: Path, tmp_path: Path) -> None:
    enhancer = with_lora(base_folder)
    folder = tmp_path / "enhancer"
    folder.mkdir()
    save_enhancer(enhancer, folder, own_vae=False, own_transformer=False)
    file = folder / "lora" / "pytorch_lora_weights.safetensors"
    save_file(load_file(file) | {"transformer.x": torch.tensor([float("nan")])}, file)
    with pytest.raises(UserError, match=r"pytorch_lora_weights.safetensors: transformer.x holds values that are no finite"):
        load_enhancer(folder)
    file.unlink()
    with pytest.raises(UserError, match="LoRA of this enhancer is missing"):
        load_enhancer(folder)
    with pytest.raises(UserError, match="name no layer"):
        add_lora(small_transformer(1, 1, 32), LoraInfo(rank=2, alpha=2, targets=("nothing",)))


def test_only_the_lora_is_trained(base_folder: Path) -> None:
    transformer = load_base(str(base_folder), dtype=torch.bfloat16).transformer
    parameters = add_lora(transformer, LoraInfo(rank=4, alpha=2))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in parameters)
    assert sum(p.requires_grad for p in transformer.parameters()) == len(parameters) > 0
