"""Reads Parquet files: batches of row groups, converted to JSON columns, and records from those.

pyarrow reads them, because it returns a row group piece by piece. All files of a history share one schema (see
`parquet_types`), so a column's type does not depend on the file or the batch that a row is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ....topics.errors import AnabranchError, Usage
from ..files.file_opening import READ_ERRORS, FileEntry, Opened, open_seekable, why
from ..format import Format, kind_of
from ..source import SourcePosition
from ..source_record import NO_LIMIT
from .arrow_json import common_type
from .line_buffer import BATCH_LINES
from .row_file import RowBatch, RowFile, RowTable, json_types

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

__all__ = ["open_parquet", "parquet_types"]

# Batches of wide rows are smaller: a batch exists as pages, columns, text and records, and allocators keep more than
# that. Columnar batches need less.
_BATCH_BYTES = 2 * 1024 * 1024
_COLUMN_BYTES = 16 * 1024 * 1024
_READ_BYTES = 256 * 1024
_COLUMN_ROWS = 262_144


def parquet_types(entries: Sequence[FileEntry], format: Format) -> dict[str, pyarrow.DataType]:
    """Return the JSON types of the columns over all Parquet files among these; empty for a single file.

    A file that cannot be read is skipped here; reading it reports the error.

    Raises:
        Usage: a column's types in two files have no common type.
    """
    found: dict[str, pyarrow.DataType] = {}
    files = [entry for entry in entries if kind_of(entry.inside or entry.path, format)[0] == "parquet"]
    for entry in files if len(files) > 1 else ():
        try:
            opened = open_seekable(entry)
        except READ_ERRORS:
            continue
        try:
            types = json_types(_parquet_file(opened).schema_arrow)
        except OSError:
            continue
        finally:
            opened.close()
        for name, kind in types.items():
            try:
                found[name] = common_type(found.get(name, kind), kind)
            except ValueError as exc:
                raise Usage(f"{entry.name}: column {name}: {exc}", hint="replay them one after another") from None
    return found


def open_parquet(
    entry: FileEntry,
    format: Format,
    position: SourcePosition | None = None,
    *,
    types: Mapping[str, pyarrow.DataType] | None = None,
    batch_rows: int = BATCH_LINES,
    max_record_bytes: int = NO_LIMIT,
    columnar: bool = False,
) -> RowFile:
    """Open a Parquet file as a source. Memory is bounded by the compressed pages of a row group and a batch of rows.

    Args:
        types: JSON types of the columns in all files together; None means the types of this file.
        columnar: return records as a `ColumnBatch`.

    Raises:
        Usage: a requested field does not exist.
    """
    reader = _Parquet(entry, format, types or {}, batch_rows, max_record_bytes, columnar)
    return RowFile(entry, open_seekable, reader, position)


def _parquet_file(opened: Opened) -> parquet.ParquetFile:
    from pyarrow import parquet

    try:
        # 96-bit timestamps, as Spark and Impala write them: the year 9999 does not fit into nanoseconds.
        file = parquet.ParquetFile(
            opened.stream,  # pyright: ignore[reportArgumentType]
            buffer_size=_READ_BYTES,
            pre_buffer=False,
            coerce_int96_timestamp_unit="us",
        )
        _ = file.schema_arrow  # some footers can be read although their schema cannot
    except AnabranchError:
        raise
    except Exception as exc:  # noqa: BLE001 - pyarrow raises many types for a damaged file
        raise OSError(f"not a Parquet file ({exc})") from None
    return file


class _Parquet:
    def __init__(
        self,
        entry: FileEntry,
        format: Format,
        types: Mapping[str, pyarrow.DataType],
        batch_rows: int,
        max_bytes: int,
        columnar: bool,
    ) -> None:
        self._entry, self._format, self._types, self._columnar = entry, format, types, columnar
        self._batch_rows, self._max_bytes = batch_rows, max_bytes

    def __call__(self, opened: Opened, first: int) -> Iterator[RowBatch]:
        file = _parquet_file(opened)
        table = RowTable(self._entry, self._format, file.schema_arrow, self._types, self._max_bytes, self._columnar)
        whole = max(1, file.metadata.num_rows)
        size = self._entry.size_bytes
        done = [first]
        opened.done_bytes = lambda: size * done[0] // whole
        return self._batches(file, first, table, done)

    def _batches(self, file: parquet.ParquetFile, first: int, table: RowTable, done: list[int]) -> Iterator[RowBatch]:
        groups, skip = list(range(file.metadata.num_row_groups)), first
        while groups and skip >= file.metadata.row_group(groups[0]).num_rows:
            skip -= file.metadata.row_group(groups.pop(0)).num_rows
        for group in groups:
            count = file.metadata.row_group(group).num_rows
            read = 0
            for batch in self._read_group(file, group):
                if isinstance(batch, Exception):
                    reason = f"{' '.join(why(batch).split())}; {count - read:,} rows from here are not read"
                    rows = RowBatch(count - max(read, skip), (), [(0, reason, b"")])
                    skip = 0
                elif skip >= batch.num_rows:
                    skip -= batch.num_rows
                    read += batch.num_rows
                    continue
                else:
                    rows = table.rows(batch.slice(skip))
                    read += batch.num_rows
                    skip = 0
                done[0] += rows.count
                yield rows

    def _read_group(self, file: parquet.ParquetFile, group: int) -> Iterator[pyarrow.RecordBatch | Exception]:
        """Yield the batches of a row group; if it is damaged, the error in place of the rest."""
        about = file.metadata.row_group(group)
        row_bytes = max(1, about.total_byte_size // max(1, about.num_rows))
        most = (_COLUMN_ROWS, _COLUMN_BYTES) if self._columnar else (self._batch_rows, _BATCH_BYTES)
        rows = max(1, min(most[0], most[1] // row_bytes))
        try:
            yield from file.iter_batches(rows, row_groups=[group], use_threads=False)
        except AnabranchError:
            raise  # the file changed while it was read
        except Exception as exc:  # noqa: BLE001 - pyarrow raises many types for a damaged page
            yield exc
