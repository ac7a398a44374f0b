"""The benchmark of pixel losses at toy size: ways train and are scored, and what is there is kept."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.enhance.artifact import AUTOENCODER_KIND, load_autoencoder, load_enhancer, save_model
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.pipelines.pairing.index import INDEX, write_rows

FRAMES = 9


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return importlib.import_module("pixel_losses")


def write_clip(folder: Path, pictures: np.ndarray) -> None:
    with building(folder, Manifest(kind="clip", config={})) as partial, ClipWriter(partial, encoding="png", rate_hz=10.0) as writer:
        for picture in pictures:
            writer.write(picture)


@pytest.fixture
def line(tmp_path: Path) -> list[str]:
    random = np.random.default_rng(0)
    target = np.repeat(random.integers(40, 210, (1, 32, 32, 3), dtype=np.uint8), FRAMES, axis=0)
    write_clip(tmp_path / "pairs" / "target", target)
    write_clip(tmp_path / "pairs" / "degraded", (target.astype(int) + 15).clip(0, 255).astype(np.uint8))
    row = {"degraded": "degraded", "target": "target", "kind": "sparse", "split": "train", "scene": "made-up"}
    write_rows(tmp_path / "pairs" / INDEX, [row])
    with building(tmp_path / "autoencoder", Manifest(kind=AUTOENCODER_KIND, config={})) as folder:
        save_model(small_vae(8), folder / "vae", None)
    pairs = str(tmp_path / "pairs")
    return [
        *("--toy", "--autoencoder", str(tmp_path / "autoencoder"), "--pairs", pairs, "--held-out", pairs, "--out", str(tmp_path / "out")),
        *("--steps", "2", "--batch", "1", "--seeds", "2", "--jobs", "2", "--metrics", "psnr", "ssim"),
    ]


@pytest.mark.timeout(600)
def test_whole_models_train_what_lies_behind_the_latents(benchmark: ModuleType, line: list[str], tmp_path: Path) -> None:
    ways = ["latent MSE", "first latent", "D = 1"]
    assert benchmark.main([*line, "--seeds", "1", "--whole", "--ways", *ways]) == 0
    before = load_autoencoder(tmp_path / "autoencoder")
    for way in ways:
        enhancer = load_enhancer(tmp_path / "out" / benchmark.name_of(way, 0))
        learnt = way != "latent MSE"
        assert (enhancer.spec.output, bool(enhancer.spec.skips)) == (("residual", True) if learnt else ("difference", False))
        changed = {
            part: any(
                not torch.equal(new, old)
                for (name, new), (_, old) in zip(getattr(enhancer.vae, part).named_parameters(), getattr(before, part).named_parameters())
                if "conv_out" not in name
            )
            for part in ("encoder", "decoder")
        }
        assert changed == {"encoder": False, "decoder": learnt}, way


@pytest.mark.timeout(600)
def test_ways_train_and_are_scored_once(benchmark: ModuleType, line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longer, truncated = ways = ["latent MSE, twice the steps", "D = 1"]
    assert benchmark.main([*line, "--ways", truncated]) == 0
    written = (tmp_path / "out" / f"{benchmark.name_of(truncated, 0)}.log").stat().st_mtime_ns
    assert benchmark.main([*line, "--ways", *ways]) == 0
    assert (tmp_path / "out" / f"{benchmark.name_of(truncated, 0)}.log").stat().st_mtime_ns == written, "what is there is not made anew"
    printed = capsys.readouterr().out
    records = benchmark.records_of(tmp_path / "out")
    made = [("untrained", 0), *((way, seed) for way in ways for seed in (0, 1))]
    assert sorted((record["way"], record["seed"]) for record in records) == sorted(made)
    for way, steps in ((longer, 4), (truncated, 2)):
        manifest = json.loads((tmp_path / "out" / benchmark.name_of(way, 0) / "manifest.json").read_text())
        assert manifest["facts"]["steps"] == steps
    table = [text.split("|")[2].strip() for text in printed.splitlines() if text.startswith("| sparse")]
    assert table[-6:] == ["raw", "round trip of the target", "latents of the target", "untrained", *ways]
    scores = {(record["way"], record["seed"]): record["rows"]["enhanced"]["mean"]["psnr"] for record in records}
    assert scores[truncated, 0] != scores[truncated, 1], "seeds train apart"
    assert scores[longer, 0] != scores[truncated, 0]
    rows = next(record["rows"] for record in records if record["way"] == "untrained")
    raw, untrained, perfect = (rows[name]["mean"]["psnr"] for name in ("raw", "enhanced", "latents of the target"))
    assert untrained == pytest.approx(raw, abs=0.05), "what begins changes nothing"
    assert np.isfinite(perfect)


def test_latents_of_the_target_change_what_differs_and_nothing_else(benchmark: ModuleType, line: list[str], tmp_path: Path) -> None:
    """Of a render that is the target they give that back; sizes and lengths that no autoencoder takes are those of the pair."""
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32), output="difference", skips=())
    torch.nn.init.normal_(enhancer.vae.decoder.conv_out.weight, std=0.2)
    pictures = np.random.default_rng(1).integers(0, 255, (6, 30, 44, 3), dtype=np.uint8)
    write_clip(tmp_path / "odd", pictures)
    write_clip(tmp_path / "other", pictures // 2)
    found = {}
    for target in ("odd", "other"):
        pair = benchmark.Pair("sparse", "made-up", tmp_path / "odd", tmp_path / target)
        found[target] = np.stack(list(open_clip(benchmark.with_latents_of_target(enhancer, pair, tmp_path / f"of-{target}")).iter_rgb()))
    assert np.abs(found["odd"].astype(int) - pictures).max() <= 1
    assert np.abs(found["other"].astype(int) - pictures).mean() > 2


def test_the_table_has_means_and_ends_over_seeds(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def record(way: str, seed: int, psnr: float) -> dict:
        rows = {
            "raw": {"mean": {"psnr": 20.0}, "lpips": [0.2] * 64},
            "enhanced": {"mean": {"psnr": psnr}, "lpips": [0.1] * 48 + [0.15] * 16},
        }
        return {"way": way, "seed": seed, "kind": "sparse", "degraded": "a", "rows": rows}

    benchmark.print_table([record("D = 1", 0, 22.0), record("D = 1", 1, 23.0), record("untrained", 0, 19.0)])
    lines = capsys.readouterr().out.splitlines()
    assert [text.split("|")[2].strip() for text in lines[2:]] == ["raw", "untrained", "D = 1"]
    assert "22.50 (22.00 to 23.00)" in lines[-1]
    # The first quarter gains half of the render's LPIPS, the last a quarter.
    assert "0.2500 (0.2500 to 0.2500)" in lines[-1]
