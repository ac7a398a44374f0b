"""Sets of clips: a folder (artefact kind "clips") with one clip per sub-folder, in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from splatmend.datasets.artifact import MANIFEST, Manifest, building, read_manifest
from splatmend.datasets.errors import UserError

KIND = "clips"


def is_set(path: Path) -> bool:
    """Whether the folder is a set of clips; `UserError` where its manifest cannot be read."""
    return (Path(path) / MANIFEST).is_file() and read_manifest(path).kind == KIND


def members(path: Path) -> list[Path]:
    """The clips of a set, in order; a single clip is its own only member."""
    path = Path(path)
    if not is_set(path):
        return [path]
    found = sorted(folder for folder in path.iterdir() if (folder / MANIFEST).is_file())
    if not found:
        raise UserError(f"{path}: the set holds no clip; write it again.")
    return found


@contextmanager
def building_set(out: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """Gives the folder to write clips into; the set stands when the block ends."""
    manifest = Manifest(kind=KIND, config=config)
    with building(out, manifest, overwrite=True) as partial:
        yield partial
        manifest.facts = {"clips": sum((folder / MANIFEST).is_file() for folder in partial.iterdir())}
