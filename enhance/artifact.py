"""Enhancer folders: `enhancer.json` and weights in diffusers' own layout.

    enhancer.json          what it is (format_version, base, task, timestep, output, skips, requires, provenance)
    vae/, transformer/     load with diffusers as they are; left out where they are the base model's own
    adapter.safetensors    caption embedding, the skips, what fuses references, and what tells of a mask
    lora/                  a transformer LoRA, loads with `WanPipeline.load_lora_weights`

`requires` names the parts without which it would be another model: a loader that does not know one must refuse the folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import save_file

from splatmend.datasets.artifact import MANIFEST, naming_full_disk, plain, read_json, read_manifest, write_json
from splatmend.datasets.errors import UserError
from splatmend.enhance.base import base_caption, base_spec, is_local_folder, load_base, load_part
from splatmend.enhance.bundled import BUNDLED, BUNDLED_HARMONISER, bundled_folder, is_bundled
from splatmend.enhance.fusion import ReferenceFusion
from splatmend.enhance.lora import load_lora, save_lora
from splatmend.enhance.model import Enhancer, EnhancerSpec, LoraInfo
from splatmend.enhance.skips import Skip
from splatmend.enhance.tensor_files import load_tensors

FORMAT_VERSION = 1
KIND, AUTOENCODER_KIND = "enhancer", "autoencoder"
INFO, ADAPTER, LORA = "enhancer.json", "adapter.safetensors", "lora"
OPACITY, REFERENCES, INSERTION = "opacity", "references", "insertion"
_ENDS_BYTES = 1 << 16
SKIPS, FUSION, MASK_INPUT = "skips.", "fusion.", "mask_input."
KNOWN_PARTS = ("vae", "transformer", "caption", "skips", "lora", OPACITY, REFERENCES, INSERTION)


def save_enhancer(
    enhancer: Enhancer, folder: Path, *, dtype: torch.dtype | None = None, own_vae: bool = True, own_transformer: bool = True
) -> None:
    """Write an enhancer into an existing folder. `dtype`: of the saved weights (None: as they are).

    `own_vae`, `own_transformer`: False where that part is the base model's, unchanged, and is loaded from there again.
    """
    parts = ["caption"]
    if own_vae:
        parts.append("vae")
        save_model(enhancer.vae, folder / "vae", dtype)
    if enhancer.spec.lora is not None:
        parts.append("lora")
        save_lora(enhancer.transformer, folder / LORA)
        if own_transformer:
            raise ValueError("a LoRA enhancer keeps the base model's transformer: save it with own_transformer=False")
    elif own_transformer:
        parts.append("transformer")
        save_model(enhancer.transformer, folder / "transformer", dtype)
    tensors = {"caption": enhancer.caption} | {f"{SKIPS}{name}": value for name, value in enhancer.joins.state_dict().items()}
    if enhancer.spec.skips:
        parts.append("skips")
    if enhancer.looks_at_opacity:
        parts.append(OPACITY)
    if enhancer.fusion is not None:
        parts.append(REFERENCES)
        tensors |= {f"{FUSION}{name}": value for name, value in enhancer.fusion.state_dict().items()}
    if enhancer.mask_input is not None:
        parts.append(INSERTION)
        tensors |= {f"{MASK_INPUT}{name}": value for name, value in enhancer.mask_input.state_dict().items()}
    _write_tensors(folder / ADAPTER, {name: _as_saved(value, dtype) for name, value in tensors.items()})
    write_json(folder / INFO, {"format_version": FORMAT_VERSION, "requires": parts, "spec": plain(enhancer.spec)})


def load_enhancer(path: str | Path = BUNDLED, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Enhancer:
    """Load an enhancer in evaluation mode: "bundled", "bundled-harmoniser", a folder that splatmend wrote, a diffusers Wan
    folder, or a hub id.

    A plain Wan base model has output "direct" and no skips; it needs fine-tuning before it enhances anything. `UserError` where the
    folder is none of these, lacks a part that it requires, or requires one that this version does not know.
    """
    folder = _own_folder(path)
    enhancer = load_base(str(path), dtype=dtype) if folder is None else _load_folder(folder, dtype)
    return enhancer.to(device).eval().requires_grad_(False)


def load_fusion(path: str | Path) -> ReferenceFusion | None:
    """What fuses references in whatever `load_enhancer` takes, float32 on the CPU; None where it takes none. Nothing else of it is read.
    `UserError` as `load_enhancer` has it."""
    folder = _own_folder(path)
    if folder is None:
        return None
    spec, _ = _read_info(folder)
    if not spec.references:
        return None
    fusion = ReferenceFusion(spec.references)
    held = {name: value for name, value in _load_adapter(folder / ADAPTER).items() if name.startswith(FUSION)}
    _fill("weights for references", fusion, held, FUSION, folder)
    return fusion.float()


def folder_key(path: str | Path) -> str:
    """What tells whatever `load_enhancer` takes from others, wherever it lies: a hash of its files' sizes and of both ends of each; a hub
    id itself."""
    folder = _own_folder(path) or Path(path)
    if not folder.is_dir():
        return str(path)
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        size = file.stat().st_size
        with file.open("rb") as opened:
            ends = opened.read(_ENDS_BYTES)
            opened.seek(max(size - _ENDS_BYTES, 0))
            ends += opened.read()
        digest.update(repr((file.relative_to(folder).as_posix(), size, ends)).encode())
    return digest.hexdigest()


def copy_with_fusion(source: str | Path, folder: Path, fusion: ReferenceFusion, provenance: Mapping[str, Any]) -> None:
    """Write whatever `load_enhancer` takes into an existing folder, with another fusion of references and a line of history. All other
    weights are those of the source, byte by byte; a base model's stay where they are. `UserError` where the source cannot be read."""
    own = _own_folder(source)
    tensors: dict[str, torch.Tensor] = {"caption": base_caption(str(source))} if own is None else _load_adapter(own / ADAPTER)
    spec, requires = (base_spec(str(source)), ["caption"]) if own is None else _read_info(own)
    for part in ("vae", "transformer", LORA):
        if own is not None and part in requires:
            with naming_full_disk(folder):
                shutil.copytree(own / part, folder / part, copy_function=shutil.copyfile)
    tensors = {name: value for name, value in tensors.items() if not name.startswith(FUSION)}
    tensors |= {f"{FUSION}{name}": _as_saved(value, None) for name, value in fusion.state_dict().items()}
    _write_tensors(folder / ADAPTER, tensors)
    spec = dataclasses.replace(with_provenance(spec, provenance), references=fusion.layers)
    parts = [part for part in requires if part != REFERENCES]
    write_json(folder / INFO, {"format_version": FORMAT_VERSION, "requires": [*parts, REFERENCES], "spec": plain(spec)})


def _own_folder(path: str | Path) -> Path | None:
    """The folder of an enhancer, "bundled" or not; None for a base model's folder or hub id. `UserError` for what can be neither."""
    bundled = is_bundled(str(path))
    folder = bundled_folder(str(path)) if bundled else Path(path)
    if bundled and not (folder / INFO).is_file():
        raise UserError(f"{folder}: this installation comes without bundled weights; give an enhancer folder instead.")
    if not is_local_folder(folder) or ((folder / "model_index.json").is_file() and not (folder / INFO).is_file()):
        return None
    return folder


def _read_info(folder: Path) -> tuple[EnhancerSpec, list[str]]:
    if (folder / MANIFEST).is_file():
        read_manifest(folder, KIND)
    if not (folder / INFO).is_file():
        raise UserError(f"{folder}: this is no enhancer, for it has no {INFO}; give a folder that `splatmend train` wrote.")
    return _parse_info(read_json(folder / INFO), folder / INFO)


def _fill(what: str, module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], prefix: str, folder: Path) -> None:
    """Give a module its tensors, whose names have a prefix; there may be no others."""
    try:
        module.load_state_dict({name.removeprefix(prefix): value for name, value in tensors.items()})
    except RuntimeError as fault:
        reason = " ".join(str(fault).split())[:200]
        raise UserError(f"{folder / ADAPTER}: the {what} do not fit {INFO} ({reason}); copy the whole enhancer folder again.") from None


def _load_folder(folder: Path, dtype: torch.dtype) -> Enhancer:
    spec, requires = _read_info(folder)
    base = None if {"vae", "transformer"} <= set(requires) else load_base(spec.base, dtype=dtype)
    vae = load_part(AutoencoderKLWan, folder / "vae", dtype) if "vae" in requires else _of(base).vae
    transformer = load_part(WanTransformer3DModel, folder / "transformer", dtype) if "transformer" in requires else _of(base).transformer
    tensors = _load_adapter(folder / ADAPTER)
    caption = tensors.pop("caption").to(dtype)
    for name in ("latents_mean", "latents_std"):
        count, channels = len(vae.config[name]), vae.config["z_dim"]
        if count != channels:
            raise UserError(
                f"{folder / 'vae' / 'config.json'}: {name} has {count} numbers for {channels} channels of latents; copy the whole enhancer "
                "folder again."
            )
    try:
        enhancer = Enhancer(vae, transformer, caption, spec)
    except ValueError as fault:
        raise UserError(f"{folder / INFO}: its skips do not fit its autoencoder ({fault}); copy the whole enhancer folder again.") from None
    fusion, mask_input = ({name: tensors.pop(name) for name in list(tensors) if name.startswith(part)} for part in (FUSION, MASK_INPUT))
    _fill("skips", enhancer.joins, tensors, SKIPS, folder)
    enhancer.joins.to(dtype)
    if enhancer.fusion is not None:
        _fill("weights for references", enhancer.fusion, fusion, FUSION, folder)
        enhancer.fusion.to(dtype)
    if enhancer.mask_input is not None:
        _fill("weights for masks", enhancer.mask_input, mask_input, MASK_INPUT, folder)
        enhancer.mask_input.to(dtype)
    if spec.lora is not None:
        load_lora(enhancer.transformer, folder / LORA)
    return enhancer


def load_autoencoder(folder: Path) -> AutoencoderKLWan:
    """The autoencoder of a folder that the first training stage (or the second) wrote, in float32."""
    manifest = read_manifest(folder)
    if manifest.kind not in (AUTOENCODER_KIND, KIND):
        raise UserError(f"{folder}: it is of the kind {manifest.kind}, but autoencoder or enhancer is needed here; give another folder.")
    return load_part(AutoencoderKLWan, folder / "vae", torch.float32)


def copy_as_bundled(source: Path, destination: Path | None = None, *, strength: float | None = None, on_bodies: float | None = None) -> int:
    """Write the enhancer at `source` in bfloat16 as the bundled one, or as the bundled harmoniser where it is one; returns its size in
    bytes. `strength`, `on_bodies`: what it is to advise.

    `UserError` where it is larger than the 16 MB (a harmoniser: 8 MB) that a package may carry or needs a base model from elsewhere.
    """
    enhancer = load_enhancer(source)
    info = read_json(Path(source) / INFO)
    if not {"vae", "transformer"} <= set(info["requires"]):
        raise UserError(f"{source}: it needs its base model {enhancer.spec.base}; only an enhancer that is whole can be bundled.")
    if strength is not None:
        enhancer.spec = dataclasses.replace(enhancer.spec, strength=strength)
    if on_bodies is not None:
        enhancer.spec = dataclasses.replace(enhancer.spec, on_bodies=on_bodies)
    harmonises = enhancer.spec.harmonises
    folder, most = destination or bundled_folder(BUNDLED_HARMONISER if harmonises else BUNDLED), 8_000_000 if harmonises else 16_000_000
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_enhancer(enhancer, fresh, dtype=torch.bfloat16)
    size = sum(p.stat().st_size for p in fresh.rglob("*") if p.is_file())
    if size > most:
        shutil.rmtree(fresh)
        raise UserError(f"{source}: it takes {size} bytes in bfloat16, more than the {most} that may be bundled; train a smaller one.")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return size


def _parse_info(info: Any, path: Path) -> tuple[EnhancerSpec, list[str]]:
    version = info.get("format_version") if isinstance(info, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format version {version} is unknown, this splatmend reads {FORMAT_VERSION}; update splatmend.")
    try:
        raw, requires = dict(info["spec"]), info["requires"]
        if not isinstance(requires, list) or not all(isinstance(part, str) for part in requires):
            raise ValueError("`requires` must be a list of names")
        raw["skips"] = tuple(Skip(**skip) for skip in raw["skips"])
        if raw["lora"] is not None:
            raw["lora"] = LoraInfo(**(raw["lora"] | {"targets": tuple(raw["lora"]["targets"])}))
        spec = EnhancerSpec(**raw)
    except (KeyError, TypeError, ValueError) as fault:
        raise UserError(f"{path}: an entry is missing or wrong ({fault}); copy the whole enhancer folder again.") from None
    unknown = sorted(set(requires) - set(KNOWN_PARTS))
    if unknown:
        raise UserError(f"{path}: it requires {', '.join(unknown)}, which this splatmend does not know; update splatmend.")
    if bool(spec.skips) != ("skips" in requires) or (spec.lora is not None) != ("lora" in requires):
        raise UserError(f"{path}: `requires` and `spec` disagree about skips or LoRA; copy the whole enhancer folder again.")
    if (spec.opacity_noise > 0) != (OPACITY in requires):
        raise UserError(f"{path}: `requires` and `spec` disagree about opacity; copy the whole enhancer folder again.")
    if bool(spec.references) != (REFERENCES in requires):
        raise UserError(f"{path}: `requires` and `spec` disagree about references; copy the whole enhancer folder again.")
    if spec.harmonises != (INSERTION in requires):
        raise UserError(f"{path}: `requires` and `spec` disagree about insertion; copy the whole enhancer folder again.")
    return spec, requires


def _load_adapter(path: Path) -> dict[str, torch.Tensor]:
    tensors = load_tensors(path, "the caption and skips")
    if "caption" not in tensors:
        raise UserError(f"{path}: the caption embedding is missing; copy the whole enhancer folder again.")
    return tensors


def save_model(model: torch.nn.Module, folder: Path, dtype: torch.dtype | None) -> None:
    """`save_pretrained` with other dtypes, the model itself unchanged."""
    state = {name: _as_saved(value, dtype) for name, value in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)  # type: ignore[operator]
    config = read_json(folder / "config.json")
    config.pop("_name_or_path", None)  # where the model was loaded from says nothing elsewhere
    write_json(folder / "config.json", config)
    _write_tensors(folder / "diffusion_pytorch_model.safetensors", state)


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with naming_full_disk(path):
        save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes files that nobody else may read, which would survive into an installed package


def _as_saved(value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    value = value.detach().cpu()
    return (value.to(dtype) if dtype is not None and value.is_floating_point() else value).contiguous()


def _of(base: Enhancer | None) -> Enhancer:
    if base is None:
        raise RuntimeError("the base model was not loaded")
    return base


def with_provenance(spec: EnhancerSpec, provenance: Mapping[str, Any]) -> EnhancerSpec:
    """The spec with a line of history added."""
    return dataclasses.replace(spec, provenance=dict(spec.provenance) | dict(provenance))
