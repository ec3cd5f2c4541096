"""The protocols of history: `Replayable` is found and checked, `Source` is open and being read.

A source has one reader, which calls it in this order, again and again:

1. `next_batch()` returns the next `SourceBatch`: a bounded number of records, the bad and blank lines among them, and
   the position after them. An empty batch means "nothing now", or "nothing more" if `ended` is true.
2. `poll_again_s` says how long to wait after an empty batch.

`begins` is the position of the first record. A source that is opened at `begins`, or at the `after` of any batch,
returns what this source returns from there on.

The classic mistake is to store a position before the batch that leads to it has been sent. A position is stored in the
same transaction as the records before it, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .format import Format
from .source_record import BadLine, SourceRecord

__all__ = ["Part", "Replayable", "Source", "SourceBatch", "SourcePosition"]

# Plain JSON. Only the kind of source that made a position reads it; a source that reads from others nests theirs.
SourcePosition = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """The records that one call of `next_batch` returns.

    Attributes:
        records: in order.
        after: position of the record that follows the batch.
        bad: lines (or rows) in this stretch of the source that could not become records.
        blank: number of lines that hold no record because they are blank.
    """

    records: Sequence[SourceRecord]
    after: SourcePosition
    bad: Sequence[BadLine] = ()
    blank: int = 0


class Source(Protocol):
    """An open source; the module documents its contract.

    Attributes:
        begins: position at which the source was opened, which is that of its first record.
    """

    @property
    def begins(self) -> SourcePosition: ...

    def next_batch(self) -> SourceBatch:
        """Return the next records in order; an empty batch if none are available now.

        Raises:
            Stop: the source cannot be read any further (removed, truncated, corrupt). The message names file and line.
        """
        ...

    @property
    def poll_again_s(self) -> float:
        """Seconds to wait after an empty batch before the next call; 0 means no wait."""
        ...

    @property
    def ended(self) -> bool:
        """True once no record will ever follow."""
        ...

    @property
    def done_bytes(self) -> int:
        """Bytes on disk that have been read, for progress; the unit is that of `Replayable.size_bytes`."""
        ...

    def close(self) -> None:
        """Release files and sockets. May be called more than once."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a history that is opened on its own and merged with the others by time: a file, or a partition.

    Attributes:
        name: shown to the user. Records of equal time are ordered by it.
        open: opens the part at a position (None for its beginning), with this many lines a batch.
    """

    name: str
    size_bytes: int
    open: Callable[[SourcePosition | None, int], Source]


class Replayable(Protocol):
    """History that was found and checked, but not read yet: files, a socket, an archive or a topic.

    Attributes:
        specs: what the user named, in a form that means the same from any working directory.
        resumable: true if it can be read again from a position.
        size_bytes: total size for progress, in the unit of `Source.done_bytes`; 0 if no end is known.
        timed: true if the records have timestamps of their own, so that parts can be merged by time.
        parts: what can be opened on its own, in the order in which it is read without merging; empty if it is one.
        partitions: number of partitions that the target must have because the records say theirs; None if they do not.
    """

    @property
    def specs(self) -> tuple[str, ...]: ...

    @property
    def format(self) -> Format: ...

    @property
    def resumable(self) -> bool: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def timed(self) -> bool: ...

    @property
    def parts(self) -> list[Part]: ...

    @property
    def partitions(self) -> int | None: ...

    def identity(self, topic: str) -> str:
        """Return the id of the run that sends this history to `topic`.

        The same question gives the same id: paths, options and topic count, the content of files does not.
        """
        ...

    def fingerprint(self) -> str:
        """Return a digest that differs once the history has changed; empty if changes cannot be detected.

        Raises:
            Usage: the history no longer exists.
        """
        ...

    def changed_since(self, time_ms: int) -> list[str]:
        """Return which parts changed after `time_ms`, as far as that is known. Explains a changed fingerprint."""
        ...

    def check(self, topic: str) -> None:
        """Find out before anything is sent what would fail later.

        Raises:
            Usage: the history does not fit the options, or must not be sent to `topic`.
        """
        ...

    def unpacked(self) -> Replayable:
        """Return the same history, which yields the rows of packed batches instead of the batches themselves."""
        ...

    def open(self, position: SourcePosition | None = None, *, batch_lines: int = ...) -> Source:
        """Open the history at a position that a source returned; None means its beginning.

        Raises:
            Stop: it cannot be read.
        """
        ...
