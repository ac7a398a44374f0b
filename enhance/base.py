"""Wan 2.1 base models: autoencoder and transformer by local folder or hub id, and the fixed caption's embedding."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from huggingface_hub import model_info, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from splatmend.datasets.errors import UserError
from splatmend.enhance.model import Enhancer, EnhancerSpec
from splatmend.enhance.tensor_files import check_finite, load_tensors

logger = logging.getLogger(__name__)
Model = TypeVar("Model", bound=ModelMixin)
WAN21_1_3B = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
CAPTION = "A sharp, clean video of a real scene, filmed with a good camera."
CAPTION_FILE = "caption.safetensors"
CAPTION_TOKENS = 512
_CHECKED_NUMBERS = 200_000_000
_HUB_SECONDS = 10.0


def is_local_folder(path: Path) -> bool:
    """Whether a path is on this machine (a hub id is not). `UserError` for what can be neither."""
    if path.is_dir():
        return True
    # What lies below a folder that stands here is a mistyped path, though it may look like a hub id.
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(path)) or Path(path.parts[0]).exists():
        raise UserError(
            f"{path}: there is no such enhancer folder; give a folder, a hub id (owner/name), `bundled` or `bundled-harmoniser`."
        )
    return False


def check_hub(name: str) -> None:
    """`UserError` where a model is neither in the local cache of the hub nor can be had from there; asks once and does not wait long."""
    if isinstance(try_to_load_from_cache(name, "vae/config.json"), str):
        return
    try:
        model_info(name, timeout=_HUB_SECONDS)
    except HfHubHTTPError as fault:
        reason = " ".join(str(fault).split())[:120]
        raise UserError(f"{name}: there is no such folder here, and the hub does not give this model ({reason}); check the name.") from None
    except Exception as fault:  # of whichever HTTP library the hub's client was built on
        reason = " ".join(str(fault).split())[:120]
        raise UserError(f"{name}: there is no such folder here, and the hub cannot be reached ({reason}); give a folder.") from None


def load_part(kind: type[Model], path: Path, dtype: torch.dtype) -> Model:
    """One model of a local folder; `UserError` where it is missing or broken, or (large models aside) holds nan or inf."""
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: this part of the enhancer is missing; copy the whole enhancer folder again.")
    try:
        loaded: Any = kind.from_pretrained(path, torch_dtype=dtype, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, TypeError, NotImplementedError, ArithmeticError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise UserError(f"{path}: the weights cannot be read ({reason}); copy the whole enhancer folder again.") from fault
    model, info = loaded
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise UserError(
            f"{path}: the weights do not fit the model ({wrong[0]} and {len(wrong) - 1} more); copy the whole enhancer folder again."
        )
    parameters = model.state_dict()
    if sum(value.numel() for value in parameters.values()) <= _CHECKED_NUMBERS:
        check_finite(parameters.items(), path)
    return model


def load_base(path: str, *, dtype: torch.dtype = torch.float32) -> Enhancer:
    """A Wan 2.1 text-to-video model in diffusers' layout as an enhancer with output "direct" and no skips.

    The caption's embedding is read from `caption.safetensors` in a local folder, or computed by the model's own text encoder.
    `UserError` where the model cannot be reached.
    """
    if not is_local_folder(Path(path)):
        check_hub(path)
    try:
        vae = AutoencoderKLWan.from_pretrained(path, subfolder="vae", torch_dtype=dtype, use_safetensors=True)
        transformer = WanTransformer3DModel.from_pretrained(path, subfolder="transformer", torch_dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise UserError(f"{path}: the base model cannot be loaded ({reason}); download it and give its folder.") from fault
    return Enhancer(vae, transformer, caption_embedding(path, transformer.config["text_dim"], dtype), base_spec(path))


def base_spec(path: str) -> EnhancerSpec:
    """What a base model is as an enhancer."""
    return EnhancerSpec(base=path, output="direct", window=21, overlap=4)


def base_caption(path: str) -> torch.Tensor:
    """The fixed caption's embedding for a base model whose weights are not read, float32. `UserError` where the model cannot be reached."""
    if not is_local_folder(Path(path)):
        check_hub(path)
    try:
        config = WanTransformer3DModel.load_config(path, subfolder="transformer")
    except (OSError, ValueError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise UserError(f"{path}: the base model cannot be loaded ({reason}); download it and give its folder.") from fault
    return caption_embedding(path, config["text_dim"], torch.float32)


def caption_embedding(path: str, text_dim: int, dtype: torch.dtype) -> torch.Tensor:
    """The fixed caption's embedding `[1, S, D]` for a base model, zero beyond the caption as `WanPipeline` has it. `text_dim`: the
    transformer's D.

    `UserError` where there is neither a stored embedding nor a text encoder.
    """
    stored = Path(path) / CAPTION_FILE
    if stored.is_file():
        tensors = load_tensors(stored, "the caption embedding")
        if "caption" not in tensors:
            raise UserError(f"{stored}: it holds no tensor named caption; store the embedding under that name.")
        caption = tensors["caption"].to(dtype)
    else:
        caption = _encode_caption(path, dtype)
    if caption.ndim != 3 or caption.shape[2] != text_dim:
        raise UserError(
            f"{path}: the caption embedding has shape {tuple(caption.shape)}, the transformer takes {text_dim} channels; remove "
            f"{CAPTION_FILE} or store the right one."
        )
    return caption


@torch.no_grad()
def _encode_caption(path: str, dtype: torch.dtype) -> torch.Tensor:
    from transformers import AutoTokenizer, UMT5EncoderModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, subfolder="tokenizer")
        encoder = UMT5EncoderModel.from_pretrained(path, subfolder="text_encoder", torch_dtype=torch.bfloat16)
    except (OSError, ValueError) as fault:
        reason = " ".join(str(fault).split())[:160]
        raise UserError(
            f"{path}: it has neither {CAPTION_FILE} nor a text encoder that can be loaded ({reason}); download the whole model or store "
            "the embedding of one caption there."
        ) from fault
    tokens = tokenizer(CAPTION, padding="max_length", max_length=CAPTION_TOKENS, truncation=True, return_tensors="pt")
    embedded = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    logger.info("the caption was embedded with the text encoder of %s", path)
    return (embedded * tokens.attention_mask[..., None]).to(dtype)
