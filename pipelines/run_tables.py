"""The tables of `splatmend run`: the plan before, what each stage took after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from splatmend.pipelines.planning import Plan
from splatmend.pipelines.resources import bytes_text, seconds_text


def plan_table(plan: Plan) -> Table:
    """Stage, what will be done, why, what it takes from; first what another recipe left."""
    table = Table(title="Plan", title_justify="left")
    for column in ("stage", "action", "reason", "takes from"):
        table.add_column(column, overflow="fold")
    for name in plan.leftovers:
        table.add_row(name, "remove", f"not of {plan.recipe}", "")
    for step in plan.steps:
        sources = ", ".join(str(source) for source in step.stage.inputs.values())
        table.add_row(step.stage.name, step.action, step.reason, sources)
    return table


def usage_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Stage, what was done, wall time, peak memory; the totals count only what ran now (of a resumed stage, its earlier attempts too)."""
    table = Table(title="Stages", title_justify="left", show_footer=True)
    ran = [record for record in records if record["action"] != "skip"]
    table.add_column("stage", footer="total of this run")
    table.add_column("done")
    table.add_column("time", justify="right", footer=seconds_text(sum(record["usage"]["seconds"] for record in ran)))
    peak = max((record["usage"]["memory_bytes"] for record in ran), default=0)
    table.add_column("peak memory", justify="right", footer=bytes_text(peak))
    if any(record["usage"]["accelerator_bytes"] for record in records):
        peak = max((record["usage"]["accelerator_bytes"] for record in ran), default=0)
        table.add_column("peak GPU memory", justify="right", footer=bytes_text(peak))
    for record in records:
        usage = record["usage"]
        done = record["reason"] if record["action"] == "skip" else record["action"]
        cells = [record["stage"], done, seconds_text(usage["seconds"]), bytes_text(usage["memory_bytes"])]
        if len(table.columns) == 5:
            cells.append(bytes_text(usage["accelerator_bytes"]))
        table.add_row(*cells)
    return table
