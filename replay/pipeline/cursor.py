"""A source taken record by record, with a position between any two of them.

A source knows its position after a batch. A cursor remembers the position before the batch at hand and how much of it
has been given away; opened at such a position, it reads the batch again and passes over as much. This rests on sources
being pure: the same records follow from the same position, however batches are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..sources.source import Source, SourcePosition
from ..sources.source_record import BadLine, SourceRecord

__all__ = ["Cursor", "Open"]

# Opens a source at a position, or at its beginning.
Open = Callable[[SourcePosition | None], Source]


class Cursor:
    """One source, a batch at hand.

    Position: `at`, the source's own before the batch at hand; `items`, `bad` and `blank`, how many were given since
    then; `n`, how many items before it.

    Attributes:
        items, taken: the batch at hand, and how many of it have been given away; whoever takes moves `taken`.
        anchored: the position has moved to the batch at hand; not so while what was given before is passed over.
    """

    def __init__(self, open_at: Open, position: SourcePosition | None = None) -> None:
        position = position or {}
        self._at: SourcePosition | None = position.get("at")
        self._skip_items: int = position.get("items", 0)
        self._skip_bad: int = position.get("bad", 0)
        self._skip_blank: int = position.get("blank", 0)
        self._before: int = position.get("n", 0)
        self._since = self._since_bad = self._since_blank = 0
        self.records: Sequence[SourceRecord] = ()
        self.taken = 0
        self.anchored = True
        self.source = open_at(self._at)
        self._after = self.source.begins

    @property
    def used_up(self) -> bool:
        """Nothing of the batch is left."""
        return self.taken >= len(self.records)

    @property
    def last(self) -> bool:
        """Nothing follows the batch at hand, not even a word about what could not be read."""
        return self.source.ended

    @property
    def number(self) -> int:
        """Which record of the source is the first of the batch at hand, from 0."""
        return self._before + self._since

    def fill(self) -> tuple[Sequence[BadLine], int]:
        """Replace a batch that is used up by the next one, which may be empty; returns its bad and blank lines."""
        # Until everything that was given before has been met again, the position stays where it was.
        self.anchored = not (self._skip_items or self._skip_bad or self._skip_blank)
        if self.anchored:
            self._before += self._since + len(self.records)
            self._at = self._after
            self._since = self._since_bad = self._since_blank = 0
        else:
            self._since += len(self.records)
        batch = self.source.next_batch()
        self.records, self._after = batch.records, batch.after
        self.taken = min(self._skip_items, len(self.records))
        self._skip_items -= self.taken
        known = min(self._skip_bad, len(batch.bad))
        self._skip_bad -= known
        self._since_bad += len(batch.bad)
        passed = min(self._skip_blank, batch.blank)
        self._skip_blank -= passed
        self._since_blank += batch.blank
        return batch.bad[known:], batch.blank - passed

    def snapshot(self) -> SourcePosition:
        """Position of the next record."""
        return {
            "at": self._at,
            "items": self._since + self.taken + self._skip_items,
            "bad": self._since_bad + self._skip_bad,
            "blank": self._since_blank + self._skip_blank,
            "n": self._before,
        }

    def close(self) -> None:
        """Close the source."""
        self.source.close()
