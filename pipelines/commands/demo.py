"""`splatmend demo`: the recipe that needs nothing but this package."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from splatmend.pipelines.recipes import RecipeOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    """The whole chain on a procedural street: log, scene, lane shift, enhancement, scores against the true pictures, report."""

    out: Path = Path("out/demo")
    """Folder of the run."""
    options: Annotated[RecipeOptions, arg(name="")] = field(default_factory=RecipeOptions)
    """What the recipe makes."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Run every stage again, and remove what another recipe left in the folder."""


def run(options: Options) -> int:
    from splatmend.pipelines.commands import run as run_command

    return run_command.run(
        run_command.Options(recipe="demo", out=options.out, options=options.options, device=options.device, overwrite=options.overwrite)
    )
