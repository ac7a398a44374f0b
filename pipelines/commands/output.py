"""Checks on `--out` before any work is done."""

from __future__ import annotations

import json
import os
from pathlib import Path

from splatmend.datasets.artifact import MANIFEST
from splatmend.datasets.collage_mark import MADE_BY
from splatmend.datasets.errors import UserError


def refuse_existing(out: Path, overwrite: bool) -> None:
    """`UserError` where the output stands already or cannot be written, so that nobody waits for a refusal at the end."""
    if out.exists() and not overwrite:
        raise UserError(f"{out}: this exists already; give another --out, or --overwrite to replace it.")
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out):
        raise UserError(f"{out}: splatmend has not made this folder, so it is not replaced; give another --out, or remove it yourself.")
    standing = next(folder for folder in out.absolute().parents if folder.exists())
    if not standing.is_dir():
        raise UserError(f"{out}: {standing} is a file where a folder is needed; give another --out.")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise UserError(f"{out}: {standing} cannot be written to; give an --out in a folder that you may write to.")


def _is_ours(folder: Path) -> bool:
    """Whether one of our commands has written a folder."""
    if (folder / MANIFEST).is_file() or (folder / "street.json").is_file():
        return True
    try:
        return bool(json.loads((folder / "transforms.json").read_text()).get("made_by") == MADE_BY)
    except (OSError, ValueError, AttributeError):
        return False
