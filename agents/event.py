"""What an agent can ask about the records it is handed: as an event, or a batch of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from faust import Event as FaustEvent
from faust.types import Message as FaustMessage

from .engine.inbox import Batch

if TYPE_CHECKING:
    from .topic import Topic

__all__ = ["RecordBatch", "to_event"]


def to_event(app: Any, topic: Topic, message: Any) -> FaustEvent:
    """Faust's event of a record: key and value decoded, headers as a dict, timestamp in seconds."""
    timestamp_ms = message.timestamp()[1]
    raw = FaustMessage(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp=timestamp_ms / 1000,
        timestamp_type=0,
        headers=message.headers(),
        key=message.key(),
        value=message.value(),
        checksum=None,
    )
    key, value = raw.key, raw.value
    return FaustEvent(
        app,
        None if key is None else topic.decode_key(key),
        None if value is None else topic.decode_value(value),
        cast(Any, raw.headers),
        raw,
    )


class RecordBatch(Sequence[Any]):
    """A run of consecutive records of one partition.

    Attributes:
        topic, partition: where from.
        offset: of the first record; `end`: the offset after the last one.
        values: decoded values, in order.
        messages: the records as librdkafka gives them, for keys, headers and timestamps.
    """

    __slots__ = ("end", "messages", "offset", "partition", "topic", "values")

    def __init__(self, batch: Batch, messages: list[Any], values: list[Any]) -> None:
        self.topic, self.partition = batch.at
        self.messages, self.values = messages, values
        self.offset = messages[0].offset() if messages else batch.end
        self.end = batch.end

    @property
    def keys(self) -> list[bytes | None]:
        """Raw keys, in order."""
        return [message.key() for message in self.messages]

    @property
    def timestamps_ms(self) -> list[int]:
        """Record timestamps in milliseconds, in order."""
        return [message.timestamp()[1] for message in self.messages]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]
