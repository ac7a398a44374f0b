"""References of an edited scene: what recorded frames show of it where no edit reaches, and as they would show it in a new shadow."""

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
"""Enhancers move layers by a few pixels, so what lies this near to an edit has no references either."""
_LEAST = 1 / 255
_COLOUR: tuple[Channel, ...] = ("rgb",)
_OPACITY: tuple[Channel, ...] = ("opacity",)
_TOGETHER = 16


class EditedReferences:
    """References of frames of an edited scene. Recorded frames know nothing of its edits: a pixel in which a body that was put in, moved or
    taken out has a share, or where the background was mended, has none.

    Args:
        references: those of `edited.recorded`.
    """

    def __init__(self, edited: EditedScene, references: References, *, backend: Backend | None = None) -> None:
        if references.scene is not edited.recorded:
            raise ValueError("the references of an edited scene are looked up in the recorded one")
        self.edited, self.references, self._backend = edited, references, backend
        self._gone = tuple(sorted({*edited.removed, *edited.moved}))

    @torch.no_grad()
    def of(self, frame: InsertedFrame) -> UInt8[np.ndarray, "K H W 4"]:
        """Layers of a naive frame, as `References.of` has them."""
        layers = self.references.of(frame.shot, without=self._gone)
        layers[:, self._touched(frame).cpu().numpy()] = 0
        return layers

    def _touched(self, frame: InsertedFrame) -> Bool[Tensor, "H W"]:
        """Where an edit reaches, and a margin around it."""
        recorded = self.edited.recorded
        parts = [*frame.shares.values(), _shares(recorded, frame.shot, self._gone, self._backend)]
        if self.edited.scene.background is not recorded.background:
            parts.append(self._mended(frame))
        return _widened(torch.stack(parts).amax(dim=0) >= _LEAST)

    def _mended(self, frame: InsertedFrame) -> Float[Tensor, "H W"]:
        """How far the background is from that of the recorded scene."""
        drawn = render(self.edited.recorded, frame.shot, _COLOUR, backend=self._backend, exposure=frame.exposure, without=self._gone)
        assert drawn.rgb is not None
        return (drawn.rgb - frame.background_rgb).abs().amax(dim=-1)


@torch.no_grad()
def shaded(layers: UInt8[np.ndarray, "K H W 4"], frame: InsertedFrame, kept: Float[Tensor, "H W 3"]) -> UInt8[np.ndarray, "K H W 4"]:
    """Layers of a naive frame as the finished one has them: darker by what is taken of the background's light, of which `kept` is left.

    Scenes whose exposure cannot be taken off have none there, nor near by.
    """
    shade = (kept < 1).any(dim=-1)
    if not bool(shade.any()):
        return layers
    layers = layers.copy()
    colours = torch.from_numpy(layers[..., :3]).to(kept.device) / 255.0
    unexposed = take_off_exposure(colours, frame.exposure)
    if unexposed is None:
        layers[:, _widened(shade).cpu().numpy()] = 0
        return layers
    darker = apply_exposure(unexposed - taken_by_shade(unexposed, kept), frame.exposure)
    seen = shade.cpu().numpy() & (layers[..., 3] > 0)
    layers[seen, :3] = to_uint8(darker.cpu().numpy())[seen]
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
