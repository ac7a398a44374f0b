"""Work that is read in order, done by several threads, and comes back in order."""

from __future__ import annotations

import os
import threading

import pytest

from splatmend.recon.read_ahead import worked_in_order


def test_results_come_in_order_and_one_thread_reads_in_order() -> None:
    read_by, read = set(), []
    last_first = threading.Barrier(2) if (os.cpu_count() or 1) > 1 else None

    def reading(item: int) -> int:
        read_by.add(threading.get_ident())
        read.append(item)
        return 10 * item

    def working(item: int, given: int) -> tuple[int, int]:
        if item < 2 and last_first is not None:
            last_first.wait(timeout=60)  # ends only where two are worked on at once
        return item, given

    assert list(worked_in_order(range(100), reading, working)) == [(item, 10 * item) for item in range(100)]
    assert read == list(range(100))
    assert len(read_by) == 1


def test_little_is_read_ahead() -> None:
    read: list[int] = []
    found = worked_in_order(range(1000), read.append, lambda item, _: item)
    assert next(found) == 0
    assert len(read) < 100
    found.close()


def test_a_fault_comes_out_where_its_result_would() -> None:
    def reading(item: int) -> int:
        if item == 3:
            raise OSError("damaged")
        return item

    found = worked_in_order(range(10), reading, lambda _, given: given)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="damaged"):
        next(found)
