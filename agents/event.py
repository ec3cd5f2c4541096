"""Events and record batches: the records that an agent gets, with keys, headers and timestamps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, cast, overload

from faust import Event as FaustEvent
from faust.types import Message as FaustMessage
from typing_extensions import TypeVar

from ..topics.headers import CONTROL_HEADER, without_control
from ..topics.packed import Rows
from .engine.partition_queue import QueuedBatch
from .runtime import runtime_of
from .value_columns import columns

if TYPE_CHECKING:
    import numpy
    import polars
    import pyarrow

    from ..topics.message import Message
    from .topic import Topic

__all__ = ["Event", "RecordBatch", "event_of_history", "to_event"]

V_co = TypeVar("V_co", covariant=True, default=Any)


def to_event(app: Any, topic: Topic, message: Any, processed: object = ...) -> Event:
    """Make Faust's event of a record: key and value decoded, headers as a dict, timestamp in seconds.

    An event of a retry topic has the position of the original record.

    Args:
        processed: the value that the stream's processors returned; `...` decodes it.
    """
    timestamp_ms = message.timestamp()[1]
    origin, headers = runtime_of(app).context.retries.origin(message)
    raw = FaustMessage(
        topic=message.topic() if origin is None else origin.topic,
        partition=message.partition() if origin is None else origin.partition,
        offset=message.offset() if origin is None else origin.offset,
        timestamp=timestamp_ms / 1000,
        timestamp_type=0,
        headers=cast(Any, headers),
        key=message.key(),
        value=message.value(),
        checksum=None,
    )
    event = _event(app, topic, raw, processed)
    event.row = getattr(message, "row", None) if origin is None else origin.row
    return event


def event_of_history(
    app: Any, topic: Topic, *, name: str, key: bytes | None, value: bytes | None, headers: Any, timestamp_ms: int
) -> Event:
    """Make Faust's event of a record that is not in a topic yet: it has no partition and no offset.

    Args:
        name: the one of the topic's names that the record is meant for.
    """
    raw = FaustMessage(
        topic=name,
        partition=-1,
        offset=-1,
        timestamp=timestamp_ms / 1000,
        timestamp_type=0,
        headers=headers,
        key=key,
        value=value,
        checksum=None,
    )
    return _event(app, topic, raw, ...)


def _event(app: Any, topic: Topic, raw: FaustMessage, processed: object) -> Event:
    key, value = raw.key, raw.value
    if processed is ...:
        processed = None if value is None else topic.decode_value(value)
    return Event(app, None if key is None else topic.decode_key(key), processed, cast(Any, raw.headers), raw)


class Event(FaustEvent, Generic[V_co]):
    """Faust's event: a record with its key, value and headers.

    Attributes:
        key, value: decoded.
        headers: name -> value.
        row: the record's row in its packed batch; None for records that are not packed.
    """

    if TYPE_CHECKING:
        key: Any
        value: V_co
        headers: Mapping[str, bytes]
    row: int | None = None

    async def _send(
        self, channel: Any, key: Any, value: Any, partition: Any, timestamp: Any, headers: Any, *more: Any, **given: Any
    ) -> Any:
        # A copy, by `forward` and `send`, and so by `through`, `group_by` and `echo`, is an ordinary record.
        if headers and CONTROL_HEADER in dict(headers):
            headers = without_control(list(headers.items() if isinstance(headers, Mapping) else headers))
        return await super()._send(channel, key, value, partition, timestamp, headers, *more, **given)


class RecordBatch(Sequence[V_co]):
    """A run of consecutive records of one partition, or rows of one packed batch.

    As a sequence it has the decoded values.

    Attributes:
        topic, partition: the records' partition.
        offset: offset of the first record. The rows of a packed batch share one offset.
        end: offset after the last record.
        messages: the records as librdkafka returns them, for keys, headers and timestamps; rows have the same methods.
    """

    __slots__ = ("_arrow", "_source", "_values", "end", "messages", "offset", "partition", "topic")

    def __init__(
        self, batch: QueuedBatch, topic: Topic, messages: Sequence[Message], values: list[V_co] | None
    ) -> None:
        self.topic, self.partition = batch.at
        self.messages = messages
        self._source, self._values = topic, values
        self._arrow: pyarrow.RecordBatch | None = None
        self.offset = messages[0].offset() if messages else batch.end
        self.end = batch.end

    @property
    def values(self) -> list[V_co]:
        """Decoded values, in order; those of a packed batch are decoded when they are read."""
        if self._values is None:
            self._values = self._source.decode_rows(cast(Rows, self.messages))
        return self._values

    @property
    def arrow(self) -> pyarrow.RecordBatch:
        """The values by column: one column for each field, or one named `value` where the values have no fields.

        The columns of a packed batch are those that were sent. Others are made of the values, with the types of the
        declared class, else with those of the values, so that batches may have different columns.

        Raises:
            Usage: pyarrow is not installed.
            pyarrow.ArrowException: a field has values of several types.
        """
        if self._arrow is None:
            rows = self.messages
            if isinstance(rows, Rows):
                self._arrow = rows.columns()
            else:
                self._arrow = columns(self.values, self._source.declared)
        return self._arrow

    @property
    def frame(self) -> polars.DataFrame:
        """The values by column, for Polars; only text is copied."""
        import polars

        return cast(polars.DataFrame, polars.from_arrow(self.arrow))

    def column(self, name: str) -> numpy.ndarray:
        """Return a column of `arrow` for NumPy: a view if it has numbers without nulls.

        Raises:
            KeyError: there is no such column.
        """
        return self.arrow[name].to_numpy(zero_copy_only=False)

    @property
    def keys(self) -> list[bytes | None]:
        """Raw keys, in order."""
        rows = self.messages
        if isinstance(rows, Rows):
            return rows.picked(rows.package.open().keys())
        return [message.key() for message in rows]

    @property
    def timestamps_ms(self) -> list[int]:
        """Record timestamps in milliseconds, in order."""
        rows = self.messages
        if isinstance(rows, Rows):
            return rows.picked(rows.package.open().times_ms())
        return [message.timestamp()[1] for message in rows]

    def __len__(self) -> int:
        return len(self.messages)

    def __iter__(self) -> Iterator[V_co]:
        return iter(self.values)

    @overload
    def __getitem__(self, index: int) -> V_co: ...
    @overload
    def __getitem__(self, index: slice) -> list[V_co]: ...
    def __getitem__(self, index: int | slice) -> V_co | list[V_co]:
        return self.values[index]
