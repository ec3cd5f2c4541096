"""Dead letters: a record that could not be processed, whole, beside the reason and where it came from.

The topic is `<topic>.dlq`. Key and value are the record's own bytes, its headers come first; ours follow:

| header | content |
| --- | --- |
| `anabranch-reason` | `decode`, `agent` or `line` |
| `anabranch-error` | type and message of the error, 1,000 characters at most |
| `anabranch-source` | `topic[partition]@offset`, with `#row` for a row of a packed batch, or `file:line` |
| `anabranch-topic`, `-partition`, `-offset`, `-row`, `-timestamp-ms` | the record, as its topic had it; where known |
| `anabranch-agent`, `-app`, `-app-version` | whose it was |
| `anabranch-attempts` | how often the agent has failed at it |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .producer import Headers

__all__ = ["HEADROOM_BYTES", "SUFFIX", "DeadLetter", "dead_letter", "dead_letter_topic", "read_headers"]

SUFFIX = ".dlq"
MAX_ERROR_CHARACTERS = 1000

# What our headers add to a record at most, so that the letter of the largest one still fits.
HEADROOM_BYTES = 16 * 1024

_OURS = "anabranch-"
_FIRST = f"{_OURS}reason"


class DeadLetter(NamedTuple):
    """A record for the dead letter topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def dead_letter_topic(topic: str) -> str:
    """Name of the dead letter topic of a topic."""
    return f"{topic}{SUFFIX}"


def read_headers(headers: Iterable[tuple[str, bytes | None]] | None) -> tuple[Headers, dict[str, str]]:
    """A letter's headers apart: those of the record, and ours without their prefix; these are empty in others' letters.

    A record that was a letter itself has ours twice; the last are those of this letter.
    """
    found = list(headers or ())
    at = next((i for i in range(len(found) - 1, -1, -1) if found[i][0] == _FIRST), len(found))
    ours = {name.removeprefix(_OURS): (value or b"").decode(errors="replace") for name, value in found[at:]}
    return found[:at], ours


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
    row: int | None = None,
    timestamp_ms: int | None = None,
    agent: str | None = None,
    app: str | None = None,
    app_version: int | None = None,
    attempts: int | None = None,
) -> DeadLetter:
    """The dead letter of a record of `topic`; only what is known becomes a header."""
    known: dict[str, object | None] = {
        "reason": reason,
        "error": error[:MAX_ERROR_CHARACTERS],
        "source": source,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "row": row,
        "timestamp-ms": timestamp_ms,
        "agent": agent,
        "app": app,
        "app-version": app_version,
        "attempts": attempts,
    }
    ours = [
        (f"{_OURS}{name}", str(value).encode(errors="backslashreplace"))
        for name, value in known.items()
        if value is not None
    ]
    return DeadLetter(dead_letter_topic(topic), key, value, [*(headers or ()), *ours])
