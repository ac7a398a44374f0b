"""diffusers' Wan modules run through the fast layers, with the modules' own weights.

Convolutions with trained weights run stacked as well (`trained`), their normalisations as they are. A module that no fast layer can
stand in for (wrapped weights, another activation, hooks anywhere inside) runs as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
)
from torch import nn
from torch.nn.modules import module as calls

from splatmend.enhance.decoder.fast.attention import attention
from splatmend.enhance.decoder.fast.conv import LAST, FrozenNorm, causal_conv, residual_block, upsampling_conv
from splatmend.enhance.decoder.fast.frozen import FrozenWeights
from splatmend.enhance.decoder.fast.norm import EPSILON as NORM_EPSILON
from splatmend.enhance.decoder.fast.trained import trained_causal_conv
from splatmend.enhance.decoder.wan_blocks import ReferenceOperations, Slots


class FastOperations(ReferenceOperations):
    """The same functions of module, input and slots as `ReferenceOperations`, equal to rounding."""

    def __init__(self) -> None:
        self._weights = FrozenWeights()

    def forget_weights(self) -> None:
        self._weights.forget()

    def convolution(self, convolution: nn.Module, x: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, Slots]:
        if not _plain_causal(convolution):
            return self._trained(convolution, x, slots) if _trained_causal(convolution) else super().convolution(convolution, x, slots)
        dtype = _compute_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            y, tail = causal_conv(x.to(dtype), _cache(slots), self._weights.of(convolution, dtype))
        return y, (tail,)

    def head(
        self, norm: nn.Module, nonlinearity: nn.Module, convolution: nn.Module, x: torch.Tensor, slots: Slots
    ) -> tuple[torch.Tensor, Slots]:
        if not (_plain_causal(convolution) and _plain_norm(norm) and _is_silu(nonlinearity)):
            return self.convolution(convolution, _activated(norm, nonlinearity, x), slots)
        dtype = _compute_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            y, tail = causal_conv(x.to(dtype), _cache(slots), self._weights.of(convolution, dtype), _norm(norm))
        return y, (tail,)

    def block(self, module: nn.Module, x: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, Slots]:
        if type(module) is WanResidualBlock and _plain_residual(module):
            return self._residual(module, x, slots)
        if type(module) is WanResidualBlock and not _hooked(module):
            return self._trained_residual(module, x, slots)
        if type(module) is WanResample and _plain_upsampler(module):
            return self._upsample(module, x, slots)
        if type(module) is WanAttentionBlock and _plain_attention(module):
            return self._attention(module, x), ()
        return super().block(module, x, slots)

    def _residual(self, module: Any, x: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, Slots]:
        dtype = _compute_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            caches = _cache(slots[:1]), _cache(slots[1:2])
            one, two = self._weights.of(module.conv1, dtype), self._weights.of(module.conv2, dtype)
            norms = _norm(module.norm1), replace(_norm(module.norm2), bias=one.bias)
            plain = isinstance(module.conv_shortcut, nn.Identity)
            shortcut = None if plain else self._weights.of(module.conv_shortcut, dtype)
            y, *tails = residual_block(x.to(dtype), caches, (one, two), norms, shortcut)
        return y, tuple(tails)

    def _trained_residual(self, module: Any, x: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, Slots]:
        """The module's own steps one by one, so that each convolution runs as it can."""
        around = module.conv_shortcut(x)
        y, first = self.convolution(module.conv1, _activated(module.norm1, module.nonlinearity, x), slots[:1])
        y, second = self.convolution(module.conv2, module.dropout(_activated(module.norm2, module.nonlinearity, y)), slots[1:2])
        return y + around, (*first, *second)

    def _trained(self, convolution: Any, x: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, Slots]:
        dtype = _compute_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            y, tail = trained_causal_conv(x, _cache(slots), convolution.weight, convolution.bias, dtype)
        return y, (tail,)

    def _attention(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        dtype = _compute_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.to(dtype).permute(0, 2, 3, 4, 1)
            to_qkv, proj = (self._weights.of(layer, dtype) for layer in (module.to_qkv, module.proj))
            normal = F.normalize(rows, dim=-1) * module.norm.scale * module.norm.gamma.detach().flatten().to(dtype)
            qkv = F.linear(normal, to_qkv.weight.flatten(1), to_qkv.bias).flatten(2, 3).flatten(0, 1)
            seen = attention(*qkv.chunk(3, dim=-1)).view(rows.shape)
            return (F.linear(seen, proj.weight.flatten(1), proj.bias) + rows).permute(0, 4, 1, 2, 3)

    def _upsample(self, module: Any, x: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, Slots]:
        dtype = _compute_dtype(x)
        filled: Slots = ()
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(dtype).contiguous(memory_format=LAST)
            if module.mode == "upsample3d":
                if not slots or slots[0] is None:
                    filled = ("Rep",)
                else:
                    twice, tail = causal_conv(x, _cache(slots), self._weights.of(module.time_conv, dtype))
                    x, filled = _frames_from_channels(twice), (tail,)
            return upsampling_conv(x, self._weights.of(module.resample[1], dtype)), filled


def _norm(module: Any) -> FrozenNorm:
    return FrozenNorm(module.gamma.detach().flatten(), module.scale)


def _activated(norm: Any, nonlinearity: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Normalisation and activation, of whatever is trained."""
    if type(norm) is not WanRMS_norm or not norm.channel_first or isinstance(norm.bias, nn.Parameter) or _hooked(norm):
        return nonlinearity(norm(x))
    dtype = _compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        rows = x.to(dtype).contiguous(memory_format=LAST).permute(0, 2, 3, 4, 1)
        channels = rows.shape[-1]
        # |x| / sqrt(C) is the root mean square, so its epsilon is that of the model's own in other units.
        normal = F.rms_norm(rows, (channels,), norm.gamma.flatten().to(rows.dtype), NORM_EPSILON**2 / channels)
        return nonlinearity(normal.permute(0, 4, 1, 2, 3))


def _cache(slots: Slots) -> torch.Tensor | None:
    slot = slots[0] if slots else None
    return slot if isinstance(slot, torch.Tensor) else None


def _frames_from_channels(x: torch.Tensor) -> torch.Tensor:
    """[B, 2C, T, H, W] -> [B, C, 2T, H, W]: the first half of the channels are the earlier frames of each pair."""
    pair = x.permute(0, 2, 3, 4, 1).unflatten(4, (2, -1)).permute(0, 1, 4, 2, 3, 5)
    return pair.flatten(1, 2).permute(0, 4, 1, 2, 3)


def _compute_dtype(x: torch.Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _is_frozen(*modules: nn.Module) -> bool:
    return not any(p.requires_grad for module in modules for p in module.parameters())


def _plain_causal(module: nn.Module) -> bool:
    plain = type(module) is WanCausalConv3d and module.stride == (1, 1, 1) and module.kernel_size[0] == 3
    return plain and not _hooked(module) and _is_frozen(module)


def _trained_causal(module: Any) -> bool:
    plain = type(module) is WanCausalConv3d and module.stride == (1, 1, 1) and module.kernel_size[0] == 3
    return plain and not _hooked(module) and module.weight.requires_grad


def _plain_norm(module: nn.Module) -> bool:
    plain = type(module) is WanRMS_norm and module.channel_first and not isinstance(module.bias, nn.Parameter)
    return plain and not _hooked(module) and _is_frozen(module)


def _is_silu(module: nn.Module) -> bool:
    return type(module) is nn.SiLU and not _hooked(module)


def _plain_residual(module: Any) -> bool:
    shortcut = module.conv_shortcut
    simple = isinstance(shortcut, nn.Identity) or (type(shortcut) is WanCausalConv3d and shortcut.kernel_size == (1, 1, 1))
    quiet = module.dropout.p == 0 or not module.training
    parts = _plain_norm(module.norm1) and _plain_norm(module.norm2) and _plain_causal(module.conv1) and _plain_causal(module.conv2)
    return simple and quiet and parts and _is_silu(module.nonlinearity) and _is_frozen(shortcut) and not _hooked(module)


def _plain_upsampler(module: Any) -> bool:
    if module.mode not in ("upsample2d", "upsample3d") or _hooked(module) or not _is_frozen(module):
        return False
    return type(module.resample[1]) is nn.Conv2d and (module.mode == "upsample2d" or _plain_causal(module.time_conv))


def _plain_attention(module: Any) -> bool:
    plain = type(module.to_qkv) is type(module.proj) is nn.Conv2d and type(module.norm) is WanRMS_norm
    return plain and _is_frozen(module) and not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    """Whether calling the module, or any inside it, does more than its class's `forward`: the fast layers would leave that out."""
    return any(_hooks_of_all) or any(_own_call(part) for part in module.modules())


_hooks_of_all = (
    calls._global_forward_hooks,
    calls._global_forward_pre_hooks,
    calls._global_backward_hooks,
    calls._global_backward_pre_hooks,
)


def _own_call(module: nn.Module) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    # Offloading and quantisation put another `forward` on the instance.
    return bool(hooks) or "forward" in vars(module)
