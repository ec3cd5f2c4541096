"""Archive files as Parquet, compressed with Zstandard: a column for each field, a row group for each flush."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import IO, TYPE_CHECKING

from .parquet_pages import check_pages
from .record_columns import RecordColumns

if TYPE_CHECKING:
    import pyarrow
    from _typeshed import SupportsWrite
    from pyarrow.parquet import FileMetaData

__all__ = ["ENDING", "Writer", "read_parquet"]

ENDING = ".parquet"
_LEVEL = 1

# The archiver's row groups are 8 MB, plus what librdkafka has buffered beyond that (64 MB a partition).
_GROUP_BYTES = 1024 * 1024 * 1024
_BATCH_BYTES = 2 * 1024 * 1024 * 1024


def _arrow() -> tuple[ModuleType, ModuleType]:
    import pyarrow
    from pyarrow import parquet

    return pyarrow, parquet


def _schema(arrow: ModuleType) -> pyarrow.Schema:
    header = arrow.struct([arrow.field("name", arrow.string(), False), arrow.field("value", arrow.binary())])
    return arrow.schema(
        [
            ("key", arrow.binary()),
            ("value", arrow.binary()),
            ("headers", arrow.list_(header)),
            ("topic", arrow.string()),
            ("partition", arrow.int32()),
            ("offset", arrow.int64()),
            ("timestamp", arrow.timestamp("ms", tz="UTC")),
        ]
    )


class Writer:
    """Writes one file.

    Args:
        file: open for writing; the caller closes it.
    """

    def __init__(self, file: SupportsWrite[bytes], topic: str, partition: int) -> None:
        self._arrow, parquet = _arrow()
        self._schema = _schema(self._arrow)
        self._header = self._schema.field("headers").type.value_type
        self._topic, self._partition = topic, partition
        self._writer = parquet.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            compression_level=_LEVEL,
            use_dictionary=["key", "topic", "partition"],
            column_encoding={"offset": "DELTA_BINARY_PACKED", "timestamp": "DELTA_BINARY_PACKED"},
            write_statistics=["offset", "timestamp"],
        )

    def write(self, rows: RecordColumns) -> None:
        """Write rows as a row group."""
        arrow, count = self._arrow, len(rows)
        columns = [
            arrow.array(rows.keys, arrow.binary()),
            arrow.array(rows.values, arrow.binary()),
            self._headers(rows),
            arrow.repeat(arrow.scalar(self._topic), count),
            arrow.repeat(arrow.scalar(self._partition, arrow.int32()), count),
            arrow.array(rows.offsets, arrow.int64()),
            arrow.array(rows.times, arrow.int64()).cast(arrow.timestamp("ms", tz="UTC")),
        ]
        self._writer.write_batch(arrow.record_batch(columns, schema=self._schema), row_group_size=count)

    def _headers(self, rows: RecordColumns) -> pyarrow.Array:
        arrow = self._arrow
        if not any(rows.headers):
            return arrow.nulls(len(rows), arrow.list_(self._header))
        given = [headers or None for headers in rows.headers]
        cells = [None if headers is None else [{"name": n, "value": v} for n, v in headers] for headers in given]
        return arrow.array(cells, arrow.list_(self._header))

    def close(self) -> None:
        """Write the footer of the file."""
        self._writer.close()


def read_parquet(file: IO[bytes], batch_rows: int) -> Iterator[RecordColumns]:
    """Yield the rows of a file in order, in batches.

    Raises:
        OSError, ValueError: the file is damaged.
    """
    arrow, parquet = _arrow()
    reader = parquet.ParquetFile(file, pre_buffer=False)
    columns = ["key", "value", "headers", "offset", "timestamp"]
    schema = _schema(arrow)
    for name in columns:
        if not reader.schema_arrow.field(name).equals(schema.field(name)):
            raise ValueError(f"{name} is not {schema.field(name).type}")
    fitting = _fitting_rows(reader.metadata, batch_rows)
    check_pages(file, reader.metadata)
    for batch in reader.iter_batches(fitting, columns=columns):
        if batch.column("offset").null_count or batch.column("timestamp").null_count:
            raise ValueError("a record without an offset or a time")
        if not batch.num_rows:
            continue
        rows = RecordColumns()
        rows.keys = batch.column("key").to_pylist()
        rows.values = batch.column("value").to_pylist()
        rows.offsets = batch.column("offset").to_pylist()
        rows.times = batch.column("timestamp").cast("int64").to_pylist()
        headers = batch.column("headers")
        if headers.null_count == len(rows.offsets):
            rows.headers = [None] * len(rows.offsets)
        else:
            cells = headers.to_pylist()
            rows.headers = [None if one is None else [(h["name"], h["value"]) for h in one] for one in cells]
        yield rows


def _fitting_rows(metadata: FileMetaData, batch_rows: int) -> int:
    """Return a batch size whose memory is bounded, whatever a crafted file claims in a few bytes.

    Raises:
        ValueError: no size is safe.
    """
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        if group.total_byte_size > _GROUP_BYTES:
            raise ValueError(f"a row group of {group.total_byte_size:,} bytes: at most {_GROUP_BYTES:,} are read")
        for column in map(group.column, range(group.num_columns)):
            dictionary = column.dictionary_page_offset is not None
            if column.path_in_schema == "value" and dictionary:
                raise ValueError("its values are a dictionary, which the archiver does not write")
            # A key that is stored once can be the key of every row.
            if column.path_in_schema == "key" and dictionary and column.total_uncompressed_size:
                batch_rows = max(1, min(batch_rows, _BATCH_BYTES // column.total_uncompressed_size))
    return batch_rows
