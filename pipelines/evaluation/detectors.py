"""Detectors and lane models that users bring along, by their paths. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatmend.datasets.errors import UserError

Detector = Callable[[np.ndarray], np.ndarray]
"""Boxes `[M, 4]` float64 (left, top, right, bottom in pixels) of the vehicles in a picture `[H, W, 3]` uint8."""
LaneModel = Callable[[np.ndarray], np.ndarray]
"""Where lane paint is, `[H, W]` bool, in a picture `[H, W, 3]` uint8."""
VEHICLES = ("car", "bus", "truck", "van", "vehicle", "trailer", "motorcycle")
LEAST_SCORE = 0.3


def open_detector(path: Path, classes: Sequence[str], device: torch.device) -> Detector:
    """A detector from a folder that transformers' `AutoModelForObjectDetection` loads, or from a TorchScript file.

    A TorchScript module takes a list of pictures `[3, H, W]` float32 in [0, 1] and gives, as torchvision's detectors do, for each a dict of
    `boxes [M, 4]`, `scores [M]` and `labels [M]` (scripted ones: losses, and that list).

    Args:
        classes: names of a transformers model's classes, or numbers of a TorchScript module's labels, that count; none means the names in
            `VEHICLES` that the model knows, or all labels.

    Raises:
        UserError: where the path holds neither, or a class is unknown.
    """
    if path.is_dir():
        return _transformers_detector(path, classes, device)
    module = _script(path, "a detector", device)
    if not all(name.isdecimal() for name in classes):
        raise UserError(f"detector-classes: a TorchScript detector has numbers for classes, not {' '.join(classes)}; give numbers.")
    wanted = torch.tensor([int(name) for name in classes], dtype=torch.int64)

    def detect(rgb: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = module([_unit(rgb, device)])
        one = {name: value.cpu() for name, value in (found[1] if isinstance(found, tuple) else found)[0].items()}
        kept = one["scores"] >= LEAST_SCORE
        if len(wanted):
            kept &= torch.isin(one["labels"], wanted)
        return one["boxes"][kept].double().numpy().reshape(-1, 4)

    return detect


def open_lane_model(path: Path, device: torch.device) -> LaneModel:
    """A lane model from a TorchScript file: a picture `[1, 3, H, W]` float32 in [0, 1] -> how likely paint is in each pixel,
    `[1, 1, H, W]` in [0, 1]; what is above one half counts. `UserError` where the file is none."""
    module = _script(path, "a lane model", device)

    def lanes(rgb: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            likely = module(_unit(rgb, device)[None])
        if likely.shape != (1, 1, *rgb.shape[:2]):
            raise UserError(
                f"{path}: it gives {list(likely.shape)} for a picture of {rgb.shape[1]}x{rgb.shape[0]}, where [1, 1, height, width] is "
                "wanted; wrap the model so."
            )
        return (likely[0, 0] > 0.5).cpu().numpy()

    return lanes


def _transformers_detector(path: Path, classes: Sequence[str], device: torch.device) -> Detector:
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    try:
        processor: Any = AutoImageProcessor.from_pretrained(path, local_files_only=True)
        model: Any = AutoModelForObjectDetection.from_pretrained(path, local_files_only=True).eval().to(device)
    except (OSError, ValueError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise UserError(
            f"{path}: transformers finds no detector there ({reason}); give a folder with config.json, preprocessor_config.json and "
            "weights."
        ) from None
    names = {name.lower(): number for number, name in model.config.id2label.items()}
    if unknown := [name for name in classes if name.lower() not in names]:
        raise UserError(f"detector-classes: {path} knows no class {unknown[0]}; it has {', '.join(sorted(names)[:12])}.")
    wanted = [names[name.lower()] for name in classes] or [names[name] for name in VEHICLES if name in names]
    if not wanted:
        raise UserError(f"{path}: it has no class of vehicles that is known by name; name those that count with --detector-classes.")

    def detect(rgb: np.ndarray) -> np.ndarray:
        inputs = processor(images=rgb, return_tensors="pt").to(device)
        with torch.no_grad():
            outputs = model(**inputs)
        one = processor.post_process_object_detection(outputs, threshold=LEAST_SCORE, target_sizes=[rgb.shape[:2]])[0]
        kept = torch.isin(one["labels"].cpu(), torch.tensor(wanted))
        return one["boxes"].cpu()[kept].double().numpy().reshape(-1, 4)

    return detect


def _script(path: Path, what: str, device: torch.device) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file or folder; give the path of {what}.")
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as fault:
        reason = " ".join(str(fault).split())[:120]
        raise UserError(f"{path}: PyTorch cannot load {what} from it ({reason}); give a TorchScript file.") from None


def _unit(rgb: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(rgb)).to(device).permute(2, 0, 1).float() / 255.0
