"""What a record and a report say of an enhancer: its name, where it comes from, and a hash of its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from splatmend.datasets.artifact import plain
from splatmend.enhance.bundled import BUNDLED, bundled_folder
from splatmend.enhance.model import EnhancerSpec


def enhancer_facts(folder: Path, spec: EnhancerSpec) -> dict[str, Any]:
    """Facts of the enhancer in a folder. `weights`: the start of the SHA-256 of its safetensors files; those of a base model elsewhere
    do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    name = BUNDLED if folder.resolve() == bundled_folder() else folder.name
    return {
        "name": name,
        "weights": digest.hexdigest()[:12],
        "base": spec.base,
        "task": spec.task,
        "strength": spec.strength,
        "provenance": plain(spec.provenance),
    }
