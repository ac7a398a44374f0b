"""Reading, copying and writing beside the work in between, with a bounded number of items on their way."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


class _End:
    """What the reading thread puts last: why it ended."""

    def __init__(self, fault: BaseException | None) -> None:
        self.fault = fault


def read_ahead(items: Iterable[T], count: int) -> Generator[T]:
    """The same items, taken from their source by another thread, up to `count` ahead. An error of the source is raised here."""
    ready: queue.Queue[T | _End] = queue.Queue(count)
    stopped = threading.Event()

    def read() -> None:
        fault: BaseException | None = None
        try:
            for item in items:
                ready.put(item)
                if stopped.is_set():
                    return
        except BaseException as raised:  # handed on to the thread that asked
            fault = raised
        ready.put(_End(fault))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.fault is not None:
            raise item.fault
    finally:
        stopped.set()
        while reader.is_alive():
            # A full queue would hold the thread for ever.
            while not ready.empty():
                ready.get()
            reader.join(timeout=0.01)


def as_arrays(pieces: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
    """Tensors as arrays. From a CUDA device each comes one step late, so that its copy runs beside the next one's work."""
    waiting: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()

    def arrived() -> np.ndarray:
        host, event = waiting.popleft()
        event.synchronize()
        return host.numpy()

    for piece in pieces:
        if not piece.is_cuda:
            yield piece.numpy()
            continue
        host = torch.empty(piece.shape, dtype=piece.dtype, pin_memory=True)
        host.copy_(piece, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        waiting.append((host, event))
        if len(waiting) > 1:
            yield arrived()
    while waiting:
        yield arrived()


def as_tensor_on(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array as a tensor on the device, without waiting for the copy."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class WriteBehind:
    """Runs jobs in order in another thread, at most `count` of them waiting. A context manager; errors of jobs are raised from it."""

    def __init__(self, count: int, on_done: Callable[[int], None] | None = None) -> None:
        """`on_done(n)` is called in the thread that submits when n jobs are done."""
        self._count, self._on_done = count, on_done
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Future[None]] = deque()
        self._done = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job after those before it; waits where too many are on their way."""
        self._waiting.append(self._thread.submit(job))
        while len(self._waiting) > self._count:
            self._finish_one()

    def _finish_one(self) -> None:
        self._waiting.popleft().result()
        self._done += 1
        if self._on_done is not None:
            self._on_done(self._done)

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        try:
            while kind is None and self._waiting:
                self._finish_one()
        finally:
            self._thread.shutdown(cancel_futures=True)
