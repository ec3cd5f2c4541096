"""The part of `confluent_kafka.Message` that the project reads, as a type: rows of packed batches have it as well."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Message"]


class Message(Protocol):
    """A consumed record. Each accessor costs as much as decoding a small JSON value, so read it once.

    Read headers with `topics.headers.headers_of`: the accessor of confluent_kafka fails on names that are not UTF-8.
    """

    def topic(self) -> str | None:
        """Return the topic's name."""
        ...

    def partition(self) -> int | None:
        """Return the partition's number."""
        ...

    def offset(self) -> int | None:
        """Return the record's offset."""
        ...

    def key(self) -> bytes | None:
        """Return the key's bytes; None for a record without a key."""
        ...

    def value(self) -> bytes | None:
        """Return the value's bytes; None for a tombstone."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of timestamp and the milliseconds since 1970."""
        ...
