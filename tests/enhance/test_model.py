"""The one-step enhancer at toy size: modes, skips, windows, and folders on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import copy_as_bundled, load_enhancer, save_enhancer
from splatmend.enhance.base import CAPTION_FILE
from splatmend.enhance.model import Enhancer, OutputMode, decode_at_once
from splatmend.enhance.skips import Skip, build_joins
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.windows import in_windows, window_starts


def tiny(output: OutputMode = "residual", *, active: bool = True) -> Enhancer:
    """A toy enhancer; `active`: every path that starts at zero has weights, so that each counts."""
    torch.manual_seed(3)
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32), output=output)
    if active:
        for parameter in (enhancer.vae.decoder.conv_out.weight, enhancer.transformer.proj_out.weight):
            torch.nn.init.normal_(parameter, std=0.2)
        for join in enhancer.join_modules().values():
            torch.nn.init.normal_(join.gate)
    return enhancer.eval().requires_grad_(False)


def clip(frames: int = 9, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("output", ["residual", "difference"])
def test_a_fresh_enhancer_changes_nothing(output: OutputMode) -> None:
    enhancer = tiny(output, active=False)
    assert torch.equal(enhancer(clip()), clip())


@pytest.mark.parametrize("output", ["direct", "residual", "difference"])
def test_whole_clip_in_two_calls_equals_group_by_group(output: OutputMode) -> None:
    enhancer, x = tiny(output), clip()
    encoded = enhancer.encode(x)
    stepwise = torch.cat([enhancer.adapter().encode_group(x[:, :, :1], enhancer.adapter().initial_encoder_cache(), 0)[0]], dim=2)
    torch.testing.assert_close(encoded.latents[:, :, :1], enhancer.adapter().normalise(stepwise))
    torch.testing.assert_close(encoded.latents, enhancer.adapter().normalise(enhancer.decoder().encode(x)), atol=1e-5, rtol=1e-4)
    z = enhancer.decoder_latents(encoded.latents, enhancer.predict(encoded.latents))
    frames = enhancer.compose(x, decode_at_once(enhancer.adapter(), z, [enhancer.decoder_side(s) for s in encoded.side]))
    assert (frames - x).abs().max() > 0.01
    torch.testing.assert_close(frames, enhancer(x), atol=1e-4, rtol=1e-3)


def test_strength_mixes_input_and_result() -> None:
    enhancer, x = tiny(), clip(5)
    full = enhancer(x)
    assert torch.equal(enhancer(x, strength=0.0), x)
    torch.testing.assert_close(enhancer(x, strength=0.25), x + 0.25 * (full - x))


@pytest.mark.parametrize("strength", [-0.1, 1.1, 7.0, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(UserError, match="between 0"):
        tiny()(clip(1), strength=strength)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (clip()[0], "got 4 dimensions"),
        (clip()[:, :2], "3 channels, got 2"),
        (clip(8), "8 frames does not fill"),
        (clip()[:, :, :0], "empty"),
        (clip(height=31), "31x32 pixels"),
    ],
)
def test_clips_that_do_not_fit_are_refused(bad: torch.Tensor, message: str) -> None:
    enhancer = tiny()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            for call in (enhancer, enhancer.encode):
                with pytest.raises(ValueError, match=message):
                    call(bad)


def test_latents_that_do_not_fill_the_transformer_s_patches_are_refused() -> None:
    enhancer = tiny()
    with pytest.raises(ValueError, match="no multiple of"):
        enhancer(clip(height=32 + enhancer.adapter().spatial_factor))


def test_a_join_that_does_not_fit_is_refused() -> None:
    vae = small_vae(8)
    with pytest.raises(ValueError, match="needs"):
        build_joins(vae, [Skip(tap="down_blocks.0", join="up_blocks.0")])
    with pytest.raises(ValueError, match="no encoder block"):
        build_joins(vae, [Skip(tap="down_blocks.9", join="up_blocks.0")])


def test_windows_cover_every_latent_and_blend_to_the_identity() -> None:
    assert window_starts(12, 5, 2) == [0, 3, 6, 7]
    z = torch.randn(1, 4, 12, 2, 2)
    torch.testing.assert_close(in_windows(z, 5, 2, lambda w: w), z)
    # A prediction that differs from window to window is crossfaded, never cut: neighbours differ by less than the windows do.
    numbers = iter([0.0, 1.0, 2.0])
    ramp = in_windows(torch.zeros(1, 1, 11, 1, 1), 5, 2, lambda w: torch.full_like(w, next(numbers))).flatten()
    assert ramp[0] == 0
    assert ramp[-1] == 2
    assert ramp.diff().min() >= 0
    assert ramp.diff().max() < 0.5
    with pytest.raises(ValueError, match="overlap"):
        window_starts(9, 3, 3)
    with pytest.raises(ValueError, match="at least one latent"):
        tiny().predict_windows(tiny().encode(clip(5)).latents, window=0)


def test_the_shipped_configuration_fits_its_budget() -> None:
    with torch.device("meta"):
        vae, transformer = small_vae(), small_transformer()
    assert sum(p.numel() for module in (vae, transformer) for p in module.parameters()) < 7_700_000
    assert sum(p.numel() for p in small_enhancer().parameters()) * 2 < 15_700_000


def test_a_folder_holds_the_same_model_and_loads_in_diffusers(tmp_path: Path) -> None:
    enhancer, x = tiny(), clip(5)
    save_enhancer(enhancer, tmp_path)
    again = load_enhancer(tmp_path)
    assert again.spec == enhancer.spec
    assert torch.equal(again(x), enhancer(x))
    vae = AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    assert torch.equal(vae.encoder.conv_in.weight, enhancer.vae.encoder.conv_in.weight)
    transformer = WanTransformer3DModel.from_pretrained(tmp_path / "transformer")
    assert torch.equal(transformer.proj_out.weight, enhancer.transformer.proj_out.weight)


@pytest.mark.parametrize("part", ["vae", "transformer", "adapter.safetensors", "enhancer.json"])
def test_a_missing_part_is_an_error(tmp_path: Path, part: str) -> None:
    save_enhancer(tiny(), tmp_path)
    path = tmp_path / part
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(UserError, match=part):
        load_enhancer(tmp_path)


def test_unknown_requirements_and_dropped_skips_are_errors(tmp_path: Path) -> None:
    save_enhancer(tiny(), tmp_path)
    path = tmp_path / "enhancer.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"requires": [*info["requires"], "mirror"]}))
    with pytest.raises(UserError, match="mirror"):
        load_enhancer(tmp_path)
    path.write_text(json.dumps(info | {"spec": info["spec"] | {"skips": []}}))
    with pytest.raises(UserError, match="disagree"):
        load_enhancer(tmp_path)
    for wrong in (
        {"timestep": "x"},
        {"timestep": -1},
        {"timestep": True},
        {"references": True},
        {"strength": 2.0},
        {"strength": None},
        {"on_bodies": 1.5},
        {"on_bodies": "0.5"},
        {"on_bodies": True},
        {"window": 5.5},
        {"overlap": "four"},
    ):
        path.write_text(json.dumps(info | {"spec": info["spec"] | wrong}))
        with pytest.raises(UserError, match=next(iter(wrong))):
            load_enhancer(tmp_path)
    path.write_text(json.dumps(info | {"spec": info["spec"] | {"skips": [{"tap": "down_blocks.9", "join": "mid_block"}]}}))
    with pytest.raises(UserError, match="its skips do not fit its autoencoder"):
        load_enhancer(tmp_path)
    path.write_text(json.dumps(info | {"requires": [1]}))
    with pytest.raises(UserError, match="must be a list of names"):
        load_enhancer(tmp_path)
    path.write_text(json.dumps(info | {"format_version": 99}))
    with pytest.raises(UserError, match="99"):
        load_enhancer(tmp_path)
    with pytest.raises(UserError, match="no such enhancer folder"):
        load_enhancer(tmp_path / "none")


def test_a_bundle_is_bfloat16_and_works(tmp_path: Path) -> None:
    enhancer, x = tiny(), clip(5)
    (tmp_path / "full").mkdir()
    save_enhancer(enhancer, tmp_path / "full")
    size = copy_as_bundled(tmp_path / "full", tmp_path / "weights")
    assert size < 0.6 * sum(p.stat().st_size for p in (tmp_path / "full").rglob("*") if p.is_file())
    again = load_enhancer(tmp_path / "weights")
    assert (again(x) - enhancer(x)).abs().max() < 0.1
    half = load_enhancer(tmp_path / "weights", dtype=torch.bfloat16)
    assert half(x).isfinite().all()


def test_a_wan_folder_is_a_base_model(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    enhancer = tiny()
    enhancer.vae.save_pretrained(tmp_path / "vae")
    enhancer.transformer.save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="text encoder"):
        load_enhancer(tmp_path)
    save_file({"caption": torch.zeros(1, 3, 64)}, tmp_path / CAPTION_FILE)
    base = load_enhancer(tmp_path)
    assert base.spec.output == "direct"
    assert base.spec.skips == ()
    assert base.caption.shape == (1, 3, 64)
    assert base(clip(5)).shape == (1, 3, 5, 32, 32)


def test_saved_configs_name_no_path_of_the_machine(tmp_path) -> None:
    from splatmend.enhance.artifact import load_enhancer, save_enhancer

    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    save_enhancer(load_enhancer("bundled"), tmp_path / "first")
    save_enhancer(load_enhancer(tmp_path / "first"), tmp_path / "second")
    for part in ("vae", "transformer"):
        assert str(tmp_path) not in (tmp_path / "second" / part / "config.json").read_text()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_enhancer(tiny(), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "one less")
    file = tmp_path / "one less" / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["proj_out.weight"]
    save_file(tensors, file)
    with pytest.raises(UserError, match="do not fit"):
        load_enhancer(tmp_path / "one less")
    shutil.copytree(tmp_path / "whole", tmp_path / "swapped")
    shutil.copy(tmp_path / "whole" / "transformer" / file.name, tmp_path / "swapped" / "vae" / file.name)
    with pytest.raises(UserError, match="swapped"):
        load_enhancer(tmp_path / "swapped")
    pickled = tmp_path / "whole" / "vae" / file.name
    pickled.rename(pickled.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(UserError, match="vae"):
        load_enhancer(tmp_path / "whole")


@pytest.mark.parametrize("part", ["adapter", "vae", "transformer"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, part: str) -> None:
    from safetensors.torch import load_file, save_file

    save_enhancer(tiny(), tmp_path)
    file = next(path for path in tmp_path.rglob("*.safetensors") if part in str(path.relative_to(tmp_path)))
    tensors = load_file(file)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = float("nan") if part == "vae" else float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{part}.*{name} holds values that are no finite numbers"):
        load_enhancer(tmp_path)


def test_a_mistyped_model_is_refused_without_asking_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(name: str, **_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("splatmend.enhance.base.model_info", asked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for mistyped in ("enhancr", "out/enhancr", "a/b/c", "../x", "~/x", "-owner/x"):
        with pytest.raises(UserError, match="no such enhancer folder"):
            load_enhancer(mistyped)
    with pytest.raises(UserError, match=r"owner/name: .* the hub cannot be reached \(no network\)"):
        load_enhancer("owner/name")
