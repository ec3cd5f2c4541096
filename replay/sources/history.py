"""What is asked to be replayed: the sources a user names, in order, opened at a position as one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec

from ...topics.errors import Usage
from .field_mapping import FieldMapping
from .file_source import FileSource
from .files.file_entry import FileEntry, find_members
from .files.storage import absolute, changed_after, fingerprint
from .format import Format, kind_of
from .formats.avro_file import open_avro
from .formats.csv_type_sample import guessed_types
from .formats.lines import BATCH_LINES
from .formats.parquet_file import open_parquet, parquet_types
from .socket_source import SocketSource, parse_address
from .source import Batch, Part, Replayable, Source, SourcePosition
from .source_record import NO_LIMIT

__all__ = ["History", "Series", "find_history", "is_socket", "open_part"]

_SOCKET = "tcp://"


@dataclass(frozen=True, slots=True)
class _Schema:
    """What the columns of all files together are.

    Attributes:
        format: with the types of CSV columns.
        parquet: types of Parquet columns, as JSON has them.
    """

    format: Format
    parquet: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class History:
    """Sources found and checked as far as that goes without reading them.

    Attributes:
        specs: paths and globs, absolute; or one `tcp://host:port`.
        members: the files, in the order they are read; none for a socket.
        left_out: files inside archives that are not read, because their ending is none that we know.
        follow: a socket is connected to again when it ends.
        spool: file that keeps what a socket gives, so that it can be read again; absolute.
        max_record_bytes: records with larger values are bad lines.
        columns: make columns, see `Columns`.
        types: those of columns whose files do not say them, by name, as an earlier start of the run found them; found
            by looking at the files where none are given.
    """

    specs: tuple[str, ...]
    format: Format
    members: tuple[FileEntry, ...] = ()
    left_out: tuple[str, ...] = ()
    follow: bool = False
    spool: str | None = None
    max_record_bytes: int = NO_LIMIT
    columns: bool = False
    types: Mapping[str, str] | None = None
    # What was found by looking at the files; shared with what is made of this by `replace`.
    _found: list[_Schema] = field(default_factory=list["_Schema"], compare=False, repr=False)

    @property
    def resumable(self) -> bool:
        """Whether it can be read again from a position. A socket without a spool cannot."""
        return bool(self.members) or self.spool is not None

    @property
    def timed(self) -> bool:
        """Whether its records carry times of their own, by which its parts can be merged."""
        return self.format.time is not None

    @property
    def parts(self) -> list[Part]:
        """Its files, in the order in which they are read without merging; none for a socket."""
        return [Part(member.name, member.size_bytes, partial(self._open_at, member)) for member in self.members]

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, compressed; 0 for a socket."""
        return sum(member.size_bytes for member in self.members)

    def identity(self, topic: str) -> str:
        """The name of the run that sends this to `topic`: the same for the same paths, format and topic.

        What the files hold is not in it, so that a changed file is noticed, and not taken for another history.
        """
        asked: list[Any] = [self.specs, self.format.identity(), topic]
        if self.spool is not None:
            asked.append(self.spool)
        return hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()[:16]

    @property
    def partitions(self) -> int | None:
        """Any number will do."""
        return None

    def check(self, topic: str) -> None:
        """Look at each file's columns, so that a wrong name in the last is known before the first is sent.

        Raises:
            Usage: a column that is named does not exist in a file.
        """
        del topic
        for member in self.members:
            kind, _ = kind_of(member.inside or member.path, self.format)
            if kind not in ("text", "jsonl"):
                open_part(member, self.schema.format, types=self.schema.parquet).close()
        FieldMapping(self.format, " ".join(self.specs))

    @property
    def schema(self) -> _Schema:
        """What the columns of all files together are.

        Raises:
            Usage: a column is one thing in one file and another in another, and nothing holds both.
        """
        if not self._found:
            guessed = self.types if self.types is not None else guessed_types(self.members, self.format)
            format = replace(self.format, guessed=tuple(sorted(guessed.items())))
            self._found.append(_Schema(format, parquet_types(self.members, self.format)))
        return self._found[0]

    def with_types(self, types: Mapping[str, str]) -> History:
        """The same, with types that were found before."""
        return replace(self, types=types, _found=[])

    def declared(self, types: Mapping[str, str]) -> History:
        """The same, with types of CSV columns that files may lack; see `Format.declared`."""
        return replace(self, format=replace(self.format, declared=tuple(sorted(types.items()))), _found=[])

    def limited(self, max_record_bytes: int) -> History:
        """The same; records whose values are larger are bad lines."""
        return replace(self, max_record_bytes=max_record_bytes)

    def by_column(self) -> History:
        """The same; it gives columns where files hold them, see `Columns`."""
        return replace(self, columns=True)

    def by_row(self) -> History:
        """See `Replayable`; files hold no packed batches."""
        return self

    def fingerprint(self) -> str:
        """What tells these files from changed ones; see `opening.fingerprint`. Empty for a socket.

        Raises:
            Usage: a file has gone.
        """
        try:
            return fingerprint(dict.fromkeys(member.path for member in self.members)) if self.members else ""
        except OSError as exc:
            raise Usage(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)) from None

    def changed_since(self, time_ms: int) -> list[str]:
        """Files that were written to after `time_ms`, to say which one a changed fingerprint comes from."""
        paths = dict.fromkeys(member.path for member in self.members)
        return [path for path in paths if changed_after(path, time_ms)]

    def open(self, position: SourcePosition | None = None, *, batch_lines: int = BATCH_LINES) -> Source:
        """Begin to read, at a position that a source gave or at the beginning.

        Raises:
            Usage: a column that is named does not exist.
            Stop: a file cannot be opened, nobody listens.
        """
        if not self.members:
            return SocketSource(
                self.specs[0],
                self.format,
                position,
                spool=self.spool,
                follow=self.follow,
                batch_lines=batch_lines,
                max_record_bytes=self.max_record_bytes,
            )
        return Series(
            self.members,
            self.schema.format,
            position,
            types=self.schema.parquet,
            batch_lines=batch_lines,
            max_record_bytes=self.max_record_bytes,
            columns=self.columns,
        )

    def _open_at(self, member: FileEntry, position: SourcePosition | None, batch_lines: int) -> Source:
        return open_part(
            member,
            self.schema.format,
            position,
            types=self.schema.parquet,
            batch_lines=batch_lines,
            max_record_bytes=self.max_record_bytes,
        )


class Series:
    """Files one after another, as one source; one is open at a time. Position: `file`, and that in it."""

    ask_again_s = 0.0

    def __init__(
        self,
        members: Sequence[FileEntry],
        format: Format,
        position: SourcePosition | None = None,
        *,
        types: Mapping[str, Any] | None = None,
        batch_lines: int = BATCH_LINES,
        max_record_bytes: int = NO_LIMIT,
        columns: bool = False,
    ) -> None:
        self._members = members
        self._format = format
        self._open_next = partial(
            open_part, types=types, batch_lines=batch_lines, max_record_bytes=max_record_bytes, columns=columns
        )
        self._at = position["file"] if position else 0
        self._open: Source | None = None
        self._done_bytes = sum(member.size_bytes for member in members[: self._at])
        if self._at < len(members):
            self._open = self._open_next(members[self._at], format, position if len(position or ()) > 1 else None)
            self._next: SourcePosition = self._open.begins
            self._move_on()
        else:
            self._next = {}
        self.begins = self._position()

    @property
    def ended(self) -> bool:
        """See `Source`."""
        return self._open is None

    @property
    def done_bytes(self) -> int:
        """See `Source`."""
        return self._done_bytes + (self._open.done_bytes if self._open else 0)

    def next_batch(self) -> Batch:
        """See `Source`; a batch never spans files."""
        if self._open is None:
            return Batch((), self._position())
        batch = self._open.next_batch()
        self._next = batch.after
        self._move_on()
        return replace(batch, after=self._position())

    def close(self) -> None:
        """See `Source`."""
        if self._open is not None:
            self._open.close()

    def _position(self) -> SourcePosition:
        return {"file": self._at, **self._next}

    def _move_on(self) -> None:
        while self._open is not None and self._open.ended:
            self._open.close()
            self._done_bytes += self._members[self._at].size_bytes
            self._at += 1
            more = self._at < len(self._members)
            self._open = self._open_next(self._members[self._at], self._format) if more else None
            self._next = self._open.begins if self._open is not None else {}


def open_part(
    member: FileEntry,
    format: Format,
    position: SourcePosition | None = None,
    *,
    types: Mapping[str, Any] | None = None,
    batch_lines: int = BATCH_LINES,
    max_record_bytes: int = NO_LIMIT,
    columns: bool = False,
) -> Source:
    """One part of a history by itself; see `History.open`.

    Args:
        types: of Parquet columns in all files together.
    """
    kind, _ = kind_of(member.inside or member.path, format)
    if kind == "parquet":
        return open_parquet(
            member,
            format,
            position,
            types=types,
            batch_rows=batch_lines,
            max_record_bytes=max_record_bytes,
            columns=columns,
        )
    if kind == "avro":
        return open_avro(member, format, position, batch_rows=batch_lines, max_record_bytes=max_record_bytes)
    return FileSource(
        member, format, position, batch_lines=batch_lines, max_record_bytes=max_record_bytes, columns=columns
    )


def is_socket(history: Replayable) -> bool:
    """Whether it comes when it comes, and reading it is taking it."""
    return not history.resumable or (isinstance(history, History) and not history.members)


def find_history(specs: Sequence[str], format: Format, *, follow: bool = False, spool: str | None = None) -> History:
    """Find what the user names: paths and globs, read in the order given, or one socket.

    Raises:
        Usage: something is missing, given twice, of unknown kind, or an option does not fit it.
        Stop: an archive cannot be opened.
    """
    if not specs:
        raise Usage("nothing to replay", hint="name a file, a glob or tcp://host:port")
    if any(spec.startswith(_SOCKET) for spec in specs):
        if len(specs) > 1:
            raise Usage("a socket is replayed alone", hint="one replay for the socket, one for the files")
        parse_address(specs[0])
        return History((specs[0],), format, follow=follow, spool=spool and absolute(spool))
    if spool is not None:
        raise Usage("--spool is for tcp://host:port; everything else can be read again")
    if follow:
        raise Usage("--follow is for tcp://host:port; files have an end")
    members, left_out = find_members(specs, format)
    for member in members:
        kind_of(member.inside or member.path, format)
    return History(tuple(map(absolute, specs)), format, tuple(members), tuple(left_out))
