"""Rows of large Parquet files without the file in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from splatmend.datasets.errors import UserError
from splatmend.datasets.readers.parquet_rows import ParquetBlobs, ParquetRows, read_table

COUNT, BLOB_BYTES = 48, 2_000_000
# Reads in rising order, again, far ahead, and back.
ORDER = (3, 3, 40, 41, 2, 47, 0)


@pytest.fixture(scope="module")
def blobs() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [rng.bytes(BLOB_BYTES) for _ in range(COUNT)]


def write(path: Path, blobs: list[bytes], **options: object) -> Path:
    table = pa.table({"blob": blobs, "number": list(range(len(blobs)))})
    pq.write_table(table, path, compression="none", **options)
    return path


def test_rows_stream_page_by_page(tmp_path: Path, blobs: list[bytes]) -> None:
    """96 MB in one row group but in small pages, as range images lie."""
    path = write(tmp_path / "pages.parquet", blobs, use_dictionary=False, write_batch_size=1)
    rows = ParquetRows(path, ["blob", "number"])
    before = pa.total_allocated_bytes()
    for index in ORDER:
        row = rows.row(index)
        assert row["number"].as_py() == index
        assert row["blob"].as_py() == blobs[index]
        assert pa.total_allocated_bytes() - before < 16_000_000
    with pytest.raises(IndexError):
        rows.row(COUNT)


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_blobs_of_one_huge_page_are_read_in_any_order_and_not_kept(tmp_path: Path, blobs: list[bytes], use_dictionary: bool) -> None:
    """As published image files lie: one row group, and one page or dictionary with all values."""
    path = write(tmp_path / "huge.parquet", blobs, use_dictionary=use_dictionary)
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    column = ParquetBlobs(path, "blob")
    before = pa.total_allocated_bytes()
    for index in ORDER:
        assert column.value(index) == blobs[index]
        assert pa.total_allocated_bytes() - before < 1_000_000
    with pytest.raises(IndexError):
        column.value(COUNT)


def test_small_row_groups_are_read_as_they_are(tmp_path: Path) -> None:
    values = [b"a", None, b"ccc", b"", b"eeeee"]
    pq.write_table(pa.table({"blob": values}), tmp_path / "small.parquet", row_group_size=2)
    column = ParquetBlobs(tmp_path / "small.parquet", "blob")
    assert [column.value(index) for index in (4, 0, 3, 1, 2)] == [b"eeeee", b"a", b"", b"", b"ccc"]


def test_damage_in_a_large_row_group_is_named(tmp_path: Path, blobs: list[bytes]) -> None:
    path = write(tmp_path / "damaged.parquet", blobs, use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 64)
    with pytest.raises(UserError, match=r"damaged\.parquet: no readable Parquet file"):
        ParquetBlobs(path, "blob").value(5)


def test_missing_columns_and_other_files_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has no column b"):
        read_table(tmp_path / "a.parquet", ["a", "b"])
    with pytest.raises(UserError, match="has no column b"):
        ParquetRows(tmp_path / "a.parquet", ["b"])
    (tmp_path / "text.parquet").write_text("no Parquet at all")
    with pytest.raises(UserError, match="no readable Parquet file"):
        read_table(tmp_path / "text.parquet", ["a"])
