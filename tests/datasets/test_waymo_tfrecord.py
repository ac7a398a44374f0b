"""TFRecord files, as TensorFlow wrote one, and damaged in every place."""

from __future__ import annotations

from pathlib import Path

import pytest

from splatmend.datasets.errors import UserError
from splatmend.datasets.readers.tfrecord import index_records, masked_crc32c, read_record


@pytest.fixture
def two_records(official_waymo: Path, tmp_path: Path) -> Path:
    """TensorFlow's own record, twice."""
    path = tmp_path / "two.tfrecord"
    path.write_bytes((official_waymo / "v1.tfrecord").read_bytes() * 2)
    return path


def test_records_of_tensorflows_own_writer_are_found(two_records: Path) -> None:
    first, second = index_records(two_records)
    assert (first.number, first.offset, second.number) == (0, 12, 1)
    assert second.offset == 12 + first.length + 16
    assert read_record(two_records, first) == read_record(two_records, second)
    assert 2 * (first.length + 16) == two_records.stat().st_size


def test_checksum_of_the_specification() -> None:
    """CRC-32C of "123456789" is 0xE3069283 (RFC 3720, B.4 uses the same polynomial); masked by hand."""
    rotated = ((0xE3069283 >> 15) | (0xE3069283 << 17)) & 0xFFFFFFFF
    assert masked_crc32c(b"123456789") == (rotated + 0xA282EAD8) % 2**32


@pytest.mark.parametrize(("position", "sentence"), [(0, "the length of record 0 has a wrong"), (9, "the length of record 0 has a wrong")])
def test_a_damaged_header_is_named(two_records: Path, position: int, sentence: str) -> None:
    _flip(two_records, position)
    with pytest.raises(UserError, match=sentence):
        index_records(two_records)


@pytest.mark.parametrize("position", [200, -1])
def test_damaged_data_are_named_with_their_record(two_records: Path, position: int) -> None:
    spans = index_records(two_records)
    _flip(two_records, spans[1].offset + position if position > 0 else two_records.stat().st_size - 1)
    assert read_record(two_records, spans[0])
    with pytest.raises(UserError, match="record 1 have a wrong checksum"):
        read_record(two_records, spans[1])


@pytest.mark.parametrize("lost", [1, 5, 1000])
def test_a_cut_file_is_named_with_its_record(two_records: Path, lost: int) -> None:
    two_records.write_bytes(two_records.read_bytes()[:-lost])
    with pytest.raises(UserError, match=r"two\.tfrecord: the file ends inside record 1"):
        index_records(two_records)


def test_a_cut_header_and_a_file_that_shrinks_are_named(two_records: Path) -> None:
    spans = index_records(two_records)
    two_records.write_bytes(two_records.read_bytes()[: spans[0].offset + spans[0].length + 4 + 7])
    with pytest.raises(UserError, match="ends inside record 1"):
        index_records(two_records)
    with pytest.raises(UserError, match="ends inside record 1"):
        read_record(two_records, spans[1])


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.tfrecord").touch()
    with pytest.raises(UserError, match="empty"):
        index_records(tmp_path / "none.tfrecord")


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(bytes(data))
