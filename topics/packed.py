"""Packed batches: one Kafka record that holds many rows of one partition. `docs/packed.md` has the format.

The record has the headers `content-type` and `rows`; its value is an Arrow IPC stream of one record batch. The columns
hold values that JSON can hold, so a row is equivalent to a plain record: it has a value, a time and perhaps a key.

`pack` writes it and `Packed` reads it. `Rows` are its rows as records, created on access, with the interface of
`confluent_kafka.Message`. All rows of a message have the offset of the message; `row` is the number of the row in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from .arrow_numpy import as_numpy
from .errors import BadRecord, Usage
from .headers import headers_of
from .packed_limits import InvalidBatch, PackedLimits, measure
from .partitioners import key_bytes
from .producer import Headers

if TYPE_CHECKING:
    import numpy
    import pyarrow

__all__ = [
    "CONTENT_TYPE",
    "KEY",
    "LEAST_BYTES",
    "MAX_ROWS",
    "RESERVED",
    "TIME",
    "Package",
    "Packed",
    "PackedLimits",
    "PackedRecord",
    "Row",
    "Rows",
    "arrow",
    "arrow_compute",
    "exceeded_by",
    "is_packed",
    "is_text",
    "limits",
    "pack",
    "packed_rows",
    "row_values",
    "rows_of",
]

CONTENT_TYPE = b"application/vnd.apache.arrow.stream"
KEY, TIME = "__key", "__time"
RESERVED = frozenset({KEY, TIME})
"""Names that a field of a row cannot have."""

MAX_ROWS = 32_768
"""Maximum number of rows that a writer puts into one batch: a batch is processed, rolled back and committed whole."""

LEAST_BYTES = 256
"""Lower bound of the size of a packed batch, because of its schema. Headers of smaller records need not be read."""

_VERSION = "1"


@dataclass(frozen=True, slots=True)
class PackedRecord:
    """A packed batch to produce; it has no key, and its timestamp is the largest of its rows."""

    value: bytes
    headers: Headers
    rows: int
    timestamp_ms: int


def is_packed(headers: Iterable[tuple[str, bytes | None]] | None) -> bool:
    """Return whether a record with these headers is a packed batch."""
    if not headers:
        return False
    found = dict(headers)
    return found.get("content-type") == CONTENT_TYPE and "rows" in found


def packed_rows(headers: Iterable[tuple[str, bytes | None]] | None, most: int | None = None) -> int:
    """Return the number of rows of a record, as its headers say.

    Args:
        most: rows that a batch may have; None for those of `limits()`.

    Returns:
        1 if the record is not packed, or if its headers claim a number that is refused anyway.
    """
    if not is_packed(headers):
        return 1
    count = dict(headers or ())["rows"] or b""
    rows = int(count) if count.isdigit() and len(count) < 10 else 0
    return rows if 0 < rows <= (limits().rows if most is None else most) else 1


@cache
def limits() -> PackedLimits:
    """Return the limits of packed batches for apps that set none: `PackedLimits`, changed by the environment.

    `ANABRANCH_PACKED_ROWS`, `ANABRANCH_PACKED_COLUMNS`, `ANABRANCH_PACKED_SIZE_BYTES`, `ANABRANCH_PACKED_DEPTH`.

    Raises:
        Usage: one of them is not a number above 0.
    """
    found: dict[str, int] = {}
    for field in fields(PackedLimits):
        name = f"ANABRANCH_PACKED_{field.name.upper()}"
        text = os.environ.get(name, "")
        if text:
            if not (text.isascii() and text.isdigit() and 0 < int(text[:19]) == int(text)):
                raise Usage(f"{name}={text}: expected a number above 0")
            found[field.name] = int(text)
    return PackedLimits(**found)


def pack(
    batch: pyarrow.RecordBatch,
    *,
    key: str | None = None,
    time: str | None = None,
    value: Literal["json", "text"] = "json",
    compression: Literal["lz4", "zstd"] | None = "lz4",
) -> PackedRecord:
    """Return rows as one packed batch.

    Args:
        batch: the rows; the caller keeps it below the topic's `max.message.bytes` and `MAX_ROWS`. Its columns are
            those of the value, then `__key` and `__time`, where these are not fields of the value.
        key: the column with the keys: text, whole numbers or bytes; a row with null has none.
        time: the column with the times, in ms since 1970; a row with null has that of the record.
        value: `json`: a row's value is a JSON object of the columns, in order; `text`: there is one, with the values.

    Raises:
        Usage: JSON cannot hold a column, or a column has a reserved name.
    """
    ipc = arrow().ipc
    batch = _without_views(batch)
    names = batch.schema.names
    about = {b"anabranch.packed": _VERSION.encode(), b"anabranch.value": value.encode()}
    if key is not None:
        about[b"anabranch.key"] = key.encode()
    if time is not None:
        about[b"anabranch.time"] = time.encode()
    wrong = _wrong(batch, names, key, time, value)
    if wrong:
        raise Usage(f"rows cannot be packed: {wrong}", hint="without packing, any record is allowed")
    batch = batch.replace_schema_metadata(about)
    sink = arrow().BufferOutputStream()
    with ipc.new_stream(sink, batch.schema, options=ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_batch(batch)
    latest = None if time is None else arrow_compute().max(batch[time]).as_py()
    headers: Headers = [("content-type", CONTENT_TYPE), ("rows", b"%d" % batch.num_rows)]
    return PackedRecord(sink.getvalue().to_pybytes(), headers, batch.num_rows, max(0, latest or 0))


class Packed:
    """The content of a packed record; keys, times and values are made when they are first read.

    Args:
        value: the record's.
        timestamp_ms: the record's, for rows that have no time of their own.
        most: the largest batch that is opened; None for `limits()`.

    Attributes:
        batch: the columns of the value, as Arrow; views of `value` where that is not compressed.
        rows: how many.
        key_array: the column that gives the keys, as it came; None: no keys.
        key_column: name of the column that gives the keys, `__key` where they are no field of the value; None: no keys.
        kind: `json` or `text`; see `pack`.

    Raises:
        BadRecord: it is damaged, larger than `most`, or something else.
    """

    def __init__(self, value: bytes, timestamp_ms: int = 0, most: PackedLimits | None = None) -> None:
        pyarrow = arrow()
        try:
            measure(value, most or limits())
            with pyarrow.ipc.open_stream(value) as stream:
                batch = stream.read_next_batch()
            batch.validate(full=True)  # offsets outside of the buffers would end the process later
            self._open(batch, {name: text.decode() for name, text in (batch.schema.metadata or {}).items()})
        except InvalidBatch as exc:
            if exc.limit:
                raise BadRecord(f"a packed batch of {exc}", hint=_raise_hint(exc.limit)) from None
            raise BadRecord(f"a damaged packed batch: {exc}") from None
        except (pyarrow.ArrowException, OSError, ValueError, TypeError) as exc:
            raise BadRecord(f"a damaged packed batch: {exc}") from None
        self._timestamp_ms = timestamp_ms

    def _open(self, batch: pyarrow.RecordBatch, about: dict[bytes, str]) -> None:
        self.kind: str = about.get(b"anabranch.value", "")
        self.key_column = about.get(b"anabranch.key")
        time = about.get(b"anabranch.time")
        wrong = _wrong(batch, batch.schema.names, self.key_column, time, self.kind)
        if about.get(b"anabranch.packed") != _VERSION:
            wrong = "its schema does not say anabranch.packed=1"
        if wrong:
            raise BadRecord(f"an Arrow stream that is no packed batch: {wrong}")
        self.rows: int = batch.num_rows
        self.key_array = None if self.key_column is None else batch[self.key_column]
        self._times = None if time is None else batch[time]
        self.batch: pyarrow.RecordBatch = batch.drop_columns(
            [name for name in batch.schema.names if name in RESERVED]
        ).replace_schema_metadata(None)

    def keys(self) -> list[bytes | None]:
        """Return each row's key as the bytes of a record's key; None for a row without one."""
        return self._key_list

    def times_ms(self) -> list[int]:
        """Return each row's time in ms since 1970."""
        return self._time_list

    def time_array(self) -> numpy.ndarray:
        """Return each row's time in ms since 1970, as NumPy's int64."""
        import numpy as np

        if self._times is None:
            return np.full(self.rows, self._timestamp_ms, np.int64)
        return as_numpy(
            arrow_compute().fill_null(self._times, self._timestamp_ms) if self._times.null_count else self._times
        )

    def values(self) -> list[bytes]:
        """Return each row's value as the bytes of a record's value."""
        return self._value_list

    @cached_property
    def _key_list(self) -> list[bytes | None]:
        return [None] * self.rows if self.key_array is None else _listed(key_bytes(self.key_array))

    @cached_property
    def _time_list(self) -> list[int]:
        if self._times is None:
            return [self._timestamp_ms] * self.rows
        if self._times.null_count:
            return [self._timestamp_ms if time is None else time for time in self._times.to_pylist()]
        return as_numpy(self._times).tolist()

    @cached_property
    def _value_list(self) -> list[bytes]:
        return row_values(self.batch, self.kind)


def row_values(batch: pyarrow.RecordBatch, kind: str) -> list[bytes]:
    """Return the value of each row of a batch: a JSON object of its columns, or its text; see `pack`."""
    if kind == "text":
        return _listed(key_bytes(batch.column(0)))
    import polars

    try:
        frame: Any = polars.from_arrow(batch)
        frame.columns = batch.schema.names  # polars renames an empty name
        made = frame.select(polars.struct(polars.all()).struct.json_encode().cast(polars.Binary))
        return made.to_series().to_list()
    except polars.exceptions.PanicException as exc:  # a BaseException
        raise ValueError(f"rows that cannot be written as JSON: {exc}") from None


class Package:
    """The message of a packed batch; it is opened on the first access to its content.

    Attributes:
        claimed: number of rows according to its header; 1 if that number is refused.
    """

    __slots__ = ("_damage", "_limits", "_opened", "_stamp", "claimed", "message", "offset", "partition", "topic")

    def __init__(self, topic: str, partition: int, message: Any, most: PackedLimits) -> None:
        self.topic, self.partition, self.offset = topic, partition, message.offset()
        self.message = message
        self._limits = most
        self.claimed = packed_rows(headers_of(message), most.rows)
        self._stamp: tuple[int, int] = message.timestamp()
        self._opened: Packed | None = None
        self._damage: BadRecord | None = None

    def open(self) -> Packed:
        """Return the decoded content.

        Raises:
            BadRecord: the message is damaged.
        """
        if self._opened is None:
            if self._damage is not None:
                raise self._damage
            try:
                opened = Packed(self.message.value(), self._stamp[1], self._limits)
                if opened.rows != self.claimed:
                    count = (dict(headers_of(self.message) or ())["rows"] or b"")[:40].decode(errors="backslashreplace")
                    raise BadRecord(f"a packed batch of {opened.rows:,} rows whose header says {count}")
            except BadRecord as exc:
                self._damage = exc
                raise
            self._opened = opened
        return self._opened

    @property
    def damage(self) -> BadRecord | None:
        """The error because of which the message cannot be opened, or None."""
        try:
            self.open()
        except BadRecord as exc:
            return exc
        return None

    def close(self) -> None:
        """Release the decoded content; the message can be opened again."""
        self._opened = None

    def stamp_of(self, row: int) -> tuple[int, int]:
        """Return the timestamp of a row in the form of librdkafka: timestamp type and milliseconds."""
        return self._stamp[0], self.open().times_ms()[row]


class Row(NamedTuple):
    """One row of a packed batch as a record."""

    package: Package
    row: int

    def topic(self) -> str:
        """Return the topic of the message."""
        return self.package.topic

    def partition(self) -> int:
        """Return the partition of the message."""
        return self.package.partition

    def offset(self) -> int:
        """Return the offset of the message, which all of its rows share."""
        return self.package.offset

    def key(self) -> bytes | None:
        """Return the key of the row."""
        return self.package.open().keys()[self.row]

    def value(self) -> bytes:
        """Return the value of the row."""
        return self.package.open().values()[self.row]

    def timestamp(self) -> tuple[int, int]:
        """Return the timestamp type and the milliseconds of the row, or those of the message if the row has no time."""
        return self.package.stamp_of(self.row)

    def headers(self) -> None:
        """Return None: rows have no headers."""


class Rows(Sequence[Row]):
    """Some or all rows of one message, in order.

    Attributes:
        numbers: the numbers of the rows in the message.
        begun: whether rows before these were split off, so that these are not the whole message.
    """

    __slots__ = ("begun", "numbers", "package")

    def __init__(self, package: Package, numbers: Sequence[int], *, begun: bool = False) -> None:
        self.package, self.numbers, self.begun = package, numbers, begun

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Row]:
        return map(tuple.__new__, repeat(Row), zip(repeat(self.package), self.numbers))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return Rows(self.package, self.numbers[index], begun=self.begun or bool(index.start))
        return Row(self.package, self.numbers[index])

    def since(self, row: Row) -> Rows:
        """Return this row and the rows after it."""
        return self[self.numbers.index(row.row) :]

    def until(self, row: object) -> int:
        """Return how many of these rows there are up to and with this one; all of them if it is none of them."""
        if isinstance(row, Row) and row.package is self.package and row.row in self.numbers:
            return self.numbers.index(row.row) + 1
        return len(self.numbers)

    def only(self, numbers: Sequence[int]) -> Rows:
        """Return the rows with these numbers."""
        return Rows(self.package, numbers, begun=self.begun)

    @property
    def whole(self) -> bool:
        """True if these are all rows of the message."""
        return len(self.numbers) == self.package.open().rows

    def picked(self, of_all: list[Any]) -> list[Any]:
        """Return the items of these rows from a list with one item for each row of the message."""
        return of_all if self.whole else [of_all[number] for number in self.numbers]

    def columns(self) -> Any:
        """Return the fields of the values as a pyarrow.RecordBatch; a view if the rows are contiguous."""
        return self._taken(self.package.open().batch)

    def key_column(self) -> Any:
        """Return the keys as a pyarrow.Array of strings, integers or bytes; None if the message has no keys."""
        keys = self.package.open().key_array
        return None if keys is None else self._taken(keys)

    def time_array(self) -> numpy.ndarray:
        """Return the times of the rows in ms since 1970, as NumPy's int64."""
        times = self.package.open().time_array()
        if self.whole:
            return times
        rows = self.numbers
        return times[rows.start : rows.stop] if isinstance(rows, range) else times[list(rows)]

    def _taken(self, of_all: Any) -> Any:
        if self.whole:
            return of_all
        if isinstance(self.numbers, range):
            return of_all.slice(self.numbers.start, len(self.numbers))
        return of_all.take(self.numbers)


def rows_of(topic: str, partition: int, message: Any, most: PackedLimits | None = None) -> Rows | None:
    """Return the rows of a message, or None if it is a plain record.

    Args:
        most: size limits for opening the packed batch; None: `limits()`.
    """
    if len(message) < LEAST_BYTES or not is_packed(headers_of(message)):
        return None
    package = Package(topic, partition, message, most or limits())
    return Rows(package, range(package.claimed))


@cache
def arrow() -> Any:
    """Return pyarrow, imported on first use: it takes a tenth of a second."""
    import pyarrow
    import pyarrow.ipc  # pyright: ignore[reportUnusedImport]

    return pyarrow


def arrow_compute() -> Any:
    """Return `pyarrow.compute`, imported on first use. Type checkers do not know its functions, made at run time."""
    import pyarrow.compute

    return pyarrow.compute


def exceeded_by(value: bytes, most: PackedLimits) -> str:
    """Return the name of the limit that a packed batch exceeds; empty if it exceeds none."""
    try:
        measure(value, most)
    except InvalidBatch as exc:
        return exc.limit
    return ""


def _raise_hint(limit: str) -> str:
    name = f"ANABRANCH_PACKED_{limit.upper()}"
    return f"write smaller batches; or raise {name}, or for an app EngineSettings(packed=PackedLimits({limit}=…))"


def _listed(column: pyarrow.Array) -> list[Any]:
    import polars

    made: Any = polars.from_arrow(column)
    return made.to_list()


def _wrong(batch: pyarrow.RecordBatch, names: list[str], key: str | None, time: str | None, value: str | None) -> str:
    """Return the reason why a batch cannot be a packed batch; empty if it can."""
    types = arrow().types
    columns = [field for field in batch.schema if field.name not in RESERVED]
    if not batch.num_rows:
        return "no rows"
    if len(set(names)) < len(names) or not columns:
        return "each column needs a name of its own, and there must be one"
    for name, meant in ((KEY, key), (TIME, time)):
        if name in names and meant != name:
            return f"a field cannot be called {name}"
    for what, name in (("keys", key), ("times", time)):
        if name is not None and name not in names:
            return f"no column {name} for the {what}"
    if key is not None and not _is_key(types, batch.schema.field(key).type):
        return f"column {key}: keys are text, whole numbers or bytes"
    if time is not None and not types.is_int64(batch.schema.field(time).type):
        return f"column {time}: times are 64-bit numbers of milliseconds"
    if value == "text":
        text = batch.schema.field(columns[0].name).type
        if len(columns) > 1 or types.is_integer(text) or not _is_key(types, text):
            return "values are one column of text"
        return "" if not batch[columns[0].name].null_count else "a value that is null"
    if value != "json":
        return f"values are json or text, not {value}"
    for field in columns:
        if not _is_json(types, field.type):
            return f"column {field.name}: JSON has no {field.type}"
    return ""


def is_text(kind: pyarrow.DataType) -> bool:
    """Return whether an Arrow type is a type of text."""
    types = arrow().types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _without_views(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    """Return a batch with its text and bytes in the Arrow types that readers accept."""
    pa = arrow()

    def plain(kind: pyarrow.DataType) -> pyarrow.DataType:
        types = pa.types
        if types.is_struct(kind):
            return pa.struct([field.with_type(plain(field.type)) for field in kind])
        if types.is_list(kind) or types.is_large_list(kind):
            return (pa.list_ if types.is_list(kind) else pa.large_list)(plain(kind.value_type))
        views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
        return views.get(kind, kind)

    schema = pa.schema([field.with_type(plain(field.type)) for field in batch.schema])
    return batch if schema.types == batch.schema.types else batch.cast(schema)


def _is_key(types: Any, kind: pyarrow.DataType) -> bool:
    raw = types.is_binary(kind) or types.is_large_binary(kind)
    return is_text(kind) or raw or types.is_integer(kind)


def _is_json(types: Any, kind: pyarrow.DataType) -> bool:
    if types.is_list(kind) or types.is_large_list(kind):
        inner = [kind.value_field]
    elif types.is_struct(kind):
        inner = [kind.field(i) for i in range(kind.num_fields)]
    else:
        number = types.is_integer(kind) or types.is_floating(kind)
        return is_text(kind) or number or types.is_boolean(kind) or types.is_null(kind)
    # Reading a name raises if it is not UTF-8; polars would panic.
    return len({field.name for field in inner}) == len(inner) > 0 and all(_is_json(types, f.type) for f in inner)
