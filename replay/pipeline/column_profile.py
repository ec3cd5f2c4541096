"""The columns of a history's records: nulls, minimum, maximum, and values that the type of the topic refuses.

A profile examines the first records only, because it decodes every record that it examines.
`Profile.scope` says how many, and every report prints it beside the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_type_hints

import msgspec

from ...topics.json_value import JsonValue
from ...topics.private_fields import NOTHING, PrivateFields
from ..sources.source_record import SourceRecord

__all__ = ["ColumnProfile", "Profile", "field_types"]

_MAX_COLUMNS = 200
_CHARS = 40
_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class ColumnProfile:
    """One column, over the records that have it.

    Attributes:
        values: how many records have the column.
        nulls: how many of them hold null.
        minimum, maximum: of its numbers, or of its text (the first 40 characters) if it has no numbers; None if it has
            neither.
        refused: values that the type of the topic refuses; `example` is the error of the first.
    """

    values: int = 0
    nulls: int = 0
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    refused: int = 0
    example: str = ""

    def add(self, value: JsonValue) -> None:
        """Count a value."""
        self.values += 1
        if value is None:
            self.nulls += 1
        elif isinstance(value, int | float) and not isinstance(value, bool):
            least, most = self.minimum, self.maximum
            self.minimum = value if least is None or isinstance(least, str) else min(least, value)
            self.maximum = value if most is None or isinstance(most, str) else max(most, value)
        elif isinstance(value, str):
            text, least, most = value[:_CHARS], self.minimum, self.maximum
            if least is None or isinstance(least, str):
                self.minimum = text if least is None else min(least, text)
                self.maximum = text if not isinstance(most, str) else max(most, text)


@dataclass(slots=True)
class Profile:
    """The columns of the first records whose values are JSON objects.

    Attributes:
        value_type: of the topic, if it is known; values are checked against its fields and their `msgspec.Meta`.
        private: the topic's private fields, of which reports show no values.
        limit: how many records are examined at most; None examines all.
        records: how many were examined.
        total: how many there were.
        columns: by name, in the order in which they were found.
    """

    value_type: object = None
    limit: int | None = None
    records: int = 0
    total: int = 0
    columns: dict[str, ColumnProfile] = field(default_factory=dict[str, ColumnProfile])
    private: PrivateFields = NOTHING
    _types: Mapping[str, object] | None = None

    @property
    def scope(self) -> str:
        """The records that the figures cover, in words.

        >>> Profile(records=300, total=300).scope
        'all 300 records'
        >>> Profile(records=10_000, total=336_776).scope
        'only the first 10,000 of 336,776 records'
        """
        if self.records >= self.total:
            return f"all {self.records:,} records"
        return f"only the first {self.records:,} of {self.total:,} records"

    def range_of(self, name: str) -> tuple[object, object] | None:
        """Return the least and the largest value of a column, hidden if they are private; None without any."""
        column = self.columns[name]
        if column.minimum is None:
            return None
        return self.private.cell(name, column.minimum), self.private.cell(name, column.maximum)

    def example_of(self, name: str) -> str:
        """Return why a value of a column was refused, hidden if it is private."""
        return self.private.cell(name, self.columns[name].example)

    def add(self, records: Sequence[SourceRecord]) -> None:
        """Examine records, up to `limit`."""
        self.total += len(records)
        if self.limit is not None:
            if self.records >= self.limit:
                return
            records = records[: self.limit - self.records]
        self.records += len(records)
        if self._types is None:
            self._types = field_types(self.value_type)
        types = self._types
        for record in records:
            value = record[1] or b""
            if value[:1] != b"{":
                continue
            try:
                fields: dict[str, JsonValue] = _decode(value)
            except (ValueError, RecursionError):
                continue
            for name, cell in fields.items():
                column = self.columns.get(name)
                if column is None:
                    if len(self.columns) >= _MAX_COLUMNS:
                        continue
                    column = self.columns[name] = ColumnProfile()
                column.add(cell)
                if name in types:
                    _check(column, cell, types[name])


def _check(column: ColumnProfile, cell: JsonValue, type_: object) -> None:
    try:
        msgspec.convert(cell, type_)
    except msgspec.ValidationError as exc:
        column.refused += 1
        column.example = column.example or str(exc)
    except TypeError:
        pass  # a type of the user's own, which only the user's code can check


def field_types(value_type: object) -> dict[str, object]:
    """Return the types of a value type's fields, by the names that they have in JSON; empty if it has none."""
    if not isinstance(value_type, type):
        return {}
    try:
        types: dict[str, object] = get_type_hints(value_type, include_extras=True)
    except (NameError, TypeError):
        return {}
    if issubclass(value_type, msgspec.Struct):
        names = {field.name: field.encode_name for field in msgspec.structs.fields(value_type)}
        types = {names.get(name, name): type_ for name, type_ in types.items()}
    return types
