"""Where the weights that come with the package lie; imports nothing, so that plans can be made at once."""

from __future__ import annotations

from pathlib import Path

BUNDLED, BUNDLED_HARMONISER = "bundled", "bundled-harmoniser"
_FOLDERS = {BUNDLED: "weights", BUNDLED_HARMONISER: "harmoniser_weights"}


def is_bundled(name: str) -> bool:
    """Whether a model's name stands for weights of the package."""
    return name in _FOLDERS


def bundled_folder(name: str = BUNDLED) -> Path:
    """Folder of the bundled enhancer, or of the bundled harmoniser."""
    return Path(__file__).resolve().parent / _FOLDERS[name]
