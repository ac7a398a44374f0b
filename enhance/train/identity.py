"""What a training is: settings, data and model. A checkpoint holds it, so that another training cannot go on from there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from splatmend.datasets.clip import Clip

Source = tuple[str, str]
"""A path as it was given, and a hash of what lies there."""


def source_key(index: Path | None, clips: Iterable[Clip]) -> str:
    """A short hash of a pairs index's text (None: there is no index), and of the frame counts and file sizes of clips."""
    digest = hashlib.blake2b(b"" if index is None else index.read_bytes(), digest_size=16)
    for clip in clips:
        files = clip.images if clip.video is None else (clip.video,)
        digest.update(repr([len(clip), *(file.stat().st_size for file in files)]).encode())
    return digest.hexdigest()


_ADDED_LATER: Mapping[str, Any] = {"flow_warping": 0.0, "model.opacity_noise": 0.0, "displaced_share": 0.0, "displaced_px": 2.5}
"""What checkpoints from before there were these settings were trained with."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two trainings, in words. Entries are numbers, names and lists, or lists of `Source` under `sources`."""
    found = []
    for kind, sources in now["sources"].items():
        old, new = ([(str(path), str(key)) for path, key in held] for held in (before["sources"].get(kind, []), sources))
        # What lies there counts, not where: data may have been moved.
        if [key for _, key in old] != [key for _, key in new]:
            found.append(_sources_differ(kind, old, new))
    then = {**_ADDED_LATER, **before}
    others = [name for name in sorted(now.keys() | before.keys()) if name != "sources" and then.get(name) != now.get(name)]
    return found + [f"{name} was {then.get(name)} and is {now.get(name)}" for name in others]


def _sources_differ(kind: str, before: list[Source], now: list[Source]) -> str:
    old, new = dict(before), dict(now)
    for path, key in now:
        if key not in old.values():
            return f"{kind}: {path} {'has changed' if path in old else 'is new'}"
    for path, key in before:
        if key not in new.values():
            return f"{kind}: {path} is left out"
    return f"{kind}: they come in another order"
