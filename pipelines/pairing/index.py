"""The index of a folder of pairs: lines of JSON, those of each scene by themselves while they are made, and all together at the end.

Scenes are made side by side, and each has one writer, so that every file is whole at every moment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INDEX = "pairs.jsonl"
PARTS = "scenes"


def part(folder: Path, scene: str) -> Path:
    """The file with the lines of one scene."""
    return folder / PARTS / f"{scene}.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of an index; none where there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace an index in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    beside.replace(path)
