"""Scenes side by side, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from splatmend.datasets.errors import UserError
from splatmend.pipelines.pairing.config import PairsConfig

_told: Any = None  # in a worker: the queue to whoever started it


def make_scenes(sources: Sequence[str], folder: Path, config: PairsConfig, device: str, workers: int, say: Callable[[str], None]) -> None:
    """`making.make_scene` of each source (a path, or `street:SEED`) in so many processes, which share the cores.

    The first fault of a scene is raised once the scenes that have begun are done; the others are not begun then.
    """
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(told, threads)) as pool:
        futures = [pool.submit(_make, source, folder, config, device) for source in sources]
        try:
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=0.2)
                _pass_on(told, say)
                if any(future.exception() for future in done):
                    break
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            _pass_on(told, say)
    try:
        for future in futures:
            if not future.cancelled():
                future.result()
    except BrokenProcessPool:
        raise UserError(
            f"{folder}: a process that made pairs was ended from outside, as happens where memory is full; go on with --resume and fewer "
            "--workers."
        ) from None


def _pass_on(told: Any, say: Callable[[str], None]) -> None:
    while True:
        try:
            say(told.get_nowait())
        except queue.Empty:
            return


def _begin(told: Any, threads: int) -> None:
    global _told
    _told = told
    from splatmend.datasets.threads import use_threads

    use_threads(threads)


def _make(source: str, folder: Path, config: PairsConfig, device: str) -> None:
    from splatmend.pipelines.pair_sources import open_source
    from splatmend.pipelines.pairing.making import make_scene

    make_scene(open_source(source, config.street), folder, config, device, _told.put)
