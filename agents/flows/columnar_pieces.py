"""Columns of several batches that are grouped as one: a key that comes in each of them is looked up once, not in each.

What can raise `NotVectorizable` later is looked at when a piece is made, so that grouping pieces of one kind cannot;
see `Piece.goes_with`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from .columnar_expressions import Column, NotVectorizable

__all__ = ["Piece", "joined"]

_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of one batch that count.

    Attributes:
        keys: of the rows; columns: what is folded; None where nothing of the element matters.
        largest: no whole number among them is further from 0.
        size_bytes: about what it takes.
    """

    keys: Column
    columns: Sequence[Column | None]
    largest: int
    size_bytes: int

    @classmethod
    def of(cls, keys: Column, columns: Sequence[Column | None], live: Any, adds: Sequence[bool]) -> Piece:
        """Of a batch's columns and flags.

        Args:
            adds: of each column whether it is added up.

        Raises:
            Doubt: it cannot be promised that they can be grouped with others.
        """
        if keys.kind not in ("text", "int", "bool"):
            raise NotVectorizable(f"keys: {keys.kind}")
        if not live.all():
            keys = _lived(keys, live)
            columns = [None if column is None else _lived(column, live) for column in columns]
        rows, largest = len(keys), 0
        for column, added in zip(columns, adds, strict=True):
            if column is None:
                continue
            if column.kind == "null" or (column.kind == "text" and added):
                raise NotVectorizable(f"a column of {column.kind}")
            if (
                column.kind == "float"
                and (~np.isfinite(column.values) | (np.signbit(column.values) & (column.values == 0))).any()
            ):
                raise NotVectorizable("which of them is first decides")
            if column.kind == "int" and added:
                least, most = column.bounds()
                largest = max(largest, -least, most)
        if largest * rows >= _INT64:
            raise NotVectorizable("sums beyond 64 bits")
        return cls(keys, columns, largest, sum(_size(c) for c in (keys, *columns) if c is not None))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def kinds(self) -> list[str | None]:
        """Of keys and columns."""
        return [self.keys.kind, *(None if column is None else column.kind for column in self.columns)]

    def goes_with(self, others: Sequence[Piece]) -> bool:
        """Whether all of them can be grouped as one."""
        rows = len(self) + sum(map(len, others))
        largest = max(self.largest, *(other.largest for other in others))
        return self.kinds == others[0].kinds and largest * rows < _INT64


def joined(pieces: Sequence[Piece]) -> tuple[Column, list[Column | None], Any]:
    """Keys, columns and flags of pieces that go with each other, as of one batch."""
    keys = _concatenated([piece.keys for piece in pieces])
    columns = [
        None if parts[0] is None else _concatenated(parts)
        for parts in zip(*(piece.columns for piece in pieces), strict=True)
    ]
    return keys, columns, np.ones(len(keys), bool)


def _lived(column: Column, live: Any) -> Column:
    values = column.values.filter(pa.array(live)) if column.kind == "text" else column.values[live]
    return Column(column.kind, values, column.null[live], column.bad[live])


def _concatenated(columns: Sequence[Any]) -> Column:
    values = [column.values for column in columns]
    made = pa.concat_arrays(values) if columns[0].kind == "text" else np.concatenate(values)
    null = np.concatenate([column.null for column in columns])
    return Column(columns[0].kind, made, null, np.zeros(len(null), bool))


def _size(column: Column) -> int:
    return column.values.nbytes + 2 * len(column)
