"""Runs Numba kernels on several threads.

Kernels release the interpreter's lock and take `(share, shares, *arguments)`: the same kernel runs once per thread, each on its part
of the work. Plain threads do what Numba's own parallel loops would, compile several times faster, live in peace with torch's
OpenMP, with forks and with several callers at once (Numba's plain threading layer aborts the process then).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def thread_count() -> int:
    """Threads that a kernel uses: as many as torch may (`torch.set_num_threads`)."""
    return torch.get_num_threads()


def in_shares(kernel: Callable[..., None], *arguments: Any) -> None:
    """Run `kernel(share, shares, *arguments)` for every share at once; an exception of any share is raised here."""
    shares = thread_count()
    if shares == 1:
        kernel(0, 1, *arguments)
        return
    with ThreadPoolExecutor(shares - 1) as pool:
        others = [pool.submit(kernel, share, shares, *arguments) for share in range(1, shares)]
        kernel(0, shares, *arguments)
        for other in others:
            other.result()
