"""`splatmend street`: a procedural street as a log folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from splatmend.datasets.street.config import StreetConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a procedural street: a drive with cameras, LiDAR and labels, laid out as a Waymo v2 log, and an oracle for every other view."""

    out: Path
    """Folder to write."""
    config: Annotated[StreetConfig, arg(name="")] = field(default_factory=StreetConfig)
    """What the street is like."""
    overwrite: bool = False
    """Replace an existing folder."""


def run(options: Options) -> int:
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.stage import StageContext
    from splatmend.pipelines.stages import make_street

    refuse_existing(options.out, options.overwrite)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    make_street(options.config, {}, options.out, StageContext())
    print(f"street: {options.out} ({len(options.config.cameras)} cameras, {options.config.frame_count} frames each)")
    return 0
