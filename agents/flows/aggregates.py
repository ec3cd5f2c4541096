"""What `Flow.aggregate` can compute of the records of a key.

An aggregate is four functions over a *state* that is plain JSON: `zero` makes it, `add` takes one more element in,
`merge` joins the states of two groups of elements, `result` says what it amounts to. Records of one key may be grouped
in any way before they meet (by batch, by partition), so `merge` must not care how:

    merge(add(zero, x), add(zero, y)) == add(add(zero, x), y), in either order

That holds for all of these, except that sums of floats may differ in their last digits. NaN, which has no place in any
order, is refused by those that compare.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import attrgetter, itemgetter
from typing import Any, cast

import msgspec

from ...topics.errors import Usage
from ...topics.keys import plain

__all__ = ["Aggregate", "Count", "Distinct", "Max", "Mean", "Min", "Sum", "Top", "getter", "one_form", "ordered"]

What = str | int | Callable[[Any], Any] | None

_PLAIN = frozenset({str, int, float, bool})


def getter(what: What) -> Callable[[Any], Any]:
    """A function that takes `what` out of an element: a field of a mapping or an object, an index, a function's result.

    None takes the element as it is.

    >>> getter("b")({"a": 1, "b": 2}), getter(0)(("x", "y")), getter(len)("four")
    (2, 'x', 4)
    """
    if what is None:
        return _itself
    if isinstance(what, str):
        item, attribute = itemgetter(what), attrgetter(what)
        return lambda element: item(element) if isinstance(element, dict) else attribute(element)
    return itemgetter(what) if isinstance(what, int) else what


def _itself(element: Any) -> Any:
    return element


def ordered(value: Any) -> Any:
    """The value, unless it is neither less nor greater than anything: then what is the least depends on who came first.

    Raises:
        ValueError: it is NaN, or infinite, which a table cannot hold.
        TypeError: it is of a type without an order, or a list that holds something without one.
    """
    if value != value:
        raise ValueError("NaN is neither less nor greater than anything")
    if type(value) is float and value - value:
        raise ValueError(f"{value} is no number that JSON has")
    if type(value) not in _PLAIN:
        if isinstance(value, (list, tuple)):
            for item in cast("Sequence[Any]", value):
                ordered(item)
        elif value is None or not value <= value:  # raises, where there is no order
            raise TypeError(f"{value!r} is neither less nor greater than anything")
    return value


@dataclass(frozen=True)
class Aggregate:
    """Base of all, and of a user's own.

    Attributes:
        of: what of an element counts: a field's name, an index, a function; None takes the element itself.
    """

    of: What = None

    def taken(self) -> Callable[[Any], Any]:
        """Takes the value out of an element."""
        return getter(self.of)

    def zero(self) -> Any:
        """The state of no elements."""
        return None

    def add(self, state: Any, value: Any) -> Any:
        """The state with one more value; may change `state`."""
        return self.merge(state, value)

    def merge(self, state: Any, other: Any) -> Any:
        """The state of both groups of elements; may change `state`."""
        raise NotImplementedError

    def result(self, state: Any) -> Any:
        """What the state amounts to; the state itself unless it says otherwise."""
        return state


class Count(Aggregate):
    """How many elements there were; with `of`, how many where that is not None."""

    def zero(self) -> Any:
        return 0

    def add(self, state: Any, value: Any) -> Any:
        return state + (self.of is None or value is not None)

    def merge(self, state: Any, other: Any) -> Any:
        return state + other


class Sum(Aggregate):
    """Their sum; None counts as nothing."""

    def zero(self) -> Any:
        return 0

    def merge(self, state: Any, other: Any) -> Any:
        return state if other is None else state + other


class Min(Aggregate):
    """The least of them; None where there was none."""

    def merge(self, state: Any, other: Any) -> Any:
        if other is None:
            return state
        if type(other) is list or (type(other) is float and other - other):
            ordered(other)  # also where it is not the least: what it meets depends on how records are grouped
        return state if state is not None and state <= other else ordered(other)


class Max(Aggregate):
    """The greatest of them; None where there was none."""

    def merge(self, state: Any, other: Any) -> Any:
        if other is None:
            return state
        if type(other) is list or (type(other) is float and other - other):
            ordered(other)  # also where it is not the greatest: what it meets depends on how records are grouped
        return state if state is not None and state >= other else ordered(other)


class Mean(Aggregate):
    """Their mean; None where there was none."""

    def zero(self) -> Any:
        return [0, 0]

    def add(self, state: Any, value: Any) -> Any:
        return state if value is None else [state[0] + value, state[1] + 1]

    def merge(self, state: Any, other: Any) -> Any:
        return [state[0] + other[0], state[1] + other[1]]

    def result(self, state: Any) -> Any:
        return state[0] / state[1] if state[1] else None


class Distinct(Aggregate):
    """How many different values there were, exactly: all of them are kept, so it is for few (thousands a key).

    None is not counted; values that are equal to Python are one (1, 1.0 and True), lists and dicts by their content.
    For more values there is `ApproxDistinct`.
    """

    def zero(self) -> Any:
        return []

    def add(self, state: Any, value: Any) -> Any:
        if value is None:
            return state
        if type(value) is not str and type(value) is not int:
            value = one_form(value)
        rank = _rank(value)
        place = bisect_left(state, rank, key=_rank)
        if place < len(state) and _rank(state[place]) == rank:
            return state  # most values are there already
        return [*state[:place], value, *state[place:]]

    def merge(self, state: Any, other: Any) -> Any:
        if set(map(type, state)) | set(map(type, other)) <= _FLAT:
            return sorted({*state, *other}, key=_rank)
        ranked = {_rank(value): value for value in (*state, *other)}
        return [ranked[rank] for rank in sorted(ranked)]

    def result(self, state: Any) -> Any:
        return len(state)


_FLAT = frozenset({str, int})
_encode = msgspec.json.Encoder(order="deterministic").encode


def _rank(value: Any) -> tuple[str, Any]:
    """Orders values in the form that `one_form` gives."""
    kind = type(value)
    return str(kind), value if kind in _PLAIN else _encode(value)


def one_form(value: Any) -> Any:
    """What JSON has for a value, the same for all that are equal to Python: 1 for 1.0 and True.

    >>> one_form([True, {"a": 2.0}, ("x", None)])
    [1, {'a': 2}, ['x', None]]

    Raises:
        BadRecord: it is NaN or infinite, or holds such a number.
        TypeError: JSON has nothing like it.
    """
    if type(value) not in _PLAIN:
        value = msgspec.to_builtins(value, order="deterministic", str_keys=True)
    return _one_form(value)


def _one_form(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return list(map(_one_form, cast("Sequence[Any]", value)))
    if isinstance(value, dict):
        return {key: _one_form(item) for key, item in cast("dict[Any, Any]", value).items()}
    return plain(value)


@dataclass(frozen=True)
class Top(Aggregate):
    """The `n` greatest elements by `of`, greatest first; of equal ones those that encode first, so that any order of
    arrival gives the same. An element whose `of` is None counts as nothing."""

    n: int = 10

    def __post_init__(self) -> None:
        if self.n < 1:
            raise Usage(f"Top({self.of!r}, n={self.n})", hint="n is how many to keep, 1 at least")

    def taken(self) -> Callable[[Any], Any]:
        key = getter(self.of)

        def taken(element: Any) -> Any:
            value = key(element)
            return None if value is None else [_in_json(ordered(value)), _whole(element)]

        return taken

    def zero(self) -> Any:
        return []

    def add(self, state: Any, value: Any) -> Any:
        if value is None or (len(state) == self.n and value[0] < state[-1][0]):
            return state
        return self.merge(state, [value])

    def merge(self, state: Any, other: Any) -> Any:
        # Two stable sorts: by content, then by rank.
        both = sorted([*state, *other], key=lambda pair: msgspec.json.encode(pair[1]))
        return sorted(both, key=itemgetter(0), reverse=True)[: self.n]

    def result(self, state: Any) -> Any:
        return [element for _, element in state]


def _in_json(value: Any) -> Any:
    """A value by which elements are ranked, as it comes back from JSON.

    Raises:
        TypeError: it comes back as something that has another order.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        return list(map(_in_json, cast("Sequence[Any]", value)))
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a {type(value).__qualname__} does not come back from JSON: rank by a number or text of it")


def _whole(element: Any) -> Any:
    """An element as JSON gives it back.

    Raises:
        ValueError: it holds NaN or infinity. Whether it is among the greatest does not matter: that depends on how
            records are grouped.
    """
    made = msgspec.to_builtins(element)
    if b"null" in _encode(made):  # as which they are written, and None as well
        _check_finite(made)
    return made


def _check_finite(value: Any) -> None:
    if isinstance(value, dict):
        value = list(cast("dict[Any, Any]", value).values())
    if isinstance(value, (list, tuple)):
        for item in cast("Sequence[Any]", value):
            _check_finite(item)
    elif type(value) is float and value - value:
        raise ValueError(f"an element holds {value}, which JSON does not have")
