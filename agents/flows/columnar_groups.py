"""The rows of each key, and what they amount to: NumPy's twin of folding element by element.

Sums of floats are added in the order of rows, so they are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from .columnar_expressions import Column, NotVectorizable, numbers

__all__ = ["Groups"]

_INT64 = 1 << 63
_EXACT = 1 << 53


class Groups:
    """Rows by key.

    Args:
        keys: texts, whole numbers or flags; not None.
        live: the rows that count.
        elements: gives the elements of rows, by their numbers in the batch.

    Attributes:
        keys: in the order in which they came first.

    Raises:
        Doubt: as keys, values of this kind are not what they are to Python's dict.
    """

    def __init__(self, keys: Column, live: Any, elements: Callable[[list[int]], list[Any]]) -> None:
        if keys.kind not in ("text", "int", "bool"):
            raise NotVectorizable(f"keys: {keys.kind}")
        self._all = bool(live.all())
        self._live, self._elements = live, elements
        array = pa.array(keys.values) if keys.kind != "text" else keys.values
        encoded = (array if self._all else array.filter(pa.array(live))).dictionary_encode()
        self.keys: list[Any] = encoded.dictionary.to_pylist()
        self._codes: Any = numbers(encoded.indices)
        self._n = len(self.keys)

    def _of(self, column: Column) -> tuple[Any, Any, Any]:
        """Codes and values of the rows of a column that are not None, and how many there are of each key."""
        values, null = (column.values, column.null) if self._all else self._lived(column)
        codes = self._codes
        if null.any():
            there = ~null
            codes = codes[there]
            values = values.filter(pa.array(there)) if column.kind == "text" else values[there]
        return codes, values, np.bincount(codes, minlength=self._n)

    def _lived(self, column: Column) -> tuple[Any, Any]:
        values = column.values
        return (values.filter(pa.array(self._live)) if column.kind == "text" else values[self._live]), column.null[
            self._live
        ]

    def counts(self, column: Column | None = None) -> list[int]:
        """How many rows; of a column, how many that are not None."""
        codes = self._codes if column is None else self._of(column)[0]
        return np.bincount(codes, minlength=self._n).tolist()

    def sums(self, column: Column) -> list[Any]:
        """0 and what is not None, added up from the first row to the last."""
        if column.kind in ("text", "null"):
            raise NotVectorizable(f"sums of {column.kind}")
        codes, values, counts = self._of(column)
        if column.kind == "float":
            # What bincount adds up begins with 0.0; where nothing came, Python's 0 is still a whole number.
            sums: list[Any] = np.bincount(codes, values, self._n).tolist()
            return [total if count else 0 for total, count in zip(sums, counts.tolist(), strict=True)]
        values = values.astype(np.int64, copy=False)
        most = int(counts.max()) if len(counts) else 0
        largest = max(abs(int(values.min())), abs(int(values.max()))) if len(values) else 0
        if largest * most < _EXACT:  # each sum on the way is a float without loss, and floats are faster
            return np.bincount(codes, values, self._n).astype(np.int64).tolist()
        if largest * most >= _INT64:
            raise NotVectorizable("sums beyond 64 bits")
        exact = np.zeros(self._n, np.int64)
        np.add.at(exact, codes, values)
        return exact.tolist()

    def extremes(self, column: Column, greatest: bool) -> list[Any]:
        """The least or the greatest, None where there is nothing but None."""
        if column.kind == "null":
            return [None] * self._n
        codes, values, counts = self._of(column)
        texts: Sequence[Any] | None = None
        if column.kind == "text":
            texts, values = _ranked(values)
        elif column.kind == "bool":
            texts, values = (False, True), values.astype(np.int64)
        elif column.kind == "float" and (not np.isfinite(values).all() or (np.signbit(values) & (values == 0)).any()):
            raise NotVectorizable("which of them is first decides")
        if greatest:
            made = np.full(self._n, -np.inf if column.kind == "float" else -_INT64, values.dtype)
            np.maximum.at(made, codes, values)
        else:
            made = np.full(self._n, np.inf if column.kind == "float" else _INT64 - 1, values.dtype)
            np.minimum.at(made, codes, values)
        found: list[Any] = [
            value if count else None for value, count in zip(made.tolist(), counts.tolist(), strict=True)
        ]
        return found if texts is None else [None if place is None else texts[place] for place in found]

    def each(self, column: Column) -> list[list[Any]]:
        """All values, None among them, in the order of rows."""
        values, null = (column.values, column.null) if self._all else self._lived(column)
        listed: list[Any] = values.to_pylist() if column.kind == "text" else values.tolist()
        if null.any():
            listed = [None if none else value for value, none in zip(listed, null.tolist(), strict=True)]
        order = np.argsort(self._codes, kind="stable")
        return self._cut([listed[place] for place in order.tolist()], self._codes[order])

    def greatest(self, column: Column, n: int) -> list[list[Any]]:
        """The elements of the `n` rows with the greatest values, and of rows that are equal to the last of them."""
        values, null = (column.values, column.null) if self._all else self._lived(column)
        if column.kind == "text":
            _, values = _ranked(values)
        elif column.kind == "float" and not np.isfinite(values).all():
            raise NotVectorizable("which of them is first decides")
        order = np.lexsort((values, self._codes))
        if null.any():
            order = order[~null[order]]
        codes, values = self._codes[order], values[order]
        begins, ends = np.searchsorted(codes, np.arange(self._n)), np.searchsorted(codes, np.arange(1, self._n + 1))
        if not len(order):
            return [[] for _ in range(self._n)]
        last = values[np.minimum(np.maximum(begins, ends - n), len(order) - 1)]
        chosen = values >= last[codes]
        order, codes = order[chosen], codes[chosen]
        numbers = order if self._all else self._live.nonzero()[0][order]
        return self._cut(self._elements(numbers.tolist()) if len(numbers) else [], codes)

    def _cut(self, of_rows: list[Any], codes: Any) -> list[list[Any]]:
        """By key, of what is sorted by it."""
        borders = np.searchsorted(codes, np.arange(self._n + 1)).tolist()
        return [of_rows[begin:end] for begin, end in pairwise(borders)]

    def distinct(self, column: Column) -> list[list[Any]]:
        """The different values that are not None, sorted."""
        if column.kind == "null":
            return [[] for _ in range(self._n)]
        codes, values, _ = self._of(column)
        if column.kind == "float":
            raise NotVectorizable("floats may be equal and not the same")
        if column.kind == "bool":
            values = values.astype(np.int64)
        if column.kind == "text":
            sorted_values, ranks = _ranked(values)
        else:
            different, ranks = np.unique(values, return_inverse=True)
            sorted_values = different.tolist()
        size = max(len(sorted_values), 1)
        pairs = np.unique(codes.astype(np.int64) * size + ranks)  # by key, then by value
        owners, ranks = pairs // size, pairs % size
        return self._cut([sorted_values[rank] for rank in ranks.tolist()], owners)


def _ranked(texts: Any) -> tuple[list[str], Any]:
    """Different texts in order, and the place of each row's text among them."""
    encoded = texts.dictionary_encode()
    different: list[str] = encoded.dictionary.to_pylist()
    order = sorted(range(len(different)), key=different.__getitem__)
    rank = np.empty(len(different), np.int64)
    rank[order] = np.arange(len(different))
    return [different[place] for place in order], rank[numbers(encoded.indices)]
