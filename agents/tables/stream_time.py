"""The stream time of one partition of a table with a time-to-live; `ttl_table.py` documents format and invariants."""

from __future__ import annotations

import struct

from .store import Store

__all__ = ["NEVER_MS", "STREAM_TIME", "TIME", "StreamTime"]

STREAM_TIME = b"\xff\xfeanabranch stream time"
"""The key under which a table with a time-to-live keeps its stream time. No text and no JSON is like it."""

TIME = struct.Struct(">q")
"""The form of times in stores and changelogs: milliseconds since 1970."""

NEVER_MS = -1
"""Stream time before the first record."""


class StreamTime:
    """Stream time as agents see it, as the epoch has it, and as it is committed.

    Attributes:
        now_ms: stream time as agents see it, including records that can still be rolled back.
        stream_ms: stream time without those.
        committed_ms: the committed one; None if there is none.
        loaded_at: position of the store when the committed one was read; -1 if it has not been read.
    """

    __slots__ = ("_committing_ms", "committed_ms", "loaded_at", "now_ms", "stream_ms")

    def __init__(self) -> None:
        self.now_ms = self.stream_ms = NEVER_MS
        self.committed_ms: int | None = None
        self._committing_ms: int | None = None
        self.loaded_at = -1

    @property
    def committed_or_never_ms(self) -> int:
        """The committed stream time; `NEVER_MS` if there is none."""
        return NEVER_MS if self.committed_ms is None else self.committed_ms

    def load(self, store: Store) -> None:
        """Read the committed stream time from a store."""
        data = store.get(STREAM_TIME)
        self.committed_ms = None if data is None else TIME.unpack(data)[0]
        self.loaded_at = store.position
        self.now_ms = self.stream_ms = self.committed_or_never_ms

    def freeze(self) -> None:
        """Note that the stream time of the epoch is being committed."""
        self._committing_ms = self.stream_ms

    def apply(self, position: int) -> None:
        """Note that the frozen stream time is committed, and in the store at this position."""
        self.committed_ms, self.loaded_at = self._committing_ms, position

    def drop(self) -> None:
        """Return to the committed stream time."""
        self.now_ms = self.stream_ms = self.committed_or_never_ms
