"""Aggregates: what `Flow.aggregate` can compute of the records of a key.

An aggregate is four functions over a *state*, which is plain JSON: `zero` makes it, `add` adds one more element,
`merge` joins the states of two groups of elements, `result` returns the result. Records of one key may be grouped in
any way before they meet (by batch, by partition), so the grouping must not change the result:

    merge(add(zero, x), add(zero, y)) == add(add(zero, x), y), in either order

This holds for all aggregates here, except that sums of floats may differ in their last digits. Aggregates that compare
refuse NaN, which has no place in any order.

An aggregate that can reduce a column at once says so beside these functions, in `column_form`. It must give exactly the
states that `add` gives, or raise `NotVectorizable`. Others are given the values of a column one by one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import reduce
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, cast

import msgspec
from typing_extensions import TypeVar

from ...topics.errors import Usage
from ...topics.keys import plain
from .expressions import Expression, part

if TYPE_CHECKING:
    from .column_evaluation import Column
    from .groups import RowGroups

__all__ = [
    "ONE_BY_ONE",
    "Aggregate",
    "ColumnForm",
    "Comparable",
    "Count",
    "Distinct",
    "Max",
    "Mean",
    "Min",
    "Sum",
    "Top",
    "getter",
    "one_form",
    "ordered",
]

What = str | int | Callable[..., Any] | None
"""Selects a part of an element: a field name, an index or a function; None selects the element itself."""

S = TypeVar("S", default=Any)

_PLAIN = frozenset({str, int, float, bool})


class Comparable(Protocol):
    """A value that has an order: a number, text, a date, a list of such values."""

    def __lt__(self, other: Any, /) -> bool: ...
    def __le__(self, other: Any, /) -> bool: ...
    def __gt__(self, other: Any, /) -> bool: ...
    def __ge__(self, other: Any, /) -> bool: ...


C = TypeVar("C", bound="Comparable | None")


class Addable(Protocol):
    """A number."""

    def __add__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...


def getter(what: What, field: Callable[[str], Callable[..., Any]] = part) -> Callable[..., Any]:
    """Return a function that takes a part out of an element: a field of a mapping or an object, an index, or whatever a
    function returns.

    Args:
        field: returns a function that takes a field out of an element.

    >>> getter("b")({"a": 1, "b": 2}), getter(0)(("x", "y")), getter(len)("four")
    (2, 'x', 4)
    """
    if what is None:
        return _itself
    if isinstance(what, str):
        return field(what)
    if isinstance(what, Expression):
        return what.function(field)
    return itemgetter(what) if isinstance(what, int) else what


def _itself(element: object) -> object:
    return element


def ordered(value: C) -> C:
    """Return a value that has a place in an order; without one, the least value would depend on the order of arrival.

    Raises:
        ValueError: the value is NaN, or infinite, which a table cannot hold.
        TypeError: it is of a type without an order, or a list that holds something without one.
    """
    if value != value:
        raise ValueError("NaN is neither less nor greater than anything")
    if type(value) is float and value - value:
        raise ValueError(f"{value} is not a number that JSON can represent")
    if type(value) not in _PLAIN:
        if isinstance(value, (list, tuple)):
            for item in cast("Sequence[Comparable]", value):
                ordered(item)
        elif value is None or not value <= value:  # raises, where there is no order
            raise TypeError(f"{value!r} is neither less nor greater than anything")
    return value


class ColumnForm(NamedTuple):
    """How an aggregate reduces a column.

    Attributes:
        states: returns the states of all keys of a batch, given the aggregate, the rows by key and the column of the
            values; the column is None for the elements themselves.
        adds: whether the values are added up; None: columns of several batches cannot be reduced as one.
        independent: whether a value that is accepted first is accepted after any other as well. Then values that are
            refused can be skipped one by one.
    """

    states: Callable[[Any, RowGroups, Any], Sequence[object]]
    adds: bool | None = None
    independent: bool = True


def _one_by_one(how: Aggregate, groups: RowGroups, column: Column) -> list[object]:
    return [reduce(how.add, each, how.zero()) for each in groups.each(column)]


ONE_BY_ONE = ColumnForm(_one_by_one, None, independent=False)


@dataclass(frozen=True)
class Aggregate(Generic[S]):
    """Base class of the aggregates, and of a user's own. `S` is the type of the state.

    Attributes:
        of: the value that counts: a field's name, an index or a function of the element; None: the element itself.
        column_form: how this class reduces columns; a subclass does not inherit it, because it may add otherwise.
    """

    of: What = None
    column_form: ClassVar[ColumnForm | None] = None

    @classmethod
    def by_column(cls) -> ColumnForm:
        """Return how the aggregate reduces a column: as its class says, else one value after the other."""
        return cls.__dict__.get("column_form") or ONE_BY_ONE

    def taken(self) -> Callable[..., Any]:
        """Return a function that takes the value out of an element."""
        return getter(self.of)

    def zero(self) -> Any:
        """Return the state of no elements; None unless overridden."""
        return None

    def add(self, state: S, value: Any) -> S:
        """Return the state with one more value; may change `state`."""
        return self.merge(state, value)

    def merge(self, state: S, other: S) -> S:
        """Return the state of both groups of elements; may change `state`."""
        raise NotImplementedError

    def result(self, state: S) -> object:
        """Return the result; the state itself unless overridden."""
        return state


class Count(Aggregate[int]):
    """The number of elements; with `of`, of those whose value is not None."""

    column_form = ColumnForm(lambda _, groups, column: groups.counts(column), adds=False)

    def zero(self) -> int:
        return 0

    def add(self, state: int, value: object) -> int:
        return state + (self.of is None or value is not None)

    def merge(self, state: int, other: int) -> int:
        return state + other


class Sum(Aggregate[Addable]):
    """The sum of the values; None is skipped."""

    column_form = ColumnForm(lambda _, groups, column: groups.sums(column), adds=True)

    def zero(self) -> Addable:
        return 0

    def merge(self, state: Addable, other: Addable | None) -> Addable:
        return state if other is None else state + other


class Min(Aggregate[Comparable | None]):
    """The least value; None where there is none."""

    column_form = ColumnForm(lambda _, groups, column: groups.extremes(column, greatest=False), adds=False)

    def merge(self, state: Comparable | None, other: Comparable | None) -> Comparable | None:
        if other is None:
            return state
        if type(other) is list or (type(other) is float and other - other):
            ordered(other)  # also where it is not the least: what it meets depends on how records are grouped
        return state if state is not None and state <= other else ordered(other)


class Max(Aggregate[Comparable | None]):
    """The greatest value; None where there is none."""

    column_form = ColumnForm(lambda _, groups, column: groups.extremes(column, greatest=True), adds=False)

    def merge(self, state: Comparable | None, other: Comparable | None) -> Comparable | None:
        if other is None:
            return state
        if type(other) is list or (type(other) is float and other - other):
            ordered(other)  # also where it is not the greatest: what it meets depends on how records are grouped
        return state if state is not None and state >= other else ordered(other)


class Mean(Aggregate[list[Addable]]):
    """The mean of the values; None where there is none. The state is [sum, count]."""

    column_form = ColumnForm(
        lambda _, groups, column: list(map(list, zip(groups.sums(column), groups.counts(column), strict=True))),
        adds=True,
    )

    def zero(self) -> list[Addable]:
        return [0, 0]

    def add(self, state: list[Addable], value: Addable | None) -> list[Addable]:
        return state if value is None else [state[0] + value, state[1] + 1]

    def merge(self, state: list[Addable], other: list[Addable]) -> list[Addable]:
        return [state[0] + other[0], state[1] + other[1]]

    def result(self, state: list[Addable]) -> object:
        return state[0] / state[1] if state[1] else None


class Distinct(Aggregate[list[object]]):
    """The exact number of different values. All of them are kept, so this is for few (thousands per key).

    None is not counted. Values that are equal to Python count as one (1, 1.0 and True), lists and dicts by their
    content. For more values use `ApproxDistinct`.
    """

    column_form = ColumnForm(lambda _, groups, column: groups.distinct(column))

    def zero(self) -> list[object]:
        return []

    def add(self, state: list[object], value: object) -> list[object]:
        if value is None:
            return state
        if type(value) is not str and type(value) is not int:
            value = one_form(value)
        rank = _rank(value)
        index = bisect_left(state, rank, key=_rank)
        if index < len(state) and _rank(state[index]) == rank:
            return state  # most values are there already
        return [*state[:index], value, *state[index:]]

    def merge(self, state: list[object], other: list[object]) -> list[object]:
        if set(map(type, state)) | set(map(type, other)) <= _FLAT:
            return sorted({*state, *other}, key=_rank)
        ranked = {_rank(value): value for value in (*state, *other)}
        return [ranked[rank] for rank in sorted(ranked)]

    def result(self, state: list[object]) -> int:
        return len(state)


_FLAT = frozenset({str, int})
_encode = msgspec.json.Encoder(order="deterministic").encode


def _rank(value: object) -> tuple[str, Any]:
    """Return a sort key for values in the form of `one_form`."""
    kind = type(value)
    return str(kind), value if kind in _PLAIN else _encode(value)


def one_form(value: object) -> object:
    """Return a value's JSON form, the same for all values that are equal to Python: 1 for 1.0 and True.

    >>> one_form([True, {"a": 2.0}, ("x", None)])
    [1, {'a': 2}, ['x', None]]

    Raises:
        BadRecord: the value is, or holds, NaN or infinity.
        TypeError: JSON cannot hold it.
    """
    if type(value) not in _PLAIN:
        value = msgspec.to_builtins(value, order="deterministic", str_keys=True)
    return _one_form(value)


def _one_form(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return list(map(_one_form, cast("Sequence[object]", value)))
    if isinstance(value, dict):
        return {key: _one_form(item) for key, item in cast("dict[object, object]", value).items()}
    return plain(value)


@dataclass(frozen=True)
class Top(Aggregate[list[tuple[Comparable, object]]]):
    """The `n` elements with the greatest `of`, greatest first. Equal ones are ordered by their encoding, so that any
    order of arrival gives the same result. Elements whose `of` is None are skipped. The state is a list of [rank,
    element].
    """

    n: int = 10
    column_form = ColumnForm(
        lambda how, groups, column: [
            how.merge(how.zero(), list(map(how.taken(), each))) for each in groups.greatest(column, how.n)
        ],
        independent=False,
    )

    def __post_init__(self) -> None:
        if self.n < 1:
            raise Usage(f"Top({self.of!r}, n={self.n})", hint="n is the number of elements to keep, at least 1")

    def taken(self) -> Callable[..., Any]:
        key = getter(self.of)

        def taken(element: object) -> list[object] | None:
            value = key(element)
            return None if value is None else [_in_json(ordered(value)), _whole(element)]

        return taken

    def zero(self) -> list[tuple[Comparable, object]]:
        return []

    def add(
        self, state: list[tuple[Comparable, object]], value: tuple[Comparable, object] | None
    ) -> list[tuple[Comparable, object]]:
        if value is None or (len(state) == self.n and value[0] < state[-1][0]):
            return state
        return self.merge(state, [value])

    def merge(
        self, state: list[tuple[Comparable, object]], other: list[tuple[Comparable, object]]
    ) -> list[tuple[Comparable, object]]:
        # Two stable sorts: by content, then by rank.
        both = sorted([*state, *other], key=lambda pair: msgspec.json.encode(pair[1]))
        return sorted(both, key=itemgetter(0), reverse=True)[: self.n]

    def result(self, state: list[tuple[Comparable, object]]) -> list[object]:
        return [element for _, element in state]


def _in_json(value: object) -> object:
    """Return a value by which elements are ranked in its JSON form.

    Raises:
        TypeError: its JSON form has another order.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        return list(map(_in_json, cast("Sequence[object]", value)))
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"JSON has no {type(value).__qualname__}: rank by a number or a text instead")


def _whole(element: object) -> object:
    """Return an element's JSON form.

    Raises:
        ValueError: the element holds NaN or infinity, whether or not it is among the greatest: that depends on how
            records are grouped.
    """
    made = msgspec.to_builtins(element)
    if b"null" in _encode(made):  # NaN and infinity are written as null, and so is None
        _check_finite(made)
    return made


def _check_finite(value: object) -> None:
    if isinstance(value, dict):
        value = list(cast("dict[object, object]", value).values())
    if isinstance(value, (list, tuple)):
        for item in cast("Sequence[object]", value):
            _check_finite(item)
    elif type(value) is float and value - value:
        raise ValueError(f"an element holds {value}, which JSON cannot represent")
