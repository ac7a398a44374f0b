"""The enhancer of commands that enhance clips on their way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from splatmend.datasets.clip import Clip


class Enhancing(NamedTuple):
    """What enhances a clip into a folder, facts about the enhancer, and how many layers of references it takes from a clip."""

    enhance: Callable[[Clip, Path], Path]
    facts: dict[str, Any]
    references: int


def enhancing(model: str, device: str, strength: float | None = None) -> Enhancing:
    """An enhancer by its folder or name. `UserError` where there is no such enhancer or device."""
    from splatmend.enhance.artifact import load_enhancer
    from splatmend.enhance.stream import enhance_clip
    from splatmend.enhance.transformer import inference_dtype
    from splatmend.pipelines.device import torch_device
    from splatmend.pipelines.enhancer_facts import enhancer_facts
    from splatmend.pipelines.recipes import enhancer_folder

    folder, where = enhancer_folder(model), torch_device(device)
    enhancer = load_enhancer(folder, device=where, dtype=inference_dtype(where))
    return Enhancing(
        enhance=lambda clip, out: enhance_clip(enhancer, clip, out, strength=strength),
        facts=enhancer_facts(folder, enhancer.spec),
        references=enhancer.spec.references,
    )
