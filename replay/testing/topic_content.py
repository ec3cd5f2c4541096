"""The content of a topic, as a test sees it: committed records, decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ...agents.topic import Topic
from ...topics.dead_letter import read_headers
from .plain_value import plain_value

if TYPE_CHECKING:
    from ...topics.memory.memory_topic import Topic as StoredTopic
    from ...topics.memory.partition_log import Record as StoredRecord

__all__ = ["RejectedRecord", "TopicContent", "TopicRecord", "content_of", "dead_letters_of"]


@dataclass(frozen=True, slots=True)
class TopicRecord:
    """A committed record.

    Attributes:
        value: decoded as the app declares it, then as plain Python (dicts instead of structs); what cannot be decoded
            is text or bytes. None is a tombstone.
        key: decoded and plain as well.
        timestamp_ms: its event time, in milliseconds since 1970.
        headers: names and values.
        raw_value, raw_key: the bytes in the topic.
    """

    value: Any
    key: Any
    partition: int
    offset: int
    timestamp_ms: int
    headers: tuple[tuple[str, bytes | None], ...]
    raw_value: bytes | None
    raw_key: bytes | None

    @property
    def timestamp(self) -> datetime:
        """The event time, in UTC."""
        return datetime.fromtimestamp(self.timestamp_ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A record that could not be processed.

    Attributes:
        reason: `decode`, `agent`, `line` or `refused`; see `topics.dead_letter`.
        error: type and message of the error.
        position: `topic[partition]@offset` of the record.
        value, key: of the record, decoded if they can be.
        agent: name of the agent that failed; empty if none did.
        facts: all that the dead letter's own headers say, by name without `anabranch-`.
        headers: the record's own headers.
        raw_value: the bytes of the record.
    """

    reason: str
    error: str
    position: str
    value: Any
    key: Any
    agent: str
    facts: dict[str, str]
    headers: tuple[tuple[str, bytes | None], ...]
    raw_value: bytes | None


class TopicContent(Sequence[TopicRecord]):
    """The committed records of a topic, in the order in which they were appended; within a moment, by partition.

    Attributes:
        name: of the topic.
        records: the records.
    """

    def __init__(self, name: str, records: list[TopicRecord]) -> None:
        self.name, self.records = name, records

    @property
    def values(self) -> list[Any]:
        """The values of the records."""
        return [record.value for record in self.records]

    @property
    def keys(self) -> list[Any]:
        """The keys of the records."""
        return [record.key for record in self.records]

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[TopicRecord]:
        return iter(self.records)

    def __repr__(self) -> str:
        return f"<topic {self.name}: {len(self)} records>"


def content_of(name: str, stored: StoredTopic | None, declared: Topic | None) -> TopicContent:
    """Return the content of a topic.

    Args:
        stored: the topic in Kafka; None if it does not exist yet.
        declared: how the app declares it; None if it does not.
    """
    decode_key = declared.decode_key if declared is not None else None
    decode_value = declared.decode_value if declared is not None else None
    return TopicContent(
        name,
        [
            TopicRecord(
                value=_decoded(record.value, decode_value),
                key=_decoded(record.key, decode_key),
                partition=partition,
                offset=record.offset,
                timestamp_ms=record.timestamp_ms,
                headers=tuple(record.headers or ()),
                raw_value=record.value,
                raw_key=record.key,
            )
            for partition, record in _committed(stored)
        ],
    )


def dead_letters_of(stored: StoredTopic | None, declared: Topic | None) -> list[RejectedRecord]:
    """Return the dead letters in a dead-letter topic.

    Args:
        declared: the topic whose dead letters they are.
    """
    letters: list[RejectedRecord] = []
    for _, record in _committed(stored):
        own, facts = read_headers(record.headers)
        letters.append(
            RejectedRecord(
                reason=facts.get("reason", ""),
                error=facts.get("error", ""),
                position=facts.get("source", ""),
                value=_decoded(record.value, declared.decode_value if declared is not None else None),
                key=_decoded(record.key, declared.decode_key if declared is not None else None),
                agent=facts.get("agent", ""),
                facts=facts,
                headers=tuple(own),
                raw_value=record.value,
            )
        )
    return letters


def _committed(stored: StoredTopic | None) -> list[tuple[int, StoredRecord]]:
    if stored is None:
        return []
    found = [
        (log.partition, record)
        for log in stored.logs
        for record in log.read(log.start, log.end - log.start + 1, committed=True)[0]
    ]
    return sorted(found, key=lambda pair: (pair[1].appended_ms, pair[0], pair[1].offset))


def _decoded(data: bytes | None, decode: Callable[[bytes], Any] | None) -> Any:
    if data is None:
        return None
    for attempt in (decode, msgspec.json.decode, bytes.decode):
        # A type of the program's may raise anything.
        with suppress(Exception):
            if attempt is not None:
                return plain_value(attempt(data))
    return data
