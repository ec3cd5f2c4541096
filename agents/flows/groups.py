"""Groups: the rows of each key of a batch, and their reduction by NumPy. Pieces: batches that are grouped as one.

Sums of floats are added in the order of rows, so they are the same to the last bit as element by element.

A key that occurs in several batches is looked up once if they are grouped as one. Everything that can raise
`NotVectorizable` is checked when a piece is made, so that grouping pieces of one kind cannot; see `Piece.goes_with`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import numpy as np
import pyarrow as pa

from ..event_time.windows import Pane
from .column_evaluation import Column, Mask, numbers
from .expressions import NotVectorizable

if TYPE_CHECKING:
    from .pieces import Pieces

__all__ = ["Mask", "Panes", "Piece", "RowGroups", "grouped_pieces"]

T = TypeVar("T")

_INT64 = 1 << 63
_EXACT = 1 << 53  # up to here every integer is a float


class Panes(NamedTuple):
    """The panes of the rows of a batch.

    Attributes:
        codes: the number of each row's pane.
        spans: the panes.
    """

    codes: np.ndarray
    spans: list[Pane]


class RowGroups:
    """Rows by key.

    Args:
        keys: texts, whole numbers or flags; not None.
        live: flags of the rows that count.
        elements: returns the elements of rows, by their numbers in the batch.
        panes: rows of one key that are not in the same pane are apart; None: there are no panes.

    Attributes:
        keys: in the order in which they came first; with panes, those of the first pane, then of the next one.

    Raises:
        NotVectorizable: values of this kind are not the keys that they would be in a dict.
    """

    def __init__(
        self, keys: Column, live: Mask, elements: Callable[[list[int]], list[object]], panes: Panes | None = None
    ) -> None:
        if keys.kind not in ("text", "int", "bool"):
            raise NotVectorizable(f"keys: {keys.kind}")
        self._all = bool(live.all())
        self._live, self._elements = live, elements
        array = keys.texts if keys.kind == "text" else pa.array(keys.numbers)
        encoded = (array if self._all else array.filter(pa.array(live))).dictionary_encode()
        self.keys: list[object] = encoded.dictionary.to_pylist()
        self._codes = numbers(encoded.indices)
        self._spans: list[Pane] = [] if panes is None else panes.spans
        self._borders: list[int] = []
        if panes is not None:
            self._divide(panes)
        self._n = len(self.keys)

    def _divide(self, panes: Panes) -> None:
        """Divide the rows of each key by pane."""
        n, spans, keys = len(self.keys), panes.spans, self.keys
        if len(spans) == 1 or not n:
            self._borders = [0, *([n] * len(spans))]
            return
        codes = (panes.codes if self._all else panes.codes[self._live]) * n + self._codes
        if n * len(spans) <= 4 * len(codes):
            there = np.bincount(codes, minlength=n * len(spans)) > 0
            found, self._codes = there.nonzero()[0], (np.cumsum(there) - 1)[codes]
        else:
            found, self._codes = np.unique(codes, return_inverse=True)
        self._borders = np.searchsorted(found, np.arange(len(spans) + 1) * n).tolist()
        self.keys = [keys[key] for key in (found % n).tolist()]

    def by_pane(self, states: Sequence[T]) -> dict[Pane, dict[object, T]]:
        """Return the states of `keys` by pane and key."""
        parts = zip(self._spans, pairwise(self._borders), strict=True)
        return {
            span: dict(zip(self.keys[begin:end], states[begin:end], strict=True))
            for span, (begin, end) in parts
            if begin < end
        }

    def _lived(self, column: Column) -> Column:
        return column if self._all else column.only(self._live)

    def _present(self, column: Column) -> tuple[np.ndarray, Column, np.ndarray]:
        """Return the key codes and values of the rows that are not None, and the number of them for each key."""
        column = self._lived(column)
        codes = self._codes
        if column.null.any():
            there = ~column.null
            codes, column = codes[there], column.only(there)
        return codes, column, np.bincount(codes, minlength=self._n)

    def counts(self, column: Column | None = None) -> list[int]:
        """Return the number of rows of each key; with a column, of those that are not None."""
        codes = self._codes if column is None else self._present(column)[0]
        return np.bincount(codes, minlength=self._n).tolist()

    def sums(self, column: Column) -> Sequence[float]:
        """Return for each key 0 plus the values that are not None, added from the first row to the last.

        Raises:
            NotVectorizable: the values are not numbers, or a sum may not fit into 64 bits.
        """
        if column.kind in ("text", "null"):
            raise NotVectorizable(f"sums of {column.kind}")
        codes, present, counts = self._present(column)
        values = present.numbers
        if column.kind == "float":
            # bincount begins with 0.0; for a key without values, Python's 0 is still a whole number.
            sums: list[float] = np.bincount(codes, values, self._n).tolist()
            return [total if count else 0 for total, count in zip(sums, counts.tolist(), strict=True)]
        values = values.astype(np.int64, copy=False)
        most = int(counts.max()) if len(counts) else 0
        largest = max(abs(int(values.min())), abs(int(values.max()))) if len(values) else 0
        if largest * most < _EXACT:  # each partial sum is a float without loss, and floats are faster
            return np.bincount(codes, values, self._n).astype(np.int64).tolist()
        if largest * most >= _INT64:
            raise NotVectorizable("sums beyond 64 bits")
        exact = np.zeros(self._n, np.int64)
        np.add.at(exact, codes, values)
        return exact.tolist()

    def extremes(self, column: Column, greatest: bool) -> Sequence[object]:
        """Return the least or the greatest value of each key; None where all are None.

        Raises:
            NotVectorizable: which of several equal values comes first would matter.
        """
        if column.kind == "null":
            return [None] * self._n
        codes, present, counts = self._present(column)
        ranked: Sequence[object] | None = None
        if column.kind == "text":
            ranked, values = _ranked(present.texts)
        elif column.kind == "bool":
            ranked, values = (False, True), present.numbers.astype(np.int64)
        else:
            values = present.numbers
            if column.kind == "float" and not _is_totally_ordered(values):
                raise NotVectorizable("the order of rows decides")
        if greatest:
            made = np.full(self._n, -np.inf if column.kind == "float" else -_INT64, values.dtype)
            np.maximum.at(made, codes, values)
        else:
            made = np.full(self._n, np.inf if column.kind == "float" else _INT64 - 1, values.dtype)
            np.minimum.at(made, codes, values)
        found = [value if count else None for value, count in zip(made.tolist(), counts.tolist(), strict=True)]
        return found if ranked is None else [None if index is None else ranked[index] for index in found]

    def each(self, column: Column) -> list[list[object]]:
        """Return all values of each key, None among them, in the order of rows."""
        column = self._lived(column)
        listed: list[object] = column.texts.to_pylist() if column.kind == "text" else column.numbers.tolist()
        if column.null.any():
            listed = [None if none else value for value, none in zip(listed, column.null.tolist(), strict=True)]
        order = np.argsort(self._codes, kind="stable")
        return self._by_key([listed[index] for index in order.tolist()], self._codes[order])

    def greatest(self, column: Column, n: int) -> list[list[object]]:
        """Return for each key the elements of the `n` rows with the greatest values, and of rows that are equal to the
        last of them.

        Raises:
            NotVectorizable: which of several equal values comes first would matter.
        """
        column = self._lived(column)
        values = _ranked(column.texts)[1] if column.kind == "text" else column.numbers
        if column.kind == "float" and not np.isfinite(values).all():
            raise NotVectorizable("the order of rows decides")
        order = np.lexsort((values, self._codes))
        if column.null.any():
            order = order[~column.null[order]]
        codes, values = self._codes[order], values[order]
        begins, ends = np.searchsorted(codes, np.arange(self._n)), np.searchsorted(codes, np.arange(1, self._n + 1))
        if not len(order):
            return [[] for _ in range(self._n)]
        last = values[np.minimum(np.maximum(begins, ends - n), len(order) - 1)]
        chosen = values >= last[codes]
        order, codes = order[chosen], codes[chosen]
        rows = order if self._all else self._live.nonzero()[0][order]
        return self._by_key(self._elements(rows.tolist()) if len(rows) else [], codes)

    def _by_key(self, of_rows: list[T], codes: np.ndarray) -> list[list[T]]:
        """Cut a list that is sorted by key into one list for each key."""
        borders = np.searchsorted(codes, np.arange(self._n + 1)).tolist()
        return [of_rows[begin:end] for begin, end in pairwise(borders)]

    def distinct(self, column: Column) -> Sequence[Sequence[object]]:
        """Return the different values of each key that are not None, sorted.

        Raises:
            NotVectorizable: the values are floats, which may be equal and not the same.
        """
        if column.kind == "null":
            return [[] for _ in range(self._n)]
        codes, present, _ = self._present(column)
        if column.kind == "float":
            raise NotVectorizable("floats may be equal and not the same")
        sorted_values: Sequence[object]
        if column.kind == "text":
            sorted_values, ranks = _ranked(present.texts)
        else:
            values = present.numbers.astype(np.int64) if column.kind == "bool" else present.numbers
            different, ranks = np.unique(values, return_inverse=True)
            sorted_values = different.tolist()
        size = max(len(sorted_values), 1)
        pairs = np.unique(codes.astype(np.int64) * size + ranks)  # by key, then by value
        owners, ranks = pairs // size, pairs % size
        return self._by_key([sorted_values[rank] for rank in ranks.tolist()], owners)


def _ranked(texts: pa.Array) -> tuple[list[str], np.ndarray]:
    """Return the different texts in order, and each row's index among them."""
    encoded = texts.dictionary_encode()
    different: list[str] = encoded.dictionary.to_pylist()
    order = sorted(range(len(different)), key=different.__getitem__)
    rank = np.empty(len(different), np.int64)
    rank[order] = np.arange(len(different))
    return [different[index] for index in order], rank[numbers(encoded.indices)]


def _is_totally_ordered(floats: np.ndarray) -> bool:
    """Return whether equal floats are the same: no NaN, no infinity, no -0.0."""
    return not (~np.isfinite(floats) | (np.signbit(floats) & (floats == 0))).any()


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of one batch that count.

    Attributes:
        keys: keys of the rows.
        columns: the columns to reduce; None where the element does not matter.
        largest: the greatest absolute value of the whole numbers that are added up.
        size_bytes: approximate memory.
        panes: the panes of the rows; None: there are none.
    """

    keys: Column
    columns: Sequence[Column | None]
    largest: int
    size_bytes: int
    panes: Panes | None = None

    @classmethod
    def of(
        cls,
        keys: Column,
        columns: Sequence[Column | None],
        live: Mask,
        adds: Sequence[bool],
        panes: Panes | None = None,
    ) -> Piece:
        """Make a piece of a batch's columns.

        Args:
            live: flags of the rows that count.
            adds: for each column whether it is added up.

        Raises:
            NotVectorizable: grouped with others, the result might differ.
        """
        if keys.kind not in ("text", "int", "bool"):
            raise NotVectorizable(f"keys: {keys.kind}")
        if not live.all():
            keys = keys.only(live)
            columns = [None if column is None else column.only(live) for column in columns]
            panes = None if panes is None else Panes(panes.codes[live], panes.spans)
        rows, largest = len(keys), 0
        for column, added in zip(columns, adds, strict=True):
            if column is None:
                continue
            if column.kind == "null" or (column.kind == "text" and added):
                raise NotVectorizable(f"a column of {column.kind}")
            if column.kind == "float" and not _is_totally_ordered(column.numbers):
                raise NotVectorizable("the order of rows decides")
            if column.kind == "int" and added:
                least, most = column.bounds()
                largest = max(largest, -least, most)
        if largest * rows >= _INT64:
            raise NotVectorizable("sums beyond 64 bits")
        size_bytes = sum(_size_bytes(c) for c in (keys, *columns) if c is not None)
        return cls(keys, columns, largest, size_bytes + (0 if panes is None else panes.codes.nbytes), panes)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def kinds(self) -> list[str | None]:
        """The kinds of keys and columns."""
        return [self.keys.kind, *(None if column is None else column.kind for column in self.columns)]

    def goes_with(self, others: Pieces) -> bool:
        """Return whether this piece and the others can be grouped as one."""
        rows, largest = len(self) + others.rows, max(self.largest, others.largest)
        return self.kinds == others.kinds and largest * rows < _INT64


def grouped_pieces(pieces: Iterable[Piece]) -> tuple[RowGroups, list[Column | None]]:
    """Return the groups of the rows of pieces that go with each other, and their columns, as those of one batch."""
    keys = _concatenated([piece.keys for piece in pieces])
    columns = [
        None if parts[0] is None else _concatenated(cast("tuple[Column, ...]", parts))
        for parts in zip(*(piece.columns for piece in pieces), strict=True)
    ]
    panes = _concatenated_panes([piece.panes for piece in pieces if piece.panes is not None])
    return RowGroups(keys, np.ones(len(keys), bool), _no_elements, panes), columns


def _concatenated_panes(parts: list[Panes]) -> Panes | None:
    if not parts:
        return None
    spans = sorted({span for part in parts for span in part.spans})
    numbers = {span: number for number, span in enumerate(spans)}
    return Panes(
        np.concatenate([np.array([numbers[span] for span in part.spans])[part.codes] for part in parts]), spans
    )


def _no_elements(_: list[int]) -> list[object]:
    raise AssertionError("reducers that need elements are never pending")


def _concatenated(columns: Sequence[Column]) -> Column:
    if columns[0].kind == "text":
        values = pa.concat_arrays([column.texts for column in columns])
    else:
        values = np.concatenate([column.numbers for column in columns])
    null = np.concatenate([column.null for column in columns])
    return Column(columns[0].kind, values, null, np.zeros(len(null), bool))


def _size_bytes(column: Column) -> int:
    return column.values.nbytes + 2 * len(column)
