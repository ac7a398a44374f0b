"""Parquet read one row at a time, so that memory does not grow with the file.

Files in the wild hold a whole drive in one row group, which Parquet can only decode from its start. `ParquetRows` therefore keeps a cursor:
rows asked for in rising order are decoded once, going back starts the row group anew. That suits sweeps, whose numbers lie in pages of
a megabyte. Encoded images are worse: Arrow's writer puts up to 1024 of them into one page or one dictionary, so that every step back would
decode hundreds of megabytes. `ParquetBlobs` copies such a row group once, one value after the other, into an unnamed temporary file.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from splatmend.datasets.errors import UserError

# Column chunks are streamed through a buffer of this size instead of being read whole.
_BUFFER_BYTES = 1 << 20
# Row groups with more than this in the column of blobs are copied to disk at the first touch.
_SPILL_BYTES = 64 << 20


def open_parquet(path: Path) -> pq.ParquetFile:
    """The file, or `UserError` if it is no whole Parquet file."""
    try:
        return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path) from error


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of all rows. `UserError` if the file is damaged or lacks a column."""
    file = open_parquet(path)
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise UserError(f"{path}: has no column {missing[0]}; use a Waymo v2 file, or download this one again.")
    try:
        return file.read(columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path) from error


class ParquetRows:
    """Single rows of a file, some columns only. Safe to call from several threads; one row is in memory at a time."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self._file = open_parquet(path)
        if missing := [name for name in columns if name not in self._file.schema_arrow.names]:
            raise UserError(f"{path}: has no column {missing[0]}; use a Waymo v2 file, or download this one again.")
        self._columns = list(columns)
        self._starts = _group_starts(self._file)
        self._lock = threading.Lock()
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._group = -1
        self._next = 0
        self._current: pa.RecordBatch | None = None

    def row(self, index: int) -> dict[str, Any]:
        """Arrow scalars of row `index` (over the whole file) by column. `UserError` if the file is damaged there."""
        if not 0 <= index < self._starts[-1]:
            raise IndexError(f"row {index} of {self._starts[-1]}")
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        with self._lock:
            try:
                batch = self._advance(group, index)
            except (pa.ArrowException, OSError) as error:
                self._group = -1
                raise _unreadable(self.path) from error
        return {name: batch.column(name)[0] for name in self._columns}

    def _advance(self, group: int, index: int) -> pa.RecordBatch:
        if group == self._group and index == self._next - 1 and self._current is not None:
            return self._current
        if group != self._group or index < self._next:
            # No threads: worker processes forked from this one inherit none.
            self._batches = self._file.iter_batches(batch_size=1, row_groups=[group], columns=self._columns, use_threads=False)
            self._group, self._next = group, int(self._starts[group])
        while True:
            self._current = next(self._batches)
            self._next += 1
            if self._next == index + 1:
                return self._current


class ParquetBlobs:
    """The values of one binary column in any order. Safe to call from several threads; holds no value in memory."""

    def __init__(self, path: Path, column: str) -> None:
        self.path = path
        self._column = column
        self._rows = ParquetRows(path, [column])
        file = open_parquet(path)
        self._starts = _group_starts(file)
        index = file.schema_arrow.get_field_index(column)
        sizes = [file.metadata.row_group(group).column(index).total_uncompressed_size for group in range(file.metadata.num_row_groups)]
        self._is_large = [size > _SPILL_BYTES for size in sizes]
        self._spilled: dict[int, _Spill] = {}
        self._lock = threading.Lock()

    def value(self, index: int) -> bytes:
        """The bytes of row `index`, empty for a null. `UserError` if the file is damaged there."""
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        if not 0 <= index < self._starts[-1] or not self._is_large[group]:
            return self._rows.row(index)[self._column].as_py() or b""
        with self._lock:
            if group not in self._spilled:
                self._spilled[group] = self._spill(group)
        return self._spilled[group].value(index - int(self._starts[group]))

    def _spill(self, group: int) -> _Spill:
        file = open_parquet(self.path)
        batches = file.iter_batches(batch_size=1, row_groups=[group], columns=[self._column], use_threads=False)
        spill = _Spill()
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(self.path) from error
            if batch is None:
                spill.flush()
                return spill
            spill.append(batch.column(0)[0].as_py() or b"")


class _Spill:
    """Blobs one after the other in a temporary file, which goes when the object goes."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the object)
        self._ends = [0]

    def append(self, blob: bytes) -> None:
        self._file.write(blob)
        self._ends.append(self._ends[-1] + len(blob))

    def flush(self) -> None:
        """Makes what was appended readable."""
        self._file.flush()

    def value(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        return os.pread(self._file.fileno(), end - start, start)


def _group_starts(file: pq.ParquetFile) -> np.ndarray:
    """Number of the first row of each row group, and of the row after the last."""
    counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _unreadable(path: Path) -> UserError:
    return UserError(f"{path}: no readable Parquet file (cut short or damaged); download it again.")
