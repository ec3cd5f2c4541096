"""Expressions over the fields of a record, for its key, time, headers and partition, and for `--where`.

    carrier                          a field; `a.b.c` looks into fields of fields
    carrier + "-" + origin           text is joined, numbers are added
    f"{carrier}-{flight}"            the same, written as a pattern
    name.lower().strip()[:8]         also upper, startswith, endswith, replace
    amount > 100 and not late        comparisons, `and`, `or`, `not`, `in`, `is None`, `a if b else c`
    field("odd name")                a field whose name is not an identifier; also str(), int(), float(), len()
    pseudonym(email, "env:NAME")     a keyed hash; the second argument names the secret key (`topics/pseudonyms.py`)

Text without blanks, quotes, brackets and operators (`-` and `.` count as parts of names) is the name of a field.

The grammar is Python's, parsed by `ast` and compiled node by node; anything not listed here is refused before a record
is read. `eval` is never called. There are no loops, powers or repeated text, so that evaluating a record is cheap.

There is a second expression language, `col(…)` in `agents/flows/expressions.py`, which Python programs use: its head
says why the two stay apart.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import msgspec

from ...topics.errors import Usage
from ...topics.pseudonyms import check_key_name, pseudonym_of

__all__ = ["NOT_FINITE", "FieldExpression", "as_bytes", "expression"]

NOT_FINITE = "NaN or infinity: JSON has no such number, and a key or a header would be null"

Fields = Mapping[str, Any]
_Compiled = Callable[[Fields], Any]

_MAX_CHARS = 1_000
_NAME = re.compile(r"[^\s'\"+*/%()\[\]{}<>=!,;:|&^~`?\\]+")
_FORMAT = re.compile(r"(?:[<>^]?0?\d{1,2})?(?:\.\d{1,2})?[dfsxXeg%]?")
_HINT = 'for example: carrier, a.b.c, carrier + "-" + origin, f"{carrier}-{flight}", name.lower()[:3], amount > 100'

_NUMBERS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_METHODS = {
    "lower": (0, str.lower),
    "upper": (0, str.upper),
    "strip": (0, str.strip),
    "startswith": (1, str.startswith),
    "endswith": (1, str.endswith),
    "replace": (2, str.replace),
}


@dataclass(frozen=True, slots=True)
class FieldExpression:
    """A compiled expression.

    Attributes:
        text: the expression as the user wrote it.
        path: if it is just a field, the names from the outer to the inner field; otherwise empty.
        fields: the top-level fields that it uses.
    """

    text: str
    path: tuple[str, ...]
    fields: frozenset[str]
    _compiled: _Compiled

    def __call__(self, record: Fields) -> Any:
        """Evaluate the expression for a record.

        Raises:
            ValueError: a field is missing, or its value has the wrong type; the message names it.
        """
        try:
            return self._compiled(record)
        except (TypeError, AttributeError, ArithmeticError, LookupError) as exc:
            raise ValueError(f"{self.text}: {exc}") from None


def expression(text: str, columns: tuple[str, ...] = ()) -> FieldExpression:
    """Parse and compile an expression.

    Args:
        columns: names of known fields; a text that equals one of them is that field, whatever characters it has.

    >>> expression("user-id").path
    ('user-id',)
    >>> expression('carrier + "-" + str(flight)')({"carrier": "UA", "flight": 15})
    'UA-15'

    Raises:
        Usage: the text is not a valid expression.
    """
    if text in columns:
        return FieldExpression(text, (text,), frozenset((text,)), _path((text,)))
    if _NAME.fullmatch(text) and not re.fullmatch(r"-?[\d.]+", text):
        path = tuple(text.split("."))
        if all(path):
            return FieldExpression(text, path, frozenset(path[:1]), _path(path))
    if len(text) > _MAX_CHARS:
        raise Usage(f"an expression of {len(text):,} characters; at most {_MAX_CHARS:,} are allowed")
    fields: set[str] = set()
    try:
        tree = ast.parse(text.strip(), mode="eval")
        compiled = _Compiler(fields).compile(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        what = exc.msg if isinstance(exc, SyntaxError) else str(exc) or "too deep"
        raise Usage(f"{text}: not an expression: {what}", hint=_HINT) from None
    return FieldExpression(text, (), frozenset(fields), compiled)


def as_bytes(value: object) -> bytes | None:
    """Encode a value as a key or a header: text as UTF-8, numbers as in JSON, null as None.

    Raises:
        ValueError: the value is an object or a list, or a number that JSON does not have.
    """
    if isinstance(value, str):
        return value.encode()
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, dict | list | tuple):
        raise ValueError("an object or a list; expected text, a number, true, false or null")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(NOT_FINITE)
    return msgspec.json.encode(value).strip(b'"')


def _path(path: tuple[str, ...]) -> _Compiled:
    first, more = path[0], path[1:]

    def find(record: Fields) -> Any:
        try:
            value = record[first]
        except (KeyError, TypeError):
            raise ValueError(_missing(first, record)) from None
        for name in more:
            if not isinstance(value, dict) or name not in value:
                raise ValueError(f"{'.'.join(path)}: {_missing(name, value)}")
            value = value[name]
        return value

    return find


def _missing(name: str, record: object) -> str:
    if not isinstance(record, Mapping):
        return f"no field {name!r}: the value is not an object"
    return f"no field {name!r}; fields: {', '.join(map(str, record))}"


def _text(value: object) -> str:
    if value is None:
        raise TypeError("null cannot be concatenated with text")
    if isinstance(value, str):
        return value
    return (as_bytes(value) or b"").decode()


def _add(a: Any, b: Any) -> Any:
    return _text(a) + _text(b) if isinstance(a, str) or isinstance(b, str) else a + b


def _number(value: Any) -> Any:
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number, not {value!r:.40}")
    return value


class _Compiler:
    """Compiles syntax nodes to functions of a record; refuses nodes that it does not know."""

    def __init__(self, fields: set[str]) -> None:
        self._fields = fields

    def compile(self, node: ast.expr) -> _Compiled:
        make = getattr(self, f"_{type(node).__name__.lower()}", None)
        if make is None:
            raise ValueError(f"{type(node).__name__} is not supported in expressions")
        return make(node)

    def _constant(self, node: ast.Constant) -> _Compiled:
        value = node.value
        if not (value is None or isinstance(value, str | int | float)):
            raise ValueError(f"{value!r} is not supported in expressions")
        return lambda _record: value

    def _name(self, node: ast.Name) -> _Compiled:
        literals = {"true": True, "false": False, "null": None}
        if node.id in literals:
            value = literals[node.id]
            return lambda _record: value
        self._fields.add(node.id)
        return _path((node.id,))

    def _attribute(self, node: ast.Attribute) -> _Compiled:
        inner, name = self.compile(node.value), node.attr

        def find(record: Fields) -> Any:
            value = inner(record)
            if not isinstance(value, dict) or name not in value:
                raise ValueError(_missing(name, value))
            return value[name]

        return find

    def _subscript(self, node: ast.Subscript) -> _Compiled:
        inner = self.compile(node.value)
        if isinstance(node.slice, ast.Slice):
            if node.slice.step is not None:
                raise ValueError("a step in [:] is not supported in expressions")
            begin, end = (_whole(bound) for bound in (node.slice.lower, node.slice.upper))

            def cut(record: Fields) -> Any:
                value = inner(record)
                if not isinstance(value, str | list):
                    raise TypeError(f"only text can be sliced, not {value!r:.40}")
                return value[begin:end]

            return cut
        at = ast.literal_eval(node.slice)
        if not isinstance(at, str | int):
            raise ValueError("[…] needs a number or a name")
        return lambda record: inner(record)[at]

    def _binop(self, node: ast.BinOp) -> _Compiled:
        left, right = self.compile(node.left), self.compile(node.right)
        if isinstance(node.op, ast.Add):
            return lambda record: _add(left(record), right(record))
        make = _NUMBERS.get(type(node.op))
        if make is None:
            raise ValueError(f"the operator {type(node.op).__name__} is not supported in expressions")
        return lambda record: make(_number(left(record)), _number(right(record)))

    def _unaryop(self, node: ast.UnaryOp) -> _Compiled:
        inner = self.compile(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda record: not inner(record)
        if isinstance(node.op, ast.USub):
            return lambda record: -_number(inner(record))
        raise ValueError(f"the operator {type(node.op).__name__} is not supported in expressions")

    def _boolop(self, node: ast.BoolOp) -> _Compiled:
        parts = [self.compile(value) for value in node.values]
        if isinstance(node.op, ast.And):
            return lambda record: all(part(record) for part in parts)
        return lambda record: any(part(record) for part in parts)

    def _compare(self, node: ast.Compare) -> _Compiled:
        if len(node.ops) != 1:
            raise ValueError("chained comparisons are not supported: use `and`")
        left, right = self.compile(node.left), self.compile(node.comparators[0])
        compare = _COMPARISONS[type(node.ops[0])]
        return lambda record: compare(left(record), right(record))

    def _tuple(self, node: ast.Tuple | ast.List) -> _Compiled:
        parts = [self.compile(part) for part in node.elts]
        return lambda record: [part(record) for part in parts]

    _list = _tuple

    def _ifexp(self, node: ast.IfExp) -> _Compiled:
        test, body, other = self.compile(node.test), self.compile(node.body), self.compile(node.orelse)
        return lambda record: body(record) if test(record) else other(record)

    def _joinedstr(self, node: ast.JoinedStr) -> _Compiled:
        parts = [self.compile(value) for value in node.values]
        return lambda record: "".join(_text(part(record)) for part in parts)

    def _formattedvalue(self, node: ast.FormattedValue) -> _Compiled:
        inner = self.compile(node.value)
        if node.conversion != -1:
            raise ValueError("a conversion in { } is not supported in expressions")
        if node.format_spec is None:
            return inner
        spec = ast.unparse(node.format_spec)[2:-1]
        if not _FORMAT.fullmatch(spec):
            raise ValueError(f"the format {spec!r} is not supported in expressions")
        return lambda record: format(inner(record), spec)

    def _call(self, node: ast.Call) -> _Compiled:
        if node.keywords:
            raise ValueError("named arguments are not supported in expressions")
        if isinstance(node.func, ast.Name):
            return self._function(node.func.id, node.args)
        if not isinstance(node.func, ast.Attribute) or node.func.attr not in _METHODS:
            raise ValueError(
                f"{ast.unparse(node.func)}() is not supported in expressions; methods: {', '.join(_METHODS)}"
            )
        count, method = _METHODS[node.func.attr]
        if len(node.args) != count:
            raise ValueError(f"{node.func.attr}() takes {count} arguments")
        inner, arguments = self.compile(node.func.value), [self.compile(argument) for argument in node.args]
        return lambda record: method(inner(record), *(argument(record) for argument in arguments))

    def _function(self, name: str, arguments: list[ast.expr]) -> _Compiled:
        functions: dict[str, Callable[[Any], Any]] = {"str": _text, "int": int, "float": float, "len": len}
        if name == "pseudonym":
            return self._pseudonym(arguments)
        if len(arguments) != 1 or name not in (*functions, "field"):
            raise ValueError(
                f"{name}() is not supported in expressions; functions of one value: field, {', '.join(functions)}"
            )
        if name == "field":
            if not (isinstance(arguments[0], ast.Constant) and isinstance(arguments[0].value, str)):
                raise ValueError("field() needs a name in quotes")
            self._fields.add(arguments[0].value)
            return _path((arguments[0].value,))
        function, inner = functions[name], self.compile(arguments[0])
        return lambda record: function(inner(record))

    def _pseudonym(self, arguments: list[ast.expr]) -> _Compiled:
        name = arguments[1] if len(arguments) == 2 else None
        if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
            raise ValueError('pseudonym() needs a value and the name of a key: pseudonym(email, "env:NAME")')
        inner, key = self.compile(arguments[0]), check_key_name(name.value)
        return lambda record: pseudonym_of(inner(record), key)


def _whole(bound: ast.expr | None) -> int | None:
    value = None if bound is None else ast.literal_eval(bound)
    if not (value is None or isinstance(value, int)):
        raise ValueError("[:] needs whole numbers")
    return value
