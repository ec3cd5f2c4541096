"""What an agent's batches of one epoch and partition amount to, on its way into a table: folded in all at once.

Laws.
- A batch that waits is handled: its dirty rows have gone to the agent's policy, and nothing about it can raise later
  but what the table holds (somebody else has put values there that cannot be added to).
- Then the agent is told to go record by record (`inbox.careful`), and the epoch to be done again: record by record
  nothing waits, so exactly the records that fail go to the policy.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ...topics.errors import BadRecord, Stop
from ..tables.partition_state import ABSENT, IMMUTABLE
from .reducers import Folding

if TYPE_CHECKING:
    from .columnar_pieces import Piece
    from .combiner import Combiner

__all__ = ["PendingFolds", "merge"]

# Memory that may wait in a partition; more is no faster.
_MOST_BYTES = 16_000_000


class PendingFolds:
    """Pieces of one partition that wait; see `Overlay.wait`."""

    def __init__(self, stream: Any, fold: Combiner, how: Folding) -> None:
        self._stream, self._fold, self._how = stream, fold, how
        self._pieces: list[Piece] = []
        self._size_bytes = 0

    def add(self, piece: Piece) -> bool:
        """One more; False where that does not go with those that are there, or would be too much."""
        if self._pieces and not (self._size_bytes < _MOST_BYTES and piece.goes_with(self._pieces)):
            return False
        self._pieces.append(piece)
        self._size_bytes += piece.size_bytes
        return True

    def fold(self, table: Any) -> None:
        """See `Waiting`."""
        try:
            merge(table, self._how, self._fold.grouped(self._pieces))
        except Stop:
            raise
        except Exception as exc:
            self._stream.inbox.careful = True
            raise BadRecord(f"table {table.name}: {type(exc).__name__}: {exc}") from exc


def merge(table: Any, how: Folding, states: dict[Any, Any], *, careful: bool = False) -> None:
    """Into what the table has, all or nothing.

    Args:
        careful: the record may be undone alone, so what the table has is not changed in place by a function that fails.
    """
    keys = list(states)
    known = table.known(keys)
    if careful:
        known = [value if value is ABSENT or type(value) in IMMUTABLE else deepcopy(value) for value in known]
    table.put(dict(zip(keys, how.joined(known, states.values()), strict=True)))
