"""The enhancer of commands that enhance clips on their way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from splatmend.datasets.clip import Clip


def enhancing(model: str, device: str, strength: float | None = None) -> tuple[Callable[[Clip, Path], Path], dict[str, Any]]:
    """What enhances a clip into a folder, with the enhancer's facts.

    Raises `UserError` where there is no such enhancer or device.
    """
    from splatmend.enhance.artifact import load_enhancer
    from splatmend.enhance.stream import enhance_clip
    from splatmend.enhance.transformer import inference_dtype
    from splatmend.pipelines.device import torch_device
    from splatmend.pipelines.enhancer_facts import enhancer_facts
    from splatmend.pipelines.recipes import enhancer_folder

    folder, where = enhancer_folder(model), torch_device(device)
    enhancer = load_enhancer(folder, device=where, dtype=inference_dtype(where))
    return lambda clip, out: enhance_clip(enhancer, clip, out, strength=strength), enhancer_facts(folder, enhancer.spec)
