"""What a training is: settings, data and model. A checkpoint holds it, so that another training cannot go on from there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

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


BASE, WEIGHTS = "model.base", "weights"
"""The entries of an identity that hold a key of the enhancer that training begins with, and `weights_sample`."""
_ROUNDING = 4e-3
"""How far a weight may differ that is the same one: twice what bfloat16 rounds away."""


def weights_sample(model: nn.Module) -> list[float]:
    """The middle value of each of a model's tensors, in the order of their names: two models that differ in any tensor differ in it, as
    long as training has moved that tensor as a whole. Read before anything is trained, frozen parts and all."""
    state = model.state_dict()
    return [float(state[name].detach().flatten()[state[name].numel() // 2]) for name in sorted(state) if state[name].numel()]


_ADDED_LATER: Mapping[str, Any] = {"flow_warping": 0.0, "model.opacity_noise": 0.0, "displaced_share": 0.0, "displaced_px": 2.5}
"""What checkpoints from before there were these settings were trained with."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two trainings, in words. Entries are numbers, names and lists, lists of `Source` under `sources`, and a sample
    of the weights that a model begins with."""
    found = []
    for kind, sources in now["sources"].items():
        old, new = ([(str(path), str(key)) for path, key in held] for held in (before["sources"].get(kind, []), sources))
        # What lies there counts, not where: data may have been moved.
        if [key for _, key in old] != [key for _, key in new]:
            found.append(_sources_differ(kind, old, new))
    then = {**_ADDED_LATER, **before}
    apart = ("sources", WEIGHTS)
    others = [name for name in sorted(now.keys() | before.keys()) if name not in apart and then.get(name) != now.get(name)]
    if BASE in others:
        others.remove(BASE)
        found += ["the enhancer that it begins with is another"] if BASE in before else []
    found += [f"{name} was {then.get(name)} and is {now.get(name)}" for name in others]
    # Checkpoints from before there was a sample of weights say nothing of them.
    if WEIGHTS in before and not _same(before[WEIGHTS], now.get(WEIGHTS, [])):
        found.append("the model that it begins with has other weights")
    return found


def _same(before: list[float], now: list[float]) -> bool:
    return len(before) == len(now) and bool(np.allclose(before, now, rtol=_ROUNDING, atol=1e-6, equal_nan=True))


def _sources_differ(kind: str, before: list[Source], now: list[Source]) -> str:
    old, new = dict(before), dict(now)
    for path, key in now:
        if key not in old.values():
            return f"{kind}: {path} {'has changed' if path in old else 'is new'}"
    for path, key in before:
        if key not in new.values():
            return f"{kind}: {path} is left out"
    return f"{kind}: they come in another order"
