"""Page headers of a Parquet archive that claim more than the footer says are refused before they are read."""

from __future__ import annotations

import io

import pytest
from anabranch.replay.archive.parquet_format import Writer, read_parquet
from anabranch.replay.archive.parquet_pages import _Header
from anabranch.replay.archive.record_columns import RecordColumns
from pyarrow import parquet


def archive(count: int, compressible: bool = True) -> bytes:
    rows = RecordColumns()
    rows.keys = [b"k%d" % (n % 7) for n in range(count)]
    rows.values = [(b"v" if compressible else bytes([n % 251])) * 50 for n in range(count)]
    rows.headers = [[("h", b"x"), ("n", None)] if n % 3 else None for n in range(count)]
    rows.offsets, rows.times = list(range(count)), [n * 1000 for n in range(count)]
    file = io.BytesIO()
    writer = Writer(file, "t", 0)
    writer.write(rows)
    writer.close()
    return file.getvalue()


@pytest.mark.parametrize("count", [1, 100, 60_000])
@pytest.mark.parametrize("compressible", [True, False])
def test_archives_as_they_are_written_are_read(count, compressible) -> None:
    found = list(read_parquet(io.BytesIO(archive(count, compressible)), 5_000))
    assert sum(map(len, found)) == count
    assert [offset for rows in found for offset in rows.offsets] == list(range(count))


def test_a_page_that_claims_more_than_its_chunk_is_refused() -> None:
    data = bytearray(archive(100))
    column = parquet.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(0).column(1)
    assert column.path_in_schema == "value"
    at = column.data_page_offset
    header = _Header(bytes(data[at : at + 1000]))
    size = header.sizes()[2]
    # The size is a varint of the zigzag number; its bytes become the largest number that they can hold.
    encoded = bytearray()
    number = size << 1
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    place = data.index(encoded, at)
    data[place : place + len(encoded)] = b"\xfe" + b"\xff" * (len(encoded) - 2) + b"\x7f"
    with pytest.raises(ValueError, match="claims more bytes"):
        list(read_parquet(io.BytesIO(bytes(data)), 5_000))
    damaged = bytearray(archive(100))
    damaged[at] = 0x1F
    with pytest.raises(ValueError, match="page"):
        list(read_parquet(io.BytesIO(bytes(damaged)), 5_000))
