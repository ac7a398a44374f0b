"""`splatmend fit`: a log becomes a scene."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from splatmend.recon.fit.config import FitConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fit a scene of Gaussians to a log. Processes that torchrun or accelerate launch started together (torchrun --nproc-per-node N
    -m splatmend.pipelines.cli fit ...) fit it together, a GPU for each."""

    log: Positional[Path]
    """Folder (or file) of the log."""
    out: Path
    """Folder of the scene to write."""
    resume: bool = False
    """Go on from the checkpoint of an interrupted run."""
    overwrite: bool = False
    """Replace an existing scene."""
    config: Annotated[FitConfig, arg(name="")] = field(default_factory=FitConfig)
    """How to fit."""


def run(options: Options) -> int:
    from splatmend.datasets.launch import launched_rank
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.log_notes import open_log_with_notes
    from splatmend.recon.fit.fit import fit

    refuse_existing(options.out, options.overwrite)
    log = open_log_with_notes(options.log)
    scene = fit(log, options.out, options.config, resume=options.resume, overwrite=options.overwrite)
    if launched_rank() == 0:
        print_scene(scene)
    return 0


def print_scene(path: Path) -> None:
    """What a scene says of itself, in three lines."""
    from splatmend.datasets.artifact import read_manifest

    facts = read_manifest(path, "scene").facts
    counts = facts["gaussians"]
    print(f"scene: {path}")
    print(f"Gaussians: {counts['background']:,} in the background, {sum(counts['actors'].values()):,} in {len(counts['actors'])} actors")
    held_out = facts.get("held_out") or {}
    if held_out:
        scores = ", ".join(f"{name} {held_out[name]:.3f}" for name in ("psnr", "ssim", "lpips") if name in held_out)
        print(f"held-out frames ({held_out['frames']}): {scores}")
    else:
        print("held-out frames: none, so nothing says how good the scene is (they are every 8th from a camera's fifth frame on)")
