"""Stage two at toy size: gradients, overfitting, resuming, LoRA."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter
from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import load_enhancer
from splatmend.enhance.losses import PixelLoss
from splatmend.enhance.model import Enhancer, LoraInfo
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.train import onestep
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import Batch, DataConfig
from splatmend.enhance.train.onestep import OneStepObjective, choose_parameters, train_onestep
from splatmend.enhance.train.recipes import small_onestep

NAN = float("nan")


def tiny(output: str = "residual", *, active: bool = False) -> Enhancer:
    torch.manual_seed(3)
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32), output=output)  # type: ignore[arg-type]
    if active:
        for parameter in (enhancer.vae.decoder.conv_out.weight, enhancer.transformer.proj_out.weight):
            torch.nn.init.normal_(parameter, std=0.2)
        for join in enhancer.join_modules().values():
            torch.nn.init.normal_(join.gate)
    return enhancer


def config(**settings: object) -> OneStepTrainConfig:
    base: dict[str, object] = {
        "steps": 4, "lr": 2e-3, "precision": "fp32", "device": "cpu", "clip_frames": 9, "crop_px": (32, 32), "warmup_steps": 1,
        "losses": {"latent_mse": 0.1, "l1": 1.0}, "decoder": "full", "encoder": "full", "ema": None, "log_every": 1, "log": False,
    }  # fmt: skip
    return OneStepTrainConfig(**(base | settings))  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """One pair: a moving pattern, and the same with a colour cast and a grey bar."""
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 256, (4, 8, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    for name in ("good", "bad"):
        manifest = Manifest(kind="clip", config={})
        with building(tmp_path / name, manifest) as folder, ClipWriter(folder) as writer:
            for i in range(9):
                rgb = np.roll(pattern, 2 * i, axis=1)[:, :32].copy()
                if name == "bad":
                    rgb = np.clip(rgb * np.array([0.6, 0.8, 1.0]), 0, 255).astype(np.uint8)
                    rgb[10:14] = 128
                writer.write(rgb)
            manifest.facts = writer.facts
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"degraded": "bad", "target": "good", "split": "train"}) + "\n")
    return DataConfig(pairs=(tmp_path / "pairs.jsonl",), clean_share=0.0, mild_share=0.0, flip=False)


def random_batch(frames: int = 13) -> Batch:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.rand(1, 3, frames, 16, 16, generator=generator) * 2 - 1 for _ in range(2))
    return Batch(a, b, ("pair",))


def gradients(enhancer: Enhancer, settings: OneStepTrainConfig, scale: float = 1.0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    parameters = choose_parameters(settings, enhancer)
    metrics = OneStepObjective(settings, enhancer).add_gradients(random_batch(), scale)
    return {name: p.grad for name, p in parameters.items() if p.grad is not None}, metrics["loss"]


@pytest.mark.parametrize("output", ["direct", "residual", "difference"])
def test_with_enough_links_the_step_equals_plain_backpropagation(output: str) -> None:
    exact, loss = gradients(tiny(output, active=True), config(truncation=None))
    linked, same = gradients(tiny(output, active=True), config(truncation=3))
    torch.testing.assert_close(loss, same, atol=1e-5, rtol=1e-4)
    assert exact.keys() == linked.keys()
    assert any(name.startswith("vae.encoder") for name in exact)
    for name in exact:
        torch.testing.assert_close(linked[name], exact[name], atol=2e-5, rtol=2e-3, msg=lambda m, name=name: f"{name}: {m}")


def test_one_link_equals_a_reference_written_by_hand() -> None:
    """D = 1: the loss on group i reaches latents i and i - 1 only. Reference: one full graph per group, its cache two groups back cut."""
    enhancer, batch, settings = tiny(active=True), random_batch(), config(encoder="none", losses={"l1": 1.0})
    ours, _ = gradients(enhancer, settings)
    reference = tiny(active=True)
    parameters = choose_parameters(settings, reference)
    loss_of, adapter = PixelLoss({"l1": 1.0}), reference.adapter()
    with torch.no_grad():
        encoded = reference.encode(batch.degraded)
    total = torch.zeros(())
    z = reference.decoder_latents(encoded.latents, reference.predict(encoded.latents))
    caches = [adapter.initial_decoder_cache()]
    with torch.no_grad():
        for i in range(4):
            caches.append(adapter.decode_group(z[:, :, i : i + 1], caches[i], i, encoded.side[i])[1])
    for i, span in enumerate((slice(0, 1), slice(1, 5), slice(5, 9), slice(9, 13))):
        cache = caches[max(i - 1, 0)]
        for j in range(max(i - 1, 0), i + 1):
            frames, cache = adapter.decode_group(z[:, :, j : j + 1], cache, j, encoded.side[j])
        total = total + loss_of(batch.degraded[:, :, span] + frames, batch.target[:, :, span])
    (total / 13).backward()
    assert ours.keys() == {name for name, p in parameters.items() if p.grad is not None}
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, parameters[name].grad, atol=1e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")
    exact, _ = gradients(tiny(active=True), dataclasses.replace(settings, truncation=None))
    assert any(not torch.allclose(exact[name], ours[name], atol=1e-5, rtol=1e-3) for name in exact)


@pytest.mark.parametrize("way", ["frame-wise", "first-latent"])
def test_other_pixel_gradients_equal_references_written_by_hand(way: str) -> None:
    batch, settings = random_batch(), config(encoder="none", decoder="none", losses={"l1": 1.0, "latent_mse": 0.1}, pixel_gradient=way)
    ours, loss = gradients(tiny(active=True), settings)
    reference = tiny(active=True)
    parameters = choose_parameters(settings, reference)
    loss_of, adapter = PixelLoss({"l1": 1.0}), reference.adapter()
    with torch.no_grad():
        encoded, target = reference.encode(batch.degraded), reference.encode(batch.target).latents
    z_out = reference.predict(encoded.latents)
    z = reference.decoder_latents(encoded.latents, z_out)
    pixels, frames_seen = torch.zeros(()), 13 if way == "frame-wise" else 1
    for i, span in enumerate((slice(0, 1), slice(1, 5), slice(5, 9), slice(9, 13))[: 1 + frames_seen // 4]):
        side = {name: value[:, :, -1:] for name, value in encoded.side[i].items()}
        frame, _ = adapter.decode_group(z[:, :, i : i + 1], adapter.initial_decoder_cache(), 0, side)
        pixels = pixels + loss_of(batch.degraded[:, :, span] + frame, batch.target[:, :, span])
    total = pixels / frames_seen + 0.1 * (z_out - target).square().mean()
    total.backward()
    torch.testing.assert_close(loss, total.detach(), atol=1e-5, rtol=1e-4)
    assert ours.keys() == {name for name, p in parameters.items() if p.grad is not None}
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, parameters[name].grad, atol=1e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def test_other_pixel_gradients_take_no_settings_of_the_truncated_one() -> None:
    for more in ({"truncation": None}, {"decoder_block": 2}, {"spatial_chunks": (2, 1)}):
        with pytest.raises(UserError, match="frame-wise"):
            config(pixel_gradient="frame-wise", **more)
    with pytest.raises(UserError, match="sees one frame, in which nothing flickers"):
        config(pixel_gradient="first-latent", flow_warping=1.0)


def test_loss_scale_reaches_every_gradient_once() -> None:
    whole, loss = gradients(tiny(active=True), config())
    half, same = gradients(tiny(active=True), config(), 0.5)
    torch.testing.assert_close(loss, same)
    for name in whole:
        torch.testing.assert_close(half[name] * 2, whole[name], atol=1e-6, rtol=1e-4)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("truncation", [1, None])
def test_it_learns_one_pair(data: DataConfig, tmp_path: Path, truncation: int | None) -> None:
    settings = config(steps=60, truncation=truncation, losses={"l1": 1.0, "latent_mse": 0.01}, lr=4e-3)
    out = train_onestep(settings, data, tiny(), tmp_path / "out")
    assert out is not None
    curve = rows(out)
    assert [row["step"] for row in curve] == list(range(1, 61))
    assert curve[-1]["l1"] < 0.6 * curve[0]["l1"]
    assert (out / "samples" / "000060.png").is_file()
    assert not list(out.glob("checkpoint*"))
    spec = load_enhancer(out).spec
    assert spec.window == 3
    assert spec.provenance["steps"] == 60


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """As in a terminal, whatever the tests run in: scripts start what runs in their background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_a_checkpoint_to_go_on_from(
    data: DataConfig, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(steps=5, sample_every=2, ema=0.9)
    whole = train_onestep(settings, data, tiny(), tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(onestep, "write_strip", lambda *_: signal.raise_signal(number))
        with pytest.raises(KeyboardInterrupt):
            train_onestep(settings, data, tiny(), tmp_path / "parts")
    assert [row["step"] for row in rows(tmp_path / "parts.partial")] == [1, 2]
    parts = train_onestep(settings, data, tiny(), tmp_path / "parts", resume=True)
    assert whole is not None
    assert parts is not None
    assert [row["step"] for row in rows(parts)] == [1, 2, 3, 4, 5]
    same, other = (load_enhancer(folder).state_dict() for folder in (whole, parts))
    assert all(torch.equal(same[name], other[name]) for name in same)


def test_rows_of_a_run_that_left_no_checkpoint_are_not_gone_on_with(data: DataConfig, tmp_path: Path) -> None:
    killed = tmp_path / "out.partial"
    killed.mkdir()
    (killed / "curve.jsonl").write_text('{"step": 20, "loss": 1.0}\n')
    out = train_onestep(config(steps=2), data, tiny(), tmp_path / "out", resume=True)
    assert out is not None
    assert [row["step"] for row in rows(out)] == [1, 2]


def test_a_run_that_ends_by_the_clock_logs_its_last_steps(data: DataConfig, tmp_path: Path) -> None:
    out = train_onestep(config(steps=1000, log_every=1000, max_seconds=1e-3), data, tiny(), tmp_path / "out")
    assert out is not None
    assert [row["step"] for row in rows(out)] == [1]


def test_a_resumed_run_equals_an_uninterrupted_one(data: DataConfig, tmp_path: Path) -> None:
    settings = config(steps=4, ema=0.9, accumulation=2, schedule="cosine")
    whole = train_onestep(settings, data, tiny(), tmp_path / "whole")
    paused = dataclasses.replace(settings, pause_seconds=0.0)
    for _ in range(3):
        assert train_onestep(paused, data, tiny(), tmp_path / "parts", resume=True) is None
        torch.rand(7)  # Whatever happens to the global generator in between does not matter.
    parts = train_onestep(settings, data, tiny(), tmp_path / "parts", resume=True)
    assert whole is not None
    assert parts is not None
    a, b = load_enhancer(whole), load_enhancer(parts)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert [r["loss"] for r in rows(whole)] == [r["loss"] for r in rows(parts)]
    train_onestep(paused, data, tiny(), tmp_path / "other", resume=False)
    with pytest.raises(UserError, match=r"another training \(lr was 0.002 and is 0.001; steps was 4 and is 9\); .* --overwrite in place"):
        train_onestep(dataclasses.replace(settings, steps=9, lr=1e-3), data, tiny(), tmp_path / "other", resume=True)


def test_only_the_same_data_and_model_go_on(data: DataConfig, tmp_path: Path) -> None:
    paused = config(pause_seconds=0.0)
    train_onestep(paused, data, tiny(), tmp_path / "out")

    def refusal(other: DataConfig, enhancer: Enhancer) -> str:
        with pytest.raises(UserError) as caught:
            train_onestep(paused, other, enhancer, tmp_path / "out", resume=True)
        return str(caught.value)

    more = dataclasses.replace(data, videos=(tmp_path / "good",))
    assert f"videos: {tmp_path / 'good'} is new" in refusal(more, tiny())
    assert "model.output was residual and is direct" in refusal(data, tiny("direct"))
    assert "the model that it begins with has other weights" in refusal(data, tiny(active=True))
    assert "clean_share was 0.0 and is 0.5" in refusal(dataclasses.replace(data, clean_share=0.5), tiny())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("good", "bad", "pairs.jsonl"):
        (tmp_path / name).rename(moved / name)
    data = dataclasses.replace(data, pairs=(moved / "pairs.jsonl",))
    assert train_onestep(paused, data, tiny(), tmp_path / "out", resume=True) is None  # moved only
    (moved / "bad" / "frames" / "000001.png").write_bytes((moved / "bad" / "frames" / "000001.png").read_bytes() + b"1")
    assert f"pairs: {moved / 'pairs.jsonl'} has changed" in refusal(data, tiny())
    assert len(rows(tmp_path / "out.partial")) == 2
    with (tmp_path / "out.partial" / "curve.jsonl").open("a") as curve:  # as a run that was killed after its last checkpoint leaves it
        curve.write('{"step": 3, "loss": 1.0}\n{"ste')
    (moved / "bad" / "frames" / "000001.png").write_bytes((moved / "bad" / "frames" / "000001.png").read_bytes()[:-1])
    train_onestep(config(), data, tiny(), tmp_path / "out", resume=True)
    assert [row["step"] for row in rows(tmp_path / "out")] == [1, 2, 3, 4]


def test_time_ends_a_training(data: DataConfig, tmp_path: Path) -> None:
    out = train_onestep(config(steps=10_000, max_seconds=0.5, log_every=1), data, tiny(), tmp_path / "out")
    assert out is not None
    assert 1 <= rows(out)[-1]["step"] < 10_000


def test_middle_windows_are_trained(data: DataConfig) -> None:
    """Four latents in windows of three: the second window starts in the middle of the clip, and the step sees both."""
    enhancer = tiny(active=True)
    seen: list[int] = []
    original = enhancer.predict
    enhancer.predict = lambda z: seen.append(z.shape[2]) or original(z)  # type: ignore[method-assign,func-returns-value]
    gradients(enhancer, config(window=3, overlap=2))
    assert seen == [3, 3]


def test_a_block_as_long_as_the_clip_gives_the_exact_gradient() -> None:
    exact = gradients(tiny(active=True), config(truncation=None))
    torch.testing.assert_close(gradients(tiny(active=True), config(truncation=0, decoder_block=5)), exact, atol=1e-6, rtol=1e-4)
    with pytest.raises(UserError, match="decoder_block"):
        config(decoder_block=2, spatial_chunks=(1, 2))


def test_decoder_lora_is_folded_into_a_plain_autoencoder(data: DataConfig, tmp_path: Path) -> None:
    enhancer = tiny(active=True)
    before = enhancer.vae.decoder.conv_in.weight.detach().clone()
    info = LoraInfo(rank=2, alpha=3)
    settings = config(transformer="none", decoder="lora", decoder_lora=info, encoder="none", skips=False, losses={"l1": 1.0})
    out = train_onestep(settings, data, enhancer, tmp_path / "out")
    assert out is not None
    again = load_enhancer(out)
    assert not torch.equal(again.vae.decoder.conv_in.weight, before)
    x = random_batch(5).degraded
    torch.testing.assert_close(again(x), enhancer.eval()(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lr", (-1.0, 0.0, 1e12, NAN)), ("betas", ((2.0, 2.0), (0.9, NAN))), ("weight_decay", (-1.0, NAN)), ("warmup_steps", (-1,)),
        ("grad_clip", (0.0, -1.0, NAN)), ("max_seconds", (0.0, -5.0, NAN)), ("pause_seconds", (-1.0, NAN)), ("seed", (-1,)),
        ("crop_px", ((0, 0), (32, -32))), ("device", ("foo", "cuda:1")), ("ema", (NAN, 1.0)), ("losses", ({"l1": NAN}, {"l1": -1.0})),
        ("window", (0, -1, 2)), ("overlap", (-1,)), ("transformer_lora", (LoraInfo(rank=0, alpha=1), LoraInfo(rank=1, alpha=NAN))),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(name: str, values: tuple[object, ...]) -> None:
    for value in values:
        with pytest.raises(UserError, match=name.removeprefix("transformer_").replace("lora", "LoRA")):
            config(**{name: value})
    with pytest.raises(UserError, match=r"crop_px is \(30, 33\), but this model needs multiples of 16; give for instance 32 48"):
        config(crop_px=(30, 33)).check_crop(16)


def test_a_crop_that_the_model_cannot_take_is_refused_before_data_are_read(data: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="multiples of 16"):
        train_onestep(config(crop_px=(30, 30)), DataConfig(videos=(tmp_path / "absent",)), tiny(), tmp_path / "out")


@pytest.mark.parametrize("name", ["cache_gb", "latents_gb"])
@pytest.mark.parametrize("value", [NAN, float("inf"), -1.0])
def test_gigabytes_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name):
        DataConfig(videos=(Path("x"),), **{name: value})  # type: ignore[arg-type]


def test_progress_is_shown_where_it_is_asked_for(data: DataConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_onestep(config(steps=2, log=True), data, tiny(), tmp_path / "out")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("step 2 of 2: loss ")
    assert last.endswith("ms a step, 0 s left")
    train_onestep(config(steps=2), data, tiny(), tmp_path / "silent")
    assert capsys.readouterr().err == ""


def test_settings_that_make_no_sense_are_named(data: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4k"):
        config(clip_frames=10)
    with pytest.raises(UserError, match="rank"):
        config(transformer="lora")
    with pytest.raises(UserError, match="nothing is to be trained"):
        train_onestep(config(transformer="none", decoder="none", encoder="none", skips=False), data, tiny(), tmp_path / "out")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="CUDA"):
            train_onestep(config(device="cuda"), data, tiny(), tmp_path / "out")


def test_precision_follows_the_device() -> None:
    config = small_onestep()
    assert config.precision == "auto"
    assert config.in_bf16 == torch.cuda.is_available()
    assert not dataclasses.replace(config, device="cpu").in_bf16
    assert dataclasses.replace(config, device="cpu", precision="bf16").in_bf16
