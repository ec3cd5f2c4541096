"""Expressions: computations on an element's fields that work on one element and on columns.

    from anabranch import col

    sales.filter(col("amount") > 0).with_columns(cost=col("price") * col("n")).key_by("user", "cost").reduce(sum)

An expression is a function of an element (a dict, or an object with attributes), so it can stand wherever a flow takes
a function, and computes what Python would:

>>> cost = col("price") * col("n")
>>> cost({"price": 2, "n": 3})
6
>>> (col("name").lower().startswith("a") & (col("n") > 1))({"name": "Ann", "n": 3})
True

| written | means |
| --- | --- |
| `+ - * / // %`, `-x` | Python's arithmetic; `+` joins texts, too |
| `== != < <= > >=` | Python's comparisons |
| `& \\| ~` | `and`, `or`, `not` of true and false only; the right operand is evaluated only where it matters |
| `.is_null()`, `.fill_null(x)` | whether the value is None; `x` where it is |
| `.lower() .upper() .strip() .length()` | of text |
| `.startswith(t) .endswith(t) .contains(t)` | of text |
| `.to_int()`, `.to_float()` | of text, as Python's `int` and `float` |

A missing field, None in arithmetic and a division by zero raise, and the element's record goes to the failure policy of
the agent. The engine evaluates packed batches column by column with the same result, bit by bit; where it cannot
promise that (integers beyond 64 bits, for example), it evaluates element by element.

There is a second expression language, `replay/sources/field_expression.py`: text for `--key`, `--where` and `--time` on
the command line. They stay apart because they serve different readers. The text is input of a command: Python's grammar
parsed with `ast`, with f-strings, slices, conditions and nested fields, restricted so that a line costs little, and it
is evaluated record by record. An expression here is a Python value in a program, so the editor checks it, and it has
only operations that can be evaluated over columns with exactly Python's result. One syntax tree would have to serve
both sets of operations, and to live in `topics`, because `replay/sources` and `agents/flows` do not import each other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from ...topics.errors import Usage

__all__ = ["Constant", "Expression", "FieldReference", "Function", "Operation", "Value", "col"]

Value: TypeAlias = str | int | float | bool | None
"""A constant in an expression."""


def col(name: str) -> Expression:
    """Return an expression for a field of an element; see `anabranch.agents.flows.expressions`."""
    return FieldReference(name)


class Expression:
    """Base class of the expressions; `col` and operators make them."""

    __slots__ = ()

    def __call__(self, element: object) -> Any:
        """Return the value for an element."""
        raise NotImplementedError

    def __bool__(self) -> NoReturn:
        raise Usage("an expression is neither true nor false", hint="& for and, | for or, ~ for not; (0 < a) & (a < 5)")

    __hash__ = object.__hash__

    def __add__(self, other: Expression | Value) -> Expression:
        return Operation("+", self, _expression(other))

    def __radd__(self, other: Expression | Value) -> Expression:
        return Operation("+", _expression(other), self)

    def __sub__(self, other: Expression | Value) -> Expression:
        return Operation("-", self, _expression(other))

    def __rsub__(self, other: Expression | Value) -> Expression:
        return Operation("-", _expression(other), self)

    def __mul__(self, other: Expression | Value) -> Expression:
        return Operation("*", self, _expression(other))

    def __rmul__(self, other: Expression | Value) -> Expression:
        return Operation("*", _expression(other), self)

    def __truediv__(self, other: Expression | Value) -> Expression:
        return Operation("/", self, _expression(other))

    def __rtruediv__(self, other: Expression | Value) -> Expression:
        return Operation("/", _expression(other), self)

    def __floordiv__(self, other: Expression | Value) -> Expression:
        return Operation("//", self, _expression(other))

    def __rfloordiv__(self, other: Expression | Value) -> Expression:
        return Operation("//", _expression(other), self)

    def __mod__(self, other: Expression | Value) -> Expression:
        return Operation("%", self, _expression(other))

    def __rmod__(self, other: Expression | Value) -> Expression:
        return Operation("%", _expression(other), self)

    def __neg__(self) -> Expression:
        return Function("-", self)

    def __eq__(self, other: object) -> Expression:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Operation("==", self, _expression(other))

    def __ne__(self, other: object) -> Expression:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Operation("!=", self, _expression(other))

    def __lt__(self, other: Expression | Value) -> Expression:
        return Operation("<", self, _expression(other))

    def __le__(self, other: Expression | Value) -> Expression:
        return Operation("<=", self, _expression(other))

    def __gt__(self, other: Expression | Value) -> Expression:
        return Operation(">", self, _expression(other))

    def __ge__(self, other: Expression | Value) -> Expression:
        return Operation(">=", self, _expression(other))

    def __and__(self, other: Expression | Value) -> Expression:
        return Operation("&", self, _expression(other))

    def __rand__(self, other: Expression | Value) -> Expression:
        return Operation("&", _expression(other), self)

    def __or__(self, other: Expression | Value) -> Expression:
        return Operation("|", self, _expression(other))

    def __ror__(self, other: Expression | Value) -> Expression:
        return Operation("|", _expression(other), self)

    def __invert__(self) -> Expression:
        return Function("~", self)

    def is_null(self) -> Expression:
        """Return whether the value is None."""
        return Function("is_null", self)

    def fill_null(self, instead: Value) -> Expression:
        """Return `instead` where the value is None."""
        return Function("fill_null", self, instead)

    def lower(self) -> Expression:
        """Return the text in lower case."""
        return Function("lower", self)

    def upper(self) -> Expression:
        """Return the text in upper case."""
        return Function("upper", self)

    def strip(self) -> Expression:
        """Return the text without white space at its ends."""
        return Function("strip", self)

    def length(self) -> Expression:
        """Return the number of characters."""
        return Function("length", self)

    def startswith(self, text: str) -> Expression:
        """Return whether the value starts with `text`."""
        return Function("startswith", self, text)

    def endswith(self, text: str) -> Expression:
        """Return whether the value ends with `text`."""
        return Function("endswith", self, text)

    def contains(self, text: str) -> Expression:
        """Return whether the value contains `text`."""
        return Function("contains", self, text)

    def to_int(self) -> Expression:
        """Convert text or a number as `int` does."""
        return Function("to_int", self)

    def to_float(self) -> Expression:
        """Convert text or a number as `float` does."""
        return Function("to_float", self)


@dataclass(frozen=True, slots=True, eq=False)
class FieldReference(Expression):
    """A field, by name."""

    name: str

    def __call__(self, element: Any) -> Any:
        return element[self.name] if isinstance(element, dict) else getattr(element, self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Expression):
    """A constant."""

    value: Value

    def __call__(self, element: object) -> Value:
        return self.value


@dataclass(frozen=True, slots=True, eq=False)
class Operation(Expression):
    """An operator with two operands."""

    sign: str
    left: Expression
    right: Expression

    def __call__(self, element: object) -> object:
        sign = self.sign
        if sign == "&":
            return _truth(self.left(element)) and _truth(self.right(element))
        if sign == "|":
            return _truth(self.left(element)) or _truth(self.right(element))
        return OPERATORS[sign](self.left(element), self.right(element))


@dataclass(frozen=True, slots=True, eq=False)
class Function(Expression):
    """A function of an expression, with an argument where its entry in `FUNCTIONS` takes one."""

    name: str
    of: Expression
    argument: Value = None

    def __call__(self, element: object) -> object:
        value = self.of(element)
        return FUNCTIONS[self.name](value, self.argument)


def _expression(value: object) -> Expression:
    if isinstance(value, Expression):
        return value
    if value is None or isinstance(value, (int, float, str)):
        return Constant(value)
    raise Usage(
        f"{value!r} in an expression", hint="an expression consists of fields, numbers, text, True, False and None"
    )


def _truth(value: object) -> bool:
    if value is True or value is False:
        return value
    raise TypeError(f"&, | and ~ take true and false, not {value!r}")


OPERATORS: dict[str, Callable[..., object]] = {
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

FUNCTIONS: dict[str, Callable[..., object]] = {
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
