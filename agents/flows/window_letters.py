"""Closed windows of flows that could not be sent, and that `dlq replay` lets be sent again.

The dead letter holds the window as an element: what is behind `final()` gets nothing else, so the window is sent again
exactly as it would have been. It returns only if JSON gives key and fields back exactly, and if no other windows are
made of it (`final().key_by(…).aggregate(…)`): those have closed meanwhile. A dead letter that holds no fields, because
they were too large, is sent with what the table has, as long as it has the window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from ...topics.dead_letter import Origin, operator_of, read_retry
from ...topics.equality import identical
from ...topics.errors import BadRecord, described
from ...topics.headers import headers_of
from ..tables.absent import ABSENT

if TYPE_CHECKING:
    from ...topics.message import Message
    from ..tables.open_windows import WindowKey
    from ..tables.window_table import WindowTable

__all__ = ["Retold", "is_whole", "retold", "window_element"]

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Retold(NamedTuple):
    """A window that is sent again.

    Attributes:
        row: its row in the table.
        value: its value, without the states of aggregates; ABSENT if the dead letter does not hold it.
        origin: in front of which record it failed first; None if that is not known.
    """

    row: WindowKey
    value: Any
    origin: Origin | None


def window_element(table: WindowTable, row: WindowKey, value: Any) -> dict[str, Any]:
    """Return a window as an element of a flow, and as its dead letter shows it."""
    key, start, end = row
    hidden = table.state_fields
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {"value": value}
    return {
        "key": key,
        "start": start,
        "end": end,
        **{name: field for name, field in fields.items() if name not in hidden},
    }


def is_whole(table: WindowTable, row: WindowKey, value: object) -> bool:
    """Return whether the dead letter of a window gives back exactly what is sent of it."""
    try:
        element = window_element(table, row, value)
        row_again, value_again = _read(table, msgspec.json.encode(element))
        return identical(row_again, row) and identical(window_element(table, row_again, value_again), element)
    except Exception:  # noqa: BLE001 (methods of the user's values may raise anything)
        return False


def retold(table: WindowTable, message: Message) -> Retold:
    """Return the window of a record of the retry topic of a table's windows.

    Raises:
        BadRecord: it cannot be read, or is of another table.
    """
    headers, origin = read_retry(headers_of(message))
    name = operator_of(headers)
    if name != table.name:
        raise BadRecord(f"a window of table {name!r} cannot be sent again: the flow fills table {table.name!r} now")
    try:
        row, value = _read(table, message.value() or b"")
    except (msgspec.MsgspecError, BadRecord, KeyError, RecursionError) as exc:
        raise BadRecord(f"the record of a window cannot be read: {described(exc)}") from exc
    return Retold(row, value, origin)


def _read(table: WindowTable, letter: bytes) -> tuple[WindowKey, Any]:
    fields = _fields_of(letter)
    key, start, end = (bytes(fields.pop(name)) for name in ("key", "start", "end"))
    row: WindowKey = table.key_codec.decode(b"[%b,%b,%b]" % (key, start, end))
    if not fields:
        return row, ABSENT
    if table.value_type is None:
        return row, msgspec.json.decode(msgspec.json.encode(fields))
    of_value = fields["value"] if fields.keys() == {"value"} else msgspec.json.encode(fields)
    return row, table.value_codec.decode(bytes(of_value))
