"""A source read record by record, with a position between any two records.

A source knows its position after each batch. A cursor stores the position before the current batch and how much of the
batch was taken; when it is opened at such a position, it reads the batch again and skips as much. This relies on
sources being pure: the same records follow from the same position, however batches are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..sources.source import Source, SourcePosition
from ..sources.source_record import BadLine, SourceRecord

__all__ = ["Cursor", "Open"]

# Opens a source at a position, or at its beginning.
Open = Callable[[SourcePosition | None], Source]


class Cursor:
    """One source and its current batch.

    Position: `at`, the source's own position before the current batch; `items`, `bad` and `blank`, how many records,
    bad and blank lines were taken since then; `n`, how many records precede it.

    Attributes:
        items: the current batch.
        taken: how many records of it have been taken; the caller advances it.
        anchored: the position has moved to the current batch. False while records that were taken before are skipped.
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
        """True if all records of the batch have been taken."""
        return self.taken >= len(self.records)

    @property
    def last(self) -> bool:
        """True if nothing follows the current batch, neither records nor bad or blank lines."""
        return self.source.ended

    @property
    def number(self) -> int:
        """Number of the batch's first record in the source, from 0."""
        return self._before + self._since

    def fill(self) -> tuple[Sequence[BadLine], int]:
        """Replace a batch that is used up by the next one, which may be empty.

        Returns:
            The bad lines of the new batch and the number of its blank lines, without those that were taken before.
        """
        # The position stays where it was until everything that was taken before has been skipped.
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
        skipped_bad = min(self._skip_bad, len(batch.bad))
        self._skip_bad -= skipped_bad
        self._since_bad += len(batch.bad)
        skipped_blank = min(self._skip_blank, batch.blank)
        self._skip_blank -= skipped_blank
        self._since_blank += batch.blank
        return batch.bad[skipped_bad:], batch.blank - skipped_blank

    def snapshot(self) -> SourcePosition:
        """Return the position of the next record."""
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
