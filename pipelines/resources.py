"""What a piece of work took: wall time, peak memory of the process, peak memory of the accelerator."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType

import psutil


@dataclass(frozen=True, kw_only=True)
class Usage:
    """`seconds` of wall time; peaks in bytes (`accelerator_bytes` is 0 without one)."""

    seconds: float
    memory_bytes: int
    accelerator_bytes: int

    def after(self, earlier: Usage) -> Usage:
        """This and an earlier piece of the same work: the seconds add up, the peaks are the greater ones."""
        return Usage(
            seconds=earlier.seconds + self.seconds,
            memory_bytes=max(earlier.memory_bytes, self.memory_bytes),
            accelerator_bytes=max(earlier.accelerator_bytes, self.accelerator_bytes),
        )


class Meter:
    """A context manager that watches the process; `usage` holds the result afterwards.

    The process's own high-water mark cannot be set back everywhere, so its memory is sampled ten times a second.
    """

    def __init__(self, interval_s: float = 0.1) -> None:
        self.interval_s = interval_s
        self.usage: Usage | None = None
        self._process = psutil.Process()
        self._peak = 0
        self._done = threading.Event()

    def __enter__(self) -> Meter:
        self._start = time.perf_counter()
        self._peak = self._process.memory_info().rss
        if (torch := _torch_with_cuda()) is not None:
            torch.cuda.reset_peak_memory_stats()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(self.interval_s):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        torch = _torch_with_cuda()
        self.usage = Usage(
            seconds=time.perf_counter() - self._start,
            memory_bytes=max(self._peak, self._process.memory_info().rss),
            accelerator_bytes=0 if torch is None else int(torch.cuda.max_memory_allocated()),
        )


def _torch_with_cuda():  # type: ignore[no-untyped-def]
    """torch where somebody has imported it and it has started CUDA; asking must neither import it nor make a context."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def seconds_text(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_text(count: float) -> str:
    """`512 MiB`, `3.4 GiB`; nothing for 0."""
    if count <= 0:
        return ""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
