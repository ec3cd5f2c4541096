"""Reads the time rows of window tables, which say what time it is in each partition, from their changelogs.

A table writes its time row with each epoch that has moved time, so it is nearly always among the last records of a
partition. The other records are read only if it is not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..agents.tables.stream_time import STREAM_TIME
from ..topics.admin import Admin
from ..topics.cluster import Cluster
from ..topics.partition_reader import read_to_end
from ..topics.topic_partition import TopicPartition

__all__ = ["read_time_rows"]

_LAST = 2_000


def read_time_rows(
    cluster: Cluster, changelogs: Collection[str], admin: Admin | None = None
) -> dict[TopicPartition, bytes]:
    """Return partition of a changelog -> its time row, where it has one (blocking).

    Args:
        changelogs: those that do not exist, or are of other tables, also with a time-to-live, have no rows.
    """
    if not changelogs:
        return {}
    admin = admin or Admin(cluster)
    counts = admin.partitions(changelogs)
    begins, ends = admin.spans((name, partition) for name, count in counts.items() for partition in range(count))
    rows: dict[TopicPartition, bytes] = {}
    last = {at: max(begin, ends[at] - _LAST) for at, begin in begins.items()}
    others = _read(cluster, last, ends, rows)
    # A partition of which other keys were read only is of another table, or the table has written much since.
    left = {at: begin for at, begin in begins.items() if begin < last[at] and at not in rows and at not in others}
    _read(cluster, left, ends, rows)
    return rows


def _read(
    cluster: Cluster,
    begins: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    rows: dict[TopicPartition, bytes],
) -> set[TopicPartition]:
    """Add the time rows between offsets to `rows`; return the partitions that have keys of tables without windows."""
    others = set[TopicPartition]()
    for run in read_to_end(cluster, begins, {at: ends[at] for at in begins}):
        for message in run.messages:
            key, value = message.key(), message.value()
            if key == STREAM_TIME and value is not None and value.startswith(b'{"version"'):
                rows[run.at] = value
            elif key is not None and not _is_window(key):
                others.add(run.at)  # with a time-to-live, the stream time is a number, not an object in JSON
    return others


def _is_window(key: bytes) -> bool:
    """Return whether a key may be that of a window: a JSON array that ends with two whole numbers."""
    parts = key[:-1].rsplit(b",", 2)
    return key[:1] == b"[" and key[-1:] == b"]" and len(parts) == 3 and all(p.lstrip(b"-").isdigit() for p in parts[1:])
