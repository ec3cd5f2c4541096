"""Dead letters: a record that could not be processed, whole, beside the reason and where it came from.

The topic is `<topic>.dlq`. Key and value are the record's own bytes, its headers come first; ours follow:

| header | content |
| --- | --- |
| `anabranch-reason` | `decode`, `agent` or `line` |
| `anabranch-error` | type and message of the error, 1,000 characters at most |
| `anabranch-source` | `topic[partition]@offset`, or `file:line` |
| `anabranch-topic`, `-partition`, `-offset`, `-timestamp-ms`, `-agent`, `-app` | where known |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .producer import Headers

__all__ = ["DeadLetter", "dead_letter", "dead_letter_topic"]

MAX_ERROR_CHARACTERS = 1000


class DeadLetter(NamedTuple):
    """A record for the dead letter topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def dead_letter_topic(topic: str) -> str:
    """Name of the dead letter topic of a topic."""
    return f"{topic}.dlq"


def dead_letter(
    *,
    topic: str,
    key: bytes | None,
    value: bytes | None,
    reason: str,
    error: str,
    headers: Iterable[tuple[str, bytes | None]] | None = None,
    source: str | None = None,
    partition: int | None = None,
    offset: int | None = None,
    timestamp_ms: int | None = None,
    agent: str | None = None,
    app: str | None = None,
) -> DeadLetter:
    """The dead letter of a record of `topic`; only what is known becomes a header."""
    known: dict[str, object | None] = {
        "reason": reason,
        "error": error[:MAX_ERROR_CHARACTERS],
        "source": source,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp-ms": timestamp_ms,
        "agent": agent,
        "app": app,
    }
    ours = [
        (f"anabranch-{name}", str(value).encode(errors="backslashreplace"))
        for name, value in known.items()
        if value is not None
    ]
    original = [(name, content or b"") for name, content in headers or ()]
    return DeadLetter(dead_letter_topic(topic), key, value, [*original, *ours])
