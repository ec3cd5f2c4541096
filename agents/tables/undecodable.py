"""What is in a changelog and is none of the table's: bytes that its types cannot decode.

It is named when it is read, with its table, partition and offset, and again when an agent asks for the key. The worker
goes on: only records that need the key fail, by name, and nothing is taken for a value that it is not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...topics.errors import BadRecord, described
from ...topics.reading import Run
from .state import EVENT_TIME

if TYPE_CHECKING:
    from .overlay import Overlay

__all__ = ["REMEDY", "Undecodable", "name_undecodable", "shown"]

logger = logging.getLogger(__name__)

REMEDY = (
    "assign the key anew in an agent; or stop the workers and send its right value, or a tombstone, to the changelog; "
    "or declare the type that the values have"
)

_MOST = 5


class Undecodable(BadRecord):
    """A committed key or value that the table's types cannot decode."""

    def __init__(self, table: str, key: Any, kind: str, error: BaseException) -> None:
        super().__init__(
            f"table {table}: what it holds at key {key!r} cannot be decoded as {kind}: {described(error)}", hint=REMEDY
        )


def shown(data: bytes) -> str:
    """Bytes as people read them."""
    return data.decode(errors="backslashreplace")


def name_undecodable(table: Overlay, run: Run, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
    """Log what cannot be decoded of records that are about to be written into a store.

    Args:
        run: the records; keys, values: the last of each key among them.
    """
    if table.ttl_ms is not None and EVENT_TIME in keys:
        pairs = [pair for pair in zip(keys, values, strict=True) if pair[0] != EVENT_TIME]
        keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    data = [table.value_bytes(value) for value in values if value is not None]
    try:
        if table.key_codec.all_decodable(list(keys)) and table.value_codec.all_decodable(data):
            return
    except Exception:  # noqa: BLE001, S110 (one by one, below, it is found out which)
        pass
    bad = [(key, why) for key, value in zip(keys, values, strict=True) if (why := _why_not(table, key, value))]
    topic, partition = run.at
    for key, why in bad[:_MOST]:
        offset = next((m.offset() for m in reversed(run.messages) if m.key() == key), run.position - 1)
        logger.error(
            "table %s: the record of key %s in its changelog, %s[%d]@%d, cannot be decoded: %s (hint: %s)",
            *(table.name, shown(key), topic, partition, offset, why, REMEDY),
            extra={"topic": topic, "partition": partition, "offset": offset, "table": table.name},
        )
    if len(bad) > _MOST:
        logger.error("table %s: %d more of %s[%d] cannot be decoded", table.name, len(bad) - _MOST, topic, partition)


def _why_not(table: Overlay, key: bytes, value: bytes | None) -> str:
    """Why a pair cannot be decoded; empty if it can."""
    what, kind = "key", table.key_codec.name
    try:
        table.key_codec.decode(key)
        if value is not None:
            what, kind = "value", table.value_codec.name
            table.value_codec.decode(table.value_bytes(value))
    except Exception as exc:  # noqa: BLE001 (types may be the user's)
        return f"its {what} is not {kind}: {described(exc)}"
    return ""
