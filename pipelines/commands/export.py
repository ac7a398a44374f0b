"""`splatmend export`: Gaussians of a scene as a PLY file that other viewers open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from splatmend.datasets.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the background of a scene, or one of its actors, to a PLY file in the usual layout of Gaussian splats."""

    scene: Positional[Path]
    """Scene folder."""
    out: Path
    """File to write, .ply."""
    actor: str | None = None
    """Id of the actor to write instead of the background, in its own frame (x forward, y left, z up)."""
    overwrite: bool = False
    """Replace an existing file."""


def run(options: Options) -> int:
    from splatmend.datasets.artifact import naming_full_disk
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.recon.ply import export_ply
    from splatmend.recon.scene_files import load_scene

    if options.out.suffix.lower() != ".ply":
        raise UserError(f"{options.out}: the file's name must end in .ply; rename it.")
    refuse_existing(options.out, options.overwrite)
    scene = load_scene(options.scene)
    if options.actor is None:
        gaussians = scene.background.gaussians
        x, y, z = scene.origin_world_m
        print(f"coordinates count from ({x:.3f}, {y:.3f}, {z:.3f}) in the world of the log")
    elif options.actor in scene.actors:
        gaussians = scene.actors[options.actor].gaussians
    else:
        raise UserError(f"{options.scene}: there is no actor {options.actor}; its actors are {', '.join(scene.actors) or 'none'}.")
    beside = options.out.with_name(options.out.name + ".new")
    try:
        with naming_full_disk(options.out):
            export_ply(gaussians, beside)
            beside.replace(options.out)
    finally:
        beside.unlink(missing_ok=True)
    print(f"{options.out}: {len(gaussians):,} Gaussians")
    return 0
