"""Checks on `--out` before any work is done."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from splatmend.datasets.artifact import MANIFEST
from splatmend.datasets.collage_mark import MADE_BY
from splatmend.datasets.errors import UserError


def refuse_existing(out: Path, overwrite: bool) -> None:
    """`UserError` where the output stands already or cannot be written, so that nobody waits for a refusal at the end."""
    if out.exists() and not overwrite:
        raise UserError(f"{out}: this exists already; give another --out, or --overwrite to replace it.")
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out):
        raise UserError(f"{out}: splatmend has not made this folder, so it is not replaced; give another --out, or remove it yourself.")
    refuse_unwritable(out)


def refuse_unwritable(out: Path) -> None:
    """`UserError` where nothing can be written at a path."""
    standing = next(folder for folder in out.absolute().parents if folder.exists())
    if not standing.is_dir():
        raise UserError(f"{out}: {standing} is a file where a folder is needed; give another --out.")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise UserError(f"{out}: {standing} cannot be written to; give an --out in a folder that you may write to.")


_MARKS = {MANIFEST: {"kind", "format_version", "conventions"}, "street.json": {"format_version", "street"}}
"""Files that our folders hold, and entries that tell them from others' files of the same name."""


def _is_ours(folder: Path) -> bool:
    """Whether one of our commands has written a folder."""
    return any(entries <= set(_object(folder / name)) for name, entries in _MARKS.items()) or (
        _object(folder / "transforms.json").get("made_by") == MADE_BY
    )


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is none."""
    try:
        held = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
