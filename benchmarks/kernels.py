"""Which kernels a piece of work spends the device's time in."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_TOP = 30
"""Kernels that are listed."""


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def busiest(work: Callable[[], object], length: int, device: torch.device) -> dict[str, Any]:
    """Of `length` times the work: the kernels (on the CPU: operations) that it spends the most time in, in milliseconds and starts a time.

    `wall_ms` is what passes without the profiler, `kernel_ms` the time of all kernels; the rest of it the device was idle.
    """
    cuda = device.type == "cuda"
    work()
    wait(device)
    started = time.perf_counter()
    for _ in range(length):
        work()
    wait(device)
    wall_ms = 1e3 * (time.perf_counter() - started) / length
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as watched:
        for _ in range(length):
            work()
        wait(device)
    spent = [
        (event.self_device_time_total if cuda else event.self_cpu_time_total, event.count, event.key) for event in watched.key_averages()
    ]
    spent.sort(reverse=True)
    kernels = [{"kernel": name[:120], "ms": us / 1e3 / length, "starts": count / length} for us, count, name in spent[:_TOP]]
    kernel_ms = sum(us for us, _, _ in spent) / 1e3 / length
    return {"wall_ms": wall_ms, "kernel_ms": kernel_ms, "starts": sum(n for _, n, _ in spent) / length, "kernels": kernels}
