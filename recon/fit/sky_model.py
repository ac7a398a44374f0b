"""Which pixels show sky, by a segmentation model on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatmend.datasets.errors import UserError

SKY_LABEL = "sky"
"""Name of the class in the model's `id2label`, in capitals or not (Cityscapes, ADE20K and COCO-Stuff have it)."""


class SkyModel:
    """A model for semantic segmentation in the layout of Hugging Face transformers (`save_pretrained` of what
    `AutoModelForSemanticSegmentation` and `AutoImageProcessor` load: SegFormer, UPerNet, DPT, BEiT and others). Nothing is downloaded, and
    no code of the folder is run.

    Raises:
        UserError: where the folder is missing, holds no such model, lacks weights, or knows no sky.
    """

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        self.labels = sky_labels(folder)
        self.device = device
        self._processor, self._model = _loaded(Path(folder))
        self._model.to(device)

    @torch.no_grad()
    def mask(self, rgb: np.ndarray) -> np.ndarray:
        """Bool `[H, W]`: where the most likely class of a picture `[H, W, 3]` uint8 is sky."""
        inputs = self._processor(images=rgb, return_tensors="pt", input_data_format="channels_last").to(self.device)
        (classes,) = self._processor.post_process_semantic_segmentation(self._model(**inputs), target_sizes=[rgb.shape[:2]])
        return np.isin(classes.cpu().numpy(), self.labels)


def sky_labels(folder: str | Path) -> list[int]:
    """Numbers of the classes called sky, by the folder's `config.json` alone: a check before anything is begun.

    Raises:
        UserError: where the folder or its configuration is missing, or there is no such class.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give sky.segmentation one with a segmentation model, or leave it out.")
    try:
        labels = json.loads((folder / "config.json").read_text())["id2label"]
        found = [int(number) for number, name in labels.items() if str(name).strip().lower() == SKY_LABEL]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{folder}: it holds no config.json with classes (id2label); give sky.segmentation a folder that save_pretrained wrote."
        ) from None
    if not found:
        raise UserError(f"{folder}: none of the model's {len(labels)} classes is called sky; give sky.segmentation one that knows it.")
    return found


def _loaded(folder: Path) -> tuple[Any, torch.nn.Module]:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model, seen = AutoModelForSemanticSegmentation.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except ModuleNotFoundError:
        raise
    except Exception as fault:  # configuration, tokens of the format and weights fail in as many ways as there are libraries below
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise UserError(f"{folder}: no segmentation model can be loaded from it ({reason}); save it again with save_pretrained.") from fault
    if lacking := sorted(seen["missing_keys"]):
        raise UserError(f"{folder}: its weights are not whole ({lacking[0]} is missing); save the model again with save_pretrained.")
    return processor, model.eval().requires_grad_(False)
