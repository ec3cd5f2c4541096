"""What stands in the columns of a history: nulls, least and largest values, and what the topic's type refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import msgspec

from ..sources.source_record import SourceRecord

__all__ = ["ColumnProfile", "Profile"]

_MOST_COLUMNS = 200
_CHARS = 40
_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class ColumnProfile:
    """One column, of the records that have it.

    Attributes:
        least, most: of its numbers, or of its text where it has no numbers; None where it has neither.
        broken: values that the topic's type refuses; `example` says why the first is.
    """

    values: int = 0
    nulls: int = 0
    least: Any = None
    most: Any = None
    broken: int = 0
    example: str = ""

    def add(self, value: Any) -> None:
        """Count a value."""
        self.values += 1
        if value is None:
            self.nulls += 1
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if isinstance(self.least, str) or self.least is None:
                self.least = self.most = value
            self.least, self.most = min(self.least, value), max(self.most, value)
        elif isinstance(value, str) and (self.least is None or isinstance(self.least, str)):
            text = value[:_CHARS]
            self.least = text if self.least is None else min(self.least, text)
            self.most = text if self.most is None else max(self.most, text)


@dataclass(slots=True)
class Profile:
    """The columns of records whose values are JSON objects.

    Attributes:
        value_type: of the topic, where it is known; values are held against its fields and their `msgspec.Meta`.
        columns: by name, in the order in which they were met.
        records: that were looked at; `most` of them at most, None looks at all that it is given.
    """

    value_type: Any = None
    most: int | None = None
    records: int = 0
    columns: dict[str, ColumnProfile] = field(default_factory=dict[str, ColumnProfile])
    _hints: Mapping[str, Any] | None = None

    def add(self, items: Sequence[SourceRecord]) -> None:
        """Count the values of records, as far as `most` lets it."""
        if self.most is not None:
            if self.records >= self.most:
                return
            items = items[: self.most - self.records]
        self.records += len(items)
        hints = self._fields()
        for item in items:
            value = item[1] or b""
            if value[:1] != b"{":
                continue
            try:
                record = _decode(value)
            except (ValueError, RecursionError):
                continue
            for name, cell in record.items():
                column = self.columns.get(name)
                if column is None:
                    if len(self.columns) >= _MOST_COLUMNS:
                        continue
                    column = self.columns[name] = ColumnProfile()
                column.add(cell)
                if name in hints:
                    self._hold(column, cell, hints[name])

    def _hold(self, column: ColumnProfile, cell: Any, hint: Any) -> None:
        try:
            msgspec.convert(cell, hint)
        except msgspec.ValidationError as exc:
            column.broken += 1
            column.example = column.example or str(exc)
        except TypeError:
            pass  # a type of the user's own, which only the user's code can tell

    def _fields(self) -> Mapping[str, Any]:
        if self._hints is None:
            try:
                self._hints = get_type_hints(self.value_type, include_extras=True) if self.value_type else {}
            except (NameError, TypeError):
                self._hints = {}
            if isinstance(self.value_type, type) and issubclass(self.value_type, msgspec.Struct):
                names = {found.name: found.encode_name for found in msgspec.structs.fields(self.value_type)}
                self._hints = {names.get(name, name): hint for name, hint in self._hints.items()}
        return self._hints
