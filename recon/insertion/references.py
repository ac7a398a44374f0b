"""References of an edited scene: what recorded frames show of it, behind what was put in and in its shadow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from splatmend.datasets.images import to_uint8
from splatmend.datasets.shot import Shot
from splatmend.recon.edits.apply import EditedScene
from splatmend.recon.exposure import apply_exposure, take_off_exposure
from splatmend.recon.insertion.frame import InsertedFrame
from splatmend.recon.light.colour import taken_by_shade
from splatmend.recon.raster.api import Backend
from splatmend.recon.references import References
from splatmend.recon.render import Channel, render
from splatmend.recon.scene import Scene

MARGIN_PX = 5
"""Enhancers move layers by a few pixels, so what lies this near to what recorded frames do not know has no references either."""
_LEAST = 1 / 255
_COLOUR: tuple[Channel, ...] = ("rgb",)
_OPACITY: tuple[Channel, ...] = ("opacity",)
_TOGETHER = 16


class EditedReferences:
    """References of frames of an edited scene. Recorded frames know nothing of its edits: where a recorded body was taken out or moved
    away, or the background was mended, there are none. What was put in stands before them.

    Args:
        references: those of `edited.recorded`.
    """

    def __init__(self, edited: EditedScene, references: References, *, backend: Backend | None = None) -> None:
        if references.scene is not edited.recorded:
            raise ValueError("the references of an edited scene are looked up in the recorded one")
        self.edited, self.references, self._backend = edited, references, backend
        self._gone = tuple(sorted({*edited.removed, *edited.moved}))

    @torch.no_grad()
    def behind(self, frame: InsertedFrame) -> UInt8[np.ndarray, "K H W 4"]:
        """Layers of a frame without what was put in, as `References.of` has them."""
        layers = self.references.of(frame.shot, without=self._gone)
        touched = self._touched(frame)
        if touched is not None:
            layers[:, touched.cpu().numpy()] = 0
        return layers

    def _touched(self, frame: InsertedFrame) -> Bool[Tensor, "H W"] | None:
        """What differs behind what was put in, and a margin around it; None for nothing."""
        recorded, parts = self.edited.recorded, []
        if self._gone:
            parts.append(_shares(recorded, frame.shot, self._gone, self._backend))
        if self.edited.scene.background is not recorded.background:
            parts.append(self._mended(frame))
        return _widened(torch.stack(parts).amax(dim=0) >= _LEAST) if parts else None

    def _mended(self, frame: InsertedFrame) -> Float[Tensor, "H W"]:
        """How far the background is from that of the recorded scene."""
        drawn = render(self.edited.recorded, frame.shot, _COLOUR, backend=self._backend, exposure=frame.exposure, without=self._gone)
        assert drawn.rgb is not None
        return (drawn.rgb - frame.background_rgb).abs().amax(dim=-1)


@torch.no_grad()
def with_bodies(
    layers: UInt8[np.ndarray, "K H W 4"],
    frame: InsertedFrame,
    rgb: Float[Tensor, "H W 3"] | None = None,
    kept: Float[Tensor, "H W 3"] | None = None,
) -> UInt8[np.ndarray, "K H W 4"]:
    """Layers (`behind`) of a naive frame, or of the picture `rgb` of it in which the background keeps the share `kept` of its light, with
    what was put in: in a pixel that it covers in part, a recorded frame takes the background's part.

    Scenes whose exposure cannot be taken off have none in shadows, nor near by.
    """
    body = sum(frame.shares.values(), torch.zeros_like(frame.opacity)).clamp(0, 1)
    shade = torch.zeros_like(body, dtype=torch.bool) if kept is None else (kept < 1).any(dim=-1)
    changed = (body > 0) | shade
    if not bool(changed.any()):
        return layers
    shown, background = frame.rgb if rgb is None else rgb, frame.background_rgb
    colours = torch.from_numpy(np.ascontiguousarray(layers[..., :3])).to(body.device) / 255.0
    layers = layers.copy()
    if kept is not None and bool(shade.any()):
        unexposed = take_off_exposure(colours, frame.exposure)
        if unexposed is None:
            layers[:, _widened(shade).cpu().numpy()] = 0
        else:
            colours = apply_exposure(unexposed - taken_by_shade(unexposed, kept), frame.exposure)
            behind = frame.background_unexposed_rgb
            background = apply_exposure(behind - taken_by_shade(behind, kept), frame.exposure)
    pictures = shown + (1 - body)[..., None] * (colours - background)
    seen = changed.cpu().numpy() & (layers[..., 3] > 0)
    layers[seen, :3] = to_uint8(pictures.cpu().numpy())[seen]
    return layers


def _widened(where: Bool[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    return F.max_pool2d(where.float()[None], 2 * MARGIN_PX + 1, stride=1, padding=MARGIN_PX)[0] > 0


def _shares(scene: Scene, shot: Shot, names: Sequence[str], backend: Backend | None) -> Float[Tensor, "H W"]:
    """The share that some actors have together in each pixel."""
    total = torch.zeros(shot.camera.height, shot.camera.width, device=scene.device)
    for first in range(0, len(names), _TOGETHER):
        some = names[first : first + _TOGETHER]
        total = total + render(scene, shot, _OPACITY, backend=backend, shares=some).extra["shares"].sum(dim=-1)
    return total
