"""Enhancers that make what was put into a clip belong there: a small one, and what turns a Wan model into one.

After ChopGrad (arXiv 2603.17812, section 4.4). Features of single frames, taken from the encoder before it first halves time, join the
decoder after it last doubled time, by a 3x3 convolution; so what was recorded need not pass the bottleneck. Beyond the paper, every join
and the latents are told the mask of what was put in (`splatmend.enhance.insertion`).
"""

from __future__ import annotations

import dataclasses

import torch

from splatmend.enhance.insertion import TOLD
from splatmend.enhance.model import Enhancer
from splatmend.enhance.skips import Skip
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae

WAN_SKIPS = (Skip(tap="down_blocks.4", join="up_blocks.1"),)
"""Of Wan 2.1, at half its resolution: its first downsampling is of space alone, its second one the first of time."""
SMALL_SKIPS = (
    Skip(tap="down_blocks.0", join="up_blocks.1"),
    Skip(tap="down_blocks.2", join="up_blocks.0"),
    Skip(tap="down_blocks.4", join="mid_block"),
)

_TOLD_STD = 0.15


def small_harmoniser(*, seed: int = 0) -> Enhancer:
    """A fresh small model that starts as the identity. Below 8 MB in bfloat16.

    A shadow follows from what lies far from it, so there is a skip at every scale down to the latents', and every token of the transformer
    (16x16 pixels) sees the whole picture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = small_vae(32), small_transformer(heads=4, layers=4, ffn_dim=384)
        harmoniser = small_enhancer(*parts, skips=SMALL_SKIPS, harmonises=True, seed=seed)
        # Behind a last convolution of zeros nothing shows of it, and what is told counts from the first step on.
        for weight in told_weights(harmoniser):
            torch.nn.init.normal_(weight, std=_TOLD_STD)
    return harmoniser


def told_weights(enhancer: Enhancer) -> list[torch.Tensor]:
    """The weights of skips and latents for what is told, which fresh ones have at zero."""
    assert enhancer.mask_input is not None
    return [enhancer.mask_input.mix.weight, *(join.fuse.weight[:, -TOLD:] for join in enhancer.join_modules().values())]


def as_harmoniser(enhancer: Enhancer, skips: tuple[Skip, ...] = WAN_SKIPS, *, seed: int = 0) -> Enhancer:
    """A model that is told what was put in, from one that is not: the same autoencoder, transformer and caption with fresh skips, which
    change nothing yet. One that is told already comes back as it is."""
    if enhancer.spec.harmonises:
        return enhancer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = dataclasses.replace(enhancer.spec, harmonises=True, skips=skips, references=0)
        made = Enhancer(enhancer.vae, enhancer.transformer, enhancer.caption, spec)
    return made.to(enhancer.device).train(enhancer.training)
