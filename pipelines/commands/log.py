"""`splatmend log`: what a driving log holds, and whether it is sound."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    import numpy as np

    from splatmend.datasets.log import SceneLog


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say what a driving log holds, and read all of it once to check it."""

    path: Positional[Path]
    """Folder (or file) of the log."""
    overlay: Path | None = None
    """Also write a picture of its points and boxes over a frame to this .png or .jpg."""
    movers: Path | None = None
    """Also find what moves by the LiDAR sweeps, and write a picture of it to this .png or .jpg: boxes around vehicles, red over what
    else comes and goes."""
    camera: str | None = None
    """Camera of the pictures; the first one by default."""
    frame: int | None = None
    """Frame of the pictures; by default the overlay shows the middle one, and the movers four from first to last."""


def run(options: Options) -> int:
    from rich.console import Console

    from splatmend.datasets.errors import UserError
    from splatmend.datasets.images import check_picture_name
    from splatmend.datasets.jumps import without_jumps
    from splatmend.datasets.log_check import check_content
    from splatmend.datasets.progress import ConsoleBar
    from splatmend.datasets.readers.registry import open_log
    from splatmend.datasets.summary import print_summary, summarise

    for picture in (options.overlay, options.movers):
        if picture is not None:
            check_picture_name(picture)
    for name in ("camera", "frame"):
        if getattr(options, name) is not None and options.overlay is None and options.movers is None:
            raise UserError(f"--{name}: it says what a picture shows, and none is asked for; add --overlay or --movers, or leave it out.")
    log = open_log(options.path)
    with ConsoleBar("checking", len(log.frames) + len(log.sweeps)) as bar:
        notes = check_content(log, bar.show)
    print_summary(summarise(replace(log, notes=(*without_jumps(log).notes, *notes))), Console())
    if options.overlay is not None:
        from splatmend.datasets.overlay import lidar_overlay

        _write_whole(options.overlay, lidar_overlay(log, options.camera, options.frame))
        print(f"overlay: {options.overlay}")
    if options.movers is not None:
        write_movers(log, options.movers, options.camera, options.frame)
    return 0


def write_movers(log: SceneLog, path: Path, camera: str | None, frame: int | None) -> None:
    """Find what moves in a log, say it, and draw it into a picture file."""
    import numpy as np

    from splatmend.recon.fit.movers import found_movers
    from splatmend.recon.movers.picture import movers_picture

    movers = found_movers(log)
    for actor in movers.actors:
        poses, seconds = actor.track.world_from_body, (actor.track.end_us - actor.track.start_us) * 1e-6
        size = " x ".join(f"{side:.1f}" for side in actor.size_m)
        moved_m = float(np.linalg.norm(poses[-1, :3, 3] - poses[0, :3, 3]))
        print(f"{actor.actor_id}: {size} m, seen for {seconds:.1f} s, moved {moved_m:.1f} m")
    print(f"moving vehicles: {len(movers.actors)}, other transient returns: {movers.transient_count:,}")
    _write_whole(path, movers_picture(log, movers, camera, frame))
    print(f"movers: {path}")


def _write_whole(path: Path, picture: np.ndarray) -> None:
    """Write a picture file that is there whole or not at all."""
    from splatmend.datasets.artifact import naming_full_disk
    from splatmend.datasets.images import write_image

    beside = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        with naming_full_disk(path):
            write_image(beside, picture)
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
