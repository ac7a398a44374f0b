"""Plots of a locality measurement: influence against distance, gradient agreement against D, seconds and bytes against D."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLOURS = ("#1f77b4", "#d95f02", "#2a9d5c", "#7b4ab5", "#b5892a", "#555555")
_GREY = "#666666"
_MEASURES = (("cosine", "cosine to the exact gradient"), ("error", "error / length of the exact gradient"))


def write_plots(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """`influence.png`, `gradients.png` and `cost.png` of what `measure_locality` returns, into an existing folder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.family": "sans-serif", "font.size": 10, "axes.titlesize": 10, "axes.labelcolor": "#333333"}):
        figures = {
            "influence.png": _influence(pyplot, result["influence"]),
            "gradients.png": _gradients(pyplot, result["latents"], result["parameters"]),
            "cost.png": _cost(pyplot, result["cost"]),
        }
        paths = []
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=130, bbox_inches="tight", facecolor="white")
            pyplot.close(figure)
            paths.append(folder / name)
    return paths


def _influence(pyplot: Any, influence: Mapping[str, Any]) -> Any:
    figure, axes = pyplot.subplots(figsize=(5.6, 3.6))
    matrix = influence["of_latent_on_group"]
    first = [(i, row[0]) for i, row in enumerate(matrix) if row[0] > 0]
    axes.plot(*zip(*first), "o", color=_GREY, markersize=4, markerfacecolor="none", label="of the first latent (one frame)")
    pairs = [(i - j, value) for i, row in enumerate(matrix) for j, value in enumerate(row[: i + 1]) if j > 0 and value > 0]
    axes.plot(*zip(*pairs), "o", color=_GREY, alpha=0.55, markersize=4, markeredgewidth=0, label="of every other latent")
    means = [(row["distance"], row["mean"]) for row in influence["by_distance"] if row["mean"] > 0]
    axes.plot(*zip(*means), "o-", color=_COLOURS[0], markersize=5, linewidth=1.6, label="mean of these")
    decay = influence["decay"]
    if decay is not None:
        distances = [row["distance"] for row in influence["by_distance"][1:]]
        fitted = [decay["c"] * math.exp(-decay["alpha"] * d) for d in distances]
        factor = math.exp(-decay["alpha"])
        label = f"{decay['c']:.2g} exp({-decay['alpha']:.2f} distance): x{factor:.2f} a group"
        axes.plot(distances, fitted, "--", color=_COLOURS[1], linewidth=1.4, label=label)
    axes.set_yscale("log")
    _whole_numbers(axes, range(len(matrix)))
    _label(axes, "distance from latent to frames (groups)", "influence (colour / unit of latent)", "Influence of a latent on later frames")
    # Beside the axes: wherever the points lie, it covers none.
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _gradients(pyplot: Any, latents: Sequence[Mapping[str, Any]], parameters: Sequence[Mapping[str, Any]]) -> Any:
    panels = [("decoder input (latents)", latents)] + ([("transformer parameters", parameters)] if parameters else [])
    figure, grid = pyplot.subplots(len(panels), 2, figsize=(10.5, 3.3 * len(panels)), squeeze=False, layout="constrained")
    for line, (what, rows) in zip(grid, panels):
        for axes, (measure, ylabel) in zip(line, _MEASURES):
            _agreement(axes, rows, measure)
            _label(axes, "truncation distance D (groups)", ylabel, f"Gradient at the {what}")
            axes.axhline(1.0 if measure == "cosine" else 0.0, color=_GREY, linewidth=0.8)
        line[1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _agreement(axes: Any, rows: Sequence[Mapping[str, Any]], measure: str) -> None:
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    for loss, colour in zip(losses, _COLOURS * (1 + len(losses) // len(_COLOURS))):
        mine = sorted((row for row in rows if row["loss"] == loss), key=lambda row: row["truncation"])
        distances = [row["truncation"] for row in mine]
        clips = [(row["truncation"], clip[measure]) for row in mine for clip in row["per_clip"]]
        if len(clips) > len(mine):
            axes.plot(*zip(*clips), "o", color=colour, alpha=0.35, markersize=3.5, markeredgewidth=0)
        axes.plot(
            distances, [row["mean"][measure] for row in mine], "o-", color=colour, linewidth=1.6, markersize=5, label=f"{loss}, per clip"
        )
        if len(clips) > len(mine) and all("of_mean" in row for row in mine):
            label = f"{loss}, of the mean over clips"
            axes.plot(distances, [row["of_mean"][measure] for row in mine], "s--", color=colour, linewidth=1.4, markersize=4.5, label=label)
    _whole_numbers(axes, [row["truncation"] for row in rows])
    if measure == "error":
        axes.set_ylim(bottom=0.0)


def _cost(pyplot: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.0, 3.3), layout="constrained")
    rows = sorted(rows, key=lambda row: row["truncation"])
    distances = [row["truncation"] for row in rows]
    left.plot(distances, [row["seconds"] for row in rows], "o-", color=_COLOURS[0], linewidth=1.6)
    _label(left, "truncation distance D (groups)", "seconds for loss and gradient", "Time")
    peak = max(row["peak_bytes"] for row in rows)
    unit, size = ("GB", 1e9) if peak >= 1e9 else ("MB", 1e6)
    right.plot(distances, [row["peak_bytes"] / size for row in rows], "o-", color=_COLOURS[1], linewidth=1.6)
    _label(right, "truncation distance D (groups)", f"peak {unit} ({rows[0]['bytes_of']})", "Memory")
    for axes in (left, right):
        axes.set_ylim(bottom=0.0)
        _whole_numbers(axes, distances)
    return figure


def _whole_numbers(axes: Any, values: Sequence[int]) -> None:
    # Few enough that they do not run into each other.
    step = 1 + (max(values) - min(values)) // 12
    axes.set_xticks(range(min(values), max(values) + 1, step))


def _label(axes: Any, x: str, y: str, title: str) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)
    axes.tick_params(colors=_GREY, which="both")
    axes.grid(color=_GREY, alpha=0.2, linewidth=0.6)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
