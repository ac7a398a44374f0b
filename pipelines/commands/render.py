"""`splatmend render`: a scene along a trajectory, as a clip."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from splatmend.datasets.clip import Encoding
from splatmend.recon.trajectory import TrajectoryConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Render a scene along the recorded path, beside it, or through given poses."""

    scene: Positional[Path]
    """Scene folder."""
    out: Path
    """Folder of the clip to write."""
    trajectory: Annotated[TrajectoryConfig, arg(name="trajectory")] = field(default_factory=TrajectoryConfig)
    """The camera's path."""
    encoding: Encoding = "png"
    """png is lossless; h264 and av1 are small."""
    depth: bool = False
    """Also write depth in metres."""
    references: int = 0
    """Layers of recorded frames, warped into the view, to write beside each frame: what an enhancer that uses them mends with."""
    log: Path | None = None
    """The log that the scene was fitted to, for --references; by default where it lay then."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace an existing clip."""


def run(options: Options) -> int:
    from splatmend.datasets.errors import UserError
    from splatmend.datasets.progress import ConsoleBar
    from splatmend.datasets.video import VIDEO_SUFFIXES
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.device import torch_device
    from splatmend.pipelines.scene_log import check_references, references_for
    from splatmend.recon.render_clip import render_clip
    from splatmend.recon.scene_files import load_scene
    from splatmend.recon.trajectory import build_trajectory

    if options.out.suffix.lower() in VIDEO_SUFFIXES:
        raise UserError(
            f"{options.out}: a render is a folder with its cameras; leave the ending out, and --encoding h264 puts frames.mp4 into it."
        )
    check_references(options.references, options.log)
    refuse_existing(options.out, options.overwrite)
    scene = load_scene(options.scene, device=torch_device(options.device))
    trajectory = build_trajectory(scene, options.trajectory)
    references = references_for(options.scene, scene, options.references, options.log)
    for note in trajectory.notes:
        print(f"note: {note}")
    with ConsoleBar("render", len(trajectory)) as bar:
        render_clip(
            scene,
            trajectory,
            options.out,
            encoding=options.encoding,
            depth=options.depth,
            references=references,
            overwrite=options.overwrite,
            on_progress=bar.show,
        )
    print(f"clip: {options.out} ({len(trajectory)} frames at {trajectory.rate_hz:.3g} Hz)")
    return 0
