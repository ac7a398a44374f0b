"""LoRA on the transformer, saved so that diffusers' `WanPipeline.load_lora_weights` loads it as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from diffusers import WanPipeline
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict

from splatmend.datasets.artifact import naming_full_disk
from splatmend.datasets.errors import UserError
from splatmend.enhance.model import LoraInfo
from splatmend.enhance.tensor_files import load_tensors

ADAPTER_NAME = "default"
LORA_FILE = "pytorch_lora_weights.safetensors"


def add_lora(transformer: WanTransformer3DModel, info: LoraInfo) -> list[torch.nn.Parameter]:
    """Attach a fresh LoRA (its effect starts at zero) and freeze the rest of the transformer; returns its parameters, in float32.

    `UserError` where the targets name no module.
    """
    config = LoraConfig(
        r=info.rank,
        lora_alpha=info.alpha,  # type: ignore[arg-type]  # peft takes fractions too
        target_modules=list(info.targets),
        init_lora_weights=True,
    )
    transformer.requires_grad_(False)
    try:
        transformer.add_adapter(config, adapter_name=ADAPTER_NAME)
    except ValueError as fault:
        raise UserError(f"lora: the targets {', '.join(info.targets)} name no layer of the transformer ({fault}); give others.") from fault
    parameters = lora_parameters(transformer)
    for parameter in parameters:
        # Half-precision base weights stay as they are; what is trained is kept in full precision.
        parameter.data = parameter.data.float()
    return parameters


def lora_parameters(transformer: WanTransformer3DModel) -> list[torch.nn.Parameter]:
    """The LoRA's own parameters."""
    return [p for name, p in transformer.named_parameters() if "lora_" in name]


def leave_casts_to_autocast(transformer: WanTransformer3DModel) -> None:
    """For training under autocast: the LoRA's layers take their inputs as they come.

    peft casts every input to the LoRA's float32, and autocast casts it back: two copies of each of the largest activations, one of
    which the backward pass would keep.
    """
    for module in transformer.modules():
        if isinstance(module, BaseTunerLayer):
            cast(Any, module).cast_input_dtype_enabled = False


def save_lora(transformer: WanTransformer3DModel, folder: Path) -> None:
    """Write the LoRA to `folder/pytorch_lora_weights.safetensors`, with the metadata that keeps alpha when it is loaded."""
    with naming_full_disk(folder / LORA_FILE):
        WanPipeline.save_lora_weights(
            folder,
            transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name=ADAPTER_NAME),
            # Without the metadata diffusers takes alpha = rank: rank 128 with alpha 64 would load at twice its strength.
            transformer_lora_adapter_metadata=transformer.peft_config[ADAPTER_NAME].to_dict(),
        )


def load_lora(transformer: WanTransformer3DModel, folder: Path) -> None:
    """The inverse of `save_lora`; `UserError` where the file is missing or broken, or holds nan or inf."""
    if not (folder / LORA_FILE).is_file():
        raise UserError(f"{folder / LORA_FILE}: the LoRA of this enhancer is missing; copy the whole enhancer folder again.")
    load_tensors(folder / LORA_FILE, "the LoRA")
    state, metadata = WanPipeline.lora_state_dict(folder, weight_name=LORA_FILE, return_lora_metadata=True)
    WanPipeline.load_lora_into_transformer(state, transformer, adapter_name=ADAPTER_NAME, metadata=metadata)
    for parameter in lora_parameters(transformer):
        # peft keeps a LoRA in float32 and would compute it so.
        parameter.data = parameter.data.to(transformer.dtype)
