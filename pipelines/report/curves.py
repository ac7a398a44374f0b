"""Loss curves as inline SVG that reads well on a light and a dark page."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from splatmend.datasets.errors import UserError

_GREY = "#8a929a"
_COLOURS = ("#3b82c4", "#c9772b", "#3f9c6b", "#a661b5", "#b8564c", "#7a8a2f")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """An SVG element and what it shows."""

    svg: str
    caption: str


def read_curve(path: Path) -> list[dict[str, float]]:
    """The rows of a `curve.jsonl`; `UserError` where a line is broken."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as fault:
            raise UserError(f"{path}: line {number} is not valid JSON ({fault.msg}); run the stage again.") from None
    return rows


def draw(rows: Sequence[Mapping[str, float]], x: str, names: Sequence[str], caption: str, *, logarithmic: bool = False) -> Curve | None:
    """The named series over `x`; None where fewer than two rows hold any of them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series = {name: [(row[x], row[name]) for row in rows if row.get(name) is not None and x in row] for name in names}
    series = {name: points for name, points in series.items() if len(points) > 1}
    if not series:
        return None
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": caption, "font.family": "sans-serif", "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(5.2, 2.9))
        for (name, points), colour in zip(series.items(), _COLOURS):
            axes.plot(*zip(*points), color=colour, linewidth=1.6, label=name.replace("_", " "))
        if logarithmic and all(value > 0 for points in series.values() for _, value in points):
            axes.set_yscale("log")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(_GREY)
        axes.tick_params(colors=_GREY, which="both")
        axes.grid(color=_GREY, alpha=0.25, linewidth=0.6)
        axes.set_xlabel(x, color=_GREY)
        if len(series) > 1:
            axes.legend(frameon=False, labelcolor=_GREY, fontsize=9)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, bbox_inches="tight")
        pyplot.close(figure)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    return Curve(svg=re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL), caption=caption)
