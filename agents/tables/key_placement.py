"""Which partitions a table's keys belong to: where its topic's partitioner puts records with such a key.

A table is keyed by what the program says, its topic by what the records carry. Where these differ, one table key turns
up in several partitions, each with a part of its value. A worker warns of that when it commits a key for the first time
(`MisplacedKeys`); whoever shows a table as a whole refuses it (`anabranch.replay.table_reader`). What is meant to be
held by partition (counters, keys derived from others) is declared: `app.Table(…, local=True)`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from ...topics.errors import BadRecord
from ...topics.partitioners import Partitioner
from .partition_state import EVENT_TIME
from .store import Changes
from .uncommitted_writes import UncommittedWrites

__all__ = ["REMEDY", "MisplacedKeys", "Partitioning", "keys_as_sent", "partitions_of", "topics_beside"]

logger = logging.getLogger(__name__)

# What to do about it.
REMEDY = (
    "key the records by what the table is keyed by (replay and run: --key; in the program: group_by or key_by), or, "
    "where content is meant to be by partition, declare it: Table(…, local=True)"
)

# Of each commit so many keys of a partition are looked at, 1 µs each; a wrong key field shows in the first of them.
_LOOKED_AT = 20


class Partitioning(Protocol):
    """An app: its topics, and how keys map to their partitions."""

    @property
    def topics(self) -> Any: ...

    def partitioner_of(self, topic: str, partitions: int) -> Partitioner:
        """The partitioner of a topic."""
        ...


def keys_as_sent(topic: Any, key: Any) -> list[bytes]:
    """The bytes that records of a topic may carry for a table's key: as the topic encodes it, and as JSON."""
    found: list[bytes] = []
    for encode in (topic.encode_key, msgspec.json.encode):
        try:
            data = encode(key)
        except (BadRecord, TypeError, ValueError, AttributeError):
            continue  # no key of this topic looks like that
        if data is not None and data not in found:
            found.append(data)
    return found


def topics_beside(app: Partitioning, table: UncommittedWrites, counts: Mapping[str, int]) -> dict[str, Any]:
    """Names -> topics that agents may write to a table from, those that have done so first.

    Args:
        counts: topic -> number of its partitions.
    """
    beside = {
        name: channel
        for channel in app.topics
        for name in channel.topics
        if counts.get(name) == table.changelog_partitions
    }
    written = {name: beside[name] for name in sorted(table.written_from & beside.keys())}
    return {**written, **beside}


def partitions_of(app: Partitioning, topics: Mapping[str, Any], key: Any, partitions: int) -> dict[str, list[int]]:
    """Topic -> the partitions in which its records with a table's key may lie, the likeliest first."""
    return {
        name: [app.partitioner_of(name, partitions).partition(data) for data in keys_as_sent(topic, key)]
        for name, topic in topics.items()
    }


class MisplacedKeys:
    """Warns, once a table, of a key that its topics' partitioners would not bring to the partition it is written to."""

    def __init__(self, app: Partitioning) -> None:
        self._app = app
        self._warned: set[str] = set()

    def look(self, table: UncommittedWrites, changes: Mapping[int, Changes]) -> None:
        """Look at some of the keys that are about to be committed and are not in the store."""
        count = table.changelog_partitions
        if count < 2 or table.local or table.everywhere or table.name in self._warned:
            return
        topics = {name: topic for topic in self._app.topics for name in topic.topics if name in table.writers}
        if not topics:
            return
        for partition, made in changes.items():
            for key in _new_keys(table, partition, made):
                parts = [key, *key] if isinstance(key, tuple) else [key]  # (user, day) lies where the user does
                if not any(partition in self._homes(topics, part, count) for part in parts):
                    self._warn(table, key, partition, topics)
                    return

    def _homes(self, topics: Mapping[str, Any], key: Any, count: int) -> set[int]:
        return {place for places in partitions_of(self._app, topics, key, count).values() for place in places}

    def _warn(self, table: UncommittedWrites, key: Any, partition: int, topics: Iterable[str]) -> None:
        self._warned.add(table.name)
        logger.warning(
            "table %s: key %r is written in partition %d, which is not where records with that key belong (topic %s): "
            "the same key may turn up in other partitions as well, with a part of its value in each; %s",
            table.name,
            key,
            partition,
            ", ".join(sorted(topics)),
            REMEDY,
        )


def _new_keys(table: UncommittedWrites, partition: int, made: Changes) -> Iterable[Any]:
    get, decode = table.states[partition].store.get, table.key_codec.decode
    for data, value in zip(made.keys[:_LOOKED_AT], made.values[:_LOOKED_AT], strict=True):
        if value is not None and data != EVENT_TIME and get(data) is None:
            yield decode(data)
