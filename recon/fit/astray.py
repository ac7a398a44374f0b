"""Whether a fit has gone astray: late pictures are drawn worse than earlier ones were.

One picture alone says as much of what it shows as of the fit, so a row of the loss curve also tells of all pictures since the row before:
their number (`pictures`) and the mean of their PSNR (`mean_psnr`). Smaller pictures, with which a fit may begin, and extra views are none
of these, for they are drawn better than pictures of the log at their full size. Of several processes the first one's pictures count.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RUNS = 10
"""A fit is looked at in about so many runs of pictures, of the same length."""
FEWEST_PICTURES = 40
"""Of a run; in short fits there are fewer runs."""
WORSE_DB = 3.0
"""So much a run's mean may fall by chance."""
_logger = logging.getLogger(__name__)


class RecentPictures:
    """PSNR of the pictures since the last row of the curve. They stay on the device until a row is due, so that no step waits for them."""

    def __init__(self) -> None:
        self._told: list[float] = []
        self._squared_errors: list[Tensor] = []

    def note(self, squared_error: Tensor) -> None:
        """One more picture, by its mean squared error."""
        # The next replay of a graph writes into the same memory.
        self._squared_errors.append(squared_error.detach().clone())

    def take(self) -> dict[str, float]:
        """What a row tells of them, which then are no longer recent; nothing where there are none."""
        psnr = self.state_dict()
        self.load_state_dict([])
        return {"pictures": len(psnr), "mean_psnr": sum(psnr) / len(psnr)} if psnr else {}

    def state_dict(self) -> list[float]:
        """The PSNR of each."""
        if self._squared_errors:
            self._told += (-10.0 * torch.stack(self._squared_errors).clamp_min(1e-10).log10()).tolist()
            self._squared_errors = []
        return list(self._told)

    def load_state_dict(self, psnr: Sequence[float]) -> None:
        """Go on with these."""
        self._told, self._squared_errors = list(psnr), []


def runs_db(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Mean PSNR of runs of pictures, the last run first. Each is made of whole rows, of as few as hold `FEWEST_PICTURES` and a share of
    1 / `RUNS` of all pictures; those that remain at the beginning are too few to be one. Rows of older curves tell nothing."""
    told = [(row["pictures"], row["mean_psnr"]) for row in rows if "mean_psnr" in row]
    fewest = max(FEWEST_PICTURES, sum(count for count, _ in told) / RUNS)
    runs, pictures, total = [], 0, 0.0
    for count, mean_psnr in reversed(told):
        pictures, total = pictures + count, total + count * mean_psnr
        if pictures >= fewest:
            runs.append(total / pictures)
            pictures, total = 0, 0.0
    return runs


def warn_of_worse(out: Path, rows: Sequence[Mapping[str, Any]], curve: str) -> None:
    """Say so where the last of the `runs_db` of a curve is worse than the best of them by more than `WORSE_DB`. Nothing can be said of a
    fit whose curve holds less than two runs: of fewer than 80 pictures, or with a single row."""
    runs = runs_db(rows)
    if runs and max(runs) - runs[0] > WORSE_DB:
        _logger.warning(
            "%s: the fit has gone astray: pictures were drawn with %.1f dB on the way and with %.1f dB in the end; look at %s and at the "
            "log's poses and times, and lower the learning rates.",
            out,
            max(runs),
            runs[0],
            curve,
        )
