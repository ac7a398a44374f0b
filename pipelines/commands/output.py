"""Checks on `--out` before any work is done."""

from __future__ import annotations

from pathlib import Path

from splatmend.datasets.errors import UserError


def refuse_existing(out: Path, overwrite: bool) -> None:
    """`UserError` where the output stands already, so that nobody waits for a refusal at the end."""
    if out.exists() and not overwrite:
        raise UserError(f"{out}: this exists already; give another --out, or --overwrite to replace it.")
