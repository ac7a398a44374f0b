"""What was put into a clip: the mask of its pixels, the region in which an enhancer may change the clip for it, and how a model is told.

A body that was put in needs another light, and what lies around it a shadow. Everything else was recorded and stays as it is, exactly.
The region is found from each frame's mask alone, so that any part of a clip gives what the whole does.

Four channels travel with a clip (`[B, 4, T, H, W]`, in [0, 1]). The model is told three: the mask, and where in the region around its body
a pixel lies, across and down, so that no convolution has to find out how far away that body is. The fourth is the region with its soft
edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from torch import nn

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.clip import Clip
from splatmend.datasets.errors import UserError

INSERTED = "inserted"
"""The mask of a clip that says what was put in, where its manifest does not list bodies with masks of their own."""
TOLD, CHANNELS = 3, 4
_UP, _DOWN = (0.0, 0.25), (0.2, 0.5)
_ASIDE = (1.0, 1.5)
"""How far beyond a body's box the region reaches, in its widths and heights. A sun 35 degrees high throws a shadow of 1.4 heights."""
_LEAST_PX = 4.0
_EDGE = 0.4
"""The outer part of that reach in which the region fades."""


def insertion_channels(mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 4"]:
    """What is known of a frame's mask `[H, W]`.

    The mask (255 where something was put in); how far a pixel lies from the left to the right end of the region, and from its top to its
    bottom (1 to 255; 0 outside of all regions); and the region itself: how much of a change is taken, 255 all of it. Every connected piece
    of the mask has a region, which reaches farther to its sides and below than above, since shadows lie on the ground. Where regions meet,
    a pixel belongs to the one in which it lies deepest.
    """
    height, width = mask.shape
    region, place = np.zeros((height, width), np.float32), np.zeros((height, width, 2), np.float32)
    _, _, pieces, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    for left, top, wide, high, _ in pieces[1:].tolist():
        size = np.array([wide, high], np.float32)
        up, down, aside = (max(float(size @ np.array(reach, np.float32)), _LEAST_PX) for reach in (_UP, _DOWN, _ASIDE))
        (inside_x, x), (inside_y, y) = _along(width, left, left + wide, aside, aside), _along(height, top, top + high, up, down)
        its = inside_y[:, None] * inside_x[None]
        deeper = its > region
        place[deeper] = np.stack(np.broadcast_arrays(x[None], y[:, None]), axis=-1)[deeper]
        region = np.maximum(region, its)
    places = np.where(region[..., None] > 0, np.rint(1 + 254 * place), 0)
    return np.concatenate([255 * mask[..., None], places, np.rint(255 * region)[..., None]], axis=-1).astype(np.uint8)


def change_region(mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """How much of a change is taken in each pixel: the last of `insertion_channels`."""
    return insertion_channels(mask)[..., TOLD]


def _along(count: int, first: int, end: int, before: float, after: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel of a row whether it is inside, 1 from `first` up to `end` and for most of the reach before and after it, 0 beyond the
    reach, smooth between; and where it lies from one end of the reach (0) to the other (1)."""
    middle = np.arange(count, dtype=np.float32) + 0.5
    outside = np.maximum((first - middle) / before, (middle - end) / after)
    share = np.clip((1 - outside) / _EDGE, 0, 1)
    place = np.clip((middle - first + before) / (end - first + before + after), 0, 1)
    return share * share * (3 - 2 * share), place


def inserted_masks(clip: Clip) -> Iterator[Bool[np.ndarray, "H W"]]:
    """Where something was put into a clip's frames, read when they are due.

    Raises:
        UserError: where the clip does not say what was put in, at once; where a mask is missing or of another size, when it is due.
    """
    names = _mask_names(clip)
    if not names:
        raise UserError(
            f"{clip.path}: it does not say what was put in (masks/{INSERTED}, or the bodies of `splatmend insert`), which this enhancer "
            "needs; give a clip of `splatmend insert`, or another enhancer."
        )
    return map(partial(_mask, clip, names), range(len(clip)))


def insertions_of(clip: Clip) -> Iterator[UInt8[np.ndarray, "H W 4"]]:
    """`insertion_channels` of a clip's frames, read when they are due; errors: those of `inserted_masks`."""
    return map(insertion_channels, inserted_masks(clip))


def put_in_facts(clip: Clip) -> dict[str, Any]:
    """What a clip's manifest says of bodies that were put in: a fact by the name of `INSERTED`, or nothing."""
    if not (clip.path.is_dir() and (clip.path / "manifest.json").is_file()):
        return {}
    facts = read_manifest(clip.path, "clip").facts
    return {INSERTED: facts[INSERTED]} if facts.get(INSERTED) else {}


def _mask_names(clip: Clip) -> list[str]:
    bodies = put_in_facts(clip).get(INSERTED, {})
    if bodies:
        return sorted(body["mask"] for body in bodies.values())
    return [f"masks/{INSERTED}"] if (clip.path / "masks" / INSERTED).is_dir() else []


def _mask(clip: Clip, names: list[str], index: int) -> np.ndarray:
    masks: list[np.ndarray] = []
    for name in names:
        mask = clip.read_channel(name, index)
        if mask is None or (masks and mask.shape != masks[0].shape):
            fault = "is missing" if mask is None else "is of another size than the others"
            raise UserError(f"{clip.path / name / f'{index:06d}.png'}: this mask {fault}; write the clip again.")
        masks.append(mask)
    whole: np.ndarray = np.logical_or.reduce(masks)
    return whole


class MaskInput(nn.Module):
    """Adds to a clip's latents what a 3x3 convolution makes of what is told. A fresh one adds nothing."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv3d(TOLD, latent_channels, (1, 3, 3), padding=(0, 1, 1))
        for parameter in self.mix.parameters():
            nn.init.zeros_(parameter)

    def forward(self, latents: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
        """`latents [B, C, L, h, w]` and the mean of what is told over the pixels behind each of them, `[B, 3, L, h, w]`."""
        added: torch.Tensor = self.mix(small.to(self.mix.weight.dtype))
        return latents + added.to(latents.dtype)


def with_told(side: Mapping[str, torch.Tensor], told: torch.Tensor) -> dict[str, torch.Tensor]:
    """One group's side features (name -> `[B, C, t, h, w]`) with, as channels more, what is told of its frames `[B, 3, T, H, W]`, averaged
    over the pixels of each."""
    return {
        name: torch.cat(
            [features, F.adaptive_avg_pool3d(told, (features.shape[2], features.shape[3], features.shape[4])).to(features.dtype)], dim=1
        )
        for name, features in side.items()
    }


def confined(x: torch.Tensor, enhanced: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """The change from `x` to `enhanced` (`[B, 3, T, H, W]`) inside a region `[B, 1, T, H, W]` in [0, 1]; outside `x`, exactly."""
    return torch.where(region > 0, x + region.to(x.dtype) * (enhanced - x), x)


def less_on_bodies(region: torch.Tensor, mask: torch.Tensor, share: float) -> torch.Tensor:
    """A region in which what was put in, and a soft rim of two pixels around it, counts by `share`; all are `[B, 1, T, H, W]` in [0, 1]."""
    flat = mask.transpose(1, 2).flatten(0, 1)
    near = F.avg_pool2d(F.max_pool2d(flat, 3, stride=1, padding=1), 3, stride=1, padding=1, count_include_pad=False)
    return region * (1.0 - (1.0 - share) * near.unflatten(0, (mask.shape[0], mask.shape[2])).transpose(1, 2))
