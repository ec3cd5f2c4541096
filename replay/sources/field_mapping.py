"""`FieldMapping`: the key, timestamp, headers and partition of a record, from its fields."""

from __future__ import annotations

from collections.abc import Mapping

from ...topics.errors import Usage
from ...topics.producer import Headers
from .field_expression import FieldExpression, as_bytes, expression
from .format import Format
from .time_parser import TimeParser

__all__ = ["FieldMapping"]

_LAST_PARTITION = 2**31 - 1


class FieldMapping:
    """The expressions of a `Format`, parsed.

    Args:
        source: the file's name, for messages.
        columns: the fields that all records have, if that is known.

    Attributes:
        fields: names of the fields that the expressions use.
        key_field, time_field: name of the field if key or time is a top-level field and nothing is computed.
        plain: true if nothing but those is mapped; a parser may then take a short cut instead of calling this for each
            record.

    Raises:
        Usage: an expression is invalid, or names a column that does not exist.
    """

    def __init__(self, format: Format, source: str, columns: tuple[str, ...] = ()) -> None:
        self.time_parser = TimeParser(format.time_format, format.time_zone)
        options = [("--key", format.key), ("--time", format.time), ("--partition", format.partition)]
        self._key, self._time, self._partition = (_parsed(text, columns) for _, text in options)
        self._headers = [(name, expression(text, columns)) for name, text in format.headers]
        parsed = (self._key, self._time, self._partition)
        used = [(option, part) for (option, _), part in zip(options, parsed, strict=True) if part is not None]
        used += [("--header", part) for _, part in self._headers]
        self.fields = frozenset(name for _, part in used for name in part.fields)
        self.key_field, self.time_field = _top_level_field(self._key), _top_level_field(self._time)
        self.plain = (
            (self._key is None or self.key_field is not None)
            and (self._time is None or self.time_field is not None)
            and self._partition is None
            and not self._headers
        )
        for option, part in used if columns else ():
            for name in sorted(part.fields - set(columns)):
                of = "" if part.text == name else f": {name}"
                raise Usage(
                    f"{source}: {option} {part.text}{of}: no such column", hint=f"columns: {', '.join(columns)}"
                )

    def __call__(self, record: Mapping[str, object]) -> tuple[bytes | None, int, Headers | None, int | None]:
        """Return key, time in ms (0 for none), headers and partition of a record.

        Raises:
            ValueError: one of them cannot be computed; the message says why.
        """
        key = None if self._key is None else as_bytes(self._key(record))
        time_ms = 0 if self._time is None else self.time_ms(self._time(record))
        headers: list[tuple[str, bytes]] | None = None
        if self._headers:
            values = [(name, as_bytes(value(record))) for name, value in self._headers]
            headers = [(name, value) for name, value in values if value is not None]
        partition = None if self._partition is None else _partition_number(self._partition(record))
        return key, time_ms, headers, partition

    def time_ms(self, written: object) -> int:
        """Return the time that a field's value represents, in ms since 1970."""
        return self.time_parser[written] if isinstance(written, str) else self.time_parser.parse(written)


def _parsed(text: str | None, columns: tuple[str, ...]) -> FieldExpression | None:
    return None if text is None else expression(text, columns)


def _top_level_field(part: FieldExpression | None) -> str | None:
    return part.path[0] if part is not None and len(part.path) == 1 else None


def _partition_number(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 11:
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LAST_PARTITION):
        return value
    raise ValueError(f"not a partition: {value!r:.60}")
