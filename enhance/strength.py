"""The share of the enhancer's change that is taken; apart from the model, so that it is checked before anything is loaded."""

from __future__ import annotations

from splatmend.datasets.errors import UserError


def check_strength(strength: float | None) -> None:
    """`UserError` unless it lies between 0 (the input) and 1 (the full effect), or is left to the enhancer (None)."""
    if strength is not None and not 0.0 <= strength <= 1.0:
        raise UserError(f"strength: {strength} is not between 0 (the input) and 1 (the full effect); give another value.")
