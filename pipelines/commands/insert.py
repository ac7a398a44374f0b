"""`splatmend insert`: a scene with edits of a file along a trajectory, as clips with masks and boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from splatmend.datasets.clip import Encoding
from splatmend.recon.trajectory import TrajectoryConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Remove, move, swap, copy and insert actors as a file says, and render the scene. The scene's folder stays as it is."""

    scene: Positional[Path]
    """Scene folder."""
    edits: Path
    """YAML file of edits (docs/edits.md)."""
    out: Path
    """Folder of the clips to write."""
    assets: Path | None = None
    """Library that the file's assets come from (`splatmend assets`)."""
    trajectory: Annotated[TrajectoryConfig, arg(name="trajectory")] = field(default_factory=TrajectoryConfig)
    """The camera's path."""
    encoding: Encoding = "png"
    """png is lossless; h264 and av1 are small."""
    depth: bool = False
    """Also write depth in metres."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace existing clips."""


def run(options: Options) -> int:
    from splatmend.datasets.artifact import plain
    from splatmend.datasets.errors import UserError
    from splatmend.datasets.progress import ConsoleBar
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.device import torch_device
    from splatmend.recon.edits.apply import apply_edits
    from splatmend.recon.edits.asset_names import asset_loader
    from splatmend.recon.edits.reading import read_edits
    from splatmend.recon.insertion.clips import render_insertion
    from splatmend.recon.scene_files import load_scene
    from splatmend.recon.trajectory import build_trajectory, length_unit

    refuse_existing(options.out, options.overwrite)
    if options.trajectory.edits_actors:
        raise UserError(f"{options.edits}: the trajectory edits actors as well; write what is removed and shifted into this file.")
    edits = read_edits(options.edits)
    scene = load_scene(options.scene, device=torch_device(options.device))
    unit = length_unit(scene, options.trajectory)
    edited = apply_edits(scene, edits, asset_loader(options.assets, options.edits.parent, scene.device), unit=unit)
    trajectory = build_trajectory(scene, options.trajectory)
    for note in (*trajectory.notes, *edited.notes):
        print(f"note: {note}")
    with ConsoleBar("insert", len(trajectory)) as bar:
        render_insertion(
            edited,
            trajectory,
            options.out,
            encoding=options.encoding,
            depth=options.depth,
            config={"edits": plain(edits.edits), "edits_file": options.edits, "assets": options.assets},
            overwrite=options.overwrite,
            on_progress=bar.show,
        )
    print(f"clips: {options.out} ({len(trajectory)} frames at {trajectory.rate_hz:.3g} Hz, {len(edited.inserted)} bodies put in or moved)")
    return 0
