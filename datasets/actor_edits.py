"""Actors that a picture does not show where the log has them, and bodies that it shows where the log has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ActorEdits:
    """Ids of actors `removed` from where the log has them, of actors `shifted` by (forward, left, up) in their own frames, in metres (in
    scenes without a scale: scene units), and of bodies `inserted` that the log does not have there at all."""

    removed: tuple[str, ...] = ()
    shifted: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    inserted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.removed or self.shifted or self.inserted)

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> ActorEdits:
        """The inverse of `artifact.plain`; `ValueError`, `KeyError` or `TypeError` where the entry is none."""
        shifted = {}
        for actor_id, shift in raw["shifted"].items():
            forward, left, up = (float(value) for value in shift)
            shifted[str(actor_id)] = (forward, left, up)
        if not np.isfinite(list(shifted.values())).all():
            raise ValueError("a shift of an actor that is not finite")
        # Clips from before bodies could be inserted do not say.
        inserted = tuple(str(actor_id) for actor_id in raw.get("inserted", ()))
        return ActorEdits(removed=tuple(str(actor_id) for actor_id in raw["removed"]), shifted=shifted, inserted=inserted)
