"""The dtypes weights are held in."""

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
