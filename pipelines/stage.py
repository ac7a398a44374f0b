"""A stage: one step of a recipe from inputs to one output folder, and the key that says whether it must run again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splatmend.datasets.artifact import MANIFEST, content_key, plain, read_json
from splatmend.datasets.errors import UserError
from splatmend.pipelines.sources import code_key


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """How a stage runs, which changes nothing in what it makes. `resume`: an interrupted run of the same key left its partial folder."""

    device: str = "auto"
    resume: bool = False
    say: Callable[[str], None] = print


StageFunction = Callable[[Any, Mapping[str, Path], Path, StageContext], Mapping[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step. `run(config, inputs, out, context)` writes the folder `out`, whole or not at all, and may return facts for its record.

    `inputs` maps the function's input names to another stage's name (str) or to something on disk (Path). `resumes`: whether an
    interrupted run leaves a checkpoint from which `run` can go on.
    """

    name: str
    config: Any
    run: StageFunction
    inputs: Mapping[str, str | Path] = field(default_factory=dict)
    resumes: bool = False

    def upstream(self) -> tuple[str, ...]:
        """Names of the stages it takes from."""
        return tuple(source for source in self.inputs.values() if isinstance(source, str))

    def config_values(self) -> dict[str, Any]:
        """The configuration as dotted names and plain values."""
        return flat(plain(self.config))

    def code_key(self) -> str:
        """Hash of the sources that make the output."""
        return code_key(self.run)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names."""
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    out: dict[str, Any] = {}
    for name, inner in value.items():
        out |= flat(inner, f"{prefix}{name}.")
    return out


def stage_key(config: Mapping[str, Any], inputs: Mapping[str, str], code: str) -> str:
    """The key of one run of a stage: what it was asked, given and made by."""
    return content_key({"config": dict(config), "inputs": dict(inputs), "code": code})


_SMALL_BYTES = 64 * 2**20


def fingerprint(path: Path) -> str:
    """A short hash that changes when the thing on disk does: an artefact's manifest, else the contents of small folders (a reinstalled
    package is the same package) and the names, sizes and times of large ones. Of `FOLDER#DRIVE` only that drive's files count.

    Raises `UserError` where there is nothing.
    """
    from splatmend.datasets.readers.registry import on_disk

    path = Path(path)
    if (path / MANIFEST).is_file():
        return content_key(read_json(path / MANIFEST))
    roots = on_disk(path)
    if not roots:
        raise UserError(f"{path}: there is no such file or folder; check the path.")
    files = [file for root in roots for file in ([root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file()))]
    # A drive's files lie in a folder for each component, all of them in the folder before the "#".
    base = path.parent if path.exists() else path.parent / path.name.rpartition("#")[0]
    stats = [file.stat() for file in files]
    small = sum(stat.st_size for stat in stats) <= _SMALL_BYTES
    digest = hashlib.sha256()
    for file, stat in zip(files, stats):
        mark = hashlib.sha256(file.read_bytes()).hexdigest() if small else str(stat.st_mtime_ns)
        digest.update(f"{file.relative_to(base).as_posix()} {stat.st_size} {mark}\n".encode())
    return digest.hexdigest()[:16]
