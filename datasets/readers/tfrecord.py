"""TFRecord files: where the records lie, and their bytes with both checksums checked.

A record is its length (uint64, little endian), the masked CRC-32C of those 8 bytes, the data, and the masked CRC-32C of the data
(format: TensorFlow, "TFRecord and tf.train.Example").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from splatmend.datasets.errors import UserError

_HEADER_BYTES = 12
_FOOTER_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class RecordSpan:
    """One record's place in its file: its number from 0, the offset of its data and their length in bytes."""

    number: int
    offset: int
    length: int


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated right by 15 bits plus a constant, as TFRecord stores it."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def index_records(path: Path) -> tuple[RecordSpan, ...]:
    """Places of all records; only the headers are read. `UserError` where a length is damaged or the file ends inside a record."""
    spans: list[RecordSpan] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while position < size:
            file.seek(position)
            header = file.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:
                raise _cut(path, len(spans))
            length, checksum = struct.unpack("<QI", header)
            if masked_crc32c(header[:8]) != checksum:
                raise UserError(f"{path}: the length of record {len(spans)} has a wrong checksum; the file is damaged, copy it again.")
            end = position + _HEADER_BYTES + length + _FOOTER_BYTES
            if end > size:
                raise _cut(path, len(spans))
            spans.append(RecordSpan(number=len(spans), offset=position + _HEADER_BYTES, length=length))
            position = end
    if not spans:
        raise UserError(f"{path}: the file is empty; copy it again.")
    return tuple(spans)


def read_record(path: Path, span: RecordSpan) -> bytes:
    """The data of one record; `UserError` if its checksum is wrong or the file has become shorter."""
    with path.open("rb") as file:
        file.seek(span.offset)
        data = file.read(span.length)
        footer = file.read(_FOOTER_BYTES)
    if len(data) < span.length or len(footer) < _FOOTER_BYTES:
        raise _cut(path, span.number)
    if masked_crc32c(data) != struct.unpack("<I", footer)[0]:
        raise UserError(f"{path}: the data of record {span.number} have a wrong checksum; the file is damaged, copy it again.")
    return data


def _cut(path: Path, number: int) -> UserError:
    return UserError(f"{path}: the file ends inside record {number}; it was cut short, copy it again.")
