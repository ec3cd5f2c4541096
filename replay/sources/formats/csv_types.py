"""Types of CSV columns: guessed from a sample of each file, and what cells are under them.

    text     as it is written
    int      a whole number as JSON writes it, of 18 digits at most: 0, 7, -12; not 007, +7, -0 or 1e3
    float    a number as JSON writes it; whole ones among them are exact, too
    bool     only where it is declared: true t yes y 1, false f no n 0, in any case

A guess widens from int to float to text, over the samples of all files together; a leading zero makes text. Where a
type is declared, numbers may also be written with spaces around them, a plus sign or leading zeros. Cells that mean
null are null, but none is in a column that is declared to be text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from ....topics.packed import arrow

__all__ = ["CsvKind", "CsvType", "Typed", "guess", "typed", "widened", "without"]

CsvType = Literal["text", "int", "float", "bool"]
_WIDTH: dict[str, int] = {"": 0, "int": 1, "float": 2, "text": 3}

_WHOLE = r"^(?:0|-?[1-9][0-9]{0,17})$"
_NUMBER = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$"
_DECLARED_FLOAT = r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_DECLARED_INT = r"^[-+]?[0-9]+$"
_LONG_WHOLE = r"^-?[0-9]{16,}$"
_TRUE, _FALSE = ["true", "t", "yes", "y", "1"], ["false", "f", "no", "n", "0"]
_USUAL_NULLS = frozenset({"NA", "N/A", "n/a", "NULL", "None", "nan", "NaN", "-", "\\N", "#N/A"})
# Whole numbers up to here are exact as floats.
_EXACT = 2**53


class CsvKind(NamedTuple):
    """What a column is, and whether somebody said so."""

    type: CsvType
    declared: bool


class Typed(NamedTuple):
    """Cells as values, and those that are none: number and reason."""

    values: Any
    bad: Mapping[int, str]


def guess(cells: Any, nulls: Collection[str]) -> str:
    """The narrowest type that some cells fit; empty where all of them mean null."""
    compute = _compute()
    there = without(cells, nulls).drop_null().unique()
    if not len(there):
        return ""
    if _all(compute.match_substring_regex(there, _WHOLE)):
        return "int"
    exact = not compute.any(compute.match_substring_regex(there, _LONG_WHOLE)).as_py()
    if exact and _all(compute.match_substring_regex(there, _NUMBER)) and _all(_finite(there.cast(arrow().float64()))):
        return "float"
    return "text"


def widened(types: Iterable[str]) -> str:
    """The widest of some types; nothing but nulls fits all of them."""
    return max(types, key=lambda kind: _WIDTH[kind], default="")


def without(cells: Any, nulls: Collection[str]) -> Any:
    """Cells, null where they mean that."""
    if not nulls:
        return cells
    compute, pyarrow = _compute(), arrow()
    means = compute.is_in(cells, value_set=pyarrow.array(sorted(nulls), pyarrow.string()))
    if not compute.any(means).as_py():
        return cells
    return compute.if_else(means, pyarrow.scalar(None, pyarrow.string()), cells)


def typed(name: str, cells: Any, kind: CsvKind, nulls: Collection[str]) -> Typed:
    """What cells are under their column's type.

    Args:
        cells: text, no nulls among it.
    """
    if kind.type == "text":
        return Typed(cells if kind.declared else without(cells, nulls), {})
    compute, pyarrow = _compute(), arrow()
    found = without(cells, nulls)
    text = compute.utf8_trim_whitespace(found) if kind.declared else found
    fits = compute.or_(text.is_null(), compute.fill_null(_fits(text, kind), False))
    if not _all(fits):
        text = compute.if_else(fits, text, pyarrow.scalar(None, pyarrow.string()))
    values = _values(text, kind)
    if _all(fits) and values is not None:
        return Typed(values, {})
    if values is None:
        # A few of them are written well and still are too large.
        values, fits = _one_by_one(text, kind, fits)
    said = f"not of type {kind.type}; --types {name}=text keeps the column as it is written"
    rows = [row for row, fit in enumerate(fits.to_pylist()) if not fit]
    return Typed(values, {row: _said(name, cells[row].as_py(), said) for row in rows})


def _said(name: str, cell: str, said: str) -> str:
    null = f", --null {cell} makes it null" if cell in _USUAL_NULLS else ""
    return f"column {name}: {cell!r:.60} is {said}{null}"


def _fits(text: Any, kind: CsvKind) -> Any:
    compute = _compute()
    if kind.type == "bool":
        return compute.is_in(compute.utf8_lower(text), value_set=arrow().array([*_TRUE, *_FALSE]))
    if kind.declared:
        return compute.match_substring_regex(text, _DECLARED_INT if kind.type == "int" else _DECLARED_FLOAT)
    return compute.match_substring_regex(text, _WHOLE if kind.type == "int" else _NUMBER)


def _values(text: Any, kind: CsvKind) -> Any:
    """Values of text that is written as it should be; None where one of them is too large."""
    compute, pyarrow = _compute(), arrow()
    if kind.type == "bool":
        return compute.if_else(
            text.is_null(),
            pyarrow.scalar(None, pyarrow.bool_()),
            compute.is_in(compute.utf8_lower(text), value_set=pyarrow.array(_TRUE)),
        )
    if kind.type == "int":
        try:
            plain = compute.replace_substring_regex(text, r"^\+", "") if kind.declared else text
            return plain.cast(pyarrow.int64())
        except pyarrow.ArrowInvalid:
            return None
    values = text.cast(pyarrow.float64())
    if not _all(compute.fill_null(_finite(values), True)):
        return None
    if not kind.declared and compute.any(compute.match_substring_regex(text, _LONG_WHOLE)).as_py():
        return None
    return values


def _one_by_one(text: Any, kind: CsvKind, fits: Any) -> tuple[Any, Any]:
    pyarrow = arrow()
    made, good = list[Any](), list[bool]()
    for cell, fit in zip(text.to_pylist(), fits.to_pylist(), strict=True):
        value = None
        if fit and cell is not None:
            value = int(cell) if kind.type == "int" and len(cell) < 30 else _float(cell, kind)
            if value is not None and kind.type == "int" and not -(2**63) <= value < 2**63:
                value = None
            fit = value is not None
        made.append(value)
        good.append(fit)
    return pyarrow.array(made, pyarrow.int64() if kind.type == "int" else pyarrow.float64()), pyarrow.array(good)


def _float(cell: str, kind: CsvKind) -> float | None:
    if kind.type == "int":
        return None
    value = float(cell)
    whole = cell.lstrip("-").isdigit() and not kind.declared
    if value in (float("inf"), float("-inf")) or (whole and (abs(int(cell)) > _EXACT and int(value) != int(cell))):
        return None
    return value


def _finite(values: Any) -> Any:
    return _compute().is_finite(values)


def _all(mask: Any) -> bool:
    return _compute().all(mask).as_py() is not False


def _compute() -> Any:
    import pyarrow.compute

    return pyarrow.compute
