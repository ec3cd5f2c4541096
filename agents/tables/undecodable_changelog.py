"""Changelog records that the types of the table cannot decode.

Each is logged when it is read, with its table, partition and offset, and named again in the error that an agent gets
when it reads the key. The worker continues: only records that need the key fail, and no wrong value is ever used.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...topics.errors import BadRecord, Stop, described
from ...topics.partition_reader import Run
from ...topics.private_texts import shown_key, shown_text
from .stream_time import STREAM_TIME

if TYPE_CHECKING:
    from .table import Table

__all__ = ["REMEDY", "Undecodable", "check_records", "shown"]

logger = logging.getLogger(__name__)

REMEDY = (
    "assign the key a new value in an agent; or stop the workers and produce its right value, or a tombstone, to the "
    "changelog; or declare the type that the values have"
)

_MAX_LOGGED = 5

# JSON can be written in two ways only if it contains one of these: escapes, floats, spaces.
_AMBIGUOUS_JSON = re.compile(rb"\\|\.0|[0-9][eE]|[,:] ")
_OPERATIONS = (1, 2, 15)  # of Faust's SetTable: add, discard, update


class Undecodable(BadRecord):
    """A committed key or value that the table's types cannot decode."""

    def __init__(self, table: str, key: object, kind: str, error: BaseException) -> None:
        super().__init__(
            f"table {table}: the content at key {shown_key(key)} cannot be decoded as {kind}: {described(error)}",
            hint=REMEDY,
        )


def shown(data: bytes) -> str:
    """Return bytes as text for messages, with escapes for bytes that are not UTF-8."""
    return shown_text(data.decode(errors="backslashreplace"))


def check_records(table: Table, run: Run, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
    """Log the records that cannot be decoded, before they are written to a store.

    Args:
        run: the records.
        keys: the distinct keys of the records.
        values: the last value of each key.

    Raises:
        Stop: another program wrote the changelog in a form that would give the table wrong content.
    """
    if STREAM_TIME in keys and table.keeps_stream_time:
        pairs = [pair for pair in zip(keys, values, strict=True) if pair[0] != STREAM_TIME]
        keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    _refuse_other_spellings(table, run, keys)
    data = [table.value_bytes(value) for value in values if value is not None]
    try:
        if table.key_codec.all_decodable(list(keys)) and table.value_codec.all_decodable(data):
            return
    except Exception:  # noqa: BLE001, S110 (the records are checked one by one below)
        pass
    if table.sets:
        _refuse_operations(table, run, keys)
    bad = [(key, why) for key, value in zip(keys, values, strict=True) if (why := _why_not(table, key, value))]
    topic, partition = run.at
    for key, why in bad[:_MAX_LOGGED]:
        offset = next((m.offset() for m in reversed(run.messages) if m.key() == key), run.position - 1)
        logger.error(
            "table %s: the record of key %s in its changelog, %s[%d]@%d, cannot be decoded: %s (hint: %s)",
            *(table.name, shown(key), topic, partition, offset, why, REMEDY),
            extra={"topic": topic, "partition": partition, "offset": offset, "table": table.name},
        )
    if len(bad) > _MAX_LOGGED:
        more = len(bad) - _MAX_LOGGED
        logger.error("table %s: %d more records of %s[%d] cannot be decoded", table.name, more, topic, partition)


def _refuse_other_spellings(table: Table, run: Run, keys: Sequence[bytes]) -> None:
    """Refuse keys that are not in the table's encoding: keys are found by their bytes, so each would be a duplicate.

    Raises:
        Stop: a key is encoded in another way.
    """
    codec = table.key_codec
    if _AMBIGUOUS_JSON.search(b"\n".join(keys)) is None:
        return
    for key in keys:
        try:
            own = codec.encode(codec.decode(key))
        except Exception:  # noqa: BLE001, S112 (`check_records` reports keys that cannot be decoded)
            continue
        if own != key:
            raise _written_by_faust(table, run, f"encodes the key {shown(own)} as {shown(key)}")


def _refuse_operations(table: Table, run: Run, keys: Sequence[bytes]) -> None:
    """Refuse the changelog of a Faust SetTable, which has a record per changed element: `[operation, key]` -> element.

    Raises:
        Stop: a key has that form.
    """
    for key in keys:
        try:
            parts = table.key_codec.decode(key)
        except Exception:  # noqa: BLE001, S112 (`check_records` reports keys that cannot be decoded)
            continue
        if isinstance(parts, tuple) and len(parts) == 2 and parts[0] in _OPERATIONS:
            raise _written_by_faust(table, run, f"holds changes of sets ({shown(key)}) instead of sets")


def _written_by_faust(table: Table, run: Run, difference: str) -> Stop:
    topic, partition = run.at
    return Stop(
        f"table {table.name}: its changelog {topic}[{partition}] {difference}, as Faust does",
        hint="recompute the table: give it another name, or delete the changelog and set the group's offsets to the "
        "beginning",
    )


def _why_not(table: Table, key: bytes, value: bytes | None) -> str:
    """Return why a pair cannot be decoded; empty if it can."""
    part, kind = "key", table.key_codec.name
    try:
        table.key_codec.decode(key)
        if value is not None:
            part, kind = "value", table.value_codec.name
            table.value_codec.decode(table.value_bytes(value))
    except Exception as exc:  # noqa: BLE001 (decoders of users' types may raise anything)
        return f"its {part} is not {kind}: {described(exc)}"
    return ""
