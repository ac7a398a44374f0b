"""Reading ahead and writing behind: order, bounds, errors, and an end in the middle."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from splatmend.enhance.overlap import WriteBehind, as_arrays, read_ahead
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.stream import StreamingEnhancer
from splatmend.enhance.transformer import compile_blocks, hold_in


def test_items_come_in_order_and_not_too_far_ahead() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for i in range(20):
            taken.append(i)
            yield i

    items = read_ahead(source(), 3)
    assert next(items) == 0
    time.sleep(0.05)
    assert 3 <= len(taken) <= 5
    assert list(items) == list(range(1, 20))


def test_an_error_of_the_source_is_raised_where_items_are_asked_for() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken frame")

    items = read_ahead(source(), 4)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken frame"):
        next(items)


def test_a_reader_that_nobody_asks_any_more_ends() -> None:
    before = threading.active_count()
    items = read_ahead(itertools.count(), 2)
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before


def test_jobs_run_in_order_and_are_all_done_at_the_end() -> None:
    done: list[int] = []
    told: list[int] = []
    with WriteBehind(2, told.append) as behind:
        for i in range(10):
            behind.submit(lambda i=i: done.append(i))  # type: ignore[misc]
            assert len(behind._waiting) <= 2
    assert done == list(range(10))
    assert told == list(range(1, 11))


def test_an_error_of_a_job_is_raised_and_later_jobs_are_left_out() -> None:
    def fail() -> None:
        raise OSError("disk full")

    started = threading.Event()

    def fail_in_a_job() -> None:
        with WriteBehind(0) as behind:
            behind.submit(fail)
            behind.submit(started.set)

    def fail_beside_the_jobs() -> None:
        with WriteBehind(4) as behind:
            behind.submit(lambda: time.sleep(0.1))
            behind.submit(started.set)
            raise KeyError("another fault")

    with pytest.raises(OSError, match="disk full"):
        fail_in_a_job()
    with pytest.raises(KeyError, match="another fault"):
        fail_beside_the_jobs()
    assert not started.is_set()


def test_tensors_on_the_host_are_not_held_back() -> None:
    source = (torch.full((2,), i) for i in range(3))
    arrays = as_arrays(source)
    assert next(arrays).tolist() == [0, 0]
    assert [a.tolist() for a in arrays] == [[1, 1], [2, 2]]


@pytest.mark.gpu
def test_tensors_from_a_device_arrive_whole() -> None:
    pieces = [torch.randn(64, 64) for _ in range(5)]
    arrays = list(as_arrays(piece.cuda() for piece in pieces))
    assert all(np.array_equal(a, p.numpy()) for a, p in zip(arrays, pieces, strict=True))


def test_half_precision_changes_frames_by_rounding_only() -> None:
    torch.manual_seed(3)
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32)).eval().requires_grad_(False)
    for parameter in (enhancer.vae.decoder.conv_out.weight, enhancer.transformer.proj_out.weight):
        torch.nn.init.normal_(parameter, std=0.2)
    clip = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3)).astype(np.uint8)
    full = np.stack(list(StreamingEnhancer(enhancer).frames(clip, 9))).astype(float)
    hold_in(enhancer.transformer, torch.bfloat16)
    for part in (enhancer.vae, enhancer.joins):
        part.to(torch.bfloat16)
    half = np.stack(list(StreamingEnhancer(enhancer).frames(clip, 9))).astype(float)
    assert np.abs(full - clip).mean() > 5
    assert np.abs(half - full).mean() < 0.05 * np.abs(full - clip).mean()


def test_blocks_are_compiled_once() -> None:
    transformer = small_transformer(1, 2, 32)
    compile_blocks(transformer)
    compiled = [block._compiled_call_impl for block in transformer.blocks]
    assert all(call is not None for call in compiled)
    compile_blocks(transformer)
    assert all(block._compiled_call_impl is call for block, call in zip(transformer.blocks, compiled, strict=True))
