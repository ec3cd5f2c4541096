"""What history is read from.

A source is read in three verbs, by one reader, in this order and again:

1. `next_batch()` gives the next `Batch`: records, never more than fits in memory, the bad and blank lines among them
   and the position after them. No records means "not now" or, with `ended`, "never again".
2. `poll_again_s` says when to ask again after a batch that was empty.
3. `begins` is the position of the first record. A source opened at it, or at `Batch.after` of any batch, gives what
   this one gives from there.

The classic mistake is to store a position before the batch it belongs to has been sent: it is stored in the same
transaction as the records before it, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .format import Format
from .source_record import BadLine, SourceRecord

__all__ = ["Batch", "Part", "Replayable", "Source", "SourcePosition"]

# Plain JSON, opaque to everyone but the kind of source that made it; a source made of others keeps theirs in its own.
SourcePosition = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a source gives at once.

    Attributes:
        records: in order.
        after: position of the item that follows.
        bad: lines, among those of the records, that could not become records.
        blank: how many lines are no records because nothing stands on them.
    """

    records: Sequence[SourceRecord]
    after: SourcePosition
    bad: Sequence[BadLine] = ()
    blank: int = 0


class Source(Protocol):
    """Open history; see the module for its laws.

    Attributes:
        begins: position of the first item, as it was opened.
    """

    @property
    def begins(self) -> SourcePosition: ...

    def next_batch(self) -> Batch:
        """The next records in order; empty where there are none now.

        Raises:
            Stop: it cannot be read on (gone, truncated, corrupt); names file and line.
        """
        ...

    @property
    def poll_again_s(self) -> float:
        """Seconds to wait after an empty batch before asking again; 0 for at once."""
        ...

    @property
    def ended(self) -> bool:
        """Nothing follows, ever."""
        ...

    @property
    def done_bytes(self) -> int:
        """How much of the history's size on disk has been read; for showing progress."""
        ...

    def close(self) -> None:
        """Let go of files and sockets; harmless when repeated."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """What can be opened by itself, and merged with others by time.

    Attributes:
        name: as shown; ties in time go by it.
        open: at a position or at the beginning, with so many lines a batch.
    """

    name: str
    size_bytes: int
    open: Callable[[SourcePosition | None, int], Source]


class Replayable(Protocol):
    """What is asked to be replayed: found and checked, not yet read. Files, a socket, an archive, a topic.

    Attributes:
        specs: what the user named, so that it means the same from any folder.
        resumable: it can be read again from a position.
        size_bytes: for showing progress, in the unit of `Source.done_bytes`; 0 where there is no end in sight.
        timed: its records carry times of their own, so that parts can be merged by them.
        parts: what can be opened by itself, in the order in which it is read without merging; none where it is one.
        partitions: how many the target must have, because the records say where they belong; None where they do not.
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
        """The name of the run that sends this to `topic`: the same for the same question, whatever the answer."""
        ...

    def fingerprint(self) -> str:
        """What tells this history from a changed one; empty where nothing does.

        Raises:
            Usage: it has gone.
        """
        ...

    def changed_since(self, time_ms: int) -> list[str]:
        """What a changed fingerprint comes from, as far as that can be said."""
        ...

    def check(self, topic: str) -> None:
        """Find out, before anything is sent, what would fail later.

        Raises:
            Usage: it does not fit the options, or must not go to `topic`.
        """
        ...

    def unpacked(self) -> Replayable:
        """The same; of packed batches it gives the rows, where it would give them as they are."""
        ...

    def open(self, position: SourcePosition | None = None, *, batch_lines: int = ...) -> Source:
        """Begin to read, at a position that a source gave or at the beginning.

        Raises:
            Stop: it cannot be read.
        """
        ...
