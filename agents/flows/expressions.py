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
| `pseudonym("email", key="env:NAME")` | keyed hash of text or a whole number; see `topics/pseudonyms.py` |

A missing field, None in arithmetic and a division by zero raise, and the element's record goes to the failure policy of
the agent. The engine evaluates packed batches column by column with the same result, bit by bit; where it cannot
promise that (integers beyond 64 bits, for example), it evaluates element by element. `docs/flows.md` has the semantics.

Each operator and each function is defined once: its entry in `OPERATORS` or `FUNCTIONS` has its meaning for elements
and its meaning for columns side by side.

There is a second expression language, `replay/sources/field_expression.py`: text for `--key`, `--where` and `--time` on
the command line. They stay apart because they serve different readers. The text is input of a command: Python's grammar
parsed with `ast`, with f-strings, slices, conditions and nested fields, restricted so that a line costs little, and it
is evaluated record by record. An expression here is a Python value in a program, so the editor checks it, and it has
only operations that can be evaluated over columns with exactly Python's result. One syntax tree would have to serve
both sets of operations, and to live in `topics`, because `replay/sources` and `agents/flows` do not import each other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeAlias

from ...topics.errors import Usage
from ...topics.pseudonyms import check_key_name, pseudonym_of

if TYPE_CHECKING:
    from .column_evaluation import Column, Frame

__all__ = [
    "Constant",
    "Expression",
    "FieldReference",
    "Function",
    "NotVectorizable",
    "Operation",
    "Value",
    "col",
    "part",
    "pseudonym",
]

Value: TypeAlias = str | int | float | bool | None
"""A constant in an expression."""

OfElement: TypeAlias = Callable[[Any], Any]
"""A function of an element."""


class NotVectorizable(Exception):
    """Columnar execution might give another result than execution row by row."""


def part(name: str) -> OfElement:
    """Return a function that takes a field out of an element: an item of a dict, an attribute of another object."""
    item, attribute = operator.itemgetter(name), operator.attrgetter(name)
    return lambda element: item(element) if isinstance(element, dict) else attribute(element)


def col(name: str) -> Expression:
    """Return an expression for a field of an element; see `anabranch.agents.flows.expressions`."""
    return FieldReference(name)


def pseudonym(of: Expression | str, *, key: str) -> Expression:
    """Return the pseudonym of a field or an expression: 32 hexadecimal digits of a keyed hash; None for None.

        orders.with_columns(email=pseudonym("email", key="env:PSEUDONYM_KEY"))

    Args:
        of: a field's name, or an expression; text or whole numbers.
        key: the name of the secret key: `env:NAME` for an environment variable, `file:PATH` for a file.

    Raises:
        Usage: `key` is not the name of a key. A worker whose key cannot be read stops at the first record.
    """
    return Function("pseudonym", col(of) if isinstance(of, str) else of, check_key_name(key))


class Expression:
    """Base class of the expressions; `col` and operators make them."""

    __slots__ = ()

    def __call__(self, element: object) -> Any:
        """Return the value for an element."""
        return self.function()(element)

    def function(self, field: Callable[[str], OfElement] = part) -> OfElement:
        """Return the function of an element that this expression stands for.

        Args:
            field: returns a function that takes a field out of an element.
        """
        raise NotImplementedError

    def column(self, frame: Frame) -> Column:
        """Return the column of the function's values for the elements of a frame.

        Raises:
            NotVectorizable: the values might differ.
        """
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

    def function(self, field: Callable[[str], OfElement] = part) -> OfElement:
        return field(self.name)

    def column(self, frame: Frame) -> Column:
        return frame.field(self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Expression):
    """A constant."""

    value: Value

    def __call__(self, element: object) -> Value:
        return self.value

    def function(self, field: Callable[[str], OfElement] = part) -> OfElement:
        return self

    def column(self, frame: Frame) -> Column:
        return frame.constant(self.value)


@dataclass(frozen=True, slots=True, eq=False)
class Operation(Expression):
    """An operator with two operands; `sign` is its name in `OPERATORS`."""

    sign: str
    left: Expression
    right: Expression

    def function(self, field: Callable[[str], OfElement] = part) -> OfElement:
        return OPERATORS[self.sign].function(self.left.function(field), self.right.function(field))

    def column(self, frame: Frame) -> Column:
        return OPERATORS[self.sign].column(self.left.column(frame), self.right.column(frame))


@dataclass(frozen=True, slots=True, eq=False)
class Function(Expression):
    """A function of an expression, by its name in `FUNCTIONS`, with an argument where its entry takes one."""

    name: str
    of: Expression
    argument: Value = None

    def function(self, field: Callable[[str], OfElement] = part) -> OfElement:
        call, inner, argument = FUNCTIONS[self.name].call, self.of.function(field), self.argument
        return lambda element: call(inner(element), argument)

    def column(self, frame: Frame) -> Column:
        return FUNCTIONS[self.name].column(self.of.column(frame), self.argument)


def _expression(value: object) -> Expression:
    if isinstance(value, Expression):
        return value
    if value is None or isinstance(value, (int, float, str)):
        return Constant(value)
    raise Usage(
        f"{value!r} in an expression", hint="an expression consists of fields, numbers, text, True, False and None"
    )


# The definitions. The functions of `operator` have the same meaning for two numbers and, element by element, for two
# NumPy arrays of one type, so they are given once; `Column` sees to it that arrays hold what makes that true.


class OperatorDefinition(NamedTuple):
    """The meaning of an operator with two operands.

    Attributes:
        function: returns the function of an element, given those of the operands.
        column: returns the column of the same values, given those of the operands. Rows at which the function raises
            are marked `bad`. Raises `NotVectorizable` where values might differ.
    """

    function: Callable[[OfElement, OfElement], OfElement]
    column: Callable[[Column, Column], Column]


class FunctionDefinition(NamedTuple):
    """The meaning of a function of one operand, with an argument that some functions ignore; see
    `OperatorDefinition`."""

    call: Callable[[Any, Any], object]
    column: Callable[[Column, Value], Column]


def _of_values(call: Callable[[Any, Any], object]) -> Callable[[OfElement, OfElement], OfElement]:
    """Return a function of an element that evaluates both operands."""

    def function(left: OfElement, right: OfElement) -> OfElement:
        if isinstance(right, Constant):
            constant = right.value
            return lambda element: call(left(element), constant)
        return lambda element: call(left(element), right(element))

    return function


def _arithmetic(
    call: Callable[[Any, Any], object],
    bounds: Callable[[int, int, int, int], tuple[int, ...]] | None,
    *,
    divides: bool = False,
    joins: bool = False,
) -> OperatorDefinition:
    """Define an arithmetic operator.

    Args:
        bounds: returns extremes of the result for whole numbers from a to b and from c to d; None: the result is a
            float.
        divides: the right operand must not be 0.
        joins: texts can be operands, too.
    """
    return OperatorDefinition(
        _of_values(call), lambda left, right: left.computed(call, right, bounds, divides=divides, joins=joins)
    )


def _comparison(call: Callable[[Any, Any], object], of_texts: str) -> OperatorDefinition:
    """Define a comparison; `of_texts` is Arrow's name of it, for texts."""
    equality = {"equal": True, "not_equal": False}.get(of_texts)
    return OperatorDefinition(_of_values(call), lambda left, right: left.compared(call, right, of_texts, equality))


def _truth(value: object) -> bool:
    if value is True or value is False:
        return value
    raise TypeError(f"&, | and ~ take true and false, not {value!r}")


OPERATORS: Mapping[str, OperatorDefinition] = {
    "+": _arithmetic(operator.add, lambda a, b, c, d: (a + c, b + d), joins=True),
    "-": _arithmetic(operator.sub, lambda a, b, c, d: (a - d, b - c)),
    "*": _arithmetic(operator.mul, lambda a, b, c, d: (a * c, a * d, b * c, b * d)),
    "/": _arithmetic(operator.truediv, None, divides=True),
    "//": _arithmetic(operator.floordiv, lambda a, b, c, d: (-a, b), divides=True),
    "%": _arithmetic(operator.mod, lambda a, b, c, d: (-a, b), divides=True),
    "==": _comparison(operator.eq, "equal"),
    "!=": _comparison(operator.ne, "not_equal"),
    "<": _comparison(operator.lt, "less"),
    "<=": _comparison(operator.le, "less_equal"),
    ">": _comparison(operator.gt, "greater"),
    ">=": _comparison(operator.ge, "greater_equal"),
    # The right operand matters only where the left one does not decide.
    "&": OperatorDefinition(
        lambda left, right: lambda element: _truth(left(element)) and _truth(right(element)),
        lambda left, right: left.decided_by(False, right),
    ),
    "|": OperatorDefinition(
        lambda left, right: lambda element: _truth(left(element)) or _truth(right(element)),
        lambda left, right: left.decided_by(True, right),
    ),
}


def _of_text(
    call: Callable[[Any, Any], object],
    kind: Literal["text", "bool", "int", "float"],
    numbers: Callable[[Column], Column] | None = None,
) -> FunctionDefinition:
    """Define a function of texts, which columns call once for each different text.

    Args:
        kind: kind of the results.
        numbers: the same for a column of numbers; None: there is no such function.
    """

    def column(of: Column, argument: Value) -> Column:
        if of.kind in ("text", "null"):
            return of.of_texts(lambda text: call(text, argument), kind)
        if numbers is None:
            raise NotVectorizable("a function of texts, of numbers")
        return numbers(of)

    return FunctionDefinition(call, column)


FUNCTIONS: Mapping[str, FunctionDefinition] = {
    "-": FunctionDefinition(lambda value, _: -value, lambda of, _: of.negative()),
    "~": FunctionDefinition(lambda value, _: not _truth(value), lambda of, _: of.inverted()),
    "is_null": FunctionDefinition(lambda value, _: value is None, lambda of, _: of.is_null()),
    "fill_null": FunctionDefinition(
        lambda value, instead: instead if value is None else value, lambda of, instead: of.filled(instead)
    ),
    "lower": _of_text(lambda value, _: str.lower(value), "text"),
    "upper": _of_text(lambda value, _: str.upper(value), "text"),
    "strip": _of_text(lambda value, _: str.strip(value), "text"),
    "length": _of_text(lambda value, _: str.__len__(value), "int"),
    "startswith": _of_text(str.startswith, "bool"),
    "endswith": _of_text(str.endswith, "bool"),
    "contains": _of_text(str.__contains__, "bool"),
    "to_int": _of_text(lambda value, _: int(value), "int", lambda of: of.whole()),
    "to_float": _of_text(lambda value, _: float(value), "float", lambda of: of.as_floats()),
    "pseudonym": FunctionDefinition(pseudonym_of, lambda of, key: of.pseudonyms(lambda text: pseudonym_of(text, key))),
}
