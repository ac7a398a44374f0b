"""`splatmend enhance`: a rendered clip without its artefacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from splatmend.datasets.clip import Encoding
from splatmend.datasets.errors import UserError
from splatmend.enhance.strength import check_strength


@dataclass(frozen=True, kw_only=True)
class Options:
    """Remove artefacts from a clip (one that splatmend wrote, a video file, or a folder of images)."""

    clip: Positional[Path]
    """Clip to enhance."""
    out: Path
    """Folder of the clip to write, or a video file (.mp4, without the cameras)."""
    model: str = "bundled"
    """Folder of the enhancer, a hub id, "bundled", or for what was put in "bundled-harmoniser"."""
    strength: float | None = None
    """0 leaves the clip as it is (but for references), 1 takes all of the enhancer's change; none: as the enhancer advises."""
    references: bool = True
    """Take from recorded frames, where the clip brings them (render --references) and the enhancer knows how."""
    encoding: Encoding = "png"
    """How frames are stored: png is lossless; h264 (a video file's, unless av1 is given) and av1 are small."""
    window: int | None = None
    """Latents that the transformer sees at once; None: as it was trained."""
    overlap: int | None = None
    """Latents that neighbouring windows share; None: as it was trained."""
    device: str = "auto"
    """auto, cpu or cuda."""
    compile: bool = False
    """Compile the transformer's blocks: faster on long clips, after minutes of compiling."""
    overwrite: bool = False
    """Replace an existing clip."""


def run(options: Options) -> int:
    from splatmend.datasets.clip import open_clip
    from splatmend.datasets.progress import ConsoleBar
    from splatmend.datasets.video import VIDEO_SUFFIXES
    from splatmend.enhance.artifact import load_enhancer
    from splatmend.enhance.stream import enhance_clip, enhance_video
    from splatmend.enhance.transformer import inference_dtype
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.device import torch_device

    check_strength(options.strength)
    suffix = options.out.suffix.lower()
    if suffix in VIDEO_SUFFIXES and suffix != ".mp4":
        raise UserError(f"{options.out}: videos are written as .mp4; rename it, or leave the ending out for the folder of a clip.")
    refuse_existing(options.out, options.overwrite)
    if suffix == ".mp4" and options.out.is_dir():
        raise UserError(f"{options.out}: this is a folder where a video is to be written; give another --out.")
    if options.out.exists() and options.out.resolve() == Path(options.clip).resolve():
        raise UserError(f"{options.out}: this is the clip that is to be enhanced, which --overwrite would remove; give another --out.")
    clip = open_clip(options.clip)
    device = torch_device(options.device)
    enhancer = load_enhancer(options.model, device=device, dtype=inference_dtype(device))
    with ConsoleBar("enhance", len(clip)) as bar:
        how: dict[str, Any] = {
            "strength": options.strength,
            "window": options.window,
            "overlap": options.overlap,
            "overwrite": options.overwrite,
            "compile": options.compile,
            "references": options.references,
            "on_progress": bar.show,
        }
        if suffix == ".mp4":
            enhance_video(enhancer, clip, options.out, codec="av1" if options.encoding == "av1" else "h264", **how)
        else:
            enhance_clip(enhancer, clip, options.out, encoding=options.encoding, **how)
    print(f"{'video' if suffix == '.mp4' else 'clip'}: {options.out} ({len(clip)} frames)")
    return 0
