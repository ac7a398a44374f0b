"""Scores of a scene as tables with a line per path: against true pictures, without them, and what the scene says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

TITLES = {"truth": "Against true pictures", "clip": "Without true pictures", "scene": "Depth and what was seen"}
UNTRUE = "– on a recorded path: of its frames those count that were held out, and none of these is among them"


def scene_tables(scores: Mapping[str, Any]) -> list[Table]:
    """The tables that `splatmend evaluate` prints for a scene, without metrics that have no number anywhere. A path without a frame that
    could be measured has a dash; enhanced clips have no row where the scene itself is judged."""
    return [table for group in TITLES if (table := _table(scores, group)) is not None]


def not_measured(scores: Mapping[str, Any]) -> str | None:
    """Which metrics have no number anywhere, each with its reason, in a line; None where all have one."""
    absent = [f"{metric['label']} ({metric['missing']})" for metric in scores["metrics"].values() if metric["missing"] is not None]
    return f"not measured: {', '.join(absent)}" if absent else None


def how_to_provide(scores: Mapping[str, Any]) -> list[str]:
    """For what is missing on this machine what to do about it, a line each; nothing for scores from before this was noted."""
    lines: dict[str, list[str]] = {}
    for metric in scores["metrics"].values():
        if metric.get("provide"):
            lines.setdefault(metric["provide"], []).append(metric["label"])
    return [f"for {', '.join(labels)}: {what}" for what, labels in lines.items()]


def _table(scores: Mapping[str, Any], group: str) -> Table | None:
    shown = {name: metric for name, metric in scores["metrics"].items() if metric["group"] == group and metric["missing"] is None}
    if not shown:
        return None
    title = f"{TITLES[group]} ({scores['truth']['kind']} {scores['truth']['path']})" if group == "truth" else TITLES[group]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("path", no_wrap=True)
    for metric in shown.values():
        table.add_column(f"{metric['label']} {'↑' if metric['direction'] == 'higher' else '↓'}", justify="right", overflow="fold")
    for name, row in scores["rows"].items():
        if group == "scene" and row["clip"] != "raw":
            continue
        values = [row["mean"][metric] for metric in shown]
        cells = ["–" if value is None else f"{value:z.{metric['decimals']}f}" for value, metric in zip(values, shown.values())]
        table.add_row(name, *cells)
        if group == "truth" and row.get("path", {}).get("recorded") and not any(value is not None for value in values):
            table.caption, table.caption_justify = UNTRUE, "left"
    return table
