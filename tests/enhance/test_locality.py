"""Locality at toy size: influence against finite differences and by hand, gradients against the truncated decoder, folder and faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building, read_manifest
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import read_image
from splatmend.enhance.artifact import save_enhancer, save_model
from splatmend.enhance.decoder import TruncatedDecoder
from splatmend.enhance.locality import Agreement, LocalityConfig, by_distance, fit_decay, influence, measure_locality
from splatmend.enhance.locality_subject import Model, Subject, load_model, make_subject, read_sample
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae

CPU = torch.device("cpu")
PLOTS = ("influence.png", "gradients.png", "cost.png")


def write_clip(out: Path, frames: int, seed: int = 0, size: tuple[int, int] = (36, 52)) -> Path:
    generator = np.random.default_rng(seed)
    with building(out, manifest := Manifest(kind="clip", config={})) as partial, ClipWriter(partial) as writer:
        for _ in range(frames):
            writer.write(generator.random((*size, 3)))
        manifest.facts = writer.facts
    return out


@pytest.fixture
def clips(tmp_path: Path) -> list:
    return [open_clip(write_clip(tmp_path / f"clip{seed}", 14, seed)) for seed in range(2)]


def subject_of(vae, latents: int) -> Subject:
    z = torch.randn(1, 4, latents, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.zeros(1, 3, 1 + 4 * (latents - 1), 4, 4, dtype=torch.float64)
    return Subject(Model(vae, None), z, (), target, target)


def test_influence_is_the_mean_norm_of_random_products(tiny_wan) -> None:
    vae = tiny_wan()
    subject = subject_of(vae, 4)
    matrix = influence(subject, 3, "fast", torch.Generator().manual_seed(1))
    assert matrix.shape == (4, 4)
    assert (matrix[np.triu_indices(4, 1)] == 0).all()

    # The same directions, pulled through the whole decoded clip at once.
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(1, 3, frames, 4, 4, generator=generator).double() for frames in (1, 4, 4) for _ in range(3)]
    leaf = subject.z.clone().requires_grad_()
    frames = TruncatedDecoder(vae).decode(leaf)[:, :, 5:9]
    products = [torch.autograd.grad(frames, leaf, v / v.norm(), retain_graph=True)[0] for v in drawn[-3:]]
    for j in range(3):
        assert matrix[2, j] == pytest.approx(sum(float(product[:, :, j].norm()) for product in products) / 3, rel=1e-5)
    again = influence(subject, 1, "small", torch.Generator().manual_seed(1))
    np.testing.assert_allclose(again, influence(subject, 1, "fast", torch.Generator().manual_seed(1)), rtol=1e-9)


def test_decay_is_fitted_without_the_first_group() -> None:
    i, j = np.indices((6, 6))
    matrix = np.where(i >= j, 0.5 * np.exp(-0.7 * (i - j)), 0.0)
    matrix[:, 0] *= 9.0
    matrix[np.diag_indices(6)] *= 2.0
    decay = fit_decay(matrix)
    assert decay == pytest.approx((0.5, 0.7, 1.0))
    assert [row["distance"] for row in by_distance(matrix)] == [0, 1, 2, 3, 4]
    assert by_distance(matrix)[0]["max"] == pytest.approx(1.0)
    assert fit_decay(np.tril(matrix) - np.tril(matrix, -2)) is None, "one distance alone fits anything"


def test_agreement() -> None:
    exact = torch.tensor([3.0, 4.0])
    assert Agreement.of(2 * exact, exact) == pytest.approx((1.0, 1.0, 2.0))
    assert Agreement.of(torch.tensor([4.0, -3.0]), exact) == pytest.approx((0.0, 2**0.5, 1.0))
    assert Agreement.of(torch.zeros(2), exact) == pytest.approx((0.0, 1.0, 0.0))
    with pytest.raises(UserError, match="exact gradient is zero"):
        Agreement.of(exact, torch.zeros(2))


def test_autoencoder_alone(tiny_wan, clips, tmp_path: Path) -> None:
    save_model(tiny_wan(dtype=torch.float32), tmp_path / "wan" / "vae", None)
    out = tmp_path / "out"
    config = LocalityConfig(frames=13, crop=(10, 13), truncations=(0, 1, 3), losses=("mse",), draws=1, repeats=1, seed=5)
    result = measure_locality(str(tmp_path / "wan"), clips, out, config, device=CPU)
    assert json.loads((out / "locality.json").read_text()) == result
    assert read_manifest(out, "locality").facts["clips"] == 2
    for name in PLOTS:
        picture = read_image(out / name)
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 10
    assert result["clips"][0] == {"name": "clip0", "frames": 13, "height": 8, "width": 12}
    assert result["parameters"] == []
    assert [row["truncation"] for row in result["latents"]] == [0, 1, 3]
    exact = result["latents"][2]["mean"]
    assert exact["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert exact["error"] < 1e-4
    # One row by hand, from the same seed.
    model = load_model(str(tmp_path / "wan" / "vae"), CPU, torch.float32)
    subject = make_subject(model, read_sample(clips[1], 13, (10, 13), None, 4), 0.3, torch.Generator().manual_seed(5 * 1_000_003 + 1))
    gradients = [
        TruncatedDecoder(model.vae, d)
        .loss_and_grad(subject.z, lambda x, span, previous: (x - subject.target[:, :, span]).square().mean(dim=(0, 1, 3, 4)).sum())
        .grad_z
        for d in (1, 3)
    ]
    assert result["latents"][1]["per_clip"][1] == pytest.approx(Agreement.of(*gradients)._asdict(), rel=1e-4)
    cost = result["cost"]
    assert cost[0]["peak_bytes"] < cost[1]["peak_bytes"] < cost[2]["peak_bytes"]
    assert {row["bytes_of"] for row in cost} == {"kept by autograd"}
    with pytest.raises(UserError, match="exists already"):
        measure_locality(str(tmp_path / "wan"), clips, out, config, device=CPU)


@pytest.mark.parametrize("output", ["residual", "difference"])
def test_enhancer_with_its_transformer(clips, tmp_path: Path, output: str) -> None:
    torch.manual_seed(0)
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32), output=output)
    with torch.no_grad():  # it starts as the identity, whose frames hang on no latent
        for parameter in [*enhancer.vae.decoder.conv_out.parameters(), *enhancer.transformer.proj_out.parameters()]:
            parameter.normal_(std=0.05)
    folder = tmp_path / "enhancer"
    folder.mkdir()
    save_enhancer(enhancer, folder)
    config = LocalityConfig(frames=13, max_width=40, truncations=(0, 3), losses=("l1", "mse"), draws=1, repeats=1)
    result = measure_locality(str(folder), clips, tmp_path / "out", config, device=CPU)
    assert result["clips"][0]["width"] == 32
    rows = result["parameters"]
    assert [(row["loss"], row["truncation"]) for row in rows] == [("l1", 0), ("l1", 3), ("mse", 0), ("mse", 3)]
    for row in rows:
        assert len(row["per_clip"]) == 2
        exact = row["truncation"] == 3
        assert (row["of_mean"]["error"] < 1e-3) == exact
        assert (row["mean"]["error"] < 1e-3) == exact


def test_faults_are_named(clips, tmp_path: Path) -> None:
    for settings, part in (
        ({"crop": (8, 8), "max_width": 4}, "together"),
        ({"truncations": (-1,)}, "truncations"),
        ({"losses": ("l3",)}, "l3"),
        ({"losses": ()}, "none"),
        ({"draws": 0}, "draws"),
        ({"latent_noise": 0.0}, "latent-noise"),
        ({"crop": (0, 8)}, "1 pixel"),
    ):
        with pytest.raises(UserError, match=part):
            LocalityConfig(**settings)
    save_model(small_vae(8), tmp_path / "vae", None)
    save_model(small_transformer(1, 1, 32), tmp_path / "transformer", None)
    (tmp_path / "empty").mkdir()
    for path, given, config, part in (
        ("vae", [], {}, "clips"),
        ("vae", clips, {"frames": 9}, "frames: 9"),
        ("vae", clips, {"frames": 14}, "frames: 14"),
        ("vae", clips, {"frames": 17}, "14 frames"),
        ("vae", clips, {"frames": 13, "crop": (64, 64)}, "crop"),
        ("vae", clips, {"frames": 13, "max_width": 7}, "crop"),
        ("transformer", clips, {}, "AutoencoderKLWan"),
        ("empty", clips, {}, "no autoencoder"),
        ("absent", clips, {}, "no such folder"),
        ("clip0", clips, {}, "of the kind clip"),
    ):
        with pytest.raises(UserError, match=part):
            measure_locality(str(tmp_path / path), given, tmp_path / "out", LocalityConfig(**config), device=CPU)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
