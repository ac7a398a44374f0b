"""Times at which a camera of a log has no picture though others have, or it had before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from splatmend.datasets.log import SceneLog

_MISSING_STEPS = 2.5
"""Pictures farther apart than so many of a camera's usual steps have others missing between them."""


def with_gaps_noted(log: SceneLog) -> SceneLog:
    """The log with a note for each camera that misses pictures. Photos, whose times say nothing, stay as they are."""
    if not log.metric:
        return log
    first_us, last_us = (end(frame.start_us for frame in log.frames) for end in (min, max))
    notes = [note for camera in log.cameras if (note := _note(log, camera, first_us, last_us))]
    return replace(log, notes=(*log.notes, *notes)) if notes else log


def _note(log: SceneLog, camera: str, first_us: int, last_us: int) -> str | None:
    starts_us = np.array([frame.start_us for frame in log.frames_of(camera)])
    if len(starts_us) < 2:
        most = max(len(log.frames_of(other)) for other in log.cameras)
        return f"Camera {camera} has {len(starts_us)} picture{'s' * (not len(starts_us))}, where others have {most}." if most > 2 else None
    gaps = [f"{(begin - first_us) * 1e-6:.1f} to {(end - first_us) * 1e-6:.1f} s" for begin, end in _gaps_us(starts_us, first_us, last_us)]
    return f"Camera {camera} has no picture for a while ({', '.join(gaps)})." if gaps else None


def _gaps_us(starts_us: np.ndarray, first_us: int, last_us: int) -> Iterator[tuple[int, int]]:
    """Begin and end of the spans without pictures, in microseconds."""
    longest_us = _MISSING_STEPS * float(np.median(np.diff(starts_us)))
    times_us = np.concatenate([[first_us], starts_us, [last_us]])
    for begin, end in pairwise(times_us.tolist()):
        if end - begin > longest_us:
            yield begin, end
