"""Which partitions the keys of a table belong to: those in which its topics' partitioners place records with that key.

The program chooses the keys of a table, the records carry the keys of its topics. Where these differ, one table key
occurs in several partitions, with a part of its value in each. A worker logs a warning when it commits such a key for
the first time (`MisplacedKeys`); reading a table as a whole fails (`anabranch.replay.table_reader`). Content that is
kept per partition on purpose (counters, derived keys) is declared with `app.Table(…, local=True)`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from ...topics.errors import BadRecord
from ...topics.partitioners import Partitioner
from ...topics.private_texts import shown_key
from .store import Changes
from .stream_time import STREAM_TIME
from .table import Table

__all__ = ["REMEDY", "MisplacedKeys", "Partitioning", "partitions_of", "topics_of_table"]

logger = logging.getLogger(__name__)

REMEDY = (
    "use the table's key as the key of the records (replay and run: --key; in the program: group_by or key_by), or, "
    "if content is kept per partition on purpose, declare it: Table(…, local=True)"
)

# Keys of each partition that are checked at a commit, at 1 µs each; a wrong key field shows in the first of them.
_CHECKED_KEYS = 20


class TopicKeys(Protocol):
    """A topic of an app."""

    def encode_key(self, key: Any) -> bytes | None:
        """Return the bytes of a key in the topic's records."""
        ...


class Partitioning(Protocol):
    """An app: its topics and their partitioners."""

    @property
    def topics(self) -> Iterable[Any]: ...

    def partitioner_of(self, topic: str, partitions: int) -> Partitioner:
        """Return the partitioner of a topic."""
        ...


def _encodings(topic: TopicKeys, key: object) -> list[bytes]:
    """Return the bytes that records of a topic may carry for a key of a table: the topic's encoding, and JSON."""
    found: list[bytes] = []
    for encode in (topic.encode_key, msgspec.json.encode):
        try:
            data = encode(key)
        except (BadRecord, TypeError, ValueError, AttributeError):
            continue  # this topic has no such keys
        if data is not None and data not in found:
            found.append(data)
    return found


def topics_of_table(app: Partitioning, table: Table, counts: Mapping[str, int]) -> dict[str, TopicKeys]:
    """Return name -> topic of the topics from which agents may write to a table.

    Topics whose agents have written to it come first.

    Args:
        counts: topic -> number of its partitions.
    """
    possible = {
        name: channel
        for channel in app.topics
        for name in channel.topics
        if counts.get(name) == table.changelog_partitions
    }
    written = {name: possible[name] for name in sorted(table.uncommitted.all_writer_topics & possible.keys())}
    return {**written, **possible}


def partitions_of(
    app: Partitioning, topics: Mapping[str, TopicKeys], key: object, partitions: int
) -> dict[str, list[int]]:
    """Return topic -> the partitions that may hold its records with a key of a table, the most likely first.

    Args:
        partitions: number of partitions of each topic.
    """
    return {
        name: [app.partitioner_of(name, partitions).partition(data) for data in _encodings(topic, key)]
        for name, topic in topics.items()
    }


class MisplacedKeys:
    """Logs a warning, once per table, about a key that is written to another partition than its topics place it in."""

    def __init__(self, app: Partitioning) -> None:
        self._app = app
        self._warned: set[str] = set()

    def check(self, table: Table, changes: Mapping[int, Changes]) -> None:
        """Check some of the new keys of an epoch, before it is committed.

        Args:
            changes: partition -> changes of the epoch.
        """
        count = table.changelog_partitions
        if count < 2 or table.local or table.is_global or table.name in self._warned:
            return
        topics = {
            name: topic
            for topic in self._app.topics
            for name in topic.topics
            if name in table.uncommitted.writer_topics
        }
        if not topics:
            return
        for partition, made in changes.items():
            for key in _new_keys(table, partition, made):
                parts = [key, *key] if isinstance(key, tuple) else [key]  # (user, day) is placed like the user
                if not any(partition in self._homes(topics, part, count) for part in parts):
                    self._warn(table, key, partition, topics)
                    return

    def _homes(self, topics: Mapping[str, TopicKeys], key: object, count: int) -> set[int]:
        return {home for homes in partitions_of(self._app, topics, key, count).values() for home in homes}

    def _warn(self, table: Table, key: object, partition: int, topics: Iterable[str]) -> None:
        self._warned.add(table.name)
        logger.warning(
            "table %s: key %s is written to partition %d, but records with that key belong to another partition "
            "(topic %s): the key may be in several partitions, with a part of its value in each; %s",
            table.name,
            shown_key(key),
            partition,
            ", ".join(sorted(topics)),
            REMEDY,
        )


def _new_keys(table: Table, partition: int, changes: Changes) -> Iterator[object]:
    get, decode = table.states[partition].store.get, table.key_codec.decode
    for data, value in zip(changes.keys[:_CHECKED_KEYS], changes.values[:_CHECKED_KEYS], strict=True):
        if value is not None and data != STREAM_TIME and get(data) is None:
            yield decode(data)
