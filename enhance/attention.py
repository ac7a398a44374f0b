"""Which kernel computes the transformer's attention: at 32,760 tokens it is most of the work."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

import torch
from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

logger = logging.getLogger(__name__)

Attention: TypeAlias = Literal["auto", "native", "cudnn", "flash"]
"""native: what PyTorch chooses; cudnn, flash: these kernels of PyTorch's, for half precision on CUDA devices; auto: cudnn on Hopper and
later devices where it gives what native gives, else native."""

_BACKENDS = {"native": "native", "cudnn": "_native_cudnn", "flash": "_native_flash"}
_HEAD_CHANNELS = (64, 128)
"""Channels of a head that the fast kernels are made for."""


def use_attention(transformer: WanTransformer3DModel, attention: Attention, device: torch.device, dtype: torch.dtype) -> str:
    """Make a transformer that will run on `device` in `dtype` use a kernel; returns the name of what it uses.

    `ValueError` for an unknown name.
    """
    if attention not in get_args(Attention):
        raise ValueError(f"attention must be one of {', '.join(get_args(Attention))}; got {attention}")
    chosen = attention
    if attention == "auto":
        head = transformer.config["attention_head_dim"]
        hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
        half = dtype in (torch.bfloat16, torch.float16)
        chosen = "cudnn" if hopper and half and head in _HEAD_CHANNELS and _agrees("cudnn", head, device, dtype) else "native"
    set_now = {processor._attention_backend for processor in _processors(transformer)}
    if set_now == {_BACKENDS[chosen]} or (chosen == "native" and set_now == {None}):
        return chosen
    # diffusers also makes it the default of every other model; the context puts that default back.
    with attention_backend(_BACKENDS["native"]):
        transformer.set_attention_backend(_BACKENDS[chosen])
    return chosen


def _processors(transformer: WanTransformer3DModel) -> list[Any]:
    blocks: Any = transformer.blocks  # type checkers do not see what a module list holds
    return [attention.processor for block in blocks for attention in (block.attn1, block.attn2)]


@lru_cache(maxsize=8)
def _agrees(attention: str, head_channels: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel runs here and gives, forwards and backwards, what PyTorch's own choice gives, to the rounding of `dtype`."""
    generator = torch.Generator(device).manual_seed(0)
    inputs = [torch.randn(1, n, 2, head_channels, generator=generator, device=device, dtype=dtype) for n in (512, 256, 256)]
    weight = torch.randn(inputs[0].shape, generator=generator, device=device, dtype=dtype)
    results = []
    try:
        for name in ("native", attention):
            leaves = [x.clone().requires_grad_() for x in inputs]
            with torch.enable_grad(), attention_backend(_BACKENDS[name]):
                query, key, value = leaves
                out = dispatch_attention_fn(query, key, value)
            results.append([out.detach(), *torch.autograd.grad(out, leaves, weight)])
    except RuntimeError as fault:
        logger.info("attention: %s does not run on this device (%s)", attention, " ".join(str(fault).split())[:200])
        return False
    return all(float((a - b).float().norm()) <= 0.02 * float(a.float().norm()) for a, b in zip(*results, strict=True))
