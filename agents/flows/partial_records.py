"""How partial results travel through a repartition topic: as plain records, or many in packed batches.

A plain record costs about 3 µs of processor time from the epoch that sends it to the agent that gathers, a row of a
packed batch about 1 µs. So the partial results of a partition are packed where there are many of them. A row is
equivalent to a plain record, also to the failure policy of the agent that gathers, and both may be in one topic.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from ...topics.output import Output
from ...topics.packed import KEY, MAX_ROWS, arrow, pack
from ...topics.partitioners import HashPartitioner
from ..runtime import runtime_of

if TYPE_CHECKING:
    import numpy
    import pyarrow

    from ..runtime import Runtime
    from ..topic import Topic

__all__ = ["LEAST_ROWS", "partial_records"]

LEAST_ROWS = 256
"""Fewer partial results of a partition are not packed: opening a batch costs as much as about 100 plain records."""

# Far below what topics accept by default (1 MiB), so that a smaller `max.message.bytes` seldom refuses a batch.
_BATCH_BYTES = 256 * 1024

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
    import numpy as np

    some_keys, some_values = cast("list[bytes]", keys), cast("list[bytes]", values)
    places = np.array(HashPartitioner(partitions).partitions_of(some_keys))
    order = np.argsort(places, kind="stable")
    key_sizes, value_sizes = _sizes(some_keys)[order], _sizes(some_values)[order]
    ends_bytes = _ends(key_sizes + value_sizes + _ROW_BYTES)
    most_bytes = min(_BATCH_BYTES, runtime.max_record_bytes // 2)
    made: list[Output] = []
    for partition, (first, last) in enumerate(pairwise(np.searchsorted(places[order], range(partitions + 1)).tolist())):
        for begin, end in _parts(first, last, ends_bytes, most_bytes):
            rows = order[begin:end].tolist()
            of_keys, of_values = [some_keys[row] for row in rows], [some_values[row] for row in rows]
            if end - begin < LEAST_ROWS:
                made += topic.outputs(of_keys, of_values, timestamp_ms)
                continue
            columns = [_binary(of_values, value_sizes[begin:end]), _binary(of_keys, key_sizes[begin:end])]
            batch = arrow().RecordBatch.from_arrays(columns, names=["value", KEY])
            packed = pack(batch, key=KEY, value="text", compression=None)  # the client compresses it with others
            made.append(Output(name, packed.value, None, partition, timestamp_ms, packed.headers))
    return made


def _packs(runtime: Runtime, topic: str) -> bool:
    """Return whether the partial results for a topic may be packed.

    They may not if the topic is partitioned by range. A topic that has refused a record gets plain ones, which can be
    compared with its rules. The limits of the settings are about the batches of others: see `Router`.
    """
    return topic not in runtime.partitioners and topic not in runtime.context.failures.rules


def _parts(begin: int, end: int, ends_bytes: numpy.ndarray, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut the partial results of a partition into parts that a batch can hold.

    Args:
        begin, end: the numbers of the first one, and of the one behind the last.
        ends_bytes: 0, and how many bytes all partial results take, up to each one.
    """
    count, size_bytes = end - begin, int(ends_bytes[end] - ends_bytes[begin])
    if count < LEAST_ROWS or (count <= MAX_ROWS and size_bytes <= most_bytes):
        if count:
            yield begin, end
        return
    step = -(-count // max(2, -(-size_bytes // most_bytes), -(-count // MAX_ROWS)))
    for at in range(begin, end, step):
        yield from _parts(at, min(at + step, end), ends_bytes, most_bytes)


def _sizes(items: list[bytes]) -> numpy.ndarray:
    import numpy as np

    return np.fromiter(map(len, items), np.int64, len(items))


def _ends(sizes: numpy.ndarray) -> numpy.ndarray:
    """Return 0, and the sum of the sizes up to each one."""
    import numpy as np

    ends = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=ends[1:])
    return ends


def _binary(items: list[bytes], sizes: numpy.ndarray) -> pyarrow.Array:
    """Return an Arrow array of bytes, given how many each has; `pyarrow.array` takes longer (see also
    `topics.arrow_numpy`)."""
    pa: Any = arrow()
    buffers = [None, pa.py_buffer(_ends(sizes).astype("int32")), pa.py_buffer(b"".join(items))]
    return pa.Array.from_buffers(pa.binary(), len(items), buffers)
