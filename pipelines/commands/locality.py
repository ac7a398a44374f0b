"""`splatmend locality`: how far back in time a decoder's gradients must reach, measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from splatmend.enhance.locality import LocalityConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure influence against temporal distance, and what truncation by D costs in gradient error, seconds and memory."""

    vae: str
    """A diffusers folder with a Wan autoencoder, an enhancer or autoencoder folder that splatmend wrote, or "bundled"."""
    clips: tuple[Path, ...]
    """Clips, sets of clips, video files or folders of images; with an enhancer they are what it should give."""
    out: Path
    """Folder to write: locality.json, influence.png, gradients.png, cost.png."""
    config: Annotated[LocalityConfig, arg(name="")] = field(default_factory=LocalityConfig)
    """What is measured."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace an existing folder."""


def run(options: Options) -> int:
    import torch
    from rich.console import Console
    from rich.table import Table

    from splatmend.datasets.clip import open_clip
    from splatmend.enhance.locality import measure_locality
    from splatmend.pipelines.clip_sets import members
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.device import torch_device

    refuse_existing(options.out, options.overwrite)
    device = torch.device(torch_device(options.device))
    clips = [open_clip(clip) for path in options.clips for clip in members(path)]
    result = measure_locality(options.vae, clips, options.out, options.config, device=device, overwrite=options.overwrite)

    table = Table("gradient at", "loss", "D", "cosine", "error", "length", title="truncated beside exact, means over clips")
    for where in ("latents", "parameters"):
        for row in result[where]:
            numbers = (f"{row['mean'][name]:.3f}" for name in ("cosine", "error", "length"))
            table.add_row(where, row["loss"], str(row["truncation"]), *numbers)
    console = Console()
    console.print(table)
    decay = result["influence"]["decay"]
    if decay is not None:
        print(f"influence: {decay['c']:.3g} exp({-decay['alpha']:.3f} distance in groups), r2 {decay['r2']:.3f}")
    for row in result["cost"]:
        print(f"D={row['truncation']}: {row['seconds']:.2f} s, peak {row['peak_bytes'] / 1e9:.3f} GB ({row['bytes_of']})")
    print(f"locality: {options.out / 'locality.json'}")
    return 0
