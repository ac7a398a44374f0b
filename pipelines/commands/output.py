"""Checks on `--out` before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from splatmend.datasets.errors import UserError


def refuse_existing(out: Path, overwrite: bool) -> None:
    """`UserError` where the output stands already or cannot be written, so that nobody waits for a refusal at the end."""
    if out.exists() and not overwrite:
        raise UserError(f"{out}: this exists already; give another --out, or --overwrite to replace it.")
    standing = next(folder for folder in out.absolute().parents if folder.exists())
    if not standing.is_dir():
        raise UserError(f"{out}: {standing} is a file where a folder is needed; give another --out.")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise UserError(f"{out}: {standing} cannot be written to; give an --out in a folder that you may write to.")
