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
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

from ...topics.errors import Usage

__all__ = ["Aggregate", "Count", "Distinct", "Max", "Mean", "Min", "Sum", "Top", "getter", "ordered"]

What = str | int | Callable[[Any], Any] | None


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
        ValueError: it is NaN.
    """
    if value != value:
        raise ValueError("NaN is neither less nor greater than anything")
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
        return state if other is None or (state is not None and state <= other) else ordered(other)


class Max(Aggregate):
    """The greatest of them; None where there was none."""

    def merge(self, state: Any, other: Any) -> Any:
        return state if other is None or (state is not None and state >= other) else ordered(other)


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

    For more there is `ApproxDistinct`.
    """

    def zero(self) -> Any:
        return []

    def add(self, state: Any, value: Any) -> Any:
        if value is None:
            return state
        if type(value) in _FLAT:  # most values are there already
            place = bisect_left(state, _rank(value), key=_rank)
            if place < len(state) and state[place] == value:
                return state
        return self.merge(state, [value])

    def merge(self, state: Any, other: Any) -> Any:
        return sorted({*map(_hashable, state), *map(_hashable, other)}, key=_rank)

    def result(self, state: Any) -> Any:
        return len(state)


_FLAT = frozenset({str, int, bool})


def _rank(value: Any) -> tuple[str, Any]:
    return str(type(value)), value


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return value


@dataclass(frozen=True)
class Top(Aggregate):
    """The `n` greatest elements by `of`, greatest first; of equal ones those that encode first, so that any order of
    arrival gives the same."""

    n: int = 10

    def __post_init__(self) -> None:
        if self.n < 1:
            raise Usage(f"Top({self.of!r}, n={self.n})", hint="n is how many to keep, 1 at least")

    def taken(self) -> Callable[[Any], Any]:
        key = getter(self.of)
        return lambda element: [ordered(key(element)), msgspec.to_builtins(element)]

    def zero(self) -> Any:
        return []

    def add(self, state: Any, value: Any) -> Any:
        if len(state) == self.n and value[0] < state[-1][0]:
            return state
        return self.merge(state, [value])

    def merge(self, state: Any, other: Any) -> Any:
        # Two stable sorts: by content, then by rank.
        both = sorted([*state, *other], key=lambda pair: msgspec.json.encode(pair[1]))
        return sorted(both, key=itemgetter(0), reverse=True)[: self.n]

    def result(self, state: Any) -> Any:
        return [element for _, element in state]
