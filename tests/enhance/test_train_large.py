"""What makes a step of a large model fit: dtypes, kept latents, clips on the host, what autograd keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter
from splatmend.datasets.errors import UserError
from splatmend.enhance.base import CAPTION_FILE, load_base
from splatmend.enhance.model import Enhancer, LoraInfo
from splatmend.enhance.small import small_transformer, small_vae
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import Batch, DataConfig, TrainingClips, unit_range
from splatmend.enhance.train.latents import LatentCache, encoder_key
from splatmend.enhance.train.loop import make_accelerator
from splatmend.enhance.train.onestep import OneStepObjective, choose_parameters, latent_cache, prepare_transformer, train_onestep
from splatmend.enhance.train.parallel import Processes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy Wan base model in diffusers' layout."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan") / "base"
    transformer = small_transformer(2, 3, 32)
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
    transformer.save_pretrained(folder / "transformer")
    small_vae(8).save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text("{}")
    save_file({"caption": torch.randn(1, 3, 64)}, folder / CAPTION_FILE)
    return folder


def settings(**others: object) -> OneStepTrainConfig:
    base: dict[str, object] = {
        "steps": 1, "lr": 1e-3, "precision": "bf16", "device": "cpu", "clip_frames": 9, "crop_px": (32, 32), "ema": None, "log": False,
        "losses": {"latent_mse": 0.1, "mse": 1.0}, "transformer": "lora", "transformer_lora": LoraInfo(rank=4, alpha=8),
        "transformer_checkpoint": True, "host_clips": True, "log_every": 1,
    }  # fmt: skip
    return OneStepTrainConfig(**(base | others))  # type: ignore[arg-type]


def byte_batch(frames: int = 9) -> Batch:
    """Clips as bytes on the host."""
    rng = np.random.default_rng(5)
    degraded, target = (torch.from_numpy(rng.integers(0, 256, (1, frames, 32, 32, 3)).astype(np.uint8)) for _ in range(2))
    return Batch(degraded.permute(0, 4, 1, 2, 3), target.permute(0, 4, 1, 2, 3), ("pair",))


def prepared(
    config: OneStepTrainConfig, folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[Enhancer, dict[str, torch.nn.Parameter]]:
    enhancer = load_base(str(folder), dtype=dtype)
    torch.manual_seed(1)
    parameters = choose_parameters(config, enhancer)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    prepare_transformer(config, enhancer, Processes(make_accelerator(settings())))
    return enhancer, parameters


def gradients(config: OneStepTrainConfig, enhancer: Enhancer, parameters: dict[str, torch.nn.Parameter], batch: Batch) -> torch.Tensor:
    for parameter in parameters.values():
        parameter.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=config.in_bf16):
        OneStepObjective(config, enhancer).add_gradients(batch)
    return torch.cat([p.grad.flatten() for p in parameters.values() if p.grad is not None])


def test_a_frozen_transformer_is_held_in_half_precision_and_what_is_trained_in_full(base_folder: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        enhancer, parameters = prepared(settings(), base_folder, dtype)
        assert all(p.dtype == torch.float32 and "lora_" in name for name, p in parameters.items())
        for name, parameter in enhancer.transformer.named_parameters():
            if not parameter.requires_grad:
                kept = any(part in name for part in ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"))
                assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), name
    full, parameters = prepared(settings(transformer="full", transformer_lora=None), base_folder, torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in parameters.values())
    assert len(parameters) == len(list(full.transformer.parameters()))


def test_bytes_on_the_host_give_the_gradients_of_frames_on_the_device(base_folder: Path) -> None:
    batch = byte_batch()
    there = Batch(unit_range(batch.degraded, CPU), unit_range(batch.target, CPU), batch.kinds)
    config = settings(precision="fp32")
    ours = gradients(config, *prepared(config, base_folder), batch)
    plain = settings(precision="fp32", host_clips=False, transformer_checkpoint=False)
    expected = gradients(plain, *prepared(plain, base_folder), there)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)


def test_half_precision_gradients_are_those_of_full_precision_to_rounding(base_folder: Path) -> None:
    config, plain = settings(), settings(precision="fp32")
    ours = gradients(config, *prepared(config, base_folder), byte_batch())
    expected = gradients(plain, *prepared(plain, base_folder), byte_batch())
    assert float((ours - expected).norm() / expected.norm()) < 0.05


@contextmanager
def kept_by_autograd(kept: dict[int, torch.Tensor]) -> Iterator[None]:
    """Storages that autograd saves within the block."""

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def test_between_the_passes_little_more_than_the_blocks_inputs_is_kept(base_folder: Path) -> None:
    config = settings()
    enhancer, _ = prepared(config, base_folder)
    objective = OneStepObjective(config, enhancer)
    kept: dict[int, torch.Tensor] = {}
    with torch.autocast("cpu", torch.bfloat16), kept_by_autograd(kept):
        encoded = objective.encode(byte_batch().degraded)
        z_out = objective.predict(encoded)
    assert z_out.requires_grad
    weights = {p.untyped_storage().data_ptr() for p in enhancer.parameters()}
    activations = {k: t for k, t in kept.items() if k not in weights}
    tokens, width, layers = 3 * 2 * 2, 64, 3
    inputs = [t for t in activations.values() if t.shape == (1, tokens, width)]
    # One input a block; behind the last one the output's normalisation, in float32, keeps its own.
    assert sum(t.dtype == torch.bfloat16 for t in inputs) == layers
    assert sum(t.dtype == torch.float32 for t in inputs) <= 1
    # No copy of a frozen weight in another dtype is kept for the backward pass.
    frozen = {p.shape for p in enhancer.transformer.blocks.parameters() if not p.requires_grad and p.ndim == 2}
    assert not [t.shape for t in activations.values() if t.ndim == 2 and (t.shape in frozen or t.t().shape in frozen)]


def test_lora_layers_take_their_inputs_as_they_come(base_folder: Path) -> None:
    """peft would cast them to float32."""
    config = settings()
    enhancer, _ = prepared(config, base_folder)
    seen: set[torch.dtype] = set()
    for name, module in enhancer.transformer.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_pre_hook(lambda _module, inputs: seen.add(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        OneStepObjective(config, enhancer).add_gradients(byte_batch())
    assert seen == {torch.bfloat16}


def test_the_transformer_runs_backwards_once(base_folder: Path) -> None:
    config = settings()
    enhancer, _ = prepared(config, base_folder)
    passes: list[int] = []
    enhancer.transformer.proj_out.register_full_backward_hook(lambda *_: passes.append(1))
    with torch.autocast("cpu", torch.bfloat16):
        OneStepObjective(config, enhancer).add_gradients(byte_batch(13))
    assert passes == [1]


def test_backward_passes_run_without_autocast(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA devices their threads would take autocast over, but not its dtype, and compute in float16."""
    states: list[tuple[str, bool]] = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, name: str) -> torch.Tensor:
            ctx.name = name
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
            states.append((ctx.name, torch.is_autocast_enabled("cpu")))
            return grad, None

    config = settings()
    enhancer, _ = prepared(config, base_folder)
    enhancer.transformer.proj_out.register_forward_hook(lambda _module, _inputs, out: Watch.apply(out, "transformer"))
    enhancer.vae.post_quant_conv.register_forward_hook(lambda _module, _inputs, out: Watch.apply(out, "decoder"))
    objective = OneStepObjective(config, enhancer)
    loss = objective.pixel_loss
    monkeypatch.setattr(type(loss), "__call__", lambda self, frames, target, motion: (Watch.apply(frames, "loss") - target).square().mean())
    with torch.autocast("cpu", torch.bfloat16):
        objective.add_gradients(byte_batch())
    assert {name for name, _ in states} == {"transformer", "decoder", "loss"}
    assert not any(on for _, on in states)


@pytest.mark.gpu
def test_gradients_too_small_for_float16_survive(base_folder: Path) -> None:
    config = settings()
    enhancer, parameters = prepared(config, base_folder)
    enhancer.cuda()
    objective = OneStepObjective(config, enhancer)
    found = []
    for scale in (1.0, 1e-8):
        for parameter in parameters.values():
            parameter.grad = None
        with torch.autocast("cuda", torch.bfloat16):
            objective.add_gradients(byte_batch(), scale)
        found.append(torch.cat([p.grad.flatten() / scale for p in parameters.values() if p.grad is not None]))
    assert float((found[1] - found[0]).norm()) <= 0.05 * float(found[0].norm())


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """One pair of random clips, larger and longer than what a step sees."""
    rng = np.random.default_rng(0)
    for name in ("good", "bad"):
        manifest = Manifest(kind="clip", config={})
        with building(tmp_path / name, manifest) as folder, ClipWriter(folder) as writer:
            for _ in range(14):
                writer.write(rng.integers(0, 256, (40, 48, 3)).astype(np.uint8))
            manifest.facts = writer.facts
    (tmp_path / "pairs.jsonl").write_text('{"degraded": "bad", "target": "good"}\n')
    return DataConfig(pairs=(tmp_path / "pairs.jsonl",), distinct_samples=2, latents_gb=0.1, latents_dir=tmp_path / "latents")


def test_kept_latents_are_those_of_the_clip_at_hand_and_made_once(base_folder: Path, data: DataConfig) -> None:
    """Windows, crops, flips and mixtures are drawn at random; ten steps see two samples of two clips."""
    config = settings()
    enhancer, _ = prepared(config, base_folder)
    clips = TrainingClips(data, clip_frames=9, crop_px=(32, 32), batch=1, seed=0)
    objective = OneStepObjective(config, enhancer, latents=latent_cache(config, data, enhancer))
    made: list[int] = []
    encode = objective.encode
    objective.encode = lambda clip: made.append(1) or encode(clip)  # type: ignore[method-assign,func-returns-value]
    contents = set()
    with torch.autocast("cpu", torch.bfloat16):
        for step in range(10):
            batch = clips.finish(clips.raw(step), CPU, on_host=True)
            contents.update(batch.keys[0])
            assert torch.equal(objective.encode_input(batch).latents, encode(batch.degraded).latents)
            assert torch.equal(objective.encode_target(batch), encode(batch.target).latents)
        assert 2 <= len(contents) <= 4
        assert len(made) == len(contents)
        again = OneStepObjective(config, enhancer, latents=latent_cache(config, data, enhancer))
        again.encode = None  # type: ignore[method-assign,assignment]
        assert torch.equal(again.encode_input(batch).latents, encode(batch.degraded).latents)


def test_another_autoencoder_or_precision_finds_nothing(base_folder: Path) -> None:
    one = load_base(str(base_folder)).vae
    keys = [encoder_key(one, "bf16"), encoder_key(one, "fp32")]
    one.encoder.conv_in.weight.data[0] += 1e-3
    keys.append(encoder_key(one, "bf16"))
    one.register_to_config(latents_mean=[0.5] * 16)
    keys.append(encoder_key(one, "bf16"))
    assert len(set(keys)) == 4


def test_kept_latents_stay_within_their_limit_and_a_broken_file_is_named(tmp_path: Path) -> None:
    cache = LatentCache("key", 2 * 400, tmp_path)
    for i in range(4):
        cache.latents(str(i), lambda i=i: torch.full((100,), float(i)))  # type: ignore[misc]
        assert cache.bytes <= 800
    assert float(cache.latents("0", lambda: torch.zeros(0))[0]) == 0.0
    assert len(cache.latents("0", lambda: torch.zeros(0))) == 100
    (tmp_path / "key" / "1.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="remove the file"):
        cache.latents("1", lambda: torch.zeros(0))


def test_a_training_with_kept_latents_equals_one_without(base_folder: Path, data: DataConfig, tmp_path: Path) -> None:
    import dataclasses

    plain = dataclasses.replace(data, latents_gb=0.0, latents_dir=None)
    config = settings(steps=3)
    curves = []
    for name, source in (("kept", data), ("plain", plain)):
        out = train_onestep(config, source, load_base(str(base_folder)), tmp_path / name)
        assert out is not None
        rows = (out / "curve.jsonl").read_text().splitlines()
        curves.append([[p for p in row.split(", ") if "seconds" not in p] for row in rows])
    assert curves[0] == curves[1]


def test_settings_that_contradict_each_other_are_named() -> None:
    with pytest.raises(UserError, match="host_clips"):
        settings(truncation=None)
    with pytest.raises(UserError, match="distinct_samples"):
        DataConfig(videos=(Path("x"),), distinct_samples=0)
