"""An output: a record that an app produces."""

from __future__ import annotations

from typing import NamedTuple

from .producer import Headers

__all__ = ["RECORD_BYTES", "Output"]

# Bytes of a record in Kafka beside its content: lengths, time, offset, and its share of the batch header.
_HEADER_BYTES = 4
RECORD_BYTES = 90


class Output(NamedTuple):
    """A record to produce. `partition` -1 means that the key decides; `timestamp_ms` None means now."""

    topic: str
    value: bytes | None
    key: bytes | None
    partition: int
    timestamp_ms: int | None
    headers: Headers | None

    @property
    def size_bytes(self) -> int:
        """The approximate uncompressed size in Kafka."""
        headers = sum(len(name) + len(value or b"") + _HEADER_BYTES for name, value in self.headers or ())
        return len(self.value or b"") + len(self.key or b"") + headers + RECORD_BYTES
