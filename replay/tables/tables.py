"""Tables as everybody can read them: from their changelogs, `read_committed`, whether a worker runs or not."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import TopicPartition

from ...agents.app import App
from ...agents.tables.table import Table
from ...topics.admin import Admin
from ...topics.client import Cluster
from ...topics.errors import Usage
from ...topics.reading import read_to_end

__all__ = ["Snapshot", "TableReader", "find_table", "write_result"]

_SCALARS = frozenset({int, float, str, bool, type(None)})
# A union that is made for each cell would cost more than the look.
_NESTED = (dict, list, bool)


def find_table(app: App, name: str | None) -> Table:
    """The table of that name, or the only one.

    Raises:
        Usage: it is not there; the message lists those that are.
    """
    tables = {table.name: table for table in app.live_tables}
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

    Attributes:
        data: key bytes -> value bytes, as the codecs of the table know them.
    """

    def __init__(self, table: Table, data: dict[bytes, bytes]) -> None:
        self.table, self.data = table, data

    def __len__(self) -> int:
        return len(self.data)

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Decoded pairs, sorted by key; keys of several types by their text."""
        pairs = [
            (self.table.key_codec.decode(key), self.table.value_codec.decode(value)) for key, value in self.data.items()
        ]
        try:
            return iter(sorted(pairs, key=lambda pair: pair[0]))
        except TypeError:
            return iter(sorted(pairs, key=lambda pair: str(pair[0])))

    @cached_property
    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Column names and rows: `key` and the fields of a structured value, or `key` and `value`."""
        keys, values, structured = list[Any](), list[Any](), False
        for key, value in self.items():
            keys.append("/".join(map(str, key)) if isinstance(key, tuple) else key)
            if type(value) not in _SCALARS:
                value = msgspec.to_builtins(value.asdict() if hasattr(value, "asdict") else self.table.plain(value))
                structured = structured or isinstance(value, dict)
            values.append(value)
        if not structured:
            return ["key", "value"], [list(pair) for pair in zip(keys, values, strict=True)]
        rows = [
            {"key": key, **(value if isinstance(value, dict) else {"value": value})}
            for key, value in zip(keys, values, strict=True)
        ]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return columns, [[row.get(name) for name in columns] for row in rows]

    def digest(self) -> str:
        """Equal for equal content, whatever the order it came in: the sum of the pairs' hashes, modulo 2^128."""
        total = 0
        for key, value in self.data.items():
            pair = hashlib.blake2b(digest_size=16)
            pair.update(len(key).to_bytes(8, "big"))
            pair.update(key)
            pair.update(value)
            total += int.from_bytes(pair.digest(), "big")
        return f"{total % (1 << 128):032x}"


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
        """What the table holds now: everything that is committed; the second time, what has come since."""
        content: dict[bytes, bytes] = {}
        for data in self.read_raw():
            content |= self._table.content(data)
        return Snapshot(self._table, content)

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
    writer.writerow(columns)
    writer.writerows([[_cell(cell) for cell in row] for row in rows])
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
    try:
        import polars
    except ImportError:
        raise Usage("writing Parquet needs an extra", hint="pip install 'anabranch[parquet]'") from None
    out = io.BytesIO()
    polars.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None).write_parquet(out)
    return out.getvalue()


_WRITERS = {".txt": _text, ".csv": _csv, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}


def known_ending(path: Path) -> None:
    """Refuse an ending before hours of work, not after.

    Raises:
        Usage: nobody can write that.
    """
    if path.suffix.lower() not in _WRITERS:
        raise Usage(f"{path}: unknown ending {path.suffix!r}", hint=f"one of {', '.join(_WRITERS)}")
    if path.suffix.lower() == ".parquet":
        _parquet(["key"], [])
