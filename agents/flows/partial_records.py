"""How partial results travel through a repartition topic: as plain records, or many in packed batches.

A plain record costs about 3 µs of processor time from the epoch that sends it to the agent that gathers, a row of a
packed batch about 1 µs. So the partial results of a partition are packed where there are many of them. A row is
equivalent to a plain record, also to the failure policy of the agent that gathers, and both may be in one topic.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

from ...topics.output import Output
from ...topics.packed import KEY, MAX_ROWS, PackedRecord, arrow, pack
from ...topics.partitioners import HashPartitioner
from ..runtime import runtime_of

if TYPE_CHECKING:
    import pyarrow

    from ..runtime import Runtime
    from ..topic import Topic

__all__ = ["LEAST_ROWS", "partial_records"]

LEAST_ROWS = 256
"""Fewer partial results of a partition are not packed: opening a batch costs as much as about 100 plain records."""

# Far below what topics accept by default (1 MiB), so that a smaller `max.message.bytes` seldom refuses a batch.
_BATCH_BYTES = 128 * 1024

# What a row takes beside its bytes: the offsets of key and value.
_ROW_BYTES = 8


def partial_records(
    topic: Topic, keys: list[bytes | None], values: list[bytes | None], timestamp_ms: int | None
) -> list[Output]:
    """Return the records of partial results, each of which has a key of its own.

    Args:
        topic: the repartition topic.
        keys, values: encoded, as `Topic.encoded` returns them.
        timestamp_ms: of all records; None: now.

    Raises:
        BadRecord: a record is larger than the topic may take.
    """
    runtime, name = runtime_of(topic.app), topic.get_topic_name()
    partitions = runtime.status.partition_counts.get(name, 0)
    # All keys are partitioned by the same hash as those of plain records, but for empty ones, which the client places.
    if len(keys) < LEAST_ROWS or not partitions or not all(keys) or not all(values) or not _packs(runtime, name):
        return topic.outputs(keys, values, timestamp_ms)
    some_keys, some_values = cast("list[bytes]", keys), cast("list[bytes]", values)
    rows: list[list[int]] = [[] for _ in range(partitions)]
    for row, partition in enumerate(HashPartitioner(partitions).partitions_of(some_keys)):
        rows[partition].append(row)
    most_bytes = min(_BATCH_BYTES, runtime.max_record_bytes // 2)
    made: list[Output] = []
    for partition, numbers in enumerate(rows):
        for part in _parts(([some_keys[row] for row in numbers], [some_values[row] for row in numbers]), most_bytes):
            if len(part[0]) < LEAST_ROWS:
                made += topic.outputs(*part, timestamp_ms)
            else:
                packed = _packed(*part)
                made.append(Output(name, packed.value, None, partition, timestamp_ms, packed.headers))
    return made


def _packs(runtime: Runtime, topic: str) -> bool:
    """Return whether the partial results for a topic may be packed.

    They may not if the topic is partitioned by range. A topic that has refused a record gets plain ones, which can be
    compared with its rules. The limits of the settings are about the batches of others: see `Router`.
    """
    return topic not in runtime.partitioners and topic not in runtime.context.failures.rules


Part = tuple[list[bytes], list[bytes]]
"""Keys and values of some partial results."""


def _parts(part: Part, most_bytes: int) -> Iterator[Part]:
    """Cut the partial results of a partition into parts that a batch can hold."""
    keys, values = part
    size_bytes = sum(map(len, keys)) + sum(map(len, values)) + _ROW_BYTES * len(keys)
    if len(keys) < LEAST_ROWS or (len(keys) <= MAX_ROWS and size_bytes <= most_bytes):
        yield part
        return
    count = max(2, -(-size_bytes // most_bytes), -(-len(keys) // MAX_ROWS))
    step = -(-len(keys) // count)
    for begin in range(0, len(keys), step):
        yield from _parts((keys[begin : begin + step], values[begin : begin + step]), most_bytes)


def _packed(keys: list[bytes], values: list[bytes]) -> PackedRecord:
    """Pack rows; the client compresses them with the other records."""
    batch = arrow().RecordBatch.from_arrays([_binary(values), _binary(keys)], names=["value", KEY])
    return pack(batch, key=KEY, value="text", compression=None)


def _binary(items: list[bytes]) -> pyarrow.Array:
    """Return an Arrow array of bytes; `pyarrow.array` takes longer (see also `topics.arrow_numpy`)."""
    import numpy

    pa: Any = arrow()
    ends = numpy.fromiter(accumulate(map(len, items), initial=0), numpy.int32, len(items) + 1)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(items))]
    return pa.Array.from_buffers(pa.binary(), len(items), buffers)
