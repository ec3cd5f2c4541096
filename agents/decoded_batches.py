"""Decodes the records of a batch for a stream. Records that cannot be decoded go to the stream's failure policy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..topics.packed import Row
from .engine.runner import this_runner
from .event import RecordBatch
from .value_columns import fits

if TYPE_CHECKING:
    from ..topics.message import Message
    from .engine.partition_queue import QueuedBatch
    from .stream import Stream

__all__ = ["SKIPPED", "decoded", "in_memory", "last_of", "record_batch"]

V = TypeVar("V")

SKIPPED: Any = object()
"""The result of `Stream.process` for a value that a processor skips."""


def decoded(stream: Stream[V], batch: QueuedBatch) -> Iterator[tuple[Message, V]]:
    """Yield the records that can be decoded, each with its value."""
    decode = stream.topic.decode_value
    if batch.rows is not None:
        try:
            values = stream.topic.decode_rows(batch.rows)
        except BaseException:  # noqa: BLE001, S110 (decoders may be the user's; below, each row is tried alone)
            pass
        else:
            yield from zip(batch.rows, values, strict=True)
            return
    for message in batch.messages:
        data = message.value()
        try:
            value: Any = None if data is None else decode(data)
        except BaseException as exc:  # noqa: BLE001 (decoders may be the user's, and panic)
            stream.message = message
            stream.context.apply_policy(stream, message, exc, "decode")
        else:
            yield message, value


async def in_memory(stream: Stream[V], values: AsyncIterator[V]) -> AsyncIterator[V]:
    """Yield values of a channel in memory, and note in the stream which one its agent works on."""
    runner = this_runner()
    if runner is not None:
        runner.begun = True
    stream.in_hand = False
    async for value in values:
        stream.in_hand = True
        yield value
        stream.in_hand = False


def record_batch(stream: Stream[V], batch: QueuedBatch) -> RecordBatch[V]:
    """Return the records that can be decoded as one batch, with their values."""
    rows, topic = batch.rows, stream.topic
    try:
        if rows is None:
            # Takes half the time of `decoded`, which is for batches with a tombstone or a bad record.
            decode = topic.decode_value
            return RecordBatch(batch, topic, batch.messages, [decode(m.value()) for m in batch.messages])
        certain = fits(topic.declared, rows)
        return RecordBatch(batch, topic, rows, None if certain else topic.decode_rows(rows))
    except BaseException:  # noqa: BLE001 (decoders may be the user's; below, each record is decoded alone)
        pairs = list(decoded(stream, batch))
        good = [message for message, _ in pairs]
        messages = good if rows is None else rows.only([cast(Row, row).row for row in good])
        return RecordBatch(batch, topic, messages, [value for _, value in pairs])


def last_of(batch: QueuedBatch) -> Message:
    """Return the record at which an agent is that processes a batch as one: the last of the run, decoded or not,
    because a cut must not return records that have failed."""
    return batch.messages[-1]
