"""Scores of a scene as tables with a line per path: against true pictures, without them, and what the scene says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

TITLES = {"truth": "Against true pictures", "clip": "Without true pictures", "scene": "Depth and what was seen"}


def scene_tables(scores: Mapping[str, Any]) -> list[Table]:
    """The tables that `splatmend evaluate` prints for a scene; what has no number anywhere is named below with its reason."""
    return [table for group in TITLES if (table := _table(scores, group)) is not None]


def _table(scores: Mapping[str, Any], group: str) -> Table | None:
    metrics = {name: metric for name, metric in scores["metrics"].items() if metric["group"] == group}
    shown = {name: metric for name, metric in metrics.items() if metric["missing"] is None}
    absent = [f"{metric['label']}: {metric['missing']}" for name, metric in metrics.items() if name not in shown]
    if not metrics:
        return None
    title = f"{TITLES[group]} ({scores['truth']['kind']} {scores['truth']['path']})" if group == "truth" else TITLES[group]
    caption = "; ".join(absent) or None
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("path", no_wrap=True)
    for metric in shown.values():
        table.add_column(f"{metric['label']} {'↑' if metric['direction'] == 'higher' else '↓'}", justify="right", overflow="fold")
    for name, row in scores["rows"].items():
        values = [row["mean"][metric] for metric in shown]
        if any(value is not None for value in values):
            cells = ["–" if value is None else f"{value:z.{metric['decimals']}f}" for value, metric in zip(values, shown.values())]
            table.add_row(name, *cells)
    return table
