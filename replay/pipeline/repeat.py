"""The same history again and again."""

from __future__ import annotations

from dataclasses import replace

from ...topics.errors import Stop
from ..sources.source import Batch, SourcePosition
from .cursor import Open

__all__ = ["Loop"]


class Loop:
    """Reads a source to its end, and again from its beginning. Position: `round`, and the source's own, `at`.

    Args:
        rounds: how often; 0 for ever.

    Attributes:
        round: which one the last batch was of, from 0. A batch is of one round.

    Raises:
        Stop: a round of a loop without an end holds no record.
    """

    poll_again_s = 0.0

    def __init__(self, open_at: Open, rounds: int, position: SourcePosition | None = None) -> None:
        self._open_at, self._rounds = open_at, rounds
        self.round: int = position["round"] if position else 0
        self._given = self.round > 0
        self._done_bytes = 0
        self._source = open_at(position["at"] if position else None)
        self.begins: SourcePosition = {"round": self.round, "at": self._source.begins}

    @property
    def ended(self) -> bool:
        """See `Source`."""
        return self._source.ended and 0 < self._rounds <= self.round + 1

    @property
    def done_bytes(self) -> int:
        """See `Source`; of all rounds since this was opened."""
        return self._done_bytes + self._source.done_bytes

    def next_batch(self) -> Batch:
        """See `Source`."""
        if self._source.ended and not self.ended:
            if not self._rounds and not self._given:
                raise Stop("there is no record to begin again with: a loop over nothing has no end")
            self._done_bytes += self._source.done_bytes
            self._source.close()
            self.round += 1
            self._source = self._open_at(None)
        source = self._source
        batch = source.next_batch()
        self._given = self._given or len(batch.records) > 0
        self.poll_again_s = source.poll_again_s
        return replace(batch, after={"round": self.round, "at": batch.after})

    def close(self) -> None:
        """See `Source`."""
        self._source.close()
