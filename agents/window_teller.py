"""Tells the program of windows that agents have written, and that have closed: `on_window_close`.

If it fails, `dlq replay` can re-publish the dead letter, and the window is told again.

The letter holds key, start, end and value of the window, as JSON. A window that has closed does not change any more, so
it is told with the same value as before. A dead letter from which key or value could not be made again exactly, because
JSON does not know them, is not re-published. One that holds no value, because it was too large, is told with what the
table has, as long as it has the window.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
from mode.utils.futures import maybe_async

from ..topics.dead_letter import Origin, operator_of, read_retry
from ..topics.errors import BadRecord, described
from ..topics.headers import headers_of
from ..topics.topic_partition import TopicPartition
from .firings import KIND, ClosingWindow, fire
from .flows.window_sender import timestamp_of
from .tables.absent import ABSENT
from .tables.value_cache import own_copy
from .tables.window_table import window_partition

if TYPE_CHECKING:
    from ..topics.message import Message
    from .stream import Stream
    from .tables.agent_window_table import AgentWindowTable, CloseCallback
    from .tables.open_windows import WindowKey

__all__ = ["WindowTeller", "can_be_told_again", "first_topic"]


class WindowTeller:
    """Tells the program of closed windows, in one stream.

    Args:
        tables: the tables of windows that agents may write.

    Attributes:
        retry_topic: the topic of windows that are told again.
    """

    def __init__(self, stream: Stream, tables: Iterable[AgentWindowTable[Any]]) -> None:
        self._stream, self._tables = stream, tables
        self.retry_topic = stream.context.retries.of_fired(stream.name, KIND)

    async def tell_again(self, at: TopicPartition, message: Message) -> None:
        """Tell the window of a record of the retry topic of windows."""
        stream, again = self._stream, message.offset() or 0
        stream.message = message
        try:
            table, row, value, origin = _retold(message, self._tables)
        except BadRecord as exc:
            stream.context.apply_policy(stream, message, exc, "decode")
            return
        if value is ABSENT:
            value = window_partition(table)[0].find(row)
        known = origin is not None and origin.topic in stream.topic.topics
        own = TopicPartition(origin.topic if origin is not None and known else stream.topic.topics[0], at.partition)
        place = origin.offset if origin is not None and known else again, again
        stream.message = None
        assert table.on_close is not None
        await self.tell(table, table.on_close, own, row, value, place)

    async def tell(
        self,
        table: AgentWindowTable[Any],
        on_close: CloseCallback,
        at: TopicPartition,
        row: WindowKey,
        value: Any,
        again: tuple[int, int] | None = None,
    ) -> None:
        """Call `on_window_close`; a failure goes to the failure policy.

        Args:
            again: see `ClosingWindow`.
        """
        stream = self._stream
        key, start_ms, end_ms = row

        async def tell() -> None:
            if value is ABSENT:
                raise BadRecord(
                    f"table {table.name} does not have the window any more, and neither has its dead letter",
                    hint="its value was larger than a dead letter may be",
                )
            await maybe_async(on_close((key, (start_ms / 1000, end_ms / 1000)), own_copy(value)))

        def element() -> dict[str, Any]:
            held = {} if value is ABSENT else {"value": table.plain(value)}
            return {"key": key, "start": start_ms, "end": end_ms, **held}

        source = at.topic if cast(Any, stream)._prev is None else first_topic(stream)
        due_ms = timestamp_of(end_ms)
        firing = ClosingWindow(
            stream,
            table,
            at,
            row,
            element,
            source=source,
            due_ms=due_ms,
            tell=tell,
            returns=lambda: value is ABSENT or can_be_told_again(table, row, value),
            again=again,
        )
        await fire(stream, firing)
        stream.context.epoch.touch()


class _Letter(msgspec.Struct):
    """The value of the dead letter of a window."""

    key: msgspec.Raw
    start: int
    end: int
    value: msgspec.Raw = msgspec.Raw(b"")


_read_letter = msgspec.json.Decoder(_Letter).decode


class _Retold(NamedTuple):
    """A window that is told again.

    Attributes:
        row: its row in the table.
        value: ABSENT if the dead letter does not hold it.
        origin: in front of which record it failed first; None if that is not known.
    """

    table: AgentWindowTable[Any]
    row: WindowKey
    value: Any
    origin: Origin | None


def can_be_told_again(table: AgentWindowTable[Any], row: WindowKey, value: object) -> bool:
    """Return whether the dead letter of a window holds its key and value exactly."""
    keys, values = table.key_codec, table.value_codec
    try:
        again = values.decode(msgspec.json.encode(table.plain(value)))
        key = keys.decode(msgspec.json.encode(list(row)))
        return values.encode(again) == values.encode(value) and keys.encode(key) == keys.encode(row)
    except Exception:  # noqa: BLE001 (methods of the user's values may raise anything)
        return False


def _retold(message: Message, tables: Iterable[AgentWindowTable[Any]]) -> _Retold:
    """Return the window of a record of the retry topic of an agent's windows.

    Raises:
        BadRecord: it cannot be read, or the program has no such window any more.
    """
    headers, origin = read_retry(headers_of(message))
    name = operator_of(headers)
    table = next((table for table in tables if table.name == name and table.on_close is not None), None)
    if table is None:
        raise BadRecord(f"a window of table {name!r} cannot be told again: the program has no on_window_close for it")
    try:
        letter = _read_letter(message.value() or b"")
        row = table.key_codec.decode(b"[%b,%d,%d]" % (letter.key, letter.start, letter.end))
        value = table.value_codec.decode(bytes(letter.value)) if letter.value else ABSENT
    except (msgspec.MsgspecError, BadRecord, RecursionError) as exc:
        raise BadRecord(f"the record of a window cannot be read: {described(exc)}") from exc
    return _Retold(table, row, value, origin)


def first_topic(stream: Stream) -> str:
    """Return the topic whose records a stream gets, behind `group_by` and `through`; of several the first."""
    while (before := cast(Any, stream)._prev) is not None:
        stream = cast("Stream", before)
    return stream.topic.topics[0]
