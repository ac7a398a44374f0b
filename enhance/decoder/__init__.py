"""Causal video autoencoders driven group by group, and pixel losses on long clips through them (ChopGrad)."""

from __future__ import annotations

from splatmend.enhance.decoder.adapter import Cache, DecoderAdapter, SideFeatures, SplitDecoderAdapter
from splatmend.enhance.decoder.advice import DecoderMemoryError
from splatmend.enhance.decoder.engine import Engine, forget_packed_weights
from splatmend.enhance.decoder.frame_loss import FrameLoss
from splatmend.enhance.decoder.gradients import LossAndGrad, surrogate
from splatmend.enhance.decoder.groups import (
    frame_count,
    frame_span,
    group_count,
    pad_to_whole_groups,
    regroup_frames,
    split_into_groups,
)
from splatmend.enhance.decoder.truncated import EncodedGroup, Side, TruncatedDecoder
from splatmend.enhance.decoder.wan import WanAdapter
from splatmend.enhance.decoder.wan_plan import Memory

__all__ = [
    "Cache",
    "DecoderAdapter",
    "DecoderMemoryError",
    "EncodedGroup",
    "Engine",
    "FrameLoss",
    "LossAndGrad",
    "Memory",
    "Side",
    "SideFeatures",
    "SplitDecoderAdapter",
    "TruncatedDecoder",
    "WanAdapter",
    "forget_packed_weights",
    "frame_count",
    "frame_span",
    "group_count",
    "pad_to_whole_groups",
    "regroup_frames",
    "split_into_groups",
    "surrogate",
]
