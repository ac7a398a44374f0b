"""Artefacts: directories with a `manifest.json` that are there whole or not at all.

A stage works in `NAME.partial/` (its checkpoints live there and survive an interruption); the finished directory is renamed to
`NAME`. `docs/formats.md` lists the kinds.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splatmend import __version__
from splatmend.datasets.disk_faults import disk_is_full, disk_sentence
from splatmend.datasets.errors import UserError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CONVENTIONS = {
    "world": "right-handed, metres where metric, z up",
    "camera": "x right, y down, z forward (OpenCV); first pixel centre at (0.5, 0.5)",
    "body": "x forward, y left, z up",
    "transforms": "a_from_b maps coordinates of b to a",
    "colour": "sRGB in [0, 1]",
    "time": "integer microseconds",
}


@dataclass(kw_only=True)
class Manifest:
    """What an artefact says of itself. `config` is the resolved configuration, `inputs` maps names to content keys, `facts` holds
    what the stage measured."""

    kind: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    format_version: int = FORMAT_VERSION
    code_version: str = __version__
    conventions: Mapping[str, str] = field(default_factory=lambda: dict(CONVENTIONS))


def plain(value: Any) -> Any:
    """A value as JSON holds it: dataclasses become dicts, paths strings, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def content_key(value: Any) -> str:
    """Short hash of a value's JSON form."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """JSON to a file, which is whole at every moment (written beside it, then renamed)."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(plain(value), indent=1) + "\n")
    os.replace(beside, path)


def read_json(path: Path) -> Any:
    """JSON from a file; `UserError` where it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path.") from None
    except OSError as fault:
        raise UserError(f"{path}: it cannot be read ({fault.strerror}); check the path.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise UserError(f"{path}: this is not valid JSON ({fault}); write the file again.") from None


def read_manifest(folder: Path, kind: str | None = None) -> Manifest:
    """The manifest of an artefact; `UserError` where there is none, of another kind, or of a version this code does not know."""
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"{folder}: there is no such file or folder; check the path.")
    if not (folder / MANIFEST).is_file():
        partial = " (it is still being written: finish it with --resume)" if folder.name.endswith(".partial") else ""
        raise UserError(f"{folder}: this is no splatmend artefact, for it has no {MANIFEST}{partial}; give a folder that splatmend wrote.")
    raw = read_json(folder / MANIFEST)
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder / MANIFEST}: format version {version} is unknown to splatmend {__version__}, which reads version {FORMAT_VERSION}; "
            "update splatmend or write the artefact again."
        )
    known = {f.name for f in dataclasses.fields(Manifest)}
    try:
        manifest = Manifest(**{name: value for name, value in raw.items() if name in known})
    except TypeError as fault:
        raise UserError(f"{folder / MANIFEST}: a needed entry is missing ({fault}); write the artefact again.") from None
    if kind is not None and manifest.kind != kind:
        raise UserError(f"{folder}: it is of the kind {manifest.kind}, but {kind} is needed here; give another folder.")
    return manifest


def partial_folder(out: Path) -> Path:
    """Where an artefact is built before it is whole."""
    return out.with_name(out.name + ".partial")


@contextmanager
def building(out: Path, manifest: Manifest, *, overwrite: bool = False, resume: bool = False) -> Iterator[Path]:
    """Build an artefact: gives the `.partial` folder to write into; on success writes the manifest and renames it to `out`.

    The caller may fill `manifest.facts` until the block ends. An existing `out` is refused unless `overwrite` (the old one
    is removed only once the new one stands). `resume` keeps what an interrupted run left in the partial folder; otherwise it is cleared.
    A failure leaves the partial folder for `resume` only when it holds a checkpoint (`checkpoint*`); else nothing is left.

    Errors: `UserError` where `out` exists, cannot be written, or the disk is full.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        finished = ", finished" if resume and not partial_folder(out).exists() else ""
        raise UserError(f"{out}: this exists already{finished}; give another --out, or --overwrite to replace it.")
    partial = partial_folder(out)
    if partial.exists() and not resume and has_checkpoint(partial) and not overwrite:
        raise UserError(f"{partial}: an interrupted run left a checkpoint; go on with --resume, or give --overwrite to start anew.")
    try:
        if partial.exists() and not resume:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        if disk_sentence(fault, out) is None:
            raise
        raise UserError(f"{out}: it cannot be made ({fault.strerror}); give an --out in a folder that you may write to.") from None
    try:
        with naming_full_disk(out):
            yield partial
            write_json(partial / MANIFEST, manifest)
            _put_in_place(partial, out)
    except BaseException:
        _drop_unless_resumable(partial)
        raise


def has_checkpoint(partial: Path) -> bool:
    """Whether an interrupted run left something to go on from."""
    return any(not path.name.endswith(".new") for path in partial.glob("checkpoint*"))


@contextmanager
def naming_full_disk(out: Path) -> Iterator[None]:
    """Turn "no space left" into a `UserError` that names what was being written."""
    try:
        yield
    except Exception as fault:
        if disk_is_full(fault):
            raise UserError(f"{out}: the disk is full; free some space and run the command again.") from fault
        raise


def _drop_unless_resumable(partial: Path) -> None:
    if not has_checkpoint(partial):
        shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, out: Path) -> None:
    if not out.exists():
        os.rename(partial, out)
        return
    if _exchange(partial, out):
        shutil.rmtree(partial)
        return
    # os.replace cannot replace a directory that is not empty, so where names cannot be swapped the old one steps aside first.
    aside = out.with_name(f"{out.name}.old-{os.getpid()}-{time.time_ns()}")
    os.rename(out, aside)
    os.rename(partial, out)
    shutil.rmtree(aside)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in a single step, so that an interruption finds one of them whole under each (renameat2(2)); False
    where the system or its file system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    return done == 0
