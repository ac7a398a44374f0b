"""`splatmend import`: Gaussians that another program wrote or edited, put into a scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a scene whose background is a PLY file of Gaussians. Cameras, path, actors, sky and exposure come from another scene."""

    ply: Positional[Path]
    """File of Gaussians; its coordinates count from where `splatmend export` said."""
    like: Path
    """Scene folder that gives everything but the background."""
    out: Path
    """Folder of the scene to write."""
    overwrite: bool = False
    """Replace an existing scene."""


def run(options: Options) -> int:
    from splatmend.pipelines.commands.fit import print_scene
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.recon.ply import import_ply
    from splatmend.recon.scene_files import load_scene, save_scene

    refuse_existing(options.out, options.overwrite)
    scene = load_scene(options.like)
    edited = scene.with_gaussians(import_ply(options.ply))
    # Scores of the other background say nothing about this one.
    edited.facts.pop("held_out", None) if isinstance(edited.facts, dict) else None
    save_scene(options.out, edited, {"import": {"ply": str(options.ply), "like": str(options.like)}}, overwrite=options.overwrite)
    print_scene(options.out)
    return 0
