"""Fires timers and closes windows between two records of a stream, because event time has made them due.

Each is processed as a record is: a failure rolls back what it has done, and nothing else, and goes to the failure
policy of the agent. See `engine/failed_records.py`. Something that fails needs no second call to be found: it goes to
the policy with the next epoch. A window does so wherever it closes then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ..topics.errors import Stop
from ..topics.keys import record_key
from ..topics.private_fields import KEY
from ..topics.topic_partition import TopicPartition
from .engine.firing import FiringRecord
from .event_time.event_time import moment

if TYPE_CHECKING:
    from .stream import Stream
    from .tables.open_windows import WindowKey
    from .tables.window_table import WindowTable

__all__ = ["KIND", "ClosingWindow", "Firing", "fire"]


class Firing(Protocol):
    """Something that is due.

    Attributes:
        record: what stands for it while it fires.
        reason: the reason in its dead letter.
    """

    record: FiringRecord
    reason: str

    def remove(self) -> None:
        """Note, as a write of a table, that it has fired; called again after a rollback, before its dead letter."""
        ...

    async def run(self) -> None:
        """Do what has to be done, in the context of the agent."""
        ...


async def fire(stream: Stream, firing: Firing) -> None:
    """Let something fire, or give it to the failure policy if it fails.

    Raises:
        Stop: it raises this, or the failure policy is `fail`.
        Exception: it fails, and the epoch has to be rolled back in order to roll it back.
    """
    context, record = stream.context, firing.record
    partition = stream.queue.at(TopicPartition(record.topic(), record.partition()))
    isolating = stream.queue.isolating
    if isolating:
        stream.message = None
        context.savepoint(stream)
    if record.window is None:
        record.place = partition.numbered(record.place, context.epoch.number)
    stream.message = record  # pyright: ignore[reportAttributeAccessIssue]
    firing.remove()
    error = partition.poisoned.get(record.place)
    if error is None:
        try:
            await firing.run()
            if stream.runner is not None and stream.runner.handed:
                context.end_record(stream)
            if isolating:
                context.savepoint(stream)  # finds what cannot be kept
        except Stop:
            raise
        except Exception as exc:
            if not isolating or not context.roll_back_to_savepoint():
                # Here, because the agent may catch the error.
                partition.poisoned[record.place] = exc
                context.epoch.want_rollback()
                raise
            firing.remove()
            error = exc
    else:
        partition.fired.add(record.place)
    if error is not None:
        context.apply_policy(stream, record, error, firing.reason)
        if isolating:
            context.savepoint(stream)
    stream.message = None


KIND = "windows"


class ClosingWindow:
    """A window that is told to the program, because it has closed, or has changed: a `Firing`, and a
    `FiringWindow`.

    Args:
        at: partition of the stream's topic whose time has made it due.
        row: its row in the table.
        element: returns what its dead letter holds, as JSON.
        source: name of the topic whose records the windows are made of; its dead letters go to that of this topic.
        due_ms: the time of what is sent, unless it has its own, in milliseconds of event time.
        as_: what it is told as, which tells it apart from another time that it is told.
        tell: tells it.
        returns: returns whether its dead letter holds all that it is told with, so that it can be told again.
        again: it comes from a retry topic: its offset in front of which it failed, and that of the record.
    """

    reason = "window"

    def __init__(
        self,
        stream: Stream,
        table: WindowTable[Any],
        at: TopicPartition,
        row: WindowKey,
        element: Callable[[], dict[str, Any]],
        *,
        source: str,
        due_ms: int,
        as_: str = "final",
        tell: Callable[[], Awaitable[object]],
        returns: Callable[[], bool] = lambda: False,
        again: tuple[int, int] | None = None,
    ) -> None:
        self.source, self.operator = source, table.name
        self._table, self._row, self._element, self._tell, self._returns = table, row, element, tell, returns
        offset = stream.queue.at(at).offset if again is None else again[0]
        identity = (KIND, table.name, row, as_ if again is None else again)
        self.record = FiringRecord(at, offset, identity, due_ms, self._letter, kind=KIND, window=self)

    async def run(self) -> None:
        await self._tell()

    def remove(self) -> None:
        """Do nothing: who tells windows has noted before that it is told, and a savepoint does not undo this."""

    @property
    def text(self) -> str:
        _, start_ms, end_ms = self._row
        return f"{_text(start_ms)}/{_text(end_ms)}"

    @property
    def returns(self) -> bool:
        return self._returns()

    @property
    def private(self) -> frozenset[str]:
        names = self._table.private.names
        return names | {"key"} if KEY in names else names

    def short(self) -> bytes:
        key, start, end = self._row
        return _json({"key": key, "start": start, "end": end})

    def _letter(self) -> tuple[bytes | None, bytes]:
        """Return key and value of the dead letter."""
        try:
            key, value = record_key(self._row[0]), _json(self._element())
        except Exception:  # noqa: BLE001 (methods of the user's values may raise anything)
            return None, self.short()
        return key, value


def _json(fields: dict[str, Any]) -> bytes:
    """Return fields as JSON. One that JSON does not know is named by its type: any window has a dead letter."""
    try:
        return msgspec.json.encode(fields)
    except Exception:  # noqa: BLE001 (methods of the user's values may raise anything)
        return msgspec.json.encode({name: _known(value) for name, value in fields.items()})


def _known(value: object) -> object:
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except Exception:  # noqa: BLE001 (as above)
        return f"({type(value).__name__})"


def _text(time_ms: int) -> str:
    try:
        return moment(time_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(time_ms)
