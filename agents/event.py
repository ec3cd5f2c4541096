"""What an agent can ask about the records it is handed: as an event, or a batch of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from faust import Event as FaustEvent
from faust.types import Message as FaustMessage

from .engine.packed_rows import Rows
from .engine.record_queue import Batch
from .runtime import runtime_of
from .value_columns import columns

if TYPE_CHECKING:
    import numpy
    import polars
    import pyarrow

    from .topic import Topic

__all__ = ["Event", "RecordBatch", "to_event"]


def to_event(app: Any, topic: Topic, message: Any, processed: Any = ...) -> Event:
    """Faust's event of a record: key and value decoded, headers as a dict, timestamp in seconds.

    A record that comes from a retry topic says where it was first.

    Args:
        processed: the value, where the stream's processors have made it; else it is decoded.
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
    key, value = raw.key, raw.value
    if processed is ...:
        processed = None if value is None else topic.decode_value(value)
    event = Event(
        app,
        None if key is None else topic.decode_key(key),
        processed,
        cast(Any, raw.headers),
        raw,
    )
    event.row = getattr(message, "row", None) if origin is None else origin.row
    return event


class Event(FaustEvent):
    """Faust's event, and the row of a packed batch that it is; None for other records."""

    row: int | None = None


class RecordBatch(Sequence[Any]):
    """A run of consecutive records of one partition, or rows of one packed batch.

    Attributes:
        topic, partition: where from.
        offset: of the first record; `end`: the offset after the last one. Rows of a packed batch share one.
        messages: the records as librdkafka gives them, for keys, headers and timestamps; rows look the same.
    """

    __slots__ = ("_arrow", "_source", "_values", "end", "messages", "offset", "partition", "topic")

    def __init__(self, batch: Batch, topic: Topic, messages: Sequence[Any], values: list[Any] | None) -> None:
        self.topic, self.partition = batch.at
        self.messages = messages
        self._source, self._values = topic, values
        self._arrow: pyarrow.RecordBatch | None = None
        self.offset = messages[0].offset() if messages else batch.end
        self.end = batch.end

    @property
    def values(self) -> list[Any]:
        """Decoded values, in order; those of a packed batch are made when they are asked for."""
        if self._values is None:
            self._values = self._source.decode_rows(cast(Rows, self.messages))
        return self._values

    @property
    def arrow(self) -> pyarrow.RecordBatch:
        """The values by column: one for each field, or one called `value` where they have no fields.

        Those of a packed batch as they came. Others are made of the values: types as the declared class has them, else
        as the values do, so that a batch may have other columns than the next.

        Raises:
            Usage: pyarrow is not installed.
            pyarrow.ArrowException: a field is now of one type, now of another.
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
        """`arrow`, for Polars; without copying but for text."""
        import polars

        return cast(polars.DataFrame, polars.from_arrow(self.arrow))

    def column(self, name: str) -> numpy.ndarray:
        """One column of `arrow`, for NumPy: a view where it is of plain numbers without nulls.

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

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]
