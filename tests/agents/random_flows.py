"""Random flows over random records, and what plain Python says that they amount to.

A `Case` is all there is to a run: records, steps, key, end. It is drawn from a seed, prints as what it is, and gets
smaller by leaving something out (`smaller`). The oracle knows nothing of batches, epochs, columns or tables.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pyarrow
from anabranch import col
from anabranch.agents.flows.aggregates import Aggregate, Count, Distinct, Max, Mean, Min, Sum, Top
from anabranch.agents.flows.hyperloglog import ApproxDistinct

__all__ = ["SCHEMA", "Case", "drawn"]

SCHEMA = pyarrow.schema(
    {
        "id": pyarrow.int64(),
        "a": pyarrow.int64(),
        "b": pyarrow.int64(),
        "f": pyarrow.float64(),
        "t": pyarrow.string(),
        "p": pyarrow.bool_(),
        "l": pyarrow.list_(pyarrow.int64()),
        "d": pyarrow.struct({"x": pyarrow.int64()}),
        "__key": pyarrow.string(),
    }
)
FIELDS = "abftpld"
Row = dict[str, Any]
Expr = Any
"""`("col", name)`, `("const", value)`, `(sign, left, right)` or `(function, of)`."""


def _row(chance: random.Random, number: int) -> Row:
    few = chance.random() < 0.8

    def or_none(value: Any) -> Any:
        return None if chance.random() < 0.1 else value

    return {
        "id": number,
        "a": or_none(chance.randint(-2, 3)),
        "b": or_none(chance.randint(0, 2) if few else chance.choice([2**53, 2**53 + 1, 2**62, -(2**63)])),
        "f": or_none(chance.choice([0.0, 1.0, 2.5, -0.5, 3.0, 1e300])),
        "t": or_none(chance.choice(["", "a", "B", "7", " 2 ", "nan", "inf", "1.5", "2", "ß"])),
        "p": or_none(chance.random() < 0.5),
        "l": or_none([or_none(chance.randint(0, 2)) for _ in range(chance.randint(0, 2))]),
        "d": {"x": or_none(chance.randint(0, 2))},
        "__key": or_none(f"k{chance.randint(0, 3)}"),
    }


# Expressions: for the flow, and for the oracle -----------------------------------------------------------------------


def expression(of: Expr) -> Any:
    match of:
        case ("col", name):
            return col(name)
        case ("const", value):
            return value
        case ("not", inner):
            return ~expression(inner)
        case ("neg", inner):
            return -expression(inner)
        case (name, inner, *arguments) if name in _FUNCTIONS:
            return getattr(expression(inner), name)(*(value for _, value in arguments))
        case ("&", left, right):
            return expression(left) & expression(right)
        case ("|", left, right):
            return expression(left) | expression(right)
        case (sign, left, right):
            return _SIGNS[sign](expression(left), expression(right))
    raise AssertionError(of)


def value_of(of: Expr, row: Row) -> Any:
    match of:
        case ("col", name):
            return row[name]
        case ("const", value):
            return value
        case ("not", inner):
            return not _flag(value_of(inner, row))
        case ("neg", inner):
            return -value_of(inner, row)
        case (name, inner, *arguments) if name in _FUNCTIONS:
            return _FUNCTIONS[name](value_of(inner, row), *(value for _, value in arguments))
        case ("&", left, right):
            return _flag(value_of(left, row)) and _flag(value_of(right, row))
        case ("|", left, right):
            return _flag(value_of(left, row)) or _flag(value_of(right, row))
        case (sign, left, right):
            return _SIGNS[sign](value_of(left, row), value_of(right, row))
    raise AssertionError(of)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "is_null": lambda value: value is None,
    "fill_null": lambda value, instead: instead if value is None else value,
    "lower": str.lower,
    "upper": str.upper,
    "strip": str.strip,
    "length": str.__len__,
    "startswith": str.startswith,
    "endswith": str.endswith,
    "contains": str.__contains__,
    "to_int": int,
    "to_float": float,
}


def _expr(chance: random.Random) -> Expr:
    name = chance.choice("abfp")
    of_text = chance.choice(["to_float", "to_int", "length", "lower", "upper", "strip"])
    return chance.choice(
        [
            (chance.choice("+-*"), ("col", name), ("const", chance.randint(-1, 2))),
            (chance.choice(["/", "//", "%"]), ("const", 6), ("col", chance.choice("abf"))),
            (chance.choice(["/", "//", "%"]), ("col", name), ("const", chance.choice([2, -3, 0.5, True]))),
            (chance.choice("+-*"), ("col", "a"), ("col", chance.choice("abf"))),
            ("+", ("col", "t"), ("const", "z")),
            ("neg", ("col", name)),
            (of_text, ("col", "t")),
            (chance.choice(["to_float", "to_int"]), ("col", name)),
            ("is_null", ("col", chance.choice(FIELDS))),
            ("fill_null", ("col", chance.choice("aft")), ("const", chance.choice([0, 0.5, "", None]))),
            _condition(chance),
        ]
    )


def _condition(chance: random.Random, depth: int = 2) -> Expr:
    inner = [
        (chance.choice(["<", "<=", ">", ">="]), ("col", chance.choice("abf")), ("const", chance.choice([0, 1.5]))),
        (chance.choice(["<", ">="]), ("col", "a"), ("col", chance.choice("bf"))),
        ("<", ("col", "t"), ("const", "a")),
        (chance.choice(["==", "!="]), ("col", chance.choice("abft")), ("const", chance.choice([0, 1, 2.5, "a", None]))),
        ("==", ("is_null", ("col", chance.choice(FIELDS))), ("const", False)),
        (chance.choice(["startswith", "endswith", "contains"]), ("col", "t"), ("const", chance.choice(["", "a", "1"]))),
        ("col", "p"),
    ]
    if depth:
        deeper = _condition(chance, depth - 1)
        inner += [("not", deeper), (chance.choice("&|"), deeper, _condition(chance, depth - 1))]
    return chance.choice(inner)


# Cases ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """See the module.

    Attributes:
        steps: `("filter", condition)`, `("with", expression)`, `("twice",)`.
        key: None for the records' own; `("field", name)`, `("expr", expression)`, `("pair", name, name)`.
        ends: aggregates by name: kind, and of what: None, a field or an expression; or one `("reduce", how, field)`.
    """

    seed: int
    rows: tuple[Row | None, ...]
    steps: tuple[Any, ...]
    key: Any
    ends: tuple[Any, ...]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}", *(f"  step {step}" for step in self.steps), f"  key  {self.key}"]
        return "\n".join([*lines, *(f"  end  {end}" for end in self.ends), *(f"  row  {row}" for row in self.rows)])

    def smaller(self) -> Iterator[Case]:
        """Cases with something left out."""
        half = len(self.rows) // 2
        if half > 1:
            yield replace(self, rows=self.rows[:half])
            yield replace(self, rows=self.rows[half:])
        for i in range(len(self.steps)):
            yield replace(self, steps=self.steps[:i] + self.steps[i + 1 :])
        if len(self.ends) > 1:
            for i in range(len(self.ends)):
                yield replace(self, ends=self.ends[:i] + self.ends[i + 1 :])
        for i in range(len(self.rows)):
            yield replace(self, rows=self.rows[:i] + self.rows[i + 1 :])

    def declare(self, app: Any) -> None:
        """The flow, into table `t` from topic `in`."""
        flow = app.topic("in").flow()
        for step in self.steps:
            match step:
                case ("filter", condition):
                    flow = flow.filter(expression(condition))
                case ("with", of):
                    flow = flow.with_columns(x=expression(of))
                case _:
                    flow = flow.flat_map(lambda element: (element, element))
        if self.key is not None:
            flow = flow.key_by(_key_function(self.key))
        if self.ends[0][0] == "reduce":
            _, how, name = self.ends[0]
            flow = flow.map(col(name)) if self.key is None else replace(flow, keyed=(flow.keyed[0], name))
            flow.reduce(_REDUCTIONS[how][0], "t")
        else:
            flow.aggregate("t", **{f"e{i}": _aggregate(kind, of) for i, (kind, of) in enumerate(self.ends)})

    # What Python says -------------------------------------------------------------------------------------------------

    def expected(self) -> tuple[dict[Any, Any], list[int]]:
        """Key -> value, and the ids of the records that are given up."""
        groups: dict[Any, list[Any]] = {}
        given_up: list[int] = []
        for row in self.rows:
            if row is None:
                continue
            try:
                pairs = [(self._key(element, row), element) for element in self._elements(row)]
                for _, element in pairs:
                    self._accept(element)
            except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
                given_up.append(row["id"])
                continue
            for key, element in pairs:
                groups.setdefault(key, []).append(element)
        return {key: self._amount(elements) for key, elements in groups.items()}, given_up

    def _elements(self, row: Row) -> list[Row]:
        elements = [{name: value for name, value in row.items() if name != "__key"}]
        for step in self.steps:
            match step:
                case ("filter", condition):
                    elements = [element for element in elements if value_of(condition, element)]
                case ("with", of):
                    elements = [{**element, "x": value_of(of, element)} for element in elements]
                case _:
                    elements = [element for element in elements for _ in range(2)]
        return elements

    def _key(self, element: Row, row: Row) -> Any:
        match self.key:
            case None:
                key = row["__key"]
            case ("field", name):
                key = element[name]
            case ("expr", of):
                key = value_of(of, element)
            case (_, one, other):
                key = (element[one], (element[other], "z"))
        if key is None:
            raise ValueError("no key")
        key = _frozen(key, dicts=False)
        _finite(key)
        return key

    def _accept(self, element: Row) -> None:
        """Raises what an end has against an element."""
        for kind, *of in self.ends:
            if kind == "reduce":
                how, name = of
                value = element[name]
                _REDUCTIONS[how][1](value)
                continue
            value = _taken(of[0], element)
            if kind in ("sum", "mean"):
                if value is not None:
                    _finite(0 + value)
            elif kind in ("min", "max", "top"):
                if value is not None:
                    _ordered(value)
                    if kind == "top":
                        _finite(element)
            elif kind in ("distinct", "about"):
                _finite(value)
            elif kind == "seen":
                if value == 3:
                    raise ValueError("three")
                _finite(value)

    def _amount(self, elements: list[Row]) -> Any:
        if self.ends[0][0] == "reduce":
            _, how, name = self.ends[0]
            return _REDUCTIONS[how][2]([element[name] for element in elements])
        return {f"e{i}": _result(kind, of, elements) for i, (kind, of) in enumerate(self.ends)}


def drawn(seed: int) -> Case:
    """The case of a seed."""
    chance = random.Random(seed)
    rows = tuple(None if chance.random() < 0.03 else _row(chance, i) for i in range(chance.randint(1, 14)))
    steps = tuple(
        chance.choice([("filter", _condition(chance)), ("with", _expr(chance)), ("with", _expr(chance)), ("twice",)])
        for _ in range(chance.choice([0, 0, 1, 1, 2]))
    )
    known = [*FIELDS, *("x" for step in steps if step[0] == "with")]
    key = chance.choice(
        [
            None,
            ("field", chance.choice(known)),
            ("field", chance.choice("tpab")),
            ("expr", _expr(chance)),
            ("pair", chance.choice(known), chance.choice(known)),
        ]
    )
    if chance.random() < 0.25:
        how = chance.choice(list(_REDUCTIONS))
        if how == "list":  # joins in place, so that one list must not come twice
            steps = tuple(step for step in steps if step[0] != "twice")
            steps = (("filter", ("==", ("is_null", ("col", "l")), ("const", False))), *steps)
        return Case(seed, rows, steps, key, (("reduce", how, "l" if how == "list" else chance.choice(known)),))
    ends = tuple(
        (chance.choice(list(_KINDS)), chance.choice([*known, _expr(chance)]))
        if chance.random() < 0.8
        else ("count", None)
        for _ in range(chance.randint(1, 3))
    )
    return Case(seed, rows, steps, key, ends)


def _key_function(key: Any) -> Any:
    match key:
        case ("field", name):
            return name
        case ("expr", of):
            return expression(of)
        case (_, one, other):
            return lambda element: (_frozen(element[one], dicts=False), (_frozen(element[other], dicts=False), "z"))


def _taken(of: Any, element: Row) -> Any:
    return element if of is None else element[of] if isinstance(of, str) else value_of(of, element)


def _frozen(value: Any, *, dicts: bool = True) -> Any:
    """A value as Python's sets can hold it; equal where the values are."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item, dicts=dicts) for item in value)
    if isinstance(value, dict):
        if not dicts:
            raise TypeError("a dict is no key")
        return frozenset((name, _frozen(item)) for name, item in value.items())
    return value


def _finite(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for item in value:
            _finite(item)
    elif isinstance(value, dict):
        _finite(list(value.values()))
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(value)


def _ordered(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _ordered(item)
    elif value is None or isinstance(value, dict):
        raise TypeError(value)
    _finite(value)


class Seen(Aggregate):
    """A user's own: all values, sorted. It refuses some, and has changed its state by then."""

    def zero(self) -> Any:
        return []

    def add(self, state: Any, value: Any) -> Any:
        state.append(value)
        if value == 3:
            raise ValueError("three")
        return state

    def merge(self, state: Any, other: Any) -> Any:
        state.extend(other)
        return state

    def result(self, state: Any) -> Any:
        return len(state)


_KINDS: dict[str, Callable[[Any], Aggregate]] = {
    "count": Count,
    "sum": Sum,
    "min": Min,
    "max": Max,
    "mean": Mean,
    "distinct": Distinct,
    "about": ApproxDistinct,
    "top": lambda of: Top(of, 2),
    "seen": Seen,
}


def _aggregate(kind: str, of: Any) -> Aggregate:
    return _KINDS[kind](of if of is None or isinstance(of, str) else expression(of))


def _result(kind: str, of: Any, elements: list[Row]) -> Any:
    every = [_taken(of, element) for element in elements]
    values = [value for value in every if value is not None]
    match kind:
        case "count":
            return len(values)
        case "sum":
            return sum(values)
        case "min" | "max":
            return (min if kind == "min" else max)(values, default=None)
        case "mean":
            return sum(values) / len(values) if values else None
        case "distinct" | "about":
            return len({_frozen(value) for value in values})
        case "top":
            ranked = [(_taken(of, element), element) for element in elements if _taken(of, element) is not None]
            ranked.sort(key=lambda pair: msgspec.json.encode(pair[1]))
            ranked.sort(key=lambda pair: pair[0], reverse=True)
            return [element for _, element in ranked[:2]]
        case _:
            return len(every)


def _is_number(value: Any) -> None:
    _finite(0 + value)


def _listed(a: Any, b: Any) -> Any:
    """Joins lists in place."""
    a.extend(b)
    a.sort(key=str)
    return a


def _is_list(value: Any) -> None:
    if not isinstance(value, list):
        raise TypeError(value)


# How, what it accepts, what it amounts to.
_REDUCTIONS: dict[str, tuple[Any, Callable[[Any], None], Callable[[list[Any]], Any]]] = {
    "sum": (sum, _is_number, sum),
    "min": (min, _ordered, min),
    "max": (max, _ordered, max),
    "list": (_listed, _is_list, lambda lists: sorted([item for found in lists for item in found], key=str)),
}
