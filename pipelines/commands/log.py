"""`splatmend log`: what a driving log holds, and whether it is sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say what a driving log holds and check it."""

    path: Positional[Path]
    """Folder (or file) of the log."""
    overlay: Path | None = None
    """Also write a picture of its points and boxes over a frame to this .png or .jpg."""
    camera: str | None = None
    """Camera of the overlay; the first one by default."""
    frame: int | None = None
    """Frame of the overlay; the middle one by default."""


def run(options: Options) -> int:
    from rich.console import Console

    from splatmend.datasets.readers.registry import open_log
    from splatmend.datasets.summary import print_summary, summarise

    log = open_log(options.path)
    print_summary(summarise(log), Console())
    if options.overlay is not None:
        from splatmend.datasets.images import write_image
        from splatmend.datasets.overlay import lidar_overlay

        write_image(options.overlay, lidar_overlay(log, options.camera, options.frame))
        print(f"overlay: {options.overlay}")
    return 0
