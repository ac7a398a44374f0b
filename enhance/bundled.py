"""Where the weights that come with the package lie; imports nothing, so that plans can be made at once."""

from __future__ import annotations

from pathlib import Path

BUNDLED = "bundled"


def bundled_folder() -> Path:
    """Folder of the bundled enhancer."""
    return Path(__file__).resolve().parent / "weights"
