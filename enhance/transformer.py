"""How a Wan transformer's weights are held and its blocks run."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel


def hold_in(transformer: WanTransformer3DModel, dtype: torch.dtype) -> None:
    """Cast a transformer's weights in place, but for the few that diffusers keeps in float32 (norms, timestep embedding, modulation).

    What `from_pretrained(torch_dtype=dtype)` gives; `transformer.to(dtype)` casts those as well.
    """
    model: Any = transformer  # type checkers do not see the list that diffusers registers
    kept = tuple(model._keep_in_fp32_modules or ())
    for name, parameter in transformer.named_parameters():
        held = torch.float32 if any(part in name for part in kept) else dtype
        parameter.data = parameter.data.to(held)


def compile_blocks(transformer: WanTransformer3DModel) -> None:
    """Compile the blocks, which are alike, in place (once; a second call does nothing). The first run of a shape takes long."""
    if all(block._compiled_call_impl is None for block in transformer.blocks):
        transformer.compile_repeated_blocks()


def inference_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 on CUDA devices that compute in it, float32 elsewhere."""
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    return torch.float32
