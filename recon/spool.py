"""Arrays in a temporary file instead of memory, so that what is known of a sweep may outlive it without adding up over a long log."""

from __future__ import annotations

import math
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Made = TypeVar("Made")


class Spool:
    """A file without a name that holds arrays one after the other; it goes when nothing refers to it any more."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (open as long as the spool)
        self._end = 0

    def keep(self, *arrays: np.ndarray) -> Kept:
        """Write arrays; what is returned reads them."""
        kept = Kept(spool=self, offset=self._end, layout=tuple((array.dtype, array.shape) for array in arrays))
        for array in arrays:
            self._file.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
            self._end += array.nbytes
        return kept

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Arrays of a spool: where they begin, type and shape of each."""

    spool: Spool
    offset: int
    layout: tuple[tuple[np.dtype, tuple[int, ...]], ...]

    def load(self) -> tuple[np.ndarray, ...]:
        """The arrays, which cannot be written to."""
        data, out, offset = self.spool.read(self.offset, sum(map(_size, self.layout))), [], 0
        for dtype, shape in self.layout:
            out.append(np.frombuffer(data, dtype=dtype, count=math.prod(shape), offset=offset).reshape(shape))
            offset += _size((dtype, shape))
        return tuple(out)

    def load_one(self, number: int) -> np.ndarray:
        """One of the arrays, which cannot be written to."""
        dtype, shape = self.layout[number]
        offset = self.offset + sum(map(_size, self.layout[:number]))
        return np.frombuffer(self.spool.read(offset, _size((dtype, shape))), dtype=dtype).reshape(shape)


def _size(of: tuple[np.dtype, tuple[int, ...]]) -> int:
    return math.prod(of[1]) * of[0].itemsize


class Recent(Generic[Made]):
    """The last few things that were made, by number; others are made again."""

    def __init__(self, make: Callable[[int], Made], size: int) -> None:
        self._make, self._size = make, size
        self._held: OrderedDict[int, Made] = OrderedDict()

    def __call__(self, number: int) -> Made:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        made = self._held[number] = self._make(number)
        if len(self._held) > self._size:
            self._held.popitem(last=False)
        return made
