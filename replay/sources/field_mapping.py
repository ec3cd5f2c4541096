"""What of a record's fields becomes its key, time, headers and partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...topics.errors import Usage
from ...topics.producer import Headers
from .field_expression import Expression, as_bytes, expression
from .format import Format
from .time_parser import TimeParser

__all__ = ["FieldMapping"]

_LAST_PARTITION = 2**31 - 1


class FieldMapping:
    """The wishes of a `Format`, understood.

    Args:
        source: the file, for messages.
        columns: the fields that all records have, where that is known.

    Attributes:
        fields: the fields it looks at.
        key_field, time_field: names of the fields, where they are the record's own and nothing is to be computed.
        plain: nothing but those; then a parser may take its own short way, else it calls this with each record.

    Raises:
        Usage: what is asked cannot be understood, or names no column.
    """

    def __init__(self, format: Format, source: str, columns: tuple[str, ...] = ()) -> None:
        self.stamps = TimeParser(format.time_format, format.time_zone)
        asked = [("--key", format.key), ("--time", format.time), ("--partition", format.partition)]
        self._key, self._time, self._partition = (_understood(text, columns) for _, text in asked)
        self._headers = [(name, expression(text, columns)) for name, text in format.headers]
        used = [(option, said) for (option, _), said in zip(asked, self._parts(), strict=True) if said is not None]
        used += [("--header", said) for _, said in self._headers]
        self.fields = frozenset(name for _, said in used for name in said.fields)
        self.key_field, self.time_field = _own(self._key), _own(self._time)
        self.plain = (
            (self._key is None or self.key_field is not None)
            and (self._time is None or self.time_field is not None)
            and self._partition is None
            and not self._headers
        )
        for option, said in used if columns else ():
            for name in sorted(said.fields - set(columns)):
                of = "" if said.text == name else f": {name}"
                raise Usage(
                    f"{source}: {option} {said.text}{of}: no such column", hint=f"columns: {', '.join(columns)}"
                )

    def __call__(self, record: Mapping[str, Any]) -> tuple[bytes | None, int, Headers | None, int | None]:
        """Key, time in ms (0 for none), headers and partition of a record.

        Raises:
            ValueError: one of them cannot be had; says why.
        """
        key = None if self._key is None else as_bytes(self._key(record))
        time_ms = 0 if self._time is None else self.time_ms(self._time(record))
        headers: list[tuple[str, bytes]] | None = None
        if self._headers:
            values = [(name, as_bytes(said(record))) for name, said in self._headers]
            headers = [(name, value) for name, value in values if value is not None]
        partition = None if self._partition is None else _number(self._partition(record))
        return key, time_ms, headers, partition

    def time_ms(self, written: Any) -> int:
        """A time as the field holds it, in ms."""
        return self.stamps[written] if isinstance(written, str) else self.stamps.parse(written)

    def _parts(self) -> tuple[Expression | None, ...]:
        return self._key, self._time, self._partition


def _understood(text: str | None, columns: tuple[str, ...]) -> Expression | None:
    return None if text is None else expression(text, columns)


def _own(said: Expression | None) -> str | None:
    return said.path[0] if said is not None and len(said.path) == 1 else None


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 11:
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LAST_PARTITION):
        return value
    raise ValueError(f"not a partition: {value!r:.60}")
