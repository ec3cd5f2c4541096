"""`FileHistory`: the files (or the socket) that a user names, found, checked and opened as one source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from ...topics.errors import Usage
from .field_mapping import FieldMapping
from .file_source import FileSource
from .files.file_opening import FileEntry
from .files.file_search import find_entries
from .files.file_system import absolute, changed_after, fingerprint
from .format import Format, kind_of
from .formats.avro_file import open_avro
from .formats.csv_type_inference import infer_types
from .formats.line_buffer import BATCH_LINES
from .formats.parquet_file import open_parquet, parquet_types
from .socket_source import SocketSource, parse_address
from .source import Part, Replayable, Source, SourceBatch, SourcePosition
from .source_record import NO_LIMIT

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FileHistory", "FileSequence", "find_history", "is_socket", "open_part"]

_SOCKET = "tcp://"


@dataclass(frozen=True, slots=True)
class _Schema:
    """The column types of all files together.

    Attributes:
        format: the format, completed by the inferred types of CSV columns.
        parquet: JSON types of Parquet columns.
    """

    format: Format
    parquet: Mapping[str, pyarrow.DataType]


@dataclass(frozen=True, slots=True)
class FileHistory:
    """Files, or a socket, that were found and checked as far as possible without reading them.

    Attributes:
        specs: absolute paths and globs, or one `tcp://host:port`.
        entries: the files in the order in which they are read; empty for a socket.
        left_out: files that were found but are not read, because their ending is unknown.
        follow: reconnect to a socket when it ends.
        spool: absolute path of the file that stores a socket's data, so that it can be read again.
        max_record_bytes: records with larger values are bad lines.
        is_columnar: return records as `ColumnBatch` where the format allows it.
        types: types of CSV columns, by name, that an earlier start of the run inferred; None infers them from the
            files.
    """

    specs: tuple[str, ...]
    format: Format
    entries: tuple[FileEntry, ...] = ()
    left_out: tuple[str, ...] = ()
    follow: bool = False
    spool: str | None = None
    max_record_bytes: int = NO_LIMIT
    is_columnar: bool = False
    types: Mapping[str, str] | None = None
    # The inferred schema, once it is known; shared with the copies that `replace` makes.
    _found: list[_Schema] = field(default_factory=list["_Schema"], compare=False, repr=False)

    @property
    def resumable(self) -> bool:
        """True if it can be read again from a position. A socket without a spool cannot."""
        return bool(self.entries) or self.spool is not None

    @property
    def timed(self) -> bool:
        """True if its records have timestamps of their own, so that its files can be merged by time."""
        return self.format.time is not None

    @property
    def parts(self) -> list[Part]:
        """Its files in the order in which they are read without merging; empty for a socket."""
        return [Part(entry.name, entry.size_bytes, partial(self._open_at, entry)) for entry in self.entries]

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, compressed; 0 for a socket."""
        return sum(entry.size_bytes for entry in self.entries)

    def identity(self, topic: str) -> str:
        """Return the id of the run that sends this to `topic`: the same for the same paths, format and topic.

        The files' content is not part of it, so that a changed file is reported instead of starting another run.
        """
        identity: list[object] = [self.specs, self.format.identity(), topic]
        if self.spool is not None:
            identity.append(self.spool)
        return hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()[:16]

    @property
    def partitions(self) -> int | None:
        """None: the target may have any number of partitions."""
        return None

    def check(self, topic: str) -> None:
        """Check each file's columns, so that a wrong name in the last file is reported before the first is sent.

        Raises:
            Usage: a requested column does not exist in a file.
        """
        del topic
        for entry in self.entries:
            kind, _ = kind_of(entry.inside or entry.path, self.format)
            if kind not in ("text", "jsonl"):
                open_part(entry, self.schema.format, types=self.schema.parquet).close()
        FieldMapping(self.format, " ".join(self.specs))

    @property
    def schema(self) -> _Schema:
        """The column types of all files together, inferred at the first access.

        Raises:
            Usage: the types of a column in two files have no common type.
        """
        if not self._found:
            guessed = self.types if self.types is not None else infer_types(self.entries, self.format)
            format = replace(self.format, inferred=tuple(sorted(guessed.items())))
            self._found.append(_Schema(format, parquet_types(self.entries, self.format)))
        return self._found[0]

    def with_types(self, types: Mapping[str, str]) -> FileHistory:
        """Return a copy with types that an earlier start inferred."""
        return replace(self, types=types, _found=[])

    def with_declared_types(self, types: Mapping[str, str]) -> FileHistory:
        """Return a copy with types of CSV columns that files may lack; see `Format.declared`."""
        return replace(self, format=replace(self.format, declared=tuple(sorted(types.items()))), _found=[])

    def with_max_record_bytes(self, max_record_bytes: int) -> FileHistory:
        """Return a copy for which records with larger values are bad lines."""
        return replace(self, max_record_bytes=max_record_bytes)

    def columnar(self) -> FileHistory:
        """Return a copy that yields `ColumnBatch` where the format allows it."""
        return replace(self, is_columnar=True)

    def unpacked(self) -> FileHistory:
        """Return this history: files hold no packed batches."""
        return self

    def fingerprint(self) -> str:
        """Return a digest that changes with the files, see `file_system.fingerprint`; empty for a socket.

        Raises:
            Usage: a file no longer exists.
        """
        try:
            return fingerprint(dict.fromkeys(entry.path for entry in self.entries)) if self.entries else ""
        except OSError as exc:
            raise Usage(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)) from None

    def changed_since(self, time_ms: int) -> list[str]:
        """Return the files that were modified after `time_ms`. Explains a changed fingerprint."""
        paths = dict.fromkeys(entry.path for entry in self.entries)
        return [path for path in paths if changed_after(path, time_ms)]

    def open(self, position: SourcePosition | None = None, *, batch_lines: int = BATCH_LINES) -> Source:
        """Open the history at a position that a source returned; None means its beginning.

        Raises:
            Usage: a requested column does not exist.
            Stop: a file cannot be opened, or nothing listens at the socket's address.
        """
        if not self.entries:
            return SocketSource(
                self.specs[0],
                self.format,
                position,
                spool=self.spool,
                follow=self.follow,
                batch_lines=batch_lines,
                max_record_bytes=self.max_record_bytes,
            )
        return FileSequence(
            self.entries,
            self.schema.format,
            position,
            types=self.schema.parquet,
            batch_lines=batch_lines,
            max_record_bytes=self.max_record_bytes,
            columnar=self.is_columnar,
        )

    def _open_at(self, entry: FileEntry, position: SourcePosition | None, batch_lines: int) -> Source:
        return open_part(
            entry,
            self.schema.format,
            position,
            types=self.schema.parquet,
            batch_lines=batch_lines,
            max_record_bytes=self.max_record_bytes,
        )


class FileSequence:
    """Reads files one after another as one source; one is open at a time.

    A position is the number of the file (`file`) and the position in it.
    """

    poll_again_s = 0.0

    def __init__(
        self,
        entries: Sequence[FileEntry],
        format: Format,
        position: SourcePosition | None = None,
        *,
        types: Mapping[str, pyarrow.DataType] | None = None,
        batch_lines: int = BATCH_LINES,
        max_record_bytes: int = NO_LIMIT,
        columnar: bool = False,
    ) -> None:
        self._entries = entries
        self._format = format
        self._open_file = partial(
            open_part, types=types, batch_lines=batch_lines, max_record_bytes=max_record_bytes, columnar=columnar
        )
        self._at = position["file"] if position else 0
        self._open: Source | None = None
        self._done_bytes = sum(entry.size_bytes for entry in entries[: self._at])
        if self._at < len(entries):
            self._open = self._open_file(entries[self._at], format, position if len(position or ()) > 1 else None)
            self._next: SourcePosition = self._open.begins
            self._open_next_file()
        else:
            self._next = {}
        self.begins = self._position()

    @property
    def ended(self) -> bool:
        """True once the last file has been read."""
        return self._open is None

    @property
    def done_bytes(self) -> int:
        """Bytes on disk of all files that have been read."""
        return self._done_bytes + (self._open.done_bytes if self._open else 0)

    def next_batch(self) -> SourceBatch:
        """Return the next records; a batch never spans files."""
        if self._open is None:
            return SourceBatch((), self._position())
        batch = self._open.next_batch()
        self._next = batch.after
        self._open_next_file()
        return replace(batch, after=self._position())

    def close(self) -> None:
        """Close the open file. May be called more than once."""
        if self._open is not None:
            self._open.close()

    def _position(self) -> SourcePosition:
        return {"file": self._at, **self._next}

    def _open_next_file(self) -> None:
        while self._open is not None and self._open.ended:
            self._open.close()
            self._done_bytes += self._entries[self._at].size_bytes
            self._at += 1
            more = self._at < len(self._entries)
            self._open = self._open_file(self._entries[self._at], self._format) if more else None
            self._next = self._open.begins if self._open is not None else {}


def open_part(
    entry: FileEntry,
    format: Format,
    position: SourcePosition | None = None,
    *,
    types: Mapping[str, pyarrow.DataType] | None = None,
    batch_lines: int = BATCH_LINES,
    max_record_bytes: int = NO_LIMIT,
    columnar: bool = False,
) -> Source:
    """Open one file of a history; see `FileHistory.open`.

    Args:
        types: JSON types of the Parquet columns in all files together.
        columnar: return records as `ColumnBatch` where the format allows it.
    """
    kind, _ = kind_of(entry.inside or entry.path, format)
    if kind == "parquet":
        return open_parquet(
            entry,
            format,
            position,
            types=types,
            batch_rows=batch_lines,
            max_record_bytes=max_record_bytes,
            columnar=columnar,
        )
    if kind == "avro":
        return open_avro(entry, format, position, batch_rows=batch_lines, max_record_bytes=max_record_bytes)
    return FileSource(
        entry, format, position, batch_lines=batch_lines, max_record_bytes=max_record_bytes, columnar=columnar
    )


def is_socket(history: Replayable) -> bool:
    """Return whether a history is a socket, whose data arrives at its own pace."""
    return not history.resumable or (isinstance(history, FileHistory) and not history.entries)


def find_history(
    specs: Sequence[str], format: Format, *, follow: bool = False, spool: str | None = None
) -> FileHistory:
    """Find the files that a user names as paths and globs, read in the order given; or one socket.

    Raises:
        Usage: a file is missing, given twice or of unknown kind, or an option does not fit it.
        Stop: a zip archive cannot be opened.
    """
    if not specs:
        raise Usage("nothing to replay", hint="name a file, a glob or tcp://host:port")
    if any(spec.startswith(_SOCKET) for spec in specs):
        if len(specs) > 1:
            raise Usage(
                "a socket cannot be combined with other sources", hint="replay the socket and the files separately"
            )
        parse_address(specs[0])
        return FileHistory((specs[0],), format, follow=follow, spool=spool and absolute(spool))
    if spool is not None:
        raise Usage("--spool applies to tcp://host:port only; other sources can be read again")
    if follow:
        raise Usage("--follow applies to tcp://host:port only; files have an end")
    entries, left_out = find_entries(specs, format)
    for entry in entries:
        kind_of(entry.inside or entry.path, format)
    return FileHistory(tuple(map(absolute, specs)), format, tuple(entries), tuple(left_out))
