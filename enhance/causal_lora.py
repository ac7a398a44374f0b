"""LoRA on causal 3D convolutions, for video decoders driven with a cache.

peft's own layer for 3D convolutions does not fit: it cannot construct a causal convolution, and its low-rank branch would see neither the
cache nor the causal padding. Here the branch's first half (A) is the base layer's own kind of convolution, fed the same cached input,
and its second half (B) is a 1x1x1 convolution, so that B(A(x)) is one convolution with the base layer's kernel and can be merged.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Conv3d as PeftLoraConv3d
from torch import nn


class LoraCausalConv3d(PeftLoraConv3d):
    """A low-rank branch beside a causal convolution that is called as `layer(x, cache_x=None)`.

    peft constructs it for every targeted layer of a config that `causal_lora_config` made. Merging, unmerging, scaling, enabling and
    deleting adapters are peft's.
    """

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: object) -> None:
        """Add an adapter of rank `r` (at least 1) with scale `lora_alpha / r` (`/ sqrt(r)` for rank-stabilised LoRA).

        Raises `ValueError` for a rank below 1, grouped convolutions, and options that change the branch (DoRA, a bias of its own,
        initialisations derived from the base weight).
        """
        base = cast(nn.Conv3d, self.get_base_layer())
        if r < 1:
            raise ValueError(f"the rank must be 1 or more, got {r}")
        if base.groups != 1:
            raise ValueError("LoRA on a grouped causal convolution cannot be merged")
        if config.use_dora or config.lora_bias or not isinstance(config.init_lora_weights, bool):
            raise ValueError("causal LoRA takes neither `use_dora` nor `lora_bias`, and `init_lora_weights` must be True or False")
        self.r[adapter_name] = r
        self.lora_alpha[adapter_name] = lora_alpha
        self.scaling[adapter_name] = lora_alpha / (math.sqrt(r) if config.use_rslora else r)
        self.use_rslora[adapter_name] = config.use_rslora
        self.use_dora[adapter_name] = False
        self.lora_bias[adapter_name] = False
        self.lora_dropout[adapter_name] = nn.Dropout(config.lora_dropout) if config.lora_dropout > 0 else nn.Identity()
        self.lora_A[adapter_name] = _with_fewer_outputs(base, r)
        self.lora_B[adapter_name] = nn.Conv3d(r, base.out_channels, 1, bias=False)
        if config.init_lora_weights:
            self.reset_lora_parameters(adapter_name, True)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        # A new dropout would be in training mode inside a model that is being evaluated.
        self.train(base.training)

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """The branch as one kernel [out, in, t, h, w]: `scale * B A`. Computed in float32 or wider, returned in A's dtype."""
        down, up = self._branch(adapter)[0].weight, self._branch(adapter)[1].weight
        wide = torch.promote_types(down.dtype, torch.float32)
        kernel = torch.einsum("or,rithw->oithw", up.to(wide)[..., 0, 0, 0], down.to(wide))
        return (kernel * self.scaling[adapter]).to(down.dtype)

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        """Base layer plus the active branches on `x` [B, C, t, H, W] and the cached frames before it [B, C, 0..2, H, W]."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, cache_x)
        result = self.base_layer(x, cache_x)
        if self.merged:
            return result
        dtype = result.dtype
        for adapter in self.active_adapters:
            if adapter not in self.lora_A:
                continue
            (down, up), dropout = self._branch(adapter), self.lora_dropout[adapter]
            inputs = self._cast_input_dtype(x, down.weight.dtype)
            before = None if cache_x is None else self._cast_input_dtype(cache_x, down.weight.dtype)
            low_rank = down(dropout(inputs), None if before is None else dropout(before))
            result = result + up(low_rank) * self.scaling[adapter]
        return result.to(dtype)

    def _branch(self, adapter: str) -> tuple[nn.Conv3d, nn.Conv3d]:
        return cast(nn.Conv3d, self.lora_A[adapter]), cast(nn.Conv3d, self.lora_B[adapter])


def causal_convolutions(model: nn.Module) -> list[str]:
    """Qualified names of all causal convolutions of `model` that are not part of a LoRA layer yet."""
    lora = [name for name, module in model.named_modules() if isinstance(module, LoraCausalConv3d)]
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, WanCausalConv3d) and not any(name.startswith(f"{layer}.") for layer in lora)
    ]


def causal_lora_config(rank: int, alpha: int, target_modules: Sequence[str], *, dropout: float = 0.0) -> LoraConfig:
    """A peft config that puts `LoraCausalConv3d` on causal convolutions; other targeted layers get peft's own classes."""
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(target_modules))
    config._register_custom_module({WanCausalConv3d: LoraCausalConv3d})
    return config


def add_causal_lora(
    model: nn.Module,
    rank: int,
    alpha: int,
    *,
    target_modules: Sequence[str] | None = None,
    dropout: float = 0.0,
    adapter_name: str = "default",
) -> list[nn.Parameter]:
    """Put LoRA layers into `model` (say, `vae.decoder`) in place and return their parameters; everything else in it is frozen.

    `target_modules` are names as peft matches them; by default all causal convolutions. The branches start as exact zeros.
    `peft.get_peft_model_state_dict(model, adapter_name=...)` and `set_peft_model_state_dict` save and load them.
    Raises `ValueError` where nothing matches.
    """
    names = causal_convolutions(model) if target_modules is None else target_modules
    inject_adapter_in_model(causal_lora_config(rank, alpha, names, dropout=dropout), model, adapter_name=adapter_name)
    return [p for p in model.parameters() if p.requires_grad]


def merge_causal_lora(model: nn.Module, adapter_names: list[str] | None = None) -> None:
    """Add the active branches (or those named) to the base weights; `unmerge_causal_lora` takes them out again."""
    for layer in _lora_layers(model).values():
        layer.merge(safe_merge=True, adapter_names=adapter_names)


def unmerge_causal_lora(model: nn.Module) -> None:
    """Take merged branches out of the base weights again."""
    for layer in _lora_layers(model).values():
        layer.unmerge()


def fold_causal_lora(model: nn.Module) -> None:
    """Merge the active branches for good and put the plain layers back, so that `model` saves and loads as if it never had any."""
    for name, layer in _lora_layers(model).items():
        if not layer.merged:
            layer.merge(safe_merge=True)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer.get_base_layer())


def _lora_layers(model: nn.Module) -> dict[str, LoraCausalConv3d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraCausalConv3d)}


def _with_fewer_outputs(base: nn.Conv3d, outputs: int) -> nn.Conv3d:
    """A convolution of the same class, kernel, stride and causal padding as `base`, with `outputs` channels, fresh weights, no bias."""
    weight = base.weight
    fresh = nn.Parameter(torch.empty(outputs, *weight.shape[1:], dtype=weight.dtype, device=weight.device))
    # The memo stands in for the weight, so that the large tensor itself is never copied.
    branch = copy.deepcopy(base, {id(weight): fresh})
    branch.bias = None
    branch.out_channels = outputs
    return branch
