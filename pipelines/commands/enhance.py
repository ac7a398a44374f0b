"""`splatmend enhance`: a rendered clip without its artefacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from splatmend.datasets.clip import Encoding
from splatmend.datasets.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Remove artefacts from a clip (one that splatmend wrote, a video file, or a folder of images)."""

    clip: Positional[Path]
    """Clip to enhance."""
    out: Path
    """Folder of the clip to write."""
    model: str = "bundled"
    """Folder of the enhancer, a hub id, or "bundled"."""
    strength: float = 1.0
    """0 leaves the clip as it is, 1 takes all of the enhancer's change."""
    encoding: Encoding = "png"
    """png is lossless; h264 and av1 are small."""
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
    from splatmend.enhance.artifact import load_enhancer
    from splatmend.enhance.stream import enhance_clip
    from splatmend.enhance.transformer import inference_dtype
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.stages import torch_device

    if not 0 <= options.strength <= 1:
        raise UserError(f"strength: {options.strength} is not between 0 and 1; change it.")
    refuse_existing(options.out, options.overwrite)
    clip = open_clip(options.clip)
    device = torch_device(options.device)
    enhance_clip(
        load_enhancer(options.model, device=device, dtype=inference_dtype(device)),
        clip,
        options.out,
        strength=options.strength,
        window=options.window,
        overlap=options.overlap,
        encoding=options.encoding,
        overwrite=options.overwrite,
        compile=options.compile,
    )
    print(f"clip: {options.out} ({len(clip)} frames)")
    return 0
