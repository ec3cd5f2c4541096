"""Columns of a packed batch, and the frame: a batch in columns on its way through a flow.

A column has values of one kind, a flag for each row whose value is None (`null`), and a flag for each row that has to
be processed row by row (`bad`): there Python raises, or returns something that does not fit the column's kind. Where a
whole batch may differ (an integer result that 64 bits may not hold; an integer beyond 2**53 that meets a float; NaN or
infinity from a file, which JSON cannot represent), columnar execution raises `NotVectorizable`, and the batch is
processed row by row. That is always correct, so the decision is made early, from bounds and not from results.

Numbers are NumPy arrays, text is an Arrow array. Text functions are Python's own, called once for each different text.

Operators change the frame as they change elements: `filter` removes rows, `with_columns` and `select` change the
fields. Rows that might fail are *set aside*, to be processed row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute
from msgspec import inspect

from ...topics.packed import is_text
from ..value_columns import DeclaredField, checkable
from .aggregates import What
from .expressions import Expression, NotVectorizable, Value

__all__ = ["Column", "Frame", "Mask", "column_of", "constant", "numbers"]

pc: Any = pyarrow.compute  # its functions are made at run time
Mask = np.ndarray[Any, np.dtype[np.bool_]]
"""A flag for each row."""

ColumnKind = Literal["int", "float", "bool", "text", "null"]
_INT64 = 1 << 63
_EXACT = 1 << 53  # up to here every integer is a float
_TEXT = pa.large_string()

_KINDS: dict[object, str] = {
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "text",
    inspect.BoolType: "bool",
}
_JSON = (None, Any, dict, dict[str, Any])


@dataclass(frozen=True, slots=True)
class Column:
    """Values of one kind, one for each row. The values of rows that are `null` or `bad` have no meaning.

    The methods from `computed` on are what operators and functions of expressions are defined with; each raises
    `NotVectorizable` where values might differ from those of rows.

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

    def unflagged(self) -> Column:
        """Return flags as the whole numbers 1 and 0, as arithmetic takes them."""
        return replace(self, kind="int", values=self.numbers.astype(np.int64)) if self.kind == "bool" else self

    def _result(self, kind: ColumnKind, values: np.ndarray | pa.Array, bad: Mask) -> Column:
        return Column(kind, values, np.zeros(len(self), bool), bad)

    def _all_bad(self) -> Column:
        return self._result("null", np.zeros(len(self), np.int64), np.ones(len(self), bool))

    # Operators with two operands --------------------------------------------------------------------------------------

    def computed(
        self,
        call: Callable[[Any, Any], Any],
        other: Column,
        bounds: Callable[[int, int, int, int], tuple[int, ...]] | None,
        *,
        divides: bool,
        joins: bool,
    ) -> Column:
        """Return the results of an arithmetic operator; for the arguments see `expressions`."""
        bad = self.off | other.off
        if "null" in (self.kind, other.kind):
            return self._all_bad()
        if "text" in (self.kind, other.kind):
            if self.kind != other.kind or not joins:
                raise NotVectorizable("text in arithmetic")
            return self._result("text", pc.binary_join_element_wise(self.texts, other.texts, pa.scalar("", _TEXT)), bad)
        left, right = self.unflagged(), other.unflagged()
        if divides:
            zero = right.numbers == 0
            bad, right = bad | zero, replace(right, values=np.where(zero, 1, right.numbers))
        if left.kind == right.kind == "int" and bounds is not None:
            _check_int64(*bounds(*left.bounds(), *right.bounds()))
            return self._result("int", call(left.numbers, right.numbers), bad)
        x, y = left.floats(), right.floats()
        if divides and bounds is not None and not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise NotVectorizable("infinities")
        with np.errstate(all="ignore"):
            return self._result("float", call(x, y), bad)

    def compared(self, call: Callable[[Any, Any], Any], other: Column, of_texts: str, equality: bool | None) -> Column:
        """Return the results of a comparison.

        Args:
            of_texts: Arrow's name of the comparison.
            equality: the result for two values None; None: the comparison raises where one of them is None.
        """
        a, b, bad = self, other, self.bad | other.bad
        if equality is None:
            bad = bad | a.null | b.null
        if "null" in (a.kind, b.kind):
            values: np.ndarray = np.zeros(len(a), bool)
        elif (a.kind == "text") != (b.kind == "text"):
            if equality is None:
                raise NotVectorizable("text and numbers have no order")
            values = np.full(len(a), not equality)
        elif a.kind == "text":
            values = numbers(getattr(pc, of_texts)(a.texts, b.texts))  # UTF-8 sorts as code points do
        else:
            a, b = a.unflagged(), b.unflagged()
            same = a.kind == b.kind
            values = call(a.numbers if same else a.floats(), b.numbers if same else b.floats())
        if equality is not None:
            both = a.null & b.null
            values = np.where(np.logical_or(a.null, b.null), both == equality, values)
        return self._result("bool", values, bad)

    def decided_by(self, decisive: bool, other: Column) -> Column:
        """Return `and` (decided by False) or `or` (decided by True) of flags; the other column matters only where this
        one does not decide."""
        if not {self.kind, other.kind} <= {"bool", "null"}:
            raise NotVectorizable("& and | of something that is not true or false")
        left, right = self.numbers.astype(bool), other.numbers.astype(bool)
        undecided = left != decisive
        values = np.where(undecided, right, decisive)
        return self._result("bool", values, self.off | (undecided & other.off))

    # Functions of one operand -----------------------------------------------------------------------------------------

    def negative(self) -> Column:
        """Return the negative numbers."""
        if self.kind == "null":
            return self._all_bad()
        if self.kind == "text":
            raise NotVectorizable("- of text")
        of = self.unflagged()
        if of.kind == "int":
            _check_int64(-of.bounds()[0])
        return self._result(of.kind, -of.numbers, of.off)

    def inverted(self) -> Column:
        """Return True for False and False for True."""
        if self.kind == "null":
            return self._all_bad()
        if self.kind != "bool":
            raise NotVectorizable("~ of something that is not true or false")
        return self._result("bool", ~self.numbers, self.off)

    def is_null(self) -> Column:
        """Return whether values are None."""
        return self._result("bool", self.null, self.bad)

    def filled(self, instead: Value) -> Column:
        """Return the values, with another one for None."""
        other = constant(instead, len(self))
        if self.kind == "null":
            return replace(other, bad=self.bad)
        if not self.null.any():
            return self
        if self.kind != other.kind:
            raise NotVectorizable("a column of several kinds")
        if self.kind == "text":
            values = pc.if_else(pa.array(self.null), other.texts, self.texts)
        else:
            values = np.where(self.null, other.numbers, self.numbers)
        return self._result(self.kind, values, self.bad)

    def whole(self) -> Column:
        """Return whole numbers and flags as whole numbers."""
        if self.kind == "float":
            raise NotVectorizable("whole numbers of floats")
        return self._result("int", self.unflagged().numbers, self.off)

    def as_floats(self) -> Column:
        """Return numbers as the floats that are equal to them."""
        return self._result("float", self.unflagged().floats(), self.off)

    def floats(self) -> np.ndarray:
        """Return the values of whole numbers or floats as floats.

        Raises:
            NotVectorizable: there may be a whole number that no float is equal to.
        """
        if self.kind == "float":
            return self.numbers
        low, high = self.bounds()
        if low < -_EXACT or high > _EXACT:
            raise NotVectorizable("integers that no float is equal to")
        return self.numbers.astype(np.float64)

    def pseudonyms(self, call: Callable[[str], str | None]) -> Column:
        """Return what `call` returns for texts, and for whole numbers as text; None for None."""
        if self.kind == "null":
            return self
        if self.kind == "int":
            texts = pa.array(self.numbers).cast(_TEXT)
            return replace(self, kind="text", values=texts).pseudonyms(call)
        if self.kind != "text":
            raise NotVectorizable("pseudonyms of something else than text and whole numbers")
        return replace(self.of_texts(call, "text"), null=self.null, bad=self.bad)

    def of_texts(self, call: Callable[[str], Any], kind: Literal["text", "bool", "int", "float"]) -> Column:
        """Return what a function of Python returns for each text; it is called once for each different text.

        Args:
            kind: kind of the results.
        """
        if self.kind == "null":
            return self._all_bad()
        encoded = self.texts.dictionary_encode()
        places = numbers(encoded.indices)
        made: list[Any] = []
        failed: list[int] = []
        for index, text in enumerate(encoded.dictionary.to_pylist()):
            try:
                made.append(call(text))
            except (ValueError, TypeError):
                made.append(None)
                failed.append(index)
        bad = self.off | np.isin(places, failed) if failed else self.off
        if kind == "text":
            return self._result("text", _texts([text or "" for text in made], places), bad)
        if kind == "int":
            _check_int64(*(value for value in made if value is not None))
        default, dtype = {"bool": (False, bool), "int": (0, np.int64), "float": (0.0, np.float64)}[kind]
        values = np.array([default if value is None else value for value in made], dtype)
        return self._result(kind, values[places], bad)


def _check_int64(*bounds: int) -> None:
    if bounds and not -_INT64 <= min(bounds) <= max(bounds) < _INT64:
        raise NotVectorizable("integers beyond 64 bits")


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


def constant(value: Value, rows: int) -> Column:
    """Return a column that has the same value in each row.

    Raises:
        NotVectorizable: it is an integer beyond 64 bits.
    """
    none = np.zeros(rows, bool)
    if value is None:
        return Column("null", np.zeros(rows, np.int64), ~none, none)
    if isinstance(value, bool):
        return Column("bool", np.full(rows, value), none, none)
    if isinstance(value, str):
        return Column("text", _texts([value], np.zeros(rows, np.int32)), none, none)
    if isinstance(value, float):
        return Column("float", np.full(rows, value), none, none)
    _check_int64(value)
    return Column("int", np.full(rows, value, np.int64), none, none)


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


class Frame:
    """The rows of an Arrow batch, each a JSON object.

    Args:
        declared: the type that rows are decoded into.

    Attributes:
        rows: number of rows of the batch.
        live: flags of the rows that are left.
        aside: flags of the other rows that have to be processed row by row.

    Raises:
        NotVectorizable: decoding may refuse some of the rows, or change them.
    """

    def __init__(self, batch: pa.RecordBatch, declared: object = None) -> None:
        self._batch = batch
        self._columns: dict[str, Column] = {}
        self._names: Collection[str] = set(batch.schema.names)
        self.rows: int = batch.num_rows
        self.live: Mask = np.ones(self.rows, bool)
        self.aside: Mask = np.zeros(self.rows, bool)
        if declared not in _JSON:
            self._declare(declared)

    def _declare(self, declared: object) -> None:
        fields = _plain_fields(declared)
        if fields is None:
            raise NotVectorizable(f"elements are {declared}")
        for field in fields:
            if field.name not in self._names:
                raise NotVectorizable(f"no column {field.name}")
            kind = _KINDS[field.kind]
            column = column_of(self._batch[field.name])
            if column.null.any() and not field.nullable:
                raise NotVectorizable(f"{field.name}: None")
            if column.kind == "int" and kind == "float":
                column = replace(column, kind="float", values=column.floats())
            elif column.kind not in (kind, "null"):
                raise NotVectorizable(f"{field.name}: {column.kind}, not {kind}")
            self._columns[field.attribute] = column
        self._names = set(self._columns)

    def column(self, what: What) -> Column:
        """Return the column of a field or an expression.

        Raises:
            NotVectorizable: there is no such field, or an expression's values might differ from those of rows.
        """
        if isinstance(what, Expression):
            return what.column(self)
        if isinstance(what, str):
            return self.field(what)
        raise NotVectorizable(f"{what!r} is not a field")

    def texts(self, keys: pa.Array | None) -> Column:
        """Return the records' own keys as text.

        Args:
            keys: text, whole numbers or bytes; None where the records have no keys.

        Raises:
            NotVectorizable: a key is not text.
        """
        if keys is None:
            return column_of(pa.nulls(self.rows))
        try:
            return column_of(keys.cast(pa.large_string()))
        except pa.ArrowInvalid:
            raise NotVectorizable("keys that are not text") from None

    def field(self, name: str) -> Column:
        """Return the column of a field.

        Raises:
            NotVectorizable: there is no such field.
        """
        if name not in self._names:
            raise NotVectorizable(f"no column {name}")
        if name not in self._columns:
            self._columns[name] = column_of(self._batch[name])
        return self._columns[name]

    def constant(self, value: Value) -> Column:
        """Return a column that has this value in each row."""
        return constant(value, self.rows)

    def set_aside(self, rows: Mask) -> None:
        """Set these rows aside, as far as they are left."""
        rows = rows & self.live
        if rows.any():
            self.aside |= rows
            self.live = self.live & ~rows

    def keep(self, condition: What) -> None:
        """Keep only the rows for which the condition is true."""
        column = self.column(condition)
        self.set_aside(column.bad)
        self.live = self.live & column.truth()

    def with_columns(self, columns: Mapping[str, What]) -> None:
        """Add fields."""
        made = {name: self.column(what) for name, what in columns.items()}
        for column in made.values():
            self.set_aside(column.bad)
        self._columns.update(made)
        self._names = {*self._names, *made}

    def select(self, columns: Mapping[str, What]) -> None:
        """Replace the fields."""
        self.with_columns(columns)
        self._names = set(columns)


def _plain_fields(declared: object) -> list[DeclaredField] | None:
    """Return the fields of a struct whose fields are all plain, so that columns can be checked against it; else
    None."""
    fields = checkable(declared) if isinstance(declared, type) and issubclass(declared, msgspec.Struct) else None
    return fields if fields is not None and all(field.kind in _KINDS for field in fields) else None
