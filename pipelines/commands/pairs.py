"""`splatmend pairs`: degraded and true clips for training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from splatmend.pipelines.pairs import PairsConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make pairs of degraded and true clips by fitting scenes badly on purpose, and on streets by looking from beside the lane."""

    sources: Positional[tuple[str, ...]]
    """Logs, or street:SEED for procedural streets."""
    out: Path
    """Folder of the pairs to write."""
    config: Annotated[PairsConfig, arg(name="")] = field(default_factory=PairsConfig)
    """Which pairs."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: bool = False
    """Keep the finished pairs of an interrupted run."""
    overwrite: bool = False
    """Replace existing pairs."""


def run(options: Options) -> int:
    from rich.console import Console
    from rich.table import Table

    from splatmend.datasets.artifact import read_manifest
    from splatmend.datasets.errors import UserError
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.pairs import make_pairs

    if not options.sources:
        raise UserError("pairs: there is no log; give paths of logs, or street:SEED.")
    refuse_existing(options.out, options.overwrite)
    make_pairs(options.sources, options.out, options.config, resume=options.resume, overwrite=options.overwrite, device=options.device)
    facts = read_manifest(options.out, "pairs").facts
    table = Table(
        "kind", "PSNR", "SSIM", "LPIPS squeeze", title=f"{facts['pairs']} pairs of {facts['scenes']} scenes", title_justify="left"
    )
    for kind, means in facts["means"].items():
        lpips = f"{means['lpips']:.3f}" if "lpips" in means else "network missing"
        table.add_row(kind, f"{means['psnr']:.2f}", f"{means['ssim']:.3f}" if "ssim" in means else "too small", lpips)
    Console().print(table)
    print(f"pairs: {options.out / 'pairs.jsonl'}")
    return 0
