"""Interruptions that wait for a good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class PutAway(KeyboardInterrupt):
    """An interruption that found a good moment: what was done lies in a checkpoint.

    Args:
        checkpoint: its file or folder.
        reached: what it holds, as "iteration 850".
    """

    def __init__(self, checkpoint: Path, reached: str) -> None:
        super().__init__(f"{checkpoint} holds {reached}")


@contextmanager
def interruptions_noted(*, patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C and SIGTERM interrupt nothing: the function that is given says whether one has come, so that work can be put away
    between two steps before `KeyboardInterrupt` is raised. A second one acts at once, as it would have outside; not where `patient`, for
    a launcher of several processes hands on what the terminal has sent them already (and kills who takes too long).

    Outside the main thread, which alone gets signals, nothing changes; nor for a signal that is ignored (as in the background of a
    script, or under nohup).

    Raises:
        KeyboardInterrupt: at the end, where one has come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
    come: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            # None: not one of Python's, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        come.append(number)
        if not patient:
            restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(come)
    finally:
        restore()
    if come:
        raise KeyboardInterrupt
