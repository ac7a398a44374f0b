"""diffusers' Wan blocks taken apart into units, the pieces that are run, cached and (for memory) computed again one by one.

Unit names are the block's name and the unit's place in it: `up_blocks.1.0`, `up_blocks.1.1`, ...; a block of one unit has its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanMidBlock,
    WanResample,
    WanResidualBlock,
    WanResidualDownBlock,
    WanResidualUpBlock,
    WanUpBlock,
)
from torch import nn

from splatmend.enhance.decoder import checkpoint
from splatmend.enhance.decoder.wan_blocks import ReferenceOperations, Slots

Memory: TypeAlias = Literal["fast", "balanced", "small"]
"""What is kept for the backward pass. fast: all activations; balanced: the input of every unit, whose insides are computed again;
small: the input of every block, and of its units only while that block is walked. The gradients are the same."""

RunUnit: TypeAlias = Callable[[torch.Tensor, Slots], tuple[torch.Tensor, Slots]]


@dataclass(frozen=True)
class Block:
    """A block of the decoder or encoder: its units in order, and a way around all of them (Wan 2.2) whose result is added."""

    name: str
    units: Mapping[str, RunUnit]
    around: Callable[[torch.Tensor], torch.Tensor] | None = None

    def run(self, x: torch.Tensor, cache: Mapping[str, Slots], memory: Memory) -> tuple[torch.Tensor, dict[str, Slots]]:
        """The block's features and its units' slots for the next group."""
        held = {name: cache.get(name, ()) for name in self.units}
        # A block of one unit is its own checkpoint.
        return checkpoint.run(partial(self._run, memory=memory), x, held, recompute=memory == "small" and len(self.units) > 1)

    def _run(self, x: torch.Tensor, held: Mapping[str, Slots], memory: Memory) -> tuple[torch.Tensor, dict[str, Slots]]:
        filled: dict[str, Slots] = {}
        y = x
        for name, unit in self.units.items():
            y, filled[name] = checkpoint.run(unit, y, held[name], recompute=memory != "fast")
        return (y if self.around is None else y + self.around(x)), filled


def block_of(operations: ReferenceOperations, name: str, module: Any, first_group: bool) -> Block:
    """A convolution or any block of the encoder or decoder, run through `operations`."""
    # Blocks are taken apart, so what compiled one as a whole has no part in it.
    module = getattr(module, "_orig_mod", module)
    if isinstance(module, WanMidBlock):
        parts = [module.resnets[0]]
        for attention, resnet in zip(module.attentions, module.resnets[1:], strict=True):
            parts += [resnet] if attention is None else [attention, resnet]
        return Block(name, _named(operations, name, parts))
    if isinstance(module, WanUpBlock):
        return Block(name, _named(operations, name, [*module.resnets, *(module.upsamplers or ())]))
    if isinstance(module, WanResidualUpBlock):
        around = None if module.avg_shortcut is None else partial(module.avg_shortcut, first_chunk=first_group)
        return Block(name, _named(operations, name, _and(module.resnets, module.upsampler)), around)
    if isinstance(module, WanResidualDownBlock):
        return Block(name, _named(operations, name, _and(module.resnets, module.downsampler)), module.avg_shortcut)
    if isinstance(module, WanResidualBlock | WanAttentionBlock | WanResample):
        return Block(name, {name: partial(operations.block, module)})
    # A causal convolution, or what wraps one.
    return Block(name, {name: partial(operations.convolution, module)})


def head_of(operations: ReferenceOperations, name: str, coder: Any) -> Block:
    """The last normalisation, activation and convolution of an encoder or decoder."""
    return Block(name, {name: partial(operations.head, coder.norm_out, coder.nonlinearity, coder.conv_out)})


def _named(operations: ReferenceOperations, name: str, modules: list[nn.Module]) -> dict[str, RunUnit]:
    return {f"{name}.{i}": partial(operations.block, module) for i, module in enumerate(modules)}


def _and(modules: Any, last: nn.Module | None) -> list[nn.Module]:
    return [*modules] if last is None else [*modules, last]
