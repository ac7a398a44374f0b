"""Things that are read one after the other, worked on by several threads, and come back in their order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Done = TypeVar("Done")
_MOST_WORKERS = 6
"""More would wait for Python's lock, which only large array operations and decoders release."""


def worked_in_order(items: Iterable[Item], read: Callable[[Item], Read], work: Callable[[Item, Read], Done]) -> Iterator[Done]:
    """`work(item, read(item))` of all items, in their order. `read` is called by one thread, item after item; `work` by several at a time,
    none of which may change what the others use. A few items are under way at once, so memory does not grow with their number."""
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(workers, "work") as pool:
        coming: deque[Future[Done]] = deque()
        for item in items:
            given = reader.submit(read, item)
            coming.append(pool.submit(_worked, work, item, given))
            if len(coming) > 2 * workers:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _worked(work: Callable[[Item, Read], Done], item: Item, given: Future[Read]) -> Done:
    return work(item, given.result())
