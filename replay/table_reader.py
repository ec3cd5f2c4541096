"""Tables as everybody can read them: from their changelogs, `read_committed`, whether a worker runs or not."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import TopicPartition

from ..agents.app import App
from ..agents.runtime import runtime_of
from ..agents.tables.key_placement import REMEDY
from ..agents.tables.partition_state import STREAM_TIME
from ..agents.tables.table import Table
from ..agents.tables.undecodable_changelog import REMEDY as UNDECODABLE_REMEDY
from ..agents.tables.undecodable_changelog import shown
from ..topics.admin import Admin
from ..topics.cluster import Cluster
from ..topics.errors import Stop, Usage, described
from ..topics.partition_reader import read_to_end

__all__ = ["Snapshot", "TableReader", "find_table", "json_text", "key_cells", "refuse_scattered", "write_result"]

_SCALARS = frozenset({int, float, str, bool, type(None)})
# A union that is made for each cell would cost more than the look.
_NESTED = (dict, list, bool)
_MOST = 5


def find_table(app: App, name: str | None) -> Table:
    """The table of that name, or the only one.

    Raises:
        Usage: it is not there; the message lists those that are.
    """
    tables = {table.name: table for table in runtime_of(app).tables}
    if name is None and len(tables) == 1:
        return next(iter(tables.values()))
    if name in tables:
        return tables[name]
    listed = ", ".join(sorted(tables)) or "none"
    if name is None:
        raise Usage(f"{app.conf.id} has several tables", hint=f"name one of: {listed}")
    raise Usage(f"{app.conf.id} has no table {name}", hint=f"it has: {listed}")


class Snapshot:
    """A table's content at a moment.

    Args:
        parts: by partition: key bytes -> value bytes, as the codecs of the table know them.
        offset_of: partition and key -> where in the changelog its last value is.

    Raises:
        Stop: a key is in several partitions, and the table is not declared `local`: it has no one value.
    """

    def __init__(
        self,
        table: Table,
        parts: Sequence[Mapping[bytes, bytes]],
        offset_of: Callable[[int, bytes], int] | None = None,
    ) -> None:
        self.table, self.parts, self._offset_of = table, parts, offset_of
        if not (table.local or table.is_global):
            refuse_scattered(table.name, parts, lambda data: _plain(table, *data))

    @cached_property
    def _data(self) -> list[tuple[int, bytes, bytes]]:
        """Partition, key and value."""
        if self.table.is_global:  # of a key that several partitions have, the last one counts
            last = {key: (p, key, value) for p, part in enumerate(self.parts) for key, value in part.items()}
            return list(last.values())
        return [(p, key, value) for p, part in enumerate(self.parts) for key, value in part.items()]

    def __len__(self) -> int:
        return len(self._data)

    def located(self) -> list[tuple[Any, int, Any]]:
        """Key, partition and value, decoded and sorted; keys of several types by their text."""
        decode_key, decode = self.table.key_codec.decode, self.table.value_codec.decode
        try:
            found = [(decode_key(key), partition, decode(value)) for partition, key, value in self._data]
        except Exception as exc:
            raise self._undecodable() from exc
        try:
            return sorted(found, key=itemgetter(0))
        except TypeError:
            return sorted(found, key=lambda row: str(row[0]))

    def _undecodable(self) -> Stop:
        """What cannot be decoded, by partition and key."""
        found: list[str] = []
        for partition, key, value in self._data:
            what, codec = "key", self.table.key_codec
            try:
                codec.decode(key)
                what, codec = "value", self.table.value_codec
                codec.decode(value)
            except Exception as exc:  # noqa: BLE001 (types may be the user's)
                at = f"{self.table.changelog_name}[{partition}]"
                if self._offset_of is not None and len(found) < _MOST:
                    at += f"@{self._offset_of(partition, key)}"
                found.append(f"\n  {at}, key {shown(key)}: its {what} is not {codec.name}: {described(exc)}")
        more = f"\n  and {len(found) - _MOST:,} more" if len(found) > _MOST else ""
        return Stop(
            f"table {self.table.name}: its changelog holds what cannot be decoded:{''.join(found[:_MOST])}{more}",
            hint=UNDECODABLE_REMEDY,
        )

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Decoded pairs, sorted by key; keys of several types by their text."""
        return ((key, value) for key, _, value in self.located())

    @cached_property
    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Column names and rows: `key`, of a local table `partition`, and `value` or the fields of structured values.

        A field that is called as a column that is there already has `value.` before its name.
        """
        keys, heads, values, structured = list[Any](), list[list[Any]](), list[Any](), False
        for key, partition, value in self.located():
            keys.append(key)
            heads.append([partition] if self.table.local else [])
            if type(value) not in _SCALARS:
                value = msgspec.to_builtins(value.asdict() if hasattr(value, "asdict") else self.table.plain(value))
                structured = structured or isinstance(value, dict)
            values.append(value)
        heads = [[key, *head] for key, head in zip(key_cells(keys), heads, strict=True)]
        columns = ["key", "partition"] if self.table.local else ["key"]
        if not structured:
            return [*columns, "value"], [[*head, value] for head, value in zip(heads, values, strict=True)]
        rows: list[dict[Any, Any]] = [value if isinstance(value, dict) else {"value": value} for value in values]
        names = list(dict.fromkeys(name for row in rows for name in row))
        shown = [f"value.{name}" if name in columns else name for name in names]
        return [*columns, *shown], [[*head, *map(row.get, names)] for head, row in zip(heads, rows, strict=True)]

    def digest(self) -> str:
        """Equal for equal content, whatever the order it came in: the sum of the pairs' hashes, modulo 2^128."""
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


def refuse_scattered(
    name: str, parts: Sequence[Mapping[bytes, bytes]], shown: Callable[[tuple[bytes, bytes]], str], also: str = ""
) -> None:
    """Refuse content in which a key is in several partitions.

    Args:
        parts: by partition, as in the changelog or as the codecs know it.
        shown: a pair, as people read it.
        also: more of a hint.

    Raises:
        Stop: it says which key, and what each partition has of it.
    """
    seen: set[bytes] = set()
    for part in parts:
        if found := seen.intersection(part) - {STREAM_TIME}:
            key = min(found)
            having = [(p, pairs[key]) for p, pairs in enumerate(parts) if key in pairs]
            listed = "".join(f"\n  partition {p}: {shown((key, value))}" for p, value in having)
            more = f" ({len(found):,} keys at least)" if len(found) > 1 else ""
            raise Stop(
                f"table {name}: the same key is in several partitions{more}, each with a part of its value, because "
                f"the records' keys do not hash to where the table has them:{listed}",
                hint=REMEDY + also,
            )
        seen.update(part)


def _plain(table: Table, key: bytes, value: bytes) -> str:
    (cell,) = key_cells([table.key_codec.decode(key)])
    return f"{cell} = {json_text(table.plain(table.value_codec.decode(value)))}"


def key_cells(keys: Sequence[Any]) -> list[Any]:
    """Keys as a result shows them, different ones differently: text and numbers as they are, others as JSON.

    Where text looks like a key of another type (`7` and 7), all of them are JSON.
    """
    kinds = set(map(type, keys))
    if kinds <= _SCALARS and (len(kinds) == 1 or str not in kinds):
        return list(keys)
    cells = [key if type(key) in _SCALARS else json_text(key) for key in keys]
    if str in kinds and len(set(map(_cell, cells))) < len(set(map(json_text, keys))):
        return list(map(json_text, keys))
    return cells


def json_text(value: Any) -> str:
    """JSON of a key or a value, compact; what JSON has no form for as text."""
    return msgspec.json.encode(value, enc_hook=str).decode()


class TableReader:
    """Follows the changelog of one table.

    Raises:
        Usage: the table has no changelog yet.
    """

    def __init__(self, cluster: Cluster, table: Table) -> None:
        self._table, self._cluster = table, cluster
        self._admin = Admin(cluster)
        name = table.changelog_name
        partitions = self._admin.partitions([name]).get(name)
        if partitions is None:
            raise Usage(
                f"table {table.name}: there is no changelog {name} on {cluster.bootstrap_servers}",
                hint="it is made by the first worker or run of the app",
            )
        self._at = [TopicPartition(name, p) for p in range(partitions)]
        self._data: list[dict[bytes, bytes]] = [{} for _ in range(partitions)]
        self._reached = {(name, p): 0 for p in range(partitions)}

    def read(self) -> Snapshot:
        """What the table holds now: everything that is committed; the second time, what has come since.

        Raises:
            Stop: as `Snapshot`.
        """
        return Snapshot(self._table, [self._table.content(data) for data in self.read_raw()], self._offset_of)

    def _offset_of(self, partition: int, key: bytes) -> int:
        """Where the last record of a key is; -1 if it is gone. It reads the partition again."""
        at, found = (self._table.changelog_name, partition), -1
        for run in read_to_end(self._cluster, {at: 0}, {at: self._reached[at]}):
            found = next((m.offset() for m in reversed(run.messages) if m.key() == key), found)
        return found

    def read_raw(self) -> list[dict[bytes, bytes]]:
        """Likewise by partition, as it stands in the changelog."""
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
    """Write a table to a file, by its ending: `.txt` (`key,value` lines, sorted), `.csv`, `.json`, `.jsonl`,
    `.parquet`.

    To a temporary file beside it that is renamed, so that nobody ever sees half a result.

    Raises:
        Usage: unknown ending, or `.parquet` without its extra.
    """
    columns, rows = snapshot.rows
    make = _WRITERS.get(path.suffix.lower())
    if make is None:
        raise Usage(f"{path}: unknown ending {path.suffix!r}", hint=f"one of {', '.join(_WRITERS)}")
    content = make(columns, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _text(columns: list[str], rows: list[list[Any]]) -> bytes:
    del columns
    return "".join(",".join(_cell(cell) for cell in row) + "\n" for row in rows).encode()


def _csv(columns: list[str], rows: list[list[Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    # Python's writer leaves a carriage return bare, which its reader, and others, take for the end of a row.
    quoted = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    for row in rows:
        cells = [_cell(cell) for cell in row]
        (quoted if "\r" in "".join(cells) else writer).writerow(cells)
    return out.getvalue().encode()


def _cell(cell: Any) -> str:
    if cell is None:
        return ""
    return msgspec.json.encode(cell).decode() if isinstance(cell, _NESTED) else str(cell)


def _jsonl(columns: list[str], rows: Iterable[list[Any]]) -> bytes:
    return b"".join(msgspec.json.encode(dict(zip(columns, row, strict=True))) + b"\n" for row in rows)


def _json(columns: list[str], rows: list[list[Any]]) -> bytes:
    return (
        msgspec.json.format(msgspec.json.encode([dict(zip(columns, row, strict=True)) for row in rows]), indent=2)
        + b"\n"
    )


def _parquet(columns: list[str], rows: list[list[Any]]) -> bytes:
    import polars

    out = io.BytesIO()
    polars.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None).write_parquet(out)
    return out.getvalue()


_WRITERS = {".txt": _text, ".csv": _csv, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}


def known_ending(path: Path) -> None:
    """Refuse an ending, or a place, before hours of work, not after.

    Raises:
        Usage: nobody can write that, or there.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not folder.is_dir():
        raise Usage(f"{path}: {path if path.is_dir() else folder} is {'a' if path.is_dir() else 'no'} folder")
    if not os.access(folder, os.W_OK):
        raise Usage(f"{path}: nothing can be written in {folder}", hint="choose another folder for the result")
    if path.suffix.lower() not in _WRITERS:
        raise Usage(f"{path}: unknown ending {path.suffix!r}", hint=f"one of {', '.join(_WRITERS)}")
    if path.suffix.lower() == ".parquet":
        _parquet(["key"], [])
