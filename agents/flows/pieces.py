"""Rows of packed batches that wait, to be grouped as those of one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .groups import Piece

__all__ = ["Pieces"]

_MOST_BYTES = 16_000_000


class Pieces:
    """Pieces that go with each other.

    Attributes:
        kinds: the kinds of their keys and columns.
        rows: number of their rows.
        largest: the greatest absolute value of the whole numbers that are added up.
    """

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self._pieces: list[Piece] = []
        self._size_bytes = 0
        self.kinds: list[str | None] = []
        self.rows = self.largest = 0
        for piece in pieces:
            self._append(piece)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, piece: Piece) -> bool:
        """Add a piece; return False where it does not go with the others, or would be too much."""
        if self._pieces and not (self._size_bytes < _MOST_BYTES and piece.goes_with(self)):
            return False
        self._append(piece)
        return True

    def _append(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._size_bytes += piece.size_bytes
        self.kinds = self.kinds or piece.kinds
        self.rows += len(piece)
        self.largest = max(self.largest, piece.largest)
