"""`splatmend run`: a recipe's stages, those that need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from splatmend.datasets.errors import UserError
from splatmend.pipelines.recipes import RECIPES, RecipeOptions, refuse_unfit

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run a recipe: stages that are unchanged are skipped, one that was interrupted goes on."""

    recipe: Positional[Literal["demo", "kitti-raw", "kitti-odometry", "photos", "waymo"]]
    """Which recipe."""
    log: Positional[Path | None] = None
    """Folder (or file) of the log; the demo makes its own."""
    out: Path
    """Folder of the run; each stage has a folder in it."""
    options: Annotated[RecipeOptions, arg(name="")] = field(default_factory=RecipeOptions)
    """What the recipe makes."""
    first: Annotated[str | None, arg(name="from")] = None
    """Run this stage and what takes from it, changed or not."""
    last: Annotated[str | None, arg(name="until")] = None
    """Stop after this stage."""
    dry_run: bool = False
    """Only say what would be done."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Run every stage again, replace folders that no run of the recipe has made, and remove what another recipe left in the folder."""


def run(options: Options) -> int:
    from rich.console import Console

    from splatmend.pipelines import runner
    from splatmend.pipelines.commands.output import refuse_unwritable
    from splatmend.pipelines.device import torch_device
    from splatmend.pipelines.planning import plan
    from splatmend.pipelines.run_tables import plan_table, usage_table

    console = Console()
    torch_device(options.device)
    if options.out.is_file():
        raise UserError(f"{options.out}: this is a file, and a run needs a folder; give another --out.")
    refuse_unwritable(options.out)
    stages = RECIPES[options.recipe](options.log, options.options)
    planned = plan(options.recipe, stages, options.out, first=options.first, last=options.last, overwrite=options.overwrite)
    refuse_unfit(options.recipe, options.log, options.options, [step.stage for step in planned.steps])
    if options.dry_run:
        console.print(plan_table(planned))
        return 0
    records = runner.run(planned, options.out, device=options.device, say=lambda line: console.print(line, highlight=False, markup=False))
    console.print(usage_table(records))
    _show_scores(console, options.out, [record["stage"] for record in records])
    if "report" in (record["stage"] for record in records):
        from splatmend.pipelines.report.build import PAGE

        console.print(f"report: {options.out / 'report' / PAGE}", highlight=False, soft_wrap=True)
    return 0


def _show_scores(console: Console, out: Path, stages: Sequence[str]) -> None:
    """The tables of those stages that score clips."""
    from splatmend.pipelines.evaluation.scores import SCORES, read_scores
    from splatmend.pipelines.evaluation.table import score_table

    for stage in stages:
        if (out / stage / SCORES).is_file():
            console.print(score_table(read_scores(out / stage), title=stage))
