"""Expressions: what a flow computes of an element's fields, told in a way that works on one element and on columns.

    from anabranch import col

    sales.filter(col("amount") > 0).with_columns(cost=col("price") * col("n")).key_by("user", "cost").reduce(sum)

An expression is a function of an element (a dict, or an object with attributes), so it can stand wherever a flow takes
one, and means there what Python means:

>>> cost = col("price") * col("n")
>>> cost({"price": 2, "n": 3})
6
>>> (col("name").lower().startswith("a") & (col("n") > 1))({"name": "Ann", "n": 3})
True

| written | means |
| --- | --- |
| `+ - * / // %`, `-x` | Python's arithmetic; `+` joins texts, too |
| `== != < <= > >=` | Python's comparisons |
| `& \\| ~` | `and`, `or`, `not` of true and false only; what stands to the right is looked at only where it matters |
| `.is_null()`, `.fill_null(x)` | whether it is None; `x` where it is |
| `.lower() .upper() .strip() .length()` | of text |
| `.startswith(t) .endswith(t) .contains(t)` | of text |
| `.to_int()`, `.to_float()` | of text, as Python's `int` and `float` |

A field that is not there, None in arithmetic, a division by zero raise, and the element's record goes to the policy of
its agent. Where a whole batch is at hand in columns (a packed batch), the engine evaluates them column by column with
the same result, bit by bit; where it cannot promise that (integers beyond 64 bits, say), it goes element by element.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from ...topics.errors import Usage

__all__ = ["Constant", "Expression", "Field", "Function", "Operation", "col"]


def col(name: str) -> Expression:
    """A field of an element; see `anabranch.agents.flows.expressions`."""
    return Field(name)


class Expression:
    """See the module; made by `col` and its operators."""

    __slots__ = ()

    def __call__(self, element: Any) -> Any:
        """Its value for an element."""
        raise NotImplementedError

    def __bool__(self) -> NoReturn:
        raise Usage("an expression is neither true nor false", hint="& for and, | for or, ~ for not; (0 < a) & (a < 5)")

    __hash__ = object.__hash__

    def __add__(self, other: Any) -> Expression:
        return Operation("+", self, _expression(other))

    def __radd__(self, other: Any) -> Expression:
        return Operation("+", _expression(other), self)

    def __sub__(self, other: Any) -> Expression:
        return Operation("-", self, _expression(other))

    def __rsub__(self, other: Any) -> Expression:
        return Operation("-", _expression(other), self)

    def __mul__(self, other: Any) -> Expression:
        return Operation("*", self, _expression(other))

    def __rmul__(self, other: Any) -> Expression:
        return Operation("*", _expression(other), self)

    def __truediv__(self, other: Any) -> Expression:
        return Operation("/", self, _expression(other))

    def __rtruediv__(self, other: Any) -> Expression:
        return Operation("/", _expression(other), self)

    def __floordiv__(self, other: Any) -> Expression:
        return Operation("//", self, _expression(other))

    def __rfloordiv__(self, other: Any) -> Expression:
        return Operation("//", _expression(other), self)

    def __mod__(self, other: Any) -> Expression:
        return Operation("%", self, _expression(other))

    def __rmod__(self, other: Any) -> Expression:
        return Operation("%", _expression(other), self)

    def __neg__(self) -> Expression:
        return Function("-", self)

    def __eq__(self, other: object) -> Expression:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Operation("==", self, _expression(other))

    def __ne__(self, other: object) -> Expression:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Operation("!=", self, _expression(other))

    def __lt__(self, other: Any) -> Expression:
        return Operation("<", self, _expression(other))

    def __le__(self, other: Any) -> Expression:
        return Operation("<=", self, _expression(other))

    def __gt__(self, other: Any) -> Expression:
        return Operation(">", self, _expression(other))

    def __ge__(self, other: Any) -> Expression:
        return Operation(">=", self, _expression(other))

    def __and__(self, other: Any) -> Expression:
        return Operation("&", self, _expression(other))

    def __rand__(self, other: Any) -> Expression:
        return Operation("&", _expression(other), self)

    def __or__(self, other: Any) -> Expression:
        return Operation("|", self, _expression(other))

    def __ror__(self, other: Any) -> Expression:
        return Operation("|", _expression(other), self)

    def __invert__(self) -> Expression:
        return Function("~", self)

    def is_null(self) -> Expression:
        """Whether it is None."""
        return Function("is_null", self)

    def fill_null(self, instead: Any) -> Expression:
        """`instead` where it is None."""
        return Function("fill_null", self, instead)

    def lower(self) -> Expression:
        """`str.lower`."""
        return Function("lower", self)

    def upper(self) -> Expression:
        """`str.upper`."""
        return Function("upper", self)

    def strip(self) -> Expression:
        """`str.strip`, of white space."""
        return Function("strip", self)

    def length(self) -> Expression:
        """How many characters."""
        return Function("length", self)

    def startswith(self, text: str) -> Expression:
        """`str.startswith`."""
        return Function("startswith", self, text)

    def endswith(self, text: str) -> Expression:
        """`str.endswith`."""
        return Function("endswith", self, text)

    def contains(self, text: str) -> Expression:
        """Whether `text` is part of it."""
        return Function("contains", self, text)

    def to_int(self) -> Expression:
        """`int` of a text or a number."""
        return Function("to_int", self)

    def to_float(self) -> Expression:
        """`float` of a text or a number."""
        return Function("to_float", self)


@dataclass(frozen=True, slots=True, eq=False)
class Field(Expression):
    """A field by its name."""

    name: str

    def __call__(self, element: Any) -> Any:
        return element[self.name] if isinstance(element, dict) else getattr(element, self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Expression):
    """The same for all elements."""

    value: Any

    def __call__(self, element: Any) -> Any:
        return self.value


@dataclass(frozen=True, slots=True, eq=False)
class Operation(Expression):
    """Of two expressions."""

    sign: str
    left: Expression
    right: Expression

    def __call__(self, element: Any) -> Any:
        sign = self.sign
        if sign == "&":
            return _truth(self.left(element)) and _truth(self.right(element))
        if sign == "|":
            return _truth(self.left(element)) or _truth(self.right(element))
        return OPERATORS[sign](self.left(element), self.right(element))


@dataclass(frozen=True, slots=True, eq=False)
class Function(Expression):
    """Of one expression, with an argument where `FUNCTIONS` says that it takes one."""

    name: str
    of: Expression
    argument: Any = None

    def __call__(self, element: Any) -> Any:
        value = self.of(element)
        return FUNCTIONS[self.name](value, self.argument)


def _expression(value: Any) -> Expression:
    if isinstance(value, Expression):
        return value
    if value is None or isinstance(value, (int, float, str)):
        return Constant(value)
    raise Usage(f"{value!r} in an expression", hint="fields, numbers, text, True, False and None can be")


def _truth(value: Any) -> bool:
    if value is True or value is False:
        return value
    raise TypeError(f"&, | and ~ take true and false, not {value!r}")


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "-": lambda value, _: -value,
    "~": lambda value, _: not _truth(value),
    "is_null": lambda value, _: value is None,
    "fill_null": lambda value, instead: instead if value is None else value,
    "lower": lambda value, _: str.lower(value),
    "upper": lambda value, _: str.upper(value),
    "strip": lambda value, _: str.strip(value),
    "length": lambda value, _: str.__len__(value),
    "startswith": str.startswith,
    "endswith": str.endswith,
    "contains": str.__contains__,
    "to_int": lambda value, _: int(value),
    "to_float": lambda value, _: float(value),
}
