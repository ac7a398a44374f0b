"""Sky masks from a small real segmentation model, which is taught here to know the sky of a made-up street."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fit import SMALL
from tiny_log import CAMERA, tiny_log, true_scene

from splatmend.datasets.errors import UserError
from splatmend.recon.fit import fit
from splatmend.recon.fit.config import FitConfig, LossConfig, SkyConfig
from splatmend.recon.fit.config_json import fit_config_from_json, settings_key
from splatmend.recon.fit.data import FrameSource
from splatmend.recon.fit.sky_model import SkyModel
from splatmend.recon.render import render
from splatmend.recon.scene_files import load_scene

CPU = torch.device("cpu")


def true_sky(number: int) -> np.ndarray:
    """Where the true scene is see-through."""
    scene = true_scene()
    with torch.no_grad():
        return (render(scene, scene.shots[number].shot, ("rgb",)).opacity < 0.5).numpy()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SegFormer of two blocks, trained on the first frames."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        sr_ratios=[2, 1],
        num_attention_heads=[1, 1],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label={0: "road", 1: "Sky", 2: "car"},
    )
    model = SegformerForSemanticSegmentation(config)
    processor = SegformerImageProcessor(size={"height": 48, "width": 64})
    log = tiny_log()
    pictures = processor([log.frames[n].read_image() for n in range(4)], return_tensors="pt", input_data_format="channels_last")
    labels = torch.from_numpy(np.stack([true_sky(n) for n in range(4)])).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(**pictures, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def with_sky(config: FitConfig, folder: Path | str) -> FitConfig:
    return replace(config, sky=SkyConfig(segmentation=str(folder)))


def test_the_model_says_where_the_sky_is(model_folder: Path) -> None:
    log = tiny_log()
    mask = SkyModel(model_folder, CPU).mask(log.frames[9].read_image())
    assert mask.shape == (CAMERA.height, CAMERA.width)
    assert mask.dtype == bool
    true = true_sky(9)
    assert 0.1 < true.mean() < 0.9
    assert (mask & true).sum() / (mask | true).sum() > 0.8


def test_masks_reach_the_samples_of_the_frames_that_are_fitted(model_folder: Path) -> None:
    log = tiny_log(4)
    source = FrameSource(log, CPU, 10, sky_model_folder=str(model_folder))
    source.prepare([0, 2])
    sky = source[2].sky
    assert sky is not None
    np.testing.assert_array_equal(sky.numpy(), SkyModel(model_folder, CPU).mask(log.frames[2].read_image()))
    assert source[1].sky is None


def test_a_mask_of_the_log_goes_before_the_models(model_folder: Path) -> None:
    log = tiny_log(3)
    labelled = np.zeros((CAMERA.height, CAMERA.width), dtype=bool)
    labelled[:3] = True
    frames = (replace(log.frames[0], masks={"sky": lambda: labelled}), *log.frames[1:])
    source = FrameSource(replace(log, frames=frames), CPU, 10, sky_model_folder=str(model_folder))
    source.prepare(range(3))
    first, second = source[0].sky, source[1].sky
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.numpy(), labelled)
    assert second.sum() > labelled.sum()


def test_a_fit_with_the_model_leaves_less_before_the_sky(model_folder: Path, tmp_path: Path) -> None:
    log, opacity = tiny_log(), {}
    plain = replace(SMALL, loss=LossConfig(sky_opacity=1.0), snapshots_at=())
    for name, config in {"without": plain, "with": with_sky(plain, model_folder)}.items():
        rows: list[dict] = []
        out = fit(log, tmp_path / name, config, on_progress=rows.append)
        assert all(("sky_opacity" in row) == (name == "with") for row in rows)
        scene = load_scene(out)
        with torch.no_grad():
            opacity[name] = float(render(scene, scene.shots[4].shot, ("rgb",)).opacity[torch.from_numpy(true_sky(4))].mean())
    assert opacity["with"] < 0.7 * opacity["without"]


def test_settings_come_back_and_without_a_model_are_those_of_older_checkpoints() -> None:
    config = with_sky(SMALL, "some/model")
    raw = json.loads(json.dumps({"sky": {"segmentation": "some/model"}}))
    assert fit_config_from_json(raw).sky == config.sky
    assert fit_config_from_json({}).sky.segmentation is None
    assert settings_key(FitConfig()) == settings_key(FitConfig(device="cpu", log_every=7)) == "94bc350b5311b97a"
    assert settings_key(config) != settings_key(SMALL)


def test_what_is_wrong_with_a_model_is_one_sentence(model_folder: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(model_folder, tmp_path / name))

    skyless, torn, partial, bare = (broken(name) for name in ("skyless", "torn", "partial", "bare"))
    config = json.loads((skyless / "config.json").read_text())
    (skyless / "config.json").write_text(json.dumps({**config, "id2label": {"0": "road", "1": "tree", "2": "car"}}))
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:500])
    from safetensors.torch import load_file, save_file

    weights = load_file(partial / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    (bare / "config.json").unlink()
    for folder, said in (
        (tmp_path / "nowhere", "there is no such folder"),
        (bare, "holds no config.json"),
        (skyless, "none of the model's 3 classes is called sky"),
        (torn, "no segmentation model can be loaded"),
        (partial, "its weights are not whole"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            SkyModel(folder, CPU)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)
    with pytest.raises(UserError, match="there is no such folder"):
        fit(tiny_log(3), tmp_path / "scene", with_sky(SMALL, tmp_path / "nowhere"))
    assert not (tmp_path / "scene.partial").exists()
