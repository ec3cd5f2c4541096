"""What happens to elements on their way, one step after the other: element by element, and some of it by column.

A step takes elements and gives elements (`rows`). Those that only use fields and expressions (`by_column`) do the same
to a frame (`columns`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from .aggregates import What, getter
from .expressions import Expression

if TYPE_CHECKING:
    from .columnar_frame import Frame

__all__ = ["Filter", "FlatMap", "Map", "Operator", "Select", "WithColumns", "is_column"]


def is_column(what: What) -> bool:
    """Whether it can be read from columns: a field's name or an expression."""
    return isinstance(what, (str, Expression))


@dataclass(frozen=True)
class Operator:
    """One of them."""

    @property
    def by_column(self) -> bool:
        """Whether it has a column way."""
        return False

    def rows(self, elements: Iterable[Any]) -> Iterable[Any]:
        """What comes out of it."""
        raise NotImplementedError

    def columns(self, frame: Frame) -> None:
        """The same to a frame.

        Raises:
            Doubt: it cannot be promised that it is the same.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Map(Operator):
    """What a function makes of each element."""

    function: Callable[[Any], Any]

    def rows(self, elements: Iterable[Any]) -> Iterable[Any]:
        return map(self.function, elements)


@dataclass(frozen=True)
class FlatMap(Operator):
    """All that a function gives for each element."""

    function: Callable[[Any], Iterable[Any]]

    def rows(self, elements: Iterable[Any]) -> Iterable[Any]:
        return chain.from_iterable(map(self.function, elements))


@dataclass(frozen=True)
class Filter(Operator):
    """The elements for which a function is true."""

    function: Callable[[Any], Any]

    @property
    def by_column(self) -> bool:
        return isinstance(self.function, Expression)

    def rows(self, elements: Iterable[Any]) -> Iterable[Any]:
        return filter(self.function, elements)

    def columns(self, frame: Frame) -> None:
        frame.keep(self.function)


@dataclass(frozen=True)
class Select(Operator):
    """Dicts of some fields only, by name."""

    fields: Mapping[str, What]

    @property
    def by_column(self) -> bool:
        return all(map(is_column, self.fields.values()))

    def rows(self, elements: Iterable[Any]) -> Iterable[Any]:
        return map(_columns(self.fields), elements)

    def columns(self, frame: Frame) -> None:
        frame.select(self.fields)


@dataclass(frozen=True)
class WithColumns(Operator):
    """Dicts with more fields than the elements have."""

    fields: Mapping[str, What]

    @property
    def by_column(self) -> bool:
        return all(map(is_column, self.fields.values()))

    def rows(self, elements: Iterable[Any]) -> Iterable[Any]:
        columns = _columns(self.fields)
        return (_fields_of(element) | columns(element) for element in elements)

    def columns(self, frame: Frame) -> None:
        frame.with_columns(self.fields)


def _columns(fields: Mapping[str, What]) -> Callable[[Any], dict[str, Any]]:
    getters = {name: getter(what) for name, what in fields.items()}
    return lambda element: {name: get(element) for name, get in getters.items()}


def _fields_of(element: Any) -> dict[str, Any]:
    if isinstance(element, dict):
        return element
    if isinstance(element, msgspec.Struct):
        return msgspec.structs.asdict(element)
    raise TypeError(f"with_columns needs elements with fields, not {type(element).__name__}")
