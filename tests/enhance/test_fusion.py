"""References: taking from warped recorded frames, in one pass, in a stream, in training and on disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import Clip, ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import load_enhancer, save_enhancer
from splatmend.enhance.fusion import ReferenceFusion
from splatmend.enhance.model import Enhancer
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.stream import StreamingEnhancer, enhance_clip
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import Batch, DataConfig, TrainingClips, unit_references
from splatmend.enhance.train.latents import LatentCache
from splatmend.enhance.train.looks import LookConfig
from splatmend.enhance.train.onestep import OneStepObjective, choose_parameters, train_onestep

LAYERS = 2


def tiny(layers: int = LAYERS, *, active: bool = True) -> Enhancer:
    torch.manual_seed(3)
    model = small_enhancer(small_vae(8), small_transformer(1, 1, 32))
    if active:
        for parameter in (model.vae.decoder.conv_out.weight, model.transformer.proj_out.weight):
            torch.nn.init.normal_(parameter, std=0.2)
    model.take_references(layers)
    if model.fusion is not None and active:
        torch.nn.init.normal_(model.fusion.shares_out.weight, std=0.3)
    model.spec = dataclasses.replace(model.spec, window=3, overlap=1)
    return model.eval().requires_grad_(False)


def texture(count: int, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """Frames `[T, H, W, 3]` uint8 of a pattern that moves by two pixels a frame."""
    wide = np.random.default_rng(seed).integers(0, 256, (height, width + 2 * count, 3)).astype(np.uint8)
    wide = cv2.GaussianBlur(wide, (0, 0), 1.2)
    wide = np.clip((wide.astype(np.float32) - 128) * 3 + 128, 0, 255).astype(np.uint8)
    return np.stack([wide[:, 2 * i : 2 * i + width] for i in range(count)])


def seen_layers(rgb: np.ndarray, layers: int = LAYERS) -> np.ndarray:
    """References `[T, K, H, W, 4]`: layer 0 shows the frames but for a strip, layer 1 grey in the left half."""
    given = np.zeros((len(rgb), layers, *rgb.shape[1:3], 4), np.uint8)
    given[:, 0, :, 8:, :3], given[:, 0, :, 8:, 3] = rgb[:, :, 8:], 255
    half = rgb.shape[2] // 2
    given[:, 1, :, :half, :3], given[:, 1, :, :half, 3] = 100, 255
    return given


def as_clip(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def as_references(layers: np.ndarray) -> torch.Tensor:
    count, number, height, width, _ = layers.shape
    flat = torch.from_numpy(layers).permute(1, 4, 0, 2, 3).reshape(1, number * 4, count, height, width)
    return unit_references(flat)


def write_clip(path: Path, rgb: np.ndarray, layers: np.ndarray | None = None) -> Clip:
    manifest = Manifest(kind="clip", config={})
    with building(path, manifest) as folder:
        with ClipWriter(folder) as writer:
            for i, picture in enumerate(rgb):
                writer.write(picture, references=None if layers is None else layers[i])
        manifest.facts = writer.facts
    return open_clip(path)


def test_a_fresh_fusion_takes_the_mean_of_what_is_there() -> None:
    """Flat colours, which no shift fits better than another."""
    x, layers = as_clip(np.full((3, 64, 96, 3), 50, np.uint8)), seen_layers(np.full((3, 64, 96, 3), 110, np.uint8))
    fused = ReferenceFusion(LAYERS)(x, as_references(layers))
    for columns, grey in ((slice(12, 44), (50 + 110 + 100) / 3), (slice(52, 96), (50 + 110) / 2), (slice(0, 4), (50 + 100) / 2)):
        torch.testing.assert_close(fused[..., columns], torch.full_like(fused[..., columns], grey / 127.5 - 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("shift_px", "left"), [(-2, 0.45), (2, 0.45), (-3, 0.75)])
def test_a_fresh_fusion_finds_how_a_layer_lies(shift_px: int, left: float) -> None:
    """Before any training a blurred frame gains from its own sharp picture that lies a few pixels aside; odd shifts lie between those that
    are tried. The mean of a frame and its truth leaves a quarter of the error."""
    truth = as_clip(np.repeat(texture(2).mean(axis=-1, keepdims=True), 3, axis=-1).astype(np.uint8))
    blurred = torch.nn.functional.avg_pool3d(truth, (1, 5, 5), 1, (0, 2, 2), count_include_pad=False)
    layers = -torch.ones(1, 4 * LAYERS, *truth.shape[2:])
    layers[:, :3], layers[:, 3] = truth.roll((shift_px, shift_px), dims=(-2, -1)), 1.0
    with torch.no_grad():
        errors = [(made - truth)[..., 8:-8, 8:-8].square().mean() for made in (ReferenceFusion(LAYERS)(blurred, layers), blurred)]
    assert float(errors[0]) < left * float(errors[1])


def test_frames_without_references_stay_as_they_are() -> None:
    model, x = tiny(), as_clip(texture(5))
    nothing = as_references(np.zeros((5, LAYERS, 64, 96, 4), np.uint8))
    assert torch.equal(model.fused(x, nothing), x)
    assert torch.equal(model(x, references=nothing), model(x))
    assert torch.equal(tiny(0)(x, references=nothing), tiny(0)(x))


def test_what_was_not_seen_does_not_count() -> None:
    """Colours under an alpha of 0 change nothing."""
    model, x, layers = tiny(), as_clip(texture(2)), seen_layers(texture(2, seed=1))
    other = layers.copy()
    other[..., :3][layers[..., 3] == 0] = 200
    assert torch.equal(model.fused(x, as_references(layers)), model.fused(x, as_references(other)))


def test_it_learns_to_take_sharp_layers_and_to_move_them() -> None:
    """A blurred frame beside its truth two pixels aside and a layer of nonsense: what comes out is far nearer to the truth."""
    torch.manual_seed(0)
    fusion = ReferenceFusion(LAYERS)
    optimiser = torch.optim.Adam(fusion.parameters(), lr=2e-3)
    truth = as_clip(texture(2))
    blurred = torch.nn.functional.avg_pool3d(truth, (1, 5, 5), 1, (0, 2, 2), count_include_pad=False)
    layers = torch.ones(1, 4 * LAYERS, *truth.shape[2:])
    layers[:, :3] = truth.roll(2, dims=-1)
    layers[:, 4:7] = as_clip(texture(2, seed=9))
    before = (blurred - truth).square().mean()
    for _ in range(100):
        optimiser.zero_grad()
        loss = (fusion(blurred, layers) - truth)[..., 8:-8].square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert float(loss.detach()) < 0.2 * float(before)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_streaming_equals_one_pass(count: int) -> None:
    model, rgb = tiny(), texture(count, 60, 90)
    layers = seen_layers(texture(count, 60, 90, seed=1))
    streamed = list(StreamingEnhancer(model, strength=0.7).frames(iter(rgb), count, references=iter(layers)))
    padded = -(-(count - 1) // 4) * 4 + 1

    def whole(array: np.ndarray) -> np.ndarray:
        margins = [(0, 4 if n == 60 else 6 if n == 90 else 0) for n in array.shape]
        array = np.pad(array, margins, mode="symmetric")
        return np.concatenate([array, np.repeat(array[-1:], padded - count, axis=0)]) if padded > count else array

    out = model(as_clip(whole(rgb)), strength=0.7, references=as_references(whole(layers)))
    expected = ((out.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)[0].permute(1, 2, 3, 0).numpy()[:count, :60, :90]
    assert np.abs(np.stack(streamed).astype(int) - expected).max() <= 1
    assert (
        np.abs(np.stack(streamed).astype(int) - np.stack(list(StreamingEnhancer(model, strength=0.7).frames(iter(rgb), count)))).max() > 5
    )


def test_a_clips_own_references_are_read(tmp_path: Path) -> None:
    model, rgb = tiny(), texture(5)
    layers = seen_layers(texture(5, seed=1))
    one, both = write_clip(tmp_path / "one", rgb, layers[:, :1]), write_clip(tmp_path / "both", rgb, layers)
    bare = write_clip(tmp_path / "bare", rgb)
    results = {}
    for clip in (one, both, bare):
        results[clip.path.name] = np.stack(list(open_clip(enhance_clip(model, clip, tmp_path / f"{clip.path.name}-out")).iter_rgb()))
    padded = np.concatenate([layers[:, :1], np.zeros_like(layers[:, :1])], axis=1)
    for name, given in (("one", padded), ("both", layers), ("bare", np.zeros_like(layers))):
        expected = np.stack(list(StreamingEnhancer(model).frames(iter(rgb), 5, references=iter(given))))
        np.testing.assert_array_equal(results[name], expected)
    assert (results["one"] != results["both"]).any()
    assert (results["one"] != results["bare"]).any()
    without = open_clip(enhance_clip(model, both, tmp_path / "without", references=False))
    np.testing.assert_array_equal(np.stack(list(without.iter_rgb())), results["bare"])


def test_strength_zero_is_what_references_gave() -> None:
    model, rgb = tiny(), texture(5)
    layers = seen_layers(texture(5, seed=1))
    fused = model.fused(as_clip(rgb), as_references(layers))
    expected = ((fused.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)[0].permute(1, 2, 3, 0).numpy()
    streamed = np.stack(list(StreamingEnhancer(model, strength=0.0).frames(iter(rgb), 5, references=iter(layers))))
    assert np.abs(streamed.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(np.stack(list(StreamingEnhancer(model, strength=0.0).frames(iter(rgb), 5))), rgb)


def test_a_folder_brings_its_fusion_back(tmp_path: Path) -> None:
    model, x, layers = tiny(), as_clip(texture(5)), as_references(seen_layers(texture(5, seed=1)))
    (tmp_path / "saved").mkdir()
    save_enhancer(model, tmp_path / "saved")
    again = load_enhancer(tmp_path / "saved")
    assert again.spec.references == LAYERS
    assert torch.equal(again(x, references=layers), model(x, references=layers))
    info = json.loads((tmp_path / "saved/enhancer.json").read_text())
    assert "references" in info["requires"]
    info["requires"].remove("references")
    (tmp_path / "saved/enhancer.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"enhancer\.json.*disagree about references"):
        load_enhancer(tmp_path / "saved")


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """A pair whose first layer of references shows the truth, in a smaller piece."""
    truth = texture(9)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 2.0) for frame in truth])
    write_clip(tmp_path / "target", truth)
    write_clip(tmp_path / "degraded", blurred, seen_layers(truth))
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"degraded": "degraded", "target": "target", "kind": "sparse", "split": "train"}))
    return DataConfig(pairs=(tmp_path / "pairs.jsonl",), clean_share=0.0, mild_share=0.0, bare_share=0.0)


def drawn(data: DataConfig, **settings: int) -> TrainingClips:
    return TrainingClips(data, **({"clip_frames": 5, "crop_px": (32, 48), "batch": 4, "seed": 0, "references": LAYERS} | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("look", [LookConfig(), LookConfig(share=1.0, scale=(0.7, 1.6))])
def test_references_are_cut_turned_and_coloured_like_the_frames(data: DataConfig, look: LookConfig) -> None:
    clips = drawn(dataclasses.replace(data, look=look))
    shown = 0
    for step in range(4):
        raw = clips.raw(step)
        assert raw.references is not None
        assert raw.references.shape == (*raw.target.shape[:-1], 4 * LAYERS)
        seen = raw.references[..., 3] == 255
        shown += int(seen.sum())
        far = np.abs(raw.references[..., :3].astype(int) - raw.target)[seen]
        # Pixels beside the strip that was not seen are mixed with it where the size changes.
        assert np.quantile(far, 0.98) <= 2
        assert set(np.unique(raw.references[..., 3::4])) <= {0, 255}
    assert shown > 0.5 * 4 * raw.target[..., 0].size
    batch = clips.finish(raw, torch.device("cpu"))
    assert batch.references is not None
    assert batch.references.shape == (4, 4 * LAYERS, 5, 32, 48)


def test_bare_samples_and_videos_have_nothing_seen(data: DataConfig, tmp_path: Path) -> None:
    bare = drawn(dataclasses.replace(data, bare_share=1.0)).raw(0).references
    video = write_clip(tmp_path / "video", texture(9)).path
    synthetic = drawn(DataConfig(videos=(video,))).raw(0).references
    assert bare is not None
    assert not bare.any()
    assert synthetic is not None
    assert not synthetic.any()
    assert drawn(data, references=0).raw(0).references is None


def config(**settings: object) -> OneStepTrainConfig:
    defaults: dict[str, object] = {
        "steps": 24, "lr": 3e-3, "warmup_steps": 0, "clip_frames": 5, "crop_px": (32, 48), "batch": 2, "losses": {"l1": 1.0}, "ema": None,
        "truncation": None, "decoder": "full", "encoder": "full", "references": LAYERS, "device": "cpu", "log": False, "log_every": 1,
    }  # fmt: skip
    return OneStepTrainConfig(**(defaults | settings))  # type: ignore[arg-type]


def batch_of(data: DataConfig) -> Batch:
    return drawn(data, batch=2).finish(drawn(data, batch=2).raw(0), torch.device("cpu"))


def test_the_exact_gradient_reaches_the_fusion_and_a_truncated_one_leaves_it(data: DataConfig) -> None:
    for truncation in (None, 1):
        model, settings = tiny(), config(truncation=truncation, encoder="none" if truncation else "full")
        trained = choose_parameters(settings, model)
        assert any(name.startswith("fusion.") for name in trained) == (truncation is None)
        model.train()
        OneStepObjective(settings, model).add_gradients(batch_of(data))
        gradients = {name: p.grad for name, p in model.fusion.named_parameters()}  # type: ignore[union-attr]
        if truncation is not None:
            assert all(gradient is None for gradient in gradients.values())
            continue
        # The first convolution behind the matching waits for the second one, which starts at zero.
        for name, gradient in gradients.items():
            assert gradient is not None
            assert bool(gradient.isfinite().all())
            assert bool(gradient.any()) or name.startswith("match.0."), name


def test_a_truncated_step_sees_the_fused_clip(data: DataConfig) -> None:
    """With as many links as there are groups the truncated loss is the exact one, on the host or not."""
    losses = []
    for settings in (
        config(encoder="none"), config(encoder="none", truncation=4), config(encoder="none", truncation=4, host_clips=True),
    ):  # fmt: skip
        model = tiny()
        choose_parameters(settings, model)
        batch = drawn(data, batch=2).finish(drawn(data, batch=2).raw(0), torch.device("cpu"), on_host=settings.host_clips)
        losses.append(float(OneStepObjective(settings, model).add_gradients(batch)["loss"]))
    model = tiny()
    choose_parameters(config(encoder="none"), model)
    bare = float(OneStepObjective(config(encoder="none"), model).add_gradients(batch_of(data)._replace(references=None))["loss"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)
    assert abs(bare - losses[0]) > 1e-3 * bare


def test_training_learns_to_use_them_and_goes_on_after_a_pause(data: DataConfig, tmp_path: Path) -> None:
    done = train_onestep(config(), data, tiny(0, active=False), tmp_path / "whole")
    assert done is not None
    losses = [json.loads(line)["l1"] for line in (done / "curve.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])
    assert load_enhancer(done).spec.references == LAYERS

    paused = config(pause_seconds=0.0)
    assert train_onestep(paused, data, tiny(0, active=False), tmp_path / "parts") is None
    again = train_onestep(config(), data, tiny(0, active=False), tmp_path / "parts", resume=True)
    assert again is not None
    for name, value in load_enhancer(done).state_dict().items():
        assert torch.equal(value, load_enhancer(again).state_dict()[name]), name


def test_latents_are_kept_of_targets_alone() -> None:
    """A fused clip is not the one that its key names, and with weights that learn it is another one in every step."""
    batch = Batch(as_clip(texture(5)), as_clip(texture(5, seed=1)), ("pair",), (("degraded", "target"),))
    first, second = seen_layers(texture(5, seed=1)), seen_layers(texture(5, seed=2))
    model, settings = tiny(), config(encoder="none", losses={"latent_mse": 1.0})
    model.spec = dataclasses.replace(model.spec, skips=())
    kept = LatentCache("model", 10**8)
    objective = OneStepObjective(settings, model, latents=kept)
    with torch.no_grad():
        encoded = [
            objective.encode_input(
                objective.fused(batch._replace(references=((as_references(layers) + 1) * 127.5).round().to(torch.uint8)))
            )
            for layers in (first, second)
        ]
        objective.encode_target(batch)
    assert not torch.equal(encoded[0].latents, encoded[1].latents)
    assert kept.latents("target", lambda: pytest.fail("the target's latents were kept")) is not None


@pytest.mark.parametrize("layers", [-1, 9])
def test_layers_out_of_range_are_named(layers: int) -> None:
    with pytest.raises(UserError, match=f"references is {layers}"):
        config(references=layers)
