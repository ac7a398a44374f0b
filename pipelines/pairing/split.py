"""Which split a scene is in."""

from __future__ import annotations

import hashlib
from typing import Literal


def split_of(scene: str, validation_share: float) -> Literal["train", "validation"]:
    """The split of a scene, the same wherever and however often it is asked."""
    number = int(hashlib.sha256(scene.encode()).hexdigest()[:12], 16) / 16**12
    return "validation" if number < validation_share else "train"
