"""Reducers: how the elements of one key become one value, within a batch, over batches, and with the table's value.

element ─start─▶ state ◀─add─ element        in the agent that sees elements
columns ─grouped─▶ states                    the same for all keys of a batch, or of several, at once
state ◀─merge─ state                         where partial results meet
state ─joined─▶ value of the table           with the table's value; for aggregates ─opened─▶ state ─stored─▶
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from ...topics.errors import BadRecord
from ..tables.absent import ABSENT
from .aggregates import ONE_BY_ONE, Aggregate, ColumnForm, Comparable, Count, Max, Min, Sum, ordered
from .operators import is_columnar

if TYPE_CHECKING:
    from .column_evaluation import Column, Frame
    from .groups import RowGroups

__all__ = ["AggregateReducer", "PairReducer", "Reducer", "check_json", "merge_states", "reduced"]

_FLAT = frozenset({str, int, float, bool, type(None)})


# As Python's sum begins, so that an element that is not a number is refused at once.
_number = partial(operator.add, 0)


def _orderable(element: Comparable | None) -> Comparable:
    if element is None:
        raise TypeError("None is neither less nor greater than anything")
    return ordered(element)


def _lesser(a: Comparable, b: Comparable) -> Comparable:
    if type(b) is list or (type(b) is float and b - b):
        ordered(b)  # also where it is not the least: what it meets depends on how records are grouped
    return b if b < a else a if b == b else ordered(b)


def _greater(a: Comparable, b: Comparable) -> Comparable:
    if type(b) is list or (type(b) is float and b - b):
        ordered(b)
    return b if b > a else a if b == b else ordered(b)


class Reducer(Protocol):
    """Joins the elements of a key.

    Attributes:
        independent: whether each element that can begin a state can join any other state of its kind. Then elements
            that cannot be reduced may be skipped one by one.
        start: returns the state of one element.
        add: returns a state with one more element; may change the state.
        merge: returns the state of both; may change the first.
    """

    independent: bool

    @property
    def sums(self) -> tuple[str, ...]:
        """Return the fields of the result that are sums; see `FlowDescription`."""
        ...

    @property
    def start(self) -> Callable[..., object]: ...
    @property
    def add(self) -> Callable[..., object]: ...
    @property
    def merge(self) -> Callable[..., object]: ...

    def private(self, state: object) -> object:
        """Return the state, or a copy of it, for `add` to change where `add` may fail half-way."""
        ...

    def columnar(self, value: object) -> bool:
        """Return whether `grouped` gives the same as elements one by one.

        Args:
            value: what is left of an element; None: all of it.
        """
        ...

    def columns(self, frame: Frame, value: Column | None) -> list[Column | None]:
        """Return the columns that `grouped` needs, and set rows aside that have to be looked at one by one."""
        ...

    def grouped(self, groups: RowGroups, columns: Sequence[Column | None]) -> Sequence[object]:
        """Return the states of columns, one for each key of `groups`."""
        ...

    def adds(self) -> list[bool] | None:
        """Return for each column whether its values are added up; None where columns of several batches cannot be
        grouped as one."""
        ...

    def joined(self, known: Iterable[object], states: Iterable[object]) -> Sequence[object]:
        """Return the table's new values, one for each key.

        Args:
            known: the table's values, ABSENT where it has none.
            states: the states to join with them.
        """
        ...


class Builtin(NamedTuple):
    """How to compute `sum`, `min` or `max`, which take a collection, element by element and by column.

    Attributes:
        start: returns the result of one element.
        join: returns the result of two elements.
        form: of the aggregate that reduces a column in the same way.
    """

    start: Callable[..., object]
    join: Callable[..., object]
    form: ColumnForm


BUILTINS: Mapping[object, Builtin] = {
    sum: Builtin(_number, operator.add, Sum.by_column()),
    min: Builtin(_orderable, _lesser, Min.by_column()),
    max: Builtin(_orderable, _greater, Max.by_column()),
}


class PairReducer:
    """Reduces by a function of two elements, or by Python's `sum`, `min`, `max`; the state is such an element."""

    independent = True

    def __init__(self, how: Callable[..., object]) -> None:
        self.start, join, self._form = BUILTINS.get(how, (_same, how, None))
        self.add: Callable[..., object] = join
        self.merge: Callable[..., object] = join
        self.sums: tuple[str, ...] = () if how in (min, max) else ("",)

    def private(self, state: object) -> object:
        """Return a copy of states that a user's function might change before it fails."""
        return state if self._form is not None or type(state) in _FLAT else deepcopy(state)

    def columnar(self, value: object) -> bool:
        """Return whether the function is `sum`, `min` or `max`, of a field or an expression."""
        return self._form is not None and value is not None

    def columns(self, frame: Frame, value: Column | None) -> list[Column | None]:
        """Return the only column; rows that are None are set aside, because the function fails at them."""
        assert value is not None
        frame.set_aside(value.null)
        return [value]

    def grouped(self, groups: RowGroups, columns: Sequence[Column | None]) -> Sequence[object]:
        """Return the states of a column, one for each key of `groups`."""
        assert self._form is not None
        return self._form.states(self, groups, columns[0])

    def adds(self) -> list[bool] | None:
        """Return whether the column is added up; None for a user's function."""
        return None if self._form is None or self._form.adds is None else [self._form.adds]

    def joined(self, known: Iterable[object], states: Iterable[object]) -> list[object]:
        """Return the table's new values; see `Reducer.joined`."""
        merge = self.merge
        return [state if old is ABSENT else merge(old, state) for old, state in zip(known, states, strict=True)]


class AggregateReducer:
    """Reduces by several aggregates side by side; the state is a list of theirs."""

    def __init__(self, columns: Mapping[str, Aggregate]) -> None:
        self._columns = dict(columns)
        self._hows = list(columns.values())
        self._taken = [how.taken() for how in self._hows]
        self._forms = [how.by_column() for how in self._hows]
        self.independent = all(form.independent for form in self._forms)

    def start(self, element: object) -> list[object]:
        """Return the state of one element."""
        return self.add([how.zero() for how in self._hows], element)

    def add(self, state: list[object], element: object) -> list[object]:
        """Return the state with one more element."""
        return [how.add(s, take(element)) for how, s, take in zip(self._hows, state, self._taken, strict=True)]

    def private(self, state: object) -> object:
        """Return the state itself: `independent` aggregates never change a state."""
        return state

    def merge(self, state: list[object], other: list[object]) -> list[object]:
        """Return the state of both."""
        return [how.merge(a, b) for how, a, b in zip(self._hows, state, other, strict=True)]

    def columnar(self, value: object) -> bool:
        """Return whether each aggregate can read a column; see `Reducer.columnar`."""
        return all(_is_readable(how, value) for how in self._hows)

    def columns(self, frame: Frame, value: Column | None) -> list[Column | None]:
        """Return a column for each aggregate; see `Reducer.columns`."""
        columns = [value if how.of is None else frame.column(how.of) for how in self._hows]
        for column in columns:
            if column is not None:
                frame.set_aside(column.bad)
        return columns

    def grouped(self, groups: RowGroups, columns: Sequence[Column | None]) -> Sequence[object]:
        """Return the states of columns, one for each key of `groups`."""
        parts = zip(self._forms, self._hows, columns, strict=True)
        return list(map(list, zip(*(form.states(how, groups, column) for form, how, column in parts), strict=True)))

    def adds(self) -> list[bool] | None:
        """Return for each column whether its values are added up; see `Reducer.adds`."""
        adds = [form.adds for form in self._forms]
        return None if None in adds else cast("list[bool]", adds)

    def joined(self, known: Iterable[Any], states: Iterable[Any]) -> list[dict[str, object]]:
        """Return the table's new values; see `Reducer.joined`."""
        merge, opened, stored = self.merge, self.opened, self.stored
        return [
            stored(state if old is ABSENT else merge(opened(old), state))
            for old, state in zip(known, states, strict=True)
        ]

    def stored(self, state: list[object]) -> dict[str, object]:
        """Return the results by name, and beside each the aggregate's state where that is more than its result."""
        value: dict[str, object] = {}
        for (name, how), part in zip(self._columns.items(), state, strict=True):
            value[name] = how.result(part)
            if _keeps_state(how):
                value[f"_{name}"] = part
        return value

    @property
    def sums(self) -> tuple[str, ...]:
        """Fields of the result that are sums; see `FlowDescription`."""
        forms = zip(self._columns, self._forms, strict=True)
        return tuple(name for name, form in forms if form.adds or form is ONE_BY_ONE)

    @property
    def state_fields(self) -> frozenset[str]:
        """Names of the states that `stored` puts beside results."""
        return frozenset(f"_{name}" for name, how in self._columns.items() if _keeps_state(how))

    def opened(self, value: Mapping[str, object]) -> list[object]:
        """Return the state that a value of the table represents."""
        return [value[f"_{name}" if _keeps_state(how) else name] for name, how in self._columns.items()]


def reduced(
    pairs: Iterable[tuple[object, object]],
    start: Callable[..., object],
    add: Callable[..., object],
    states: dict[object, object] | None = None,
) -> dict[object, object]:
    """Reduce pairs of key and element to key -> state, in the order in which keys came first.

    Args:
        states: results of elements before these, which are changed; None: there are none.

    >>> reduced([("a", 1), ("b", 2), ("a", 3)], lambda x: x, lambda a, b: a + b)
    {'a': 4, 'b': 2}
    """
    states = {} if states is None else states
    if start is _number:  # Python's sum, in two thirds of the time
        get: Callable[..., Any] = states.get
        for key, element in pairs:
            states[key] = get(key, 0) + element
        return states
    for key, element in pairs:
        states[key] = add(states[key], element) if key in states else start(element)
    return states


def merge_states(states: dict[Any, Any], others: Mapping[Any, Any], merge: Callable[..., object]) -> dict[Any, Any]:
    """Merge states by key into the first ones, which are changed and returned."""
    for key, state in others.items():
        states[key] = merge(states[key], state) if key in states else state
    return states


def check_json(states: Collection[object]) -> None:
    """Refuse states that JSON would change where their type is not declared: a `Decimal` would become text.

    Raises:
        BadRecord: a state is, or holds, something that is not text, a number, a flag, None, a list or a dict.
    """
    others = set(map(type, states)) - _FLAT
    if others - {list, dict}:
        raise BadRecord(
            f"a partial result is, or holds, a {min(kind.__qualname__ for kind in others - {list, dict})}, which JSON "
            "would return as another type",
            hint="annotate the function that makes elements, as in def parse(line: str) -> Decimal, or use "
            "reduce(…, value_type=…)",
        )
    for kind in others:
        inner = [state for state in states if type(state) is kind]
        if kind is dict:
            dicts = cast("list[dict[object, object]]", inner)
            check_json(list(chain.from_iterable(dicts)))
            check_json(list(chain.from_iterable(map(dict.values, dicts))))
        else:
            check_json(list(chain.from_iterable(cast("list[list[object]]", inner))))


def _same(state: object) -> object:
    return state


def _is_readable(how: Aggregate, value: object) -> bool:
    """Return whether an aggregate can read a column; for `value` see `Reducer.columnar`."""
    if how.by_column() is ONE_BY_ONE and type(how).taken is not Aggregate.taken:
        return False
    if how.of is None:
        return value is not None or type(how) is Count
    return value is None and is_columnar(how.of)


def _keeps_state(how: Aggregate) -> bool:
    return type(how).result is not Aggregate.result
