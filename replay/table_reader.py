"""Reads tables from their changelogs (`read_committed`), whether workers run or not, and writes result files."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
from confluent_kafka import TopicPartition as KafkaPartition

from ..agents.app import App
from ..agents.runtime import runtime_of
from ..agents.tables.key_placement import REMEDY
from ..agents.tables.open_windows import WindowKey
from ..agents.tables.stream_time import STREAM_TIME
from ..agents.tables.table import Table
from ..agents.tables.undecodable_changelog import REMEDY as UNDECODABLE_REMEDY
from ..agents.tables.undecodable_changelog import shown
from ..agents.tables.window_table import WindowTable
from ..topics.admin import Admin
from ..topics.cluster import Cluster
from ..topics.durable_files import replace_file
from ..topics.errors import Stop, Usage, described
from ..topics.partition_reader import read_to_end
from ..topics.private_fields import PrivateFields
from ..topics.spelling import did_you_mean
from ..topics.topic_partition import TopicPartition

__all__ = [
    "Snapshot",
    "TableReader",
    "check_result_path",
    "find_table",
    "json_text",
    "key_cells",
    "refuse_split_keys",
    "tabulated",
    "write_result",
    "write_rows",
]

_SCALARS = frozenset({int, float, str, bool, type(None)})
# A tuple: building a union type for each cell would cost more than the check.
_NESTED = (dict, list, bool)
_MAX_EXAMPLES = 5


def find_table(app: App, name: str | None, *, similar: Collection[str] = ()) -> Table:
    """Return an app's table by its name, or its only table.

    Args:
        similar: words that are no tables, and that a name that does not exist may have been meant as.

    Raises:
        Usage: there is no such table; the message lists those that exist.
    """
    tables = {table.name: table for table in runtime_of(app).tables}
    results = [table for table in tables.values() if table.is_result]
    if name is None and len(results) == 1:
        return results[0]
    if name in tables:
        return tables[name]
    listed = ", ".join(sorted(tables if name else [table.name for table in results])) or "none"
    if name is None:
        raise Usage(f"{app.conf.id} has several tables", hint=f"name one of: {listed}")
    raise Usage(f"{app.conf.id} has no table {name}", hint=did_you_mean(name, [*tables, *similar], f"it has: {listed}"))


class KeyedRow(NamedTuple):
    """A row of a table; `window` is empty, or start and end in milliseconds since 1970."""

    key: object
    partition: int
    window: tuple[()] | tuple[int, int]
    value: object


class Snapshot:
    """The content of a table at one time.

    Args:
        parts: for each partition, keys and values as bytes, in the form that the table's codecs decode.
        offset_of: returns the offset of a key's last record in a partition of the changelog.

    Raises:
        Stop: a key is in several partitions and the table is not declared `local`, so the key has no single value.
    """

    def __init__(
        self,
        table: Table,
        parts: Sequence[Mapping[bytes, bytes]],
        offset_of: Callable[[int, bytes], int] | None = None,
    ) -> None:
        self.table, self.parts, self._offset_of = table, parts, offset_of
        if not (table.local or table.is_global):
            refuse_split_keys(table.name, parts, lambda pair: _shown_pair(table, *pair))

    @cached_property
    def _data(self) -> list[tuple[int, bytes, bytes]]:
        """(partition, key, value) of each pair."""
        if self.table.is_global:  # a global table: if several partitions have a key, the last one counts
            last = {key: (p, key, value) for p, part in enumerate(self.parts) for key, value in part.items()}
            return list(last.values())
        return [(p, key, value) for p, part in enumerate(self.parts) for key, value in part.items()]

    def __len__(self) -> int:
        return len(self._data)

    def rows_with_partition(self) -> list[tuple[object, int, object]]:
        """Return (key, partition, value), decoded and sorted by key; keys of several types are sorted by their text.

        Raises:
            Stop: a key or a value cannot be decoded; the message lists where.
        """
        decode_key, decode = self.table.key_codec.decode, self.table.value_codec.decode
        try:
            found = [(decode_key(key), partition, decode(value)) for partition, key, value in self._data]
        except Exception as exc:
            raise self._undecodable() from exc
        try:
            return sorted(found, key=itemgetter(0))
        except TypeError:
            return sorted(found, key=lambda row: str(row[0]))

    def keyed_rows(self) -> list[KeyedRow]:
        """Return the rows with the keys of a table of windows apart from its windows, sorted like
        `rows_with_partition`.
        """
        found = self.rows_with_partition()
        if not isinstance(self.table, WindowTable):
            return [KeyedRow(key, partition, (), value) for key, partition, value in found]
        windows = [(cast(WindowKey, key), partition, value) for key, partition, value in found]
        return [KeyedRow(key, partition, (start, end), value) for (key, start, end), partition, value in windows]

    def _undecodable(self) -> Stop:
        """Return the error that lists the keys and values that cannot be decoded."""
        found: list[str] = []
        for partition, key, value in self._data:
            what, codec = "key", self.table.key_codec
            try:
                codec.decode(key)
                what, codec = "value", self.table.value_codec
                codec.decode(value)
            except Exception as exc:  # noqa: BLE001 (codecs may run the user's code)
                at = f"{self.table.changelog_name}[{partition}]"
                if self._offset_of is not None and len(found) < _MAX_EXAMPLES:
                    at += f"@{self._offset_of(partition, key)}"
                found.append(f"\n  {at}, key {shown(key)}: its {what} is not {codec.name}: {described(exc)}")
        more = f"\n  and {len(found) - _MAX_EXAMPLES:,} more" if len(found) > _MAX_EXAMPLES else ""
        listed = "".join(found[:_MAX_EXAMPLES]) + more
        return Stop(
            f"table {self.table.name}: its changelog holds keys or values that cannot be decoded:{listed}",
            hint=UNDECODABLE_REMEDY,
        )

    def items(self) -> Iterator[tuple[object, object]]:
        """Return (key, value), decoded and sorted like `rows_with_partition`."""
        return ((key, value) for key, _, value in self.rows_with_partition())

    @property
    def _head_columns(self) -> list[str]:
        """The names of the columns before those of the value."""
        if self.table.local:
            return ["key", "partition"]
        return ["key", *self.time_columns]

    @property
    def time_columns(self) -> tuple[str, ...]:
        """The names of the columns that hold times in milliseconds since 1970."""
        return ("start", "end") if isinstance(self.table, WindowTable) else ()

    @cached_property
    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Column names and rows: `key`, for a local table `partition`, for a table of windows `start` and `end` in
        milliseconds since 1970, and `value` or the fields of structured values.

        States of a flow's aggregates, such as `_mean` beside `mean`, are left out. A field with the name of one of
        these columns is called `value.<name>`.
        """
        keys, heads, values = list[object](), list[list[object]](), list[object]()
        for key, partition, window, value in self.keyed_rows():
            keys.append(key)
            heads.append([partition] if self.table.local else list[object](window))
            if type(value) not in _SCALARS:
                asdict = getattr(value, "asdict", None)
                value = msgspec.to_builtins(self.table.plain(value) if asdict is None else asdict())
            values.append(value)
        heads = [[key, *head] for key, head in zip(key_cells(keys), heads, strict=True)]
        return tabulated(self._head_columns, heads, values, left_out=self.table.state_fields)

    def sorted_rows(self, column: str, *, descending: bool = False) -> list[list[object]]:
        """Return the rows, sorted by a column; rows without a value are last, and text is behind numbers.

        Raises:
            Usage: there is no such column.
        """
        columns, rows = self.rows
        if column not in columns:
            hint = did_you_mean(column, columns, f"columns: {', '.join(columns)}")
            raise Usage(f"table {self.table.name} has no column {column}", hint=hint)
        at = columns.index(column)
        present = [row for row in rows if row[at] is not None]
        absent = [row for row in rows if row[at] is None]
        return sorted(present, key=lambda row: _sort_key(row[at]), reverse=descending) + absent

    def shown(self, rows: list[list[object]]) -> list[list[object]]:
        """Return rows of `rows` without private fields."""
        columns, private = self.rows[0], self.table.private
        if not private:
            return rows
        heads = len(self._head_columns)
        shown: list[list[object]] = []
        for row in rows:
            (key, *place), fields = row[:heads], dict(zip(columns[heads:], row[heads:], strict=True))
            structured = list(fields) != ["value"]
            hidden = [private.cell(name, cell) if structured else private.value(cell) for name, cell in fields.items()]
            shown.append([_shown_key(private, key, fields), *place, *hidden])
        return shown

    def digest(self) -> str:
        """Return a digest of the content that does not depend on order: the sum of the pairs' hashes, modulo 2^128."""
        total = 0
        for partition, key, value in self._data:
            pair = hashlib.blake2b(digest_size=16)
            if self.table.local:
                pair.update(partition.to_bytes(4, "big"))
            pair.update(len(key).to_bytes(8, "big"))
            pair.update(key)
            pair.update(value)
            total += int.from_bytes(pair.digest(), "big")
        return f"{total % (1 << 128):032x}"


def _sort_key(value: object) -> tuple[int, object]:
    if isinstance(value, int | float):  # NaN has no place of its own
        return (0, value) if value == value else (1, 0)
    return (2, value) if isinstance(value, str) else (3, json_text(value))


def tabulated(
    columns: list[str], heads: list[list[object]], values: list[object], left_out: Collection[str] = ()
) -> tuple[list[str], list[list[object]]]:
    """Return column names and rows: the heads, and behind each its value, or the fields of values that are dicts.

    Args:
        columns: names of the heads' columns.
        left_out: fields that are no results.
    """
    if not any(isinstance(value, dict) for value in values):
        return [*columns, "value"], [[*head, value] for head, value in zip(heads, values, strict=True)]
    rows = [cast("dict[str, object]", value) if isinstance(value, dict) else {"value": value} for value in values]
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in left_out]
    shown = [f"value.{name}" if name in columns else name for name in names]
    return [*columns, *shown], [[*head, *map(row.get, names)] for head, row in zip(heads, rows, strict=True)]


def refuse_split_keys(
    name: str, parts: Sequence[Mapping[bytes, bytes]], shown: Callable[[tuple[bytes, bytes]], str], also: str = ""
) -> None:
    """Refuse the content of a table in which a key is in several partitions.

    Args:
        parts: for each partition, keys and values as bytes.
        shown: formats a pair for people.
        also: text to append to the hint.

    Raises:
        Stop: names the key, and the value that each partition has for it.
    """
    seen: set[bytes] = set()
    for part in parts:
        if found := seen.intersection(part) - {STREAM_TIME}:
            key = min(found)
            having = [(p, pairs[key]) for p, pairs in enumerate(parts) if key in pairs]
            listed = "".join(f"\n  partition {p}: {shown((key, value))}" for p, value in having)
            more = f" (at least {len(found):,} keys)" if len(found) > 1 else ""
            raise Stop(
                f"table {name}: the same key is in several partitions{more}, each with a part of its value, because "
                f"the keys of the records do not hash to the partitions that hold them:{listed}",
                hint=REMEDY + also,
            )
        seen.update(part)


def _shown_pair(table: Table, key: bytes, value: bytes) -> str:
    (cell,) = key_cells([table.key_codec.decode(key)])
    plain = table.plain(table.value_codec.decode(value))
    return f"{_shown_key(table.private, cell, plain)} = {json_text(table.private.value(plain))}"


def _shown_key(private: PrivateFields, cell: object, value: object) -> object:
    """Return the cell of a key without private fields."""
    if private and isinstance(cell, str) and cell[:1] in ("{", "["):
        hidden = private.key_bytes(cell.encode(), msgspec.json.encode(value, enc_hook=str))
        return (hidden or b"").decode()
    return private.key(cell, value)


def key_cells(keys: Sequence[object]) -> list[object]:
    """Return keys as cells of a result, so that different keys differ: text and numbers as they are, others as JSON.

    If a text looks like a key of another type (`"7"` and 7), all keys are JSON.
    """
    kinds = set(map(type, keys))
    if kinds <= _SCALARS and (len(kinds) == 1 or str not in kinds):
        return list(keys)
    cells = [key if type(key) in _SCALARS else json_text(key) for key in keys]
    if str in kinds and len(set(map(_cell, cells))) < len(set(map(json_text, keys))):
        return list(map(json_text, keys))
    return cells


def json_text(value: object) -> str:
    """Return a key or a value as compact JSON; values that JSON cannot represent become text."""
    return msgspec.json.encode(value, enc_hook=str).decode()


class TableReader:
    """Reads the changelog of one table; each call reads what was committed since the call before.

    Args:
        may_be_new: a table without a changelog is empty, as after a run of no records, whose workers have not begun.

    Raises:
        Usage: the table has no changelog yet.
    """

    def __init__(self, cluster: Cluster, table: Table, *, may_be_new: bool = False) -> None:
        self._table, self._cluster = table, cluster
        self._admin = Admin(cluster)
        name = table.changelog_name
        partitions = self._admin.partitions([name]).get(name, 0 if may_be_new else None)
        if partitions is None:
            raise Usage(
                f"table {table.name}: there is no changelog {name} on {cluster.bootstrap_servers}",
                hint="it is created by the first worker or run of the app",
            )
        self._at = [KafkaPartition(name, p) for p in range(partitions)]
        self._data: list[dict[bytes, bytes]] = [{} for _ in range(partitions)]
        self._reached = {TopicPartition(name, p): 0 for p in range(partitions)}

    def read(self) -> Snapshot:
        """Return the content that is committed now (blocking).

        Raises:
            Stop: see `Snapshot`.
        """
        return Snapshot(self._table, [self._table.content(data) for data in self.read_raw()], self._offset_of)

    def counts(self) -> list[int]:
        """Return the number of keys of each partition, as committed now (blocking)."""
        return [len(self._table.content(data)) for data in self.read_raw()]

    def _offset_of(self, partition: int, key: bytes) -> int:
        """Return the offset of a key's last record, or -1 if it was deleted; reads the partition again (blocking)."""
        at, found = TopicPartition(self._table.changelog_name, partition), -1
        for run in read_to_end(self._cluster, {at: 0}, {at: self._reached[at]}):
            found = next((m.offset() for m in reversed(run.messages) if m.key() == key), found)
        return found

    def read_raw(self) -> list[dict[bytes, bytes]]:
        """Return keys and values of each partition as they are in the changelog (blocking)."""
        for run in read_to_end(self._cluster, self._reached, self._admin.ends(self._at, committed=True)):
            data = self._data[run.at[1]]
            for message in run.messages:
                key, value = message.key(), message.value()
                if value is None:
                    data.pop(key, None)
                else:
                    data[key] = value
            self._reached[run.at] = run.position
        return self._data


def write_result(snapshot: Snapshot, path: Path) -> None:
    """Write a table to a file in the format of its suffix: `.txt` (`key,value` lines, sorted), `.csv`, `.json`,
    `.jsonl` or `.parquet`.

    The file is replaced atomically: a reader never sees a part of the result.

    Raises:
        Usage: the suffix is unknown.
    """
    write_rows(*snapshot.rows, path)


def write_rows(columns: list[str], rows: list[list[object]], path: Path) -> None:
    """Write rows as `write_result` does."""
    make = _WRITERS.get(path.suffix.lower())
    if make is None:
        raise Usage(f"{path}: unknown suffix {path.suffix!r}", hint=f"one of {', '.join(_WRITERS)}")
    content = make(columns, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)


def _text(columns: list[str], rows: list[list[object]]) -> bytes:
    del columns
    return "".join(",".join(_cell(cell) for cell in row) + "\n" for row in rows).encode()


def _csv(columns: list[str], rows: list[list[object]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    # Python's CSV writer does not quote a carriage return, which readers, Python's included, take for the end of a row.
    quoted = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    for row in rows:
        cells = [_cell(cell) for cell in row]
        (quoted if "\r" in "".join(cells) else writer).writerow(cells)
    return out.getvalue().encode()


def _cell(cell: object) -> str:
    if cell is None:
        return ""
    return msgspec.json.encode(cell).decode() if isinstance(cell, _NESTED) else str(cell)


def _jsonl(columns: list[str], rows: Iterable[list[object]]) -> bytes:
    return b"".join(msgspec.json.encode(dict(zip(columns, row, strict=True))) + b"\n" for row in rows)


def _json(columns: list[str], rows: list[list[object]]) -> bytes:
    return (
        msgspec.json.format(msgspec.json.encode([dict(zip(columns, row, strict=True)) for row in rows]), indent=2)
        + b"\n"
    )


def _parquet(columns: list[str], rows: list[list[object]]) -> bytes:
    import polars

    out = io.BytesIO()
    polars.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None).write_parquet(out)
    return out.getvalue()


_WRITERS = {".txt": _text, ".csv": _csv, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}


def check_result_path(path: Path) -> None:
    """Check that a result file can be written, before hours of work instead of after.

    Raises:
        Usage: the suffix is unknown, or the folder is not writable.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not folder.is_dir():
        raise Usage(f"{path}: {path if path.is_dir() else folder} is {'a' if path.is_dir() else 'no'} folder")
    if not os.access(folder, os.W_OK):
        raise Usage(f"{path}: {folder} is not writable", hint="choose another folder for the result")
    if path.suffix.lower() not in _WRITERS:
        raise Usage(f"{path}: unknown suffix {path.suffix!r}", hint=f"one of {', '.join(_WRITERS)}")
    if path.suffix.lower() == ".parquet":
        _parquet(["key"], [])
