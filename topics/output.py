"""A record that an app wants to be produced."""

from __future__ import annotations

from typing import NamedTuple

from .producer import Headers

__all__ = ["RECORD_BYTES", "Output"]

# A record in Kafka beside its content: lengths, times and offsets, and the batch header of which it has a part.
_HEADER_BYTES = 4
RECORD_BYTES = 90


class Output(NamedTuple):
    """A record to be produced; `partition` -1 lets the key choose, `timestamp_ms` None means now."""

    topic: str
    value: bytes | None
    key: bytes | None
    partition: int
    timestamp_ms: int | None
    headers: Headers | None

    @property
    def size_bytes(self) -> int:
        """About what it takes in Kafka, uncompressed."""
        headers = sum(len(name) + len(value or b"") + _HEADER_BYTES for name, value in self.headers or ())
        return len(self.value or b"") + len(self.key or b"") + headers + RECORD_BYTES
