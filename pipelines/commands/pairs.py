"""`splatmend pairs`: degraded and true clips for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from splatmend.pipelines.pairing.config import PairsConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make pairs of degraded and true clips: scenes fitted badly on purpose, seen from elsewhere, or with holes; on streets also seen from
    beside the lane."""

    sources: Positional[tuple[str, ...]]
    """Logs, or street:SEED for procedural streets."""
    out: Path
    """Folder of the pairs to write."""
    config: Annotated[PairsConfig, arg(name="")] = field(default_factory=PairsConfig)
    """Which pairs."""
    device: str = "auto"
    """auto, cpu or cuda."""
    workers: int = 1
    """Logs that are worked on at a time, each in a process of its own."""
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
    make_pairs(
        options.sources,
        options.out,
        options.config,
        resume=options.resume,
        overwrite=options.overwrite,
        device=options.device,
        workers=options.workers,
    )
    facts = read_manifest(options.out, "pairs").facts
    table = Table(
        "kind",
        "PSNR",
        "SSIM",
        "LPIPS squeeze",
        title=f"{facts['pairs']} pairs of {facts['scenes']} scenes: mean (10th, 50th, 90th percentile of frames)",
        title_justify="left",
    )
    for kind, scores in facts["statistics"].items():
        cells = ((scores.get("psnr"), 2, ""), (scores.get("ssim"), 3, "too small"), (scores.get("lpips"), 3, "network missing"))
        table.add_row(kind, *(absent if found is None else in_words(found, digits) for found, digits, absent in cells))
    Console().print(table)
    print(f"pairs: {options.out / 'pairs.jsonl'}")
    return 0


def in_words(found: Mapping[str, float], digits: int) -> str:
    """A score's mean and percentiles."""
    mean, *percentiles = (f"{found[name]:.{digits}f}" for name in ("mean", "p10", "p50", "p90"))
    return f"{mean} ({', '.join(percentiles)})"
