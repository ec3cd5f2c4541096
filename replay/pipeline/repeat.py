"""Repeats a history: `--loop`."""

from __future__ import annotations

from dataclasses import replace

from ...topics.errors import Stop
from ..sources.source import SourceBatch, SourcePosition
from .cursor import Open

__all__ = ["LoopedSource"]


class LoopedSource:
    """A source that is read to its end, and again from its beginning. A batch belongs to one round.

    Position: `round`, and the wrapped source's own, `at`.

    Args:
        rounds: how often the source is read; 0 repeats it without end.

    Attributes:
        round: the round of the last batch, from 0.

    Raises:
        Stop: the source has no records and is repeated without end.
    """

    poll_again_s = 0.0

    def __init__(self, open_at: Open, rounds: int, position: SourcePosition | None = None) -> None:
        self._open_at, self._rounds = open_at, rounds
        self.round: int = position["round"] if position else 0
        self._has_records = self.round > 0
        self._done_bytes = 0
        self._source = open_at(position["at"] if position else None)
        self.begins: SourcePosition = {"round": self.round, "at": self._source.begins}

    @property
    def ended(self) -> bool:
        """True if no batch follows; see `Source`."""
        return self._source.ended and 0 < self._rounds <= self.round + 1

    @property
    def done_bytes(self) -> int:
        """Bytes read in all rounds since the source was opened; see `Source`."""
        return self._done_bytes + self._source.done_bytes

    def next_batch(self) -> SourceBatch:
        """Return the next records of this round, or the first of the next one; see `Source`."""
        if self._source.ended and not self.ended:
            if not self._rounds and not self._has_records:
                raise Stop("the sources have no records: an endless loop over them would never send a record")
            self._done_bytes += self._source.done_bytes
            self._source.close()
            self.round += 1
            self._source = self._open_at(None)
        source = self._source
        batch = source.next_batch()
        self._has_records = self._has_records or len(batch.records) > 0
        self.poll_again_s = source.poll_again_s
        return replace(batch, after={"round": self.round, "at": batch.after})

    def close(self) -> None:
        """Close the wrapped source."""
        self._source.close()
