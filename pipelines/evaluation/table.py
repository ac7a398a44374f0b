"""Scores as a table: a line per metric, a column per row of the scores, the gain of the last over the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class ScoreLine:
    """One metric in words: its label with the direction, a text per row, the difference between enhanced and raw, and whether that is
    a gain (None where it is neither)."""

    label: str
    values: tuple[str, ...]
    difference: str
    better: bool | None


def score_rows(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the rows in the order of the columns; the truth's own last."""
    return (*(name for name in scores["rows"] if name != "truth"), *(("truth",) if "truth" in scores["rows"] else ()))


def score_lines(scores: Mapping[str, Any]) -> list[ScoreLine]:
    """The lines of a table of scores. The difference is that of the second row against the first."""
    names = score_rows(scores)
    compared = [name for name in names if name != "truth"][:2]
    lines = []
    for name, metric in scores["metrics"].items():
        arrow = "↑" if metric["direction"] == "higher" else "↓"
        means = [scores["rows"][row]["mean"].get(name) for row in names]
        decimals = metric["decimals"]
        if metric["missing"] is not None:
            values = tuple(metric["missing"] if i == 0 else "" for i in range(len(names)))
            lines.append(ScoreLine(label=f"{metric['label']} {arrow}", values=values, difference="", better=None))
            continue
        difference, better = "", None
        if len(compared) == 2:
            a, b = (scores["rows"][row]["mean"].get(name) for row in compared)
            if a is not None and b is not None:
                difference = _signed(b - a, decimals)
                floor = scores["rows"].get("truth", {}).get("mean", {}).get(name)
                # Below what the truth itself scores (blur changes little from frame to frame) less is not better.
                a, b = (value if floor is None else max(value, floor) for value in (a, b))
                rounded = round(b - a, decimals)
                better = None if rounded == 0 else (rounded > 0) == (metric["direction"] == "higher")
        values = tuple("" if mean is None else f"{mean:z.{decimals}f}" for mean in means)
        lines.append(ScoreLine(label=f"{metric['label']} {arrow}", values=values, difference=difference, better=better))
    return lines


def _signed(value: float, decimals: int) -> str:
    """With its sign, but for what rounds to zero."""
    return f"{value:{'+' if round(value, decimals) else 'z'}.{decimals}f}"


def score_table(scores: Mapping[str, Any], title: str = "Scores") -> Table:
    """The table that `splatmend evaluate` prints."""
    which = "held-out frames" if scores["frames"] == "held_out" else "frames"
    table = Table(
        title=f"{title}: {scores['count']} {which} against {scores['truth']['kind']} {scores['truth']['path']}", title_justify="left"
    )
    names = score_rows(scores)
    table.add_column("metric")
    for name in names:
        table.add_column(name, justify="right")
    compared = [name for name in names if name != "truth"]
    if len(compared) > 1:
        table.add_column(f"{compared[1]} - {compared[0]}", justify="right")
    for line in score_lines(scores):
        style = {True: "green", False: "red", None: ""}[line.better]
        cells = [line.label, *line.values]
        if len(compared) > 1:
            cells.append(f"[{style}]{line.difference}[/{style}]" if style else line.difference)
        table.add_row(*cells)
    return table
