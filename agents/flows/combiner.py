"""A batch of records, folded by key: by column where that is cheap and certain to give the same, else row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...topics.packed import row_values
from .aggregates import What
from .expressions import Expression
from .keying import Keying
from .operators import Map, is_column
from .reducers import Folding, folded

if TYPE_CHECKING:
    from .columnar_expressions import Column
    from .columnar_pieces import Piece

__all__ = ["Combiner", "Failed"]

Failed = list[tuple[int, Exception]]
"""Rows that the flow's functions have refused, and why."""

_TYPES = {"text": str, "int": int, "bool": bool, "float": float}


class Combiner:
    """What the end of a flow does with a batch.

    Args:
        declared: the type of the topic's values.

    Attributes:
        how: how elements become one value.
        by_column: whether there is a column way: fields, expressions, Python's `sum`, `min`, `max`, and aggregates.
        independent: whether rows that are refused can be left out one by one; see `folding`.
    """

    def __init__(self, pairs: Keying, how: Folding, declared: Any = None) -> None:
        self._pairs, self.how, self._declared = pairs, how, declared
        self.independent = how.independent
        self._steps = pairs.steps
        self._key: What = None
        self._value: What = None
        if pairs.keyed is not None:
            self._key, self._value = pairs.keyed
        elif self._steps and isinstance(last := self._steps[-1], Map) and isinstance(last.function, Expression):
            self._steps, self._value = self._steps[:-1], last.function
        self.by_column = (
            all(step.by_column for step in self._steps)
            and (pairs.topic.key_type in (None, str) if pairs.own_key else is_column(self._key))
            and (self._value is None or is_column(self._value))
            and how.by_column(self._value)
        )

    def rows(self, messages: Sequence[Any], values: Sequence[Any]) -> dict[Any, Any]:
        """Key -> state, row by row; raises what the flow's functions raise."""
        return folded(self._pairs.of(messages, values), self.how.start, self.how.add)

    def each_row(self, messages: Sequence[Any], values: Sequence[Any]) -> tuple[dict[Any, Any], Failed]:
        """As `rows`; what a function refuses is left out, and told, where that can be known of each alone."""
        if not self.independent:
            return self.rows(messages, values), []
        try:
            return self.rows(messages, values), []
        except Exception:  # noqa: BLE001 (below it is found out whose it is)
            return self._one_by_one(messages, values)

    def _one_by_one(self, messages: Sequence[Any], values: Sequence[Any]) -> tuple[dict[Any, Any], Failed]:
        how, states, failed = self.how, dict[Any, Any](), Failed()
        for row, (message, value) in enumerate(zip(messages, values, strict=True)):
            try:
                mine = dict[Any, Any]()  # all of a record counts, or nothing of it
                for key, element in self._pairs.of((message,), (value,)):
                    alone = how.start(element)
                    if key in mine or key in states:
                        alone = how.add(mine[key] if key in mine else how.private(states[key]), element)
                    mine[key] = alone
                states.update(mine)
            except Exception as exc:  # noqa: BLE001 (whatever it raises belongs to its record)
                failed.append((row, exc))
        return states, failed

    def columns(
        self, batch: Any, messages: Sequence[Any], own_keys: Any = None
    ) -> tuple[dict[Any, Any], Failed] | None:
        """As `each_row`, of a `pyarrow.RecordBatch` whose rows are the values; None where it may give something else.

        Args:
            messages: rows by number, for those that have to be looked at.
            own_keys: an Arrow array of the records' keys, where these count; None where they have none.
        """
        from .columnar_expressions import NotVectorizable
        from .columnar_groups import Groups

        try:
            keys, columns, live, failed = self._read(batch, messages, own_keys)
            groups = Groups(keys, live, lambda numbers: self._elements(batch, messages, numbers))
            return dict(zip(groups.keys, self.how.grouped(groups, columns), strict=True)), failed
        except NotVectorizable:
            return None
        except Exception:
            if self.independent:
                raise
            return None  # an aggregate refuses something: whose it is, is found out row by row

    def _elements(self, batch: Any, messages: Sequence[Any], numbers: list[int]) -> list[Any]:
        """The elements of some rows, one each, as the row way makes them."""
        decode = self._pairs.topic.decode_value
        values = list(map(decode, row_values(batch.take(numbers), "json")))
        elements = [element for _, element in self._pairs.of([messages[number] for number in numbers], values)]
        assert len(elements) == len(numbers)
        return elements

    def piece(self, batch: Any, messages: Sequence[Any], own_keys: Any = None) -> tuple[Piece, Failed] | None:
        """As `columns`, to be grouped later, as one with those of other batches; None where that cannot be promised."""
        from .columnar_expressions import NotVectorizable
        from .columnar_pieces import Piece

        adds = self.how.adds()
        if adds is None:
            return None
        try:
            keys, columns, live, failed = self._read(batch, messages, own_keys)
            return Piece.of(keys, columns, live, adds), failed
        except NotVectorizable:
            return None

    def grouped(self, pieces: Sequence[Piece]) -> dict[Any, Any]:
        """Key -> state of pieces of one kind."""
        from .columnar_groups import Groups
        from .columnar_pieces import joined

        keys, columns, live = joined(pieces)
        groups = Groups(keys, live, _no_elements)
        return dict(zip(groups.keys, self.how.grouped(groups, columns), strict=True))

    def _read(
        self, batch: Any, messages: Sequence[Any], own_keys: Any
    ) -> tuple[Column, list[Column | None], Any, Failed]:
        """Keys, what is folded, which rows count, and which have failed."""
        from .columnar_frame import Frame

        frame = Frame(batch, self._declared)
        for step in self._steps:
            step.columns(frame)
        keys = self._keys(frame.texts(own_keys) if self._pairs.own_key else frame.column(self._key))
        frame.set_aside(keys.off)
        value = None if self._value is None else frame.column(self._value)
        if value is not None:
            frame.set_aside(value.bad)
        columns = self.how.columns(frame, value)
        failed = self._looked_at(frame.aside.nonzero()[0].tolist(), messages) if frame.aside.any() else []
        return keys, columns, frame.live, failed

    def _keys(self, column: Column) -> Column:
        """Keys in the form that the table has for them.

        Raises:
            Doubt: it may not have all of them.
        """
        from .columnar_expressions import NotVectorizable, unflagged

        sure = self._pairs.sure
        column = column if bool in sure else unflagged(column)
        if _TYPES.get(column.kind, str) not in sure:
            raise NotVectorizable(f"keys: {column.kind}, and the table is declared to have others")
        return column

    def _looked_at(self, rows: list[int], messages: Sequence[Any]) -> Failed:
        """Rows that were set aside have to fail, or to be filtered out."""
        from .columnar_expressions import NotVectorizable

        decode = self._pairs.topic.decode_value
        failed: Failed = []
        for row in rows:
            message = messages[row]
            states, failures = self._one_by_one((message,), (decode(message.value()),))
            if states:
                raise NotVectorizable("a row that columns could not tell is fine")
            failed.extend((row, error) for _, error in failures)
        return failed


def _no_elements(_: list[int]) -> list[Any]:
    raise AssertionError("whoever needs elements does not wait for other batches")
