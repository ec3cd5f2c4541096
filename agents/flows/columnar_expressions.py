"""Expressions over columns, with exactly the results that Python gives row by row.

A column has values of one kind, a flag for each row whose value is None (`null`), and a flag for each row that has to
be processed row by row (`bad`): there Python raises, or returns something that does not fit the column's kind. Where a
whole batch may differ (an integer result that 64 bits may not hold; an integer beyond 2**53 that meets a float; NaN or
infinity from a file, which JSON cannot represent), columnar execution raises `NotVectorizable`, and the batch is
processed row by row. That is always correct, so the decision is made early, from bounds and not from results.

Numbers are NumPy arrays, text is an Arrow array. Text functions are Python's own, called once for each different text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ...topics.packed import is_text
from .expressions import FUNCTIONS, Constant, Expression, FieldReference, Function, Operation, Value

__all__ = ["Column", "Mask", "NotVectorizable", "as_floats", "column_of", "evaluate", "numbers", "unflagged"]

pc: Any = pyarrow.compute  # its functions are made at run time
Mask = np.ndarray[Any, np.dtype[np.bool_]]
"""A flag for each row."""

ColumnKind = Literal["int", "float", "bool", "text", "null"]
_INT64 = 1 << 63
_EXACT = 1 << 53  # up to here every integer is a float
_TEXT = pa.large_string()


class NotVectorizable(Exception):
    """Columnar execution might give another result than execution row by row."""


@dataclass(frozen=True, slots=True)
class Column:
    """Values of one kind, one for each row. The values of rows that are `null` or `bad` have no meaning.

    Attributes:
        values: int64, float64 or bool in NumPy, text in Arrow; see `numbers` and `texts`.
        null: flags of rows whose value is None.
        bad: flags of rows that have to be processed row by row.
    """

    kind: ColumnKind
    values: np.ndarray | pa.Array
    null: Mask
    bad: Mask

    def __len__(self) -> int:
        return len(self.null)

    @property
    def numbers(self) -> np.ndarray:
        """The values of a column that is not text."""
        return cast(np.ndarray, self.values)

    @property
    def texts(self) -> pa.Array:
        """The values of a column of text."""
        return self.values

    @property
    def off(self) -> Mask:
        """Flags of rows without a value that counts."""
        return self.null | self.bad

    def truth(self) -> Mask:
        """Return flags of the rows whose value is true to Python."""
        if self.kind == "null":
            return np.zeros(len(self), bool)
        filled = numbers(pc.utf8_length(self.texts)) if self.kind == "text" else self.numbers
        return (filled != 0) & ~self.null

    def bounds(self) -> tuple[int, int]:
        """Return the least and the greatest of whole numbers; (0, 0) for no rows."""
        return (int(self.numbers.min()), int(self.numbers.max())) if len(self) else (0, 0)

    def only(self, rows: Mask) -> Column:
        """Return the rows that are flagged."""
        values = self.texts.filter(pa.array(rows)) if self.kind == "text" else self.numbers[rows]
        return Column(self.kind, values, self.null[rows], self.bad[rows])


def column_of(array: pa.Array) -> Column:
    """Convert an Arrow array to the column that rows see, whose values come from JSON.

    Raises:
        NotVectorizable: rows would have values of another kind.
    """
    types, n = pa.types, len(array)
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    null = numbers(array.is_null()) if array.null_count else np.zeros(n, bool)
    none = np.zeros(n, bool)
    kind = array.type
    if types.is_null(kind):
        return Column("null", np.zeros(n, np.int64), ~none, none)
    if is_text(kind):
        return Column("text", _filled_up(array.cast(_TEXT), ""), null, none)
    if types.is_boolean(kind):
        return Column("bool", numbers(_filled_up(array, False)), null, none)
    if types.is_integer(kind):
        values = numbers(_filled_up(array, 0))
        if kind == pa.uint64() and n and int(values.max()) >= _INT64:
            raise NotVectorizable("integers beyond 64 bits")
        return Column("int", values.astype(np.int64, copy=False), null, none)
    if types.is_float64(kind):
        values = numbers(_filled_up(array, 0.0))
        if not np.isfinite(values).all():
            raise NotVectorizable("numbers that JSON does not have")
        return Column("float", values, null, none)
    raise NotVectorizable(f"a column of {kind}")


def _filled_up(array: pa.Array, instead: str | float) -> pa.Array:
    return pc.fill_null(array, instead) if array.null_count else array


def evaluate(expression: Expression, field: Callable[[str], Column], rows: int) -> Column:
    """Return an expression's column.

    Args:
        field: returns the column of a field.
        rows: number of rows.

    Raises:
        NotVectorizable: the result might differ from that of rows.
    """
    match expression:
        case FieldReference(name):
            return field(name)
        case Constant(value):
            return _constant(value, rows)
        case Function(name, of, argument):
            return _function(name, evaluate(of, field, rows), argument)
        case Operation(sign, left, right):
            a, b = evaluate(left, field, rows), evaluate(right, field, rows)
            if sign in "&|":
                return _logic(sign, a, b)
            return _compared(sign, a, b) if sign in _COMPARISONS else _computed(sign, a, b)
        case _:
            raise NotVectorizable(f"no way to evaluate {expression!r}")


def _constant(value: Value, rows: int) -> Column:
    none = np.zeros(rows, bool)
    if value is None:
        return Column("null", np.zeros(rows, np.int64), ~none, none)
    if isinstance(value, bool):
        return Column("bool", np.full(rows, value), none, none)
    if isinstance(value, str):
        return Column("text", _texts([value], np.zeros(rows, np.int32)), none, none)
    if isinstance(value, float):
        return Column("float", np.full(rows, value), none, none)
    if not -_INT64 <= value < _INT64:
        raise NotVectorizable("integers beyond 64 bits")
    return Column("int", np.full(rows, value, np.int64), none, none)


# Of two columns ------------------------------------------------------------------------------------------------------


def _logic(sign: str, a: Column, b: Column) -> Column:
    """Return `and` or `or`; the right operand matters only where the left one does not decide."""
    if not {a.kind, b.kind} <= {"bool", "null"}:
        raise NotVectorizable("& and | of something that is not true or false")
    left, right = a.numbers.astype(bool), b.numbers.astype(bool)
    undecided = left if sign == "&" else ~left
    values = left & right if sign == "&" else left | right
    return Column("bool", values, np.zeros(len(a), bool), a.off | (undecided & b.off))


def _computed(sign: str, a: Column, b: Column) -> Column:
    none, bad = np.zeros(len(a), bool), a.off | b.off
    if "null" in (a.kind, b.kind):
        return Column("null", np.zeros(len(a), np.int64), none, ~none)
    if "text" in (a.kind, b.kind):
        if a.kind != b.kind or sign != "+":
            raise NotVectorizable(f"text in {sign}")
        return Column("text", pc.binary_join_element_wise(a.texts, b.texts, pa.scalar("", _TEXT)), none, bad)
    a, b = unflagged(a), unflagged(b)
    y = b.numbers
    if sign in ("/", "//", "%"):
        zero = y == 0
        bad, y = bad | zero, np.where(zero, 1, y)
    if a.kind == b.kind == "int" and sign != "/":
        return Column("int", _INTS[sign](a.numbers, y, *a.bounds(), *b.bounds()), none, bad)
    x, y = _float(a), _float(replace(b, values=y))
    if sign in ("//", "%") and not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise NotVectorizable("infinities")
    with np.errstate(all="ignore"):
        return Column("float", _FLOATS[sign](x, y), none, bad)


def _within(values: Callable[[], np.ndarray], *bounds: int) -> np.ndarray:
    if min(bounds) < -_INT64 or max(bounds) >= _INT64:
        raise NotVectorizable("integers beyond 64 bits")
    return values()


_INTS: dict[str, Callable[..., np.ndarray]] = {
    "+": lambda x, y, a, b, c, d: _within(lambda: x + y, a + c, b + d),
    "-": lambda x, y, a, b, c, d: _within(lambda: x - y, a - d, b - c),
    "*": lambda x, y, a, b, c, d: _within(lambda: x * y, a * c, a * d, b * c, b * d),
    "//": lambda x, y, a, b, c, d: _within(lambda: x // y, -a, b),
    "%": lambda x, y, a, b, c, d: _within(lambda: x % y, -a),
}

_FLOATS: dict[str, Callable[..., np.ndarray]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "//": np.floor_divide,
    "%": np.remainder,
}

_COMPARISONS: dict[str, tuple[Callable[..., Mask], Callable[..., pa.Array]]] = {
    "==": (np.equal, pc.equal),
    "!=": (np.not_equal, pc.not_equal),
    "<": (np.less, pc.less),
    "<=": (np.less_equal, pc.less_equal),
    ">": (np.greater, pc.greater),
    ">=": (np.greater_equal, pc.greater_equal),
}


def _compared(sign: str, a: Column, b: Column) -> Column:
    none, bad = np.zeros(len(a), bool), a.bad | b.bad
    of_numbers, of_texts = _COMPARISONS[sign]
    equality = sign in ("==", "!=")
    if not equality:
        bad = bad | a.null | b.null  # only equality knows None
    if "null" in (a.kind, b.kind):
        values = none
    elif (a.kind == "text") != (b.kind == "text"):
        if not equality:
            raise NotVectorizable(f"text and numbers in {sign}")
        values = np.full(len(a), sign == "!=")
    elif a.kind == "text":
        values = numbers(of_texts(a.texts, b.texts))  # UTF-8 sorts as code points do
    else:
        a, b = unflagged(a), unflagged(b)
        same = a.kind == b.kind
        values = of_numbers(a.numbers if same else _float(a), b.numbers if same else _float(b))
    if equality:
        both = a.null & b.null
        values = np.where(np.logical_or(a.null, b.null), both == (sign == "=="), values)
    return Column("bool", values, none, bad)


def unflagged(column: Column) -> Column:
    """Return flags as the whole numbers 1 and 0, as arithmetic takes them."""
    return replace(column, kind="int", values=column.numbers.astype(np.int64)) if column.kind == "bool" else column


def as_floats(column: Column) -> Column:
    """Return whole numbers as the floats that are equal to them.

    Raises:
        NotVectorizable: there may be none.
    """
    return replace(column, kind="float", values=_float(column))


def _float(column: Column) -> np.ndarray:
    if column.kind == "float":
        return column.numbers
    low, high = column.bounds()
    if low < -_EXACT or high > _EXACT:
        raise NotVectorizable("integers that no float is equal to")
    return column.numbers.astype(np.float64)


# Of one column -------------------------------------------------------------------------------------------------------


def _function(name: str, of: Column, argument: Value) -> Column:
    none = np.zeros(len(of), bool)
    if name == "is_null":
        return Column("bool", of.null, none, of.bad)
    if name == "fill_null":
        return _filled(of, _constant(argument, len(of)))
    if of.kind == "null":
        return Column("null", of.values, none, ~none)
    if name == "~":
        if of.kind != "bool":
            raise NotVectorizable("~ of something that is not true or false")
        return Column("bool", ~of.numbers, none, of.off)
    if name == "-":
        if of.kind == "text":
            raise NotVectorizable("- of text")
        of = unflagged(of)
        if of.kind == "int":
            _within(lambda: of.numbers, -of.bounds()[0])
        return Column(of.kind, -of.numbers, none, of.off)
    if of.kind == "text":
        return _on_texts(name, of, argument)
    if name == "to_int" and of.kind != "float":
        return replace(unflagged(of), null=none, bad=of.off)
    if name == "to_float":
        return Column("float", _float(unflagged(of)), none, of.off)
    raise NotVectorizable(f"{name} of numbers")


def _filled(of: Column, instead: Column) -> Column:
    if of.kind == "null":
        return replace(instead, bad=of.bad)
    if not of.null.any():
        return of
    if of.kind != instead.kind:
        raise NotVectorizable("a column of several kinds")
    if of.kind == "text":
        values = pc.if_else(pa.array(of.null), instead.texts, of.texts)
    else:
        values = np.where(of.null, instead.numbers, of.numbers)
    return Column(of.kind, values, np.zeros(len(of), bool), of.bad)


def _on_texts(name: str, of: Column, argument: Value) -> Column:
    """Call Python's function once for each different text."""
    encoded = of.texts.dictionary_encode()
    places = numbers(encoded.indices)
    call = FUNCTIONS[name]
    made: list[Any] = []  # texts, flags or numbers, as the function has it
    failed: list[int] = []
    for index, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            made.append(call(text, argument))
        except (ValueError, TypeError):
            made.append(None)
            failed.append(index)
    bad = of.off | np.isin(places, failed) if failed else of.off
    none = np.zeros(len(of), bool)
    kinds = {type(value) for value in made if value is not None}
    if kinds <= {str} and name in ("lower", "upper", "strip"):
        return Column("text", _texts([text or "" for text in made], places), none, bad)
    if kinds <= {bool} and name in ("startswith", "endswith", "contains"):
        return Column("bool", np.array([value or False for value in made], bool)[places], none, bad)
    values: list[int] = [value or 0 for value in made]
    if name == "to_float":
        return Column("float", np.array(made, np.float64)[places], none, bad)
    if values and not -_INT64 <= min(values) <= max(values) < _INT64:
        raise NotVectorizable("integers beyond 64 bits")
    return Column("int", np.array(values, np.int64)[places], none, bad)


def _texts(texts: list[str], places: np.ndarray) -> pa.Array:
    try:
        return pa.array(texts, _TEXT).take(pa.array(places))
    except UnicodeError as exc:
        raise NotVectorizable("text that is not Unicode") from exc


def numbers(array: pa.Array) -> np.ndarray:
    """Convert an Arrow array without nulls to NumPy."""
    if pa.types.is_boolean(array.type):
        return array.to_numpy(zero_copy_only=False)
    # Where pandas happens to be installed, `to_numpy` loads it: half a second and 35 MB for nothing.
    return np.from_dlpack(array)
