"""How degraded pairs are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def statistics(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Per kind and score the mean and the 10th, 50th and 90th percentile over the scored frames of its degraded clips, all alike.

    Args:
        rows: lines of the index; `frame_scores` holds a list per score.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind in sorted({row["kind"] for row in rows}):
        scores: dict[str, list[float]] = {}
        for row in rows:
            for name, values in row["frame_scores"].items() if row["kind"] == kind else ():
                scores.setdefault(name, []).extend(values)
        found[kind] = {name: described(values) for name, values in sorted(scores.items())}
    return found


def described(values: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles (linear between neighbours) of numbers."""
    return {"mean": float(np.mean(values))} | {name: float(np.quantile(values, at)) for name, at in QUANTILES.items()}
