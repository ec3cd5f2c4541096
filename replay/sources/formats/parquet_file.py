"""Parquet files: batches out of row groups, as columns of what JSON holds, and records made of those.

pyarrow reads, because it hands a row group out piece by piece. All files of a history have one schema, see `union`, so
a column's type does not depend on which file or batch a row is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ....topics.errors import AnabranchError, Usage
from ..files.file_opening import UNREADABLE, FileEntry, Opened, open_seekable, why
from ..format import Format, kind_of
from ..source import SourcePosition
from ..source_record import NO_LIMIT
from .arrow_json import unified
from .lines import BATCH_LINES
from .row_file import RowFile, Rows, Table, json_types

__all__ = ["open_parquet", "parquet_types"]

# Rows of wide text come fewer at a time: a batch exists as pages, columns, text and records, and allocators keep more
# than that. By column there is less of all that.
_BATCH_BYTES = 2 * 1024 * 1024
_COLUMN_BYTES = 16 * 1024 * 1024
_READ_BYTES = 256 * 1024
_COLUMN_ROWS = 262_144


def parquet_types(entries: Sequence[FileEntry], format: Format) -> dict[str, Any]:
    """Types of columns, as JSON has them, over all Parquet files among these, where there are several.

    What is wrong with a file is not said here, but when it is read.

    Raises:
        Usage: nothing holds what a column is in one file and in another.
    """
    found: dict[str, Any] = {}
    files = [entry for entry in entries if kind_of(entry.inside or entry.path, format)[0] == "parquet"]
    for entry in files if len(files) > 1 else ():
        try:
            opened = open_seekable(entry)
        except UNREADABLE:
            continue
        try:
            types = json_types(_opened(opened, entry).schema_arrow)
        except OSError:
            continue
        finally:
            opened.close()
        for name, kind in types.items():
            try:
                found[name] = unified(found.get(name, kind), kind)
            except ValueError as exc:
                raise Usage(f"{entry.name}: column {name}: {exc}", hint="replay them one after another") from None
    return found


def open_parquet(
    entry: FileEntry,
    format: Format,
    position: SourcePosition | None = None,
    *,
    types: Mapping[str, Any] | None = None,
    batch_rows: int = BATCH_LINES,
    max_record_bytes: int = NO_LIMIT,
    columns: bool = False,
) -> RowFile:
    """A Parquet file as a source. Memory is bounded by the compressed pages of a row group and a batch of rows.

    Args:
        types: of the columns in all files together, as JSON has them; none means those of this file.
        columns: give columns, see `Columns`.

    Raises:
        Usage: a field that is asked for does not exist.
    """
    reader = _Parquet(entry, format, types or {}, batch_rows, max_record_bytes, columns)
    return RowFile(entry, open_seekable, reader, position)


def _opened(opened: Opened, entry: FileEntry) -> Any:
    import pyarrow.parquet as parquet

    try:
        # Times of 96 bits, as Spark and Impala write them: in nanoseconds the year 9999 would not fit.
        file: Any = parquet.ParquetFile(
            opened.stream,  # pyright: ignore[reportArgumentType]
            buffer_size=_READ_BYTES,
            pre_buffer=False,
            coerce_int96_timestamp_unit="us",
        )
        _ = file.schema_arrow  # which some footers can be read without
    except AnabranchError:
        raise
    except Exception as exc:  # noqa: BLE001 - what pyarrow says to a stranger's file
        raise OSError(f"not a Parquet file ({exc})") from None
    return file


class _Parquet:
    def __init__(
        self,
        entry: FileEntry,
        format: Format,
        types: Mapping[str, Any],
        batch_rows: int,
        max_bytes: int,
        columns: bool,
    ) -> None:
        self._entry, self._format, self._types, self._columns = entry, format, types, columns
        self._batch_rows, self._max_bytes = batch_rows, max_bytes

    def __call__(self, opened: Opened, first: int) -> Iterator[Rows]:
        file = _opened(opened, self._entry)
        table = Table(self._entry, self._format, file.schema_arrow, self._types, self._max_bytes, self._columns)
        whole = max(1, file.metadata.num_rows)
        size = self._entry.size_bytes
        done = [first]
        opened.done_bytes = lambda: size * done[0] // whole
        return self._batches(file, first, table, done)

    def _batches(self, file: Any, first: int, table: Table, done: list[int]) -> Iterator[Rows]:
        groups, skip = list(range(file.metadata.num_row_groups)), first
        while groups and skip >= file.metadata.row_group(groups[0]).num_rows:
            skip -= file.metadata.row_group(groups.pop(0)).num_rows
        for group in groups:
            count = file.metadata.row_group(group).num_rows
            read = 0
            for batch in self._of_group(file, group):
                if isinstance(batch, Exception):
                    reason = f"{' '.join(why(batch).split())}; {count - read:,} rows from here are not read"
                    rows = Rows(count - max(read, skip), (), [(0, reason, b"")])
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

    def _of_group(self, file: Any, group: int) -> Iterator[Any]:
        """Batches of a row group; where it is damaged, why, in place of the rest."""
        about = file.metadata.row_group(group)
        row_bytes = max(1, about.total_byte_size // max(1, about.num_rows))
        most = (_COLUMN_ROWS, _COLUMN_BYTES) if self._columns else (self._batch_rows, _BATCH_BYTES)
        rows = max(1, min(most[0], most[1] // row_bytes))
        try:
            yield from file.iter_batches(rows, row_groups=[group], use_threads=False)
        except AnabranchError:
            raise  # it changed while it was read
        except Exception as exc:  # noqa: BLE001 - what pyarrow says to a damaged page
            yield exc
