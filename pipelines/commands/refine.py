"""`splatmend refine`: a scene, improved round after round with enhanced renders beside its path."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from splatmend.pipelines.refine.config import RefineConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Render a scene beside its recorded path, enhance the renders, go on fitting with them as extra views that count where recorded
    cameras saw little, and again from farther out."""

    scene: Positional[Path]
    """Scene folder, as splatmend fit wrote it."""
    log: Positional[Path]
    """The log that it was fitted to."""
    out: Path
    """Folder of the scene to write."""
    model: str = "bundled"
    """Folder of the enhancer, or "bundled"."""
    config: Annotated[RefineConfig, arg(name="")] = field(default_factory=RefineConfig)
    """How to refine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to work; "auto" takes CUDA where there is some."""
    resume: bool = False
    """Go on from the checkpoint of an interrupted run."""
    overwrite: bool = False
    """Replace an existing scene."""


def run(options: Options) -> int:
    from splatmend.datasets.readers.registry import open_log
    from splatmend.pipelines.commands.enhancing import enhancing
    from splatmend.pipelines.commands.fit import print_scene
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.refine.loop import refine

    refuse_existing(options.out, options.overwrite)
    log = open_log(options.log)
    enhance, facts, layers = enhancing(options.model, options.device, options.config.strength)
    refine(
        options.scene,
        log,
        options.out,
        options.config,
        enhance,
        enhancer=facts,
        references=layers,
        device=options.device,
        resume=options.resume,
        overwrite=options.overwrite,
    )
    print_scene(options.out)
    return 0
