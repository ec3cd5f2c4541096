"""Types of CSV columns, and the conversion of cells to them.

    text     the cell as it is written
    int      an integer as JSON writes it, of at most 18 digits: 0, 7, -12; not 007, +7, -0 or 1e3
    float    a number as JSON writes it; integers among them are exact too
    bool     only if declared: true t yes y 1, false f no n 0, in any case

An inferred type widens from int to float to text, over the samples of all files together; a leading zero makes it text.
If a type is declared, numbers may also be written with spaces around them, a plus sign or leading zeros. Cells that
mean null are null, except in a column that is declared as text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from ....topics.packed import arrow, arrow_compute

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "ConvertedCells",
    "CsvKind",
    "CsvType",
    "convert_cells",
    "infer_type",
    "widest",
    "with_nulls",
]

CsvType = Literal["text", "int", "float", "bool"]
_WIDTH: dict[str, int] = {"": 0, "int": 1, "float": 2, "text": 3}

_WHOLE = r"^(?:0|-?[1-9][0-9]{0,17})$"
_NUMBER = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$"
_DECLARED_FLOAT = r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_DECLARED_INT = r"^[-+]?[0-9]+$"
_LONG_WHOLE = r"^-?[0-9]{16,}$"
_TRUE, _FALSE = ["true", "t", "yes", "y", "1"], ["false", "f", "no", "n", "0"]
_USUAL_NULLS = frozenset({"NA", "N/A", "n/a", "NULL", "None", "nan", "NaN", "-", "\\N", "#N/A"})
# Integers up to here are exact as floats.
_EXACT = 2**53


class CsvKind(NamedTuple):
    """The type of a column, and whether it was declared (otherwise inferred)."""

    type: CsvType
    declared: bool


class ConvertedCells(NamedTuple):
    """The values of a column's cells, and the reason for each cell that does not fit, by row."""

    values: pyarrow.Array
    bad: Mapping[int, str]


def infer_type(cells: pyarrow.Array, nulls: Collection[str]) -> str:
    """Return the narrowest type that all cells fit; empty if all of them mean null."""
    compute = arrow_compute()
    there = with_nulls(cells, nulls).drop_null().unique()
    if not len(there):
        return ""
    if _all(compute.match_substring_regex(there, _WHOLE)):
        return "int"
    exact = not compute.any(compute.match_substring_regex(there, _LONG_WHOLE)).as_py()
    if exact and _all(compute.match_substring_regex(there, _NUMBER)) and _all(_finite(there.cast(arrow().float64()))):
        return "float"
    return "text"


def widest(types: Iterable[str]) -> str:
    """Return the widest of some types; empty if there are only nulls."""
    return max(types, key=lambda kind: _WIDTH[kind], default="")


def with_nulls(cells: pyarrow.Array, nulls: Collection[str]) -> pyarrow.Array:
    """Return cells with null in place of those that mean null."""
    if not nulls:
        return cells
    compute, pyarrow = arrow_compute(), arrow()
    means = compute.is_in(cells, value_set=pyarrow.array(sorted(nulls), pyarrow.string()))
    if not compute.any(means).as_py():
        return cells
    return compute.if_else(means, pyarrow.scalar(None, pyarrow.string()), cells)


def convert_cells(name: str, cells: pyarrow.Array, kind: CsvKind, nulls: Collection[str]) -> ConvertedCells:
    """Convert cells to the type of their column.

    Args:
        cells: text without nulls.
    """
    if kind.type == "text":
        return ConvertedCells(cells if kind.declared else with_nulls(cells, nulls), {})
    compute, pyarrow = arrow_compute(), arrow()
    found = with_nulls(cells, nulls)
    text = compute.utf8_trim_whitespace(found) if kind.declared else found
    fits = compute.or_(text.is_null(), compute.fill_null(_fits(text, kind), False))
    if not _all(fits):
        text = compute.if_else(fits, text, pyarrow.scalar(None, pyarrow.string()))
    values = _values(text, kind)
    if _all(fits) and values is not None:
        return ConvertedCells(values, {})
    if values is None:
        # Some match the pattern but are too large.
        values, fits = _one_by_one(text, kind, fits)
    hint = f"not of type {kind.type}; --types {name}=text reads the column as text"
    rows = [row for row, fit in enumerate(fits.to_pylist()) if not fit]
    return ConvertedCells(values, {row: _mismatch(name, cells[row].as_py(), hint) for row in rows})


def _mismatch(name: str, cell: str, hint: str) -> str:
    null = f", --null {cell} makes it null" if cell in _USUAL_NULLS else ""
    return f"column {name}: {cell!r:.60} is {hint}{null}"


def _fits(text: pyarrow.Array, kind: CsvKind) -> pyarrow.Array:
    compute = arrow_compute()
    if kind.type == "bool":
        return compute.is_in(compute.utf8_lower(text), value_set=arrow().array([*_TRUE, *_FALSE]))
    if kind.declared:
        return compute.match_substring_regex(text, _DECLARED_INT if kind.type == "int" else _DECLARED_FLOAT)
    return compute.match_substring_regex(text, _WHOLE if kind.type == "int" else _NUMBER)


def _values(text: pyarrow.Array, kind: CsvKind) -> pyarrow.Array | None:
    """Convert text that matches the type's pattern; None if a value is too large."""
    compute, pyarrow = arrow_compute(), arrow()
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


def _one_by_one(text: pyarrow.Array, kind: CsvKind, fits: pyarrow.Array) -> tuple[pyarrow.Array, pyarrow.Array]:
    pyarrow = arrow()
    made, good = list[int | float | None](), list[bool]()
    for cell, fit in zip(text.to_pylist(), fits.to_pylist(), strict=True):
        value: int | float | None = None
        if fit and cell is not None:
            value = int(cell) if kind.type == "int" and len(cell) < 30 else _float(cell, kind)
            if value is not None and kind.type == "int" and not -(2**63) <= value < 2**63:
                value: int | float | None = None
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


def _finite(values: pyarrow.Array) -> pyarrow.Array:
    return arrow_compute().is_finite(values)


def _all(mask: pyarrow.Array) -> bool:
    return arrow_compute().all(mask).as_py() is not False
