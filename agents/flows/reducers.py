"""How the elements of one key become one value: of a batch, then of batches, then with what the table has.

element ─start─▶ state ◀─add─ element        in the agent that sees elements
columns ─grouped─▶ states                    the same of all keys of a batch, or of several, at once
state ◀─merge─ state                         where partial results meet
state ─joined─▶ value of the table           with what the table has; for aggregates ─opened─▶ state ─stored─▶
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import reduce
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from ...topics.errors import BadRecord
from ..tables.partition_state import ABSENT
from .aggregates import Aggregate, Count, Distinct, Max, Mean, Min, Sum, Top, ordered
from .hyperloglog import ApproxDistinct
from .operators import is_column

if TYPE_CHECKING:
    from .columnar_expressions import Column
    from .columnar_frame import Frame
    from .columnar_groups import Groups

__all__ = ["Aggregating", "Folding", "Joining", "check_json", "folded"]

_FLAT = frozenset({str, int, float, bool, type(None)})


def _added(element: Any) -> Any:
    return 0 + element  # as Python's sum begins, so that what is no number is refused where it comes in


def _ordered(element: Any) -> Any:
    if element is None:
        raise TypeError("None is neither less nor greater than anything")
    return ordered(element)


def _lesser(a: Any, b: Any) -> Any:
    if type(b) is list or (type(b) is float and b - b):
        ordered(b)  # also where it is not the least: what it meets depends on how records are grouped
    return b if b < a else a if b == b else ordered(b)


def _greater(a: Any, b: Any) -> Any:
    if type(b) is list or (type(b) is float and b - b):
        ordered(b)
    return b if b > a else a if b == b else ordered(b)


# Python's own reductions take a collection: what they make of one element, of two, and of columns.
_OWN: Mapping[Any, tuple[Callable[[Any], Any], Callable[[Any, Any], Any], Callable[[Groups, Column], list[Any]]]] = {
    sum: (_added, operator.add, lambda groups, column: groups.sums(column)),
    min: (_ordered, _lesser, lambda groups, column: groups.extremes(column, greatest=False)),
    max: (_ordered, _greater, lambda groups, column: groups.extremes(column, greatest=True)),
}


class Joining:
    """By a function of two elements, or by Python's `sum`, `min`, `max`; the state is such an element.

    Attributes:
        independent: whether an element that can begin a state can join any other of its kind, so that those which
            cannot may be left out one by one.
    """

    independent = True

    def __init__(self, how: Any) -> None:
        self._how = how
        self.start, join, self._grouped = _OWN.get(how, (_same, how, None))
        self.add: Callable[[Any, Any], Any] = join
        self.merge: Callable[[Any, Any], Any] = join

    def private(self, state: Any) -> Any:
        """The state, for `add` to change where it may; a user's function may, and fail then."""
        return state if self._grouped is not None or type(state) in _FLAT else deepcopy(state)

    def by_column(self, value: Any) -> bool:
        """Whether there is a column way, where that is what is left of an element."""
        return self._grouped is not None and value is not None

    def columns(self, frame: Frame, value: Column | None) -> list[Column | None]:
        """What `grouped` needs; sets rows aside."""
        assert value is not None
        frame.set_aside(value.null)
        return [value]

    def grouped(self, groups: Groups, columns: Sequence[Column | None]) -> list[Any]:
        """The states of columns."""
        assert self._grouped is not None
        return self._grouped(groups, cast("Column", columns[0]))

    def adds(self) -> list[bool] | None:
        """Of each column whether it is added up, where columns of several batches may be grouped as one; else None."""
        return None if self._grouped is None else [self._how is sum]

    def joined(self, known: Iterable[Any], states: Iterable[Any]) -> list[Any]:
        """What a table holds after these states, one a key; `known` is what it has there, or ABSENT."""
        merge = self.merge
        return [state if old is ABSENT else merge(old, state) for old, state in zip(known, states, strict=True)]


# Of aggregates that are exactly these; of a user's own the methods are asked.
_GROUPED: Mapping[type, Callable[[Any, Groups, Any], list[Any]]] = {
    Count: lambda _, groups, column: groups.counts(column),
    Sum: lambda _, groups, column: groups.sums(column),
    Min: lambda _, groups, column: groups.extremes(column, greatest=False),
    Max: lambda _, groups, column: groups.extremes(column, greatest=True),
    Mean: lambda _, groups, column: list(map(list, zip(groups.sums(column), groups.counts(column), strict=True))),
    Distinct: lambda _, groups, column: groups.distinct(column),
    ApproxDistinct: lambda how, groups, column: [reduce(how.add, each, how.zero()) for each in groups.distinct(column)],
    Top: lambda how, groups, column: [
        how.merge(how.zero(), list(map(how.taken(), each))) for each in groups.greatest(column, how.n)
    ],
}


def _own(how: Aggregate, groups: Groups, column: Any) -> list[Any]:
    return [reduce(how.add, each, how.zero()) for each in groups.each(column)]


# What these take from an element by itself they take after any other.
_INDEPENDENT = _GROUPED.keys() - {Top}


class Aggregating:
    """By several aggregates side by side; the state is theirs in a list.

    Attributes:
        independent: as `Joining`'s.
    """

    def __init__(self, columns: Mapping[str, Aggregate]) -> None:
        self._columns = dict(columns)
        self._hows = list(columns.values())
        self._taken = [how.taken() for how in self._hows]
        self.independent = _INDEPENDENT.issuperset(map(type, self._hows))

    def start(self, element: Any) -> list[Any]:
        """The state of one element."""
        return self.add([how.zero() for how in self._hows], element)

    def add(self, state: list[Any], element: Any) -> list[Any]:
        """The state with one more element."""
        return [how.add(s, take(element)) for how, s, take in zip(self._hows, state, self._taken, strict=True)]

    def private(self, state: Any) -> Any:
        """As `Joining.private`: of aggregates that are `independent` none changes a state."""
        return state

    def merge(self, state: list[Any], other: list[Any]) -> list[Any]:
        """The state of both."""
        return [how.merge(a, b) for how, a, b in zip(self._hows, state, other, strict=True)]

    def by_column(self, value: Any) -> bool:
        """Whether there is a column way, where that is what is left of an element; None: all of it."""
        return all(_readable(how, value) for how in self._hows)

    def columns(self, frame: Frame, value: Column | None) -> list[Column | None]:
        """As `Joining.columns`."""
        columns = [value if how.of is None else frame.column(how.of) for how in self._hows]
        for column in columns:
            if column is not None:
                frame.set_aside(column.bad)
        return columns

    def grouped(self, groups: Groups, columns: Sequence[Column | None]) -> list[Any]:
        """As `Joining.grouped`."""
        parts = zip(self._hows, columns, strict=True)
        return list(
            map(list, zip(*(_GROUPED.get(type(how), _own)(how, groups, column) for how, column in parts), strict=True))
        )

    def adds(self) -> list[bool] | None:
        """As `Joining.adds`."""
        if not {type(how) for how in self._hows} <= {Count, Sum, Min, Max, Mean}:
            return None
        return [type(how) in (Sum, Mean) for how in self._hows]

    def joined(self, known: Iterable[Any], states: Iterable[list[Any]]) -> list[dict[str, Any]]:
        """As `Joining.joined`."""
        merge, opened, stored = self.merge, self.opened, self.stored
        return [
            stored(state if old is ABSENT else merge(opened(old), state))
            for old, state in zip(known, states, strict=True)
        ]

    def stored(self, state: list[Any]) -> dict[str, Any]:
        """Results by name, and beside each what is needed to go on where that is more."""
        value: dict[str, Any] = {}
        for (name, how), part in zip(self._columns.items(), state, strict=True):
            value[name] = how.result(part)
            if _keeps_more(how):
                value[f"_{name}"] = part
        return value

    def opened(self, value: Mapping[str, Any]) -> list[Any]:
        """The state that a value of the table stands for."""
        return [value[f"_{name}" if _keeps_more(how) else name] for name, how in self._columns.items()]


Folding = Joining | Aggregating


def folded(
    pairs: Iterable[tuple[Any, Any]], start: Callable[[Any], Any], add: Callable[[Any, Any], Any]
) -> dict[Any, Any]:
    """Key -> state, in the order in which keys came first.

    >>> folded([("a", 1), ("b", 2), ("a", 3)], lambda x: x, lambda a, b: a + b)
    {'a': 4, 'b': 2}
    """
    states: dict[Any, Any] = {}
    for key, element in pairs:
        states[key] = add(states[key], element) if key in states else start(element)
    return states


def check_json(states: Collection[Any]) -> None:
    """Refuse states that would arrive as something else where their type is not declared: a `Decimal` as text, say.

    Raises:
        BadRecord: one is, or holds, something that is not text, a number, a flag, None, a list or a dict.
    """
    others = set(map(type, states)) - _FLAT
    if others - {list, dict}:
        raise BadRecord(
            f"a partial result is, or holds, a {min(kind.__qualname__ for kind in others - {list, dict})}, which JSON "
            "would give back as something else",
            hint="annotate what makes elements, as in def parse(line: str) -> Decimal, or use reduce(…, value_type=…)",
        )
    for kind in others:
        inner = [state for state in states if type(state) is kind]
        if kind is dict:
            check_json(list(chain.from_iterable(map(dict.keys, inner))))
            inner = map(dict.values, inner)
        check_json(list(chain.from_iterable(inner)))


def _same(state: Any) -> Any:
    return state


def _readable(how: Aggregate, value: Any) -> bool:
    """Whether what it counts is a column, where `value` is left of elements; None: all of them."""
    if type(how) not in _GROUPED and type(how).taken is not Aggregate.taken:
        return False
    if how.of is None:
        return value is not None or type(how) is Count
    return value is None and is_column(how.of)


def _keeps_more(how: Aggregate) -> bool:
    return type(how).result is not Aggregate.result
