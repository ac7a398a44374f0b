"""Sky masks of the frames that are fitted, where a model is to give them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from splatmend.datasets.log import SceneLog
from splatmend.recon.fit.sky_model import SkyModel
from splatmend.recon.spool import Kept, Spool

SKY = "sky"
"""Name of the mask `[H, W]` bool of pixels that show sky."""


class SkyMasks:
    """Masks by frame number of a prepared log. A frame's own mask, from labels, goes before what the model says.

    `prepare` looks at each picture once, before the first iteration: the model is then gone from memory, threads that read pictures ask
    nothing of the device, and masks lie in a temporary file, a bit a pixel.
    """

    def __init__(self, log: SceneLog, model_folder: str | None, device: torch.device) -> None:
        self.log = log
        self._model_folder, self._device = model_folder, device
        self._spool = Spool()
        self._kept: dict[int, Kept] = {}

    def prepare(self, numbers: Iterable[int]) -> None:
        """Keep the masks of these frames.

        Raises:
            UserError: where the model cannot be used.
        """
        wanted = [number for number in sorted(set(numbers) - set(self._kept)) if SKY not in self.log.frames[number].masks]
        if self._model_folder is None or not wanted:
            return
        model = SkyModel(self._model_folder, self._device)
        for number in wanted:
            self._kept[number] = self._spool.keep(np.packbits(model.mask(self.log.frames[number].read_image()), axis=1))

    def of(self, number: int) -> np.ndarray | None:
        """Bool `[H, W]`, None for a frame without. Safe to call from several threads."""
        frame = self.log.frames[number]
        if SKY in frame.masks:
            return frame.masks[SKY]()
        if number not in self._kept:
            return None
        (bits,) = self._kept[number].load()
        return np.unpackbits(bits, axis=1, count=self.log.cameras[frame.camera].width).astype(bool)
