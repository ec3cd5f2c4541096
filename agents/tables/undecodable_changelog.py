"""What is in a changelog and is none of the table's: bytes that its types cannot decode.

It is named when it is read, with its table, partition and offset, and again when an agent asks for the key. The worker
goes on: only records that need the key fail, by name, and nothing is taken for a value that it is not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...topics.errors import BadRecord, Stop, described
from ...topics.partition_reader import Run
from .partition_state import EVENT_TIME

if TYPE_CHECKING:
    from .uncommitted_writes import UncommittedWrites

__all__ = ["REMEDY", "Undecodable", "name_undecodable", "shown"]

logger = logging.getLogger(__name__)

REMEDY = (
    "assign the key anew in an agent; or stop the workers and send its right value, or a tombstone, to the changelog; "
    "or declare the type that the values have"
)

_MOST = 5

# Only where one of these stands can JSON be spelled in two ways: escapes, floats, spaces.
_SPELLED = re.compile(rb"\\|\.0|[0-9][eE]|[,:] ")
_OPERATIONS = (1, 2, 15)  # of Faust's SetTable: add, discard, update


class Undecodable(BadRecord):
    """A committed key or value that the table's types cannot decode."""

    def __init__(self, table: str, key: Any, kind: str, error: BaseException) -> None:
        super().__init__(
            f"table {table}: what it holds at key {key!r} cannot be decoded as {kind}: {described(error)}", hint=REMEDY
        )


def shown(data: bytes) -> str:
    """Bytes as people read them."""
    return data.decode(errors="backslashreplace")


def name_undecodable(table: UncommittedWrites, run: Run, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
    """Log what cannot be decoded of records that are about to be written into a store.

    Args:
        run: the records; keys, values: the last of each key among them.

    Raises:
        Stop: another program wrote the changelog in a form of its own, so that the table would lack what it says.
    """
    if table.ttl_ms is not None and EVENT_TIME in keys:
        pairs = [pair for pair in zip(keys, values, strict=True) if pair[0] != EVENT_TIME]
        keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    _refuse_other_spellings(table, run, keys)
    data = [table.value_bytes(value) for value in values if value is not None]
    try:
        if table.key_codec.all_decodable(list(keys)) and table.value_codec.all_decodable(data):
            return
    except Exception:  # noqa: BLE001, S110 (one by one, below, it is found out which)
        pass
    if table.sets:
        _refuse_operations(table, run, keys)
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


def _refuse_other_spellings(table: UncommittedWrites, run: Run, keys: Sequence[bytes]) -> None:
    """Keys are found by their bytes: one spelled in another way would be a second key beside the table's own."""
    codec = table.key_codec
    if _SPELLED.search(b"\n".join(keys)) is None:
        return
    for key in keys:
        try:
            own = codec.encode(codec.decode(key))
        except Exception:  # noqa: BLE001, S112 (it cannot be decoded, which is said elsewhere)
            continue
        if own != key:
            raise _written_elsewhere(table, run, f"spells the key {shown(own)} as {shown(key)}")


def _refuse_operations(table: UncommittedWrites, run: Run, keys: Sequence[bytes]) -> None:
    """Faust writes a record for each element that comes or goes: `[operation, key]` -> element."""
    for key in keys:
        try:
            parts = table.key_codec.decode(key)
        except Exception:  # noqa: BLE001, S112 (it cannot be decoded, which is said elsewhere)
            continue
        if isinstance(parts, tuple) and len(parts) == 2 and parts[0] in _OPERATIONS:
            raise _written_elsewhere(table, run, f"holds changes of sets ({shown(key)}) instead of sets")


def _written_elsewhere(table: UncommittedWrites, run: Run, how: str) -> Stop:
    topic, partition = run.at
    return Stop(
        f"table {table.name}: its changelog {topic}[{partition}] {how}, as Faust does",
        hint="compute the table anew: give it another name, or delete the changelog and set the group's offsets to the "
        "beginning",
    )


def _why_not(table: UncommittedWrites, key: bytes, value: bytes | None) -> str:
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
