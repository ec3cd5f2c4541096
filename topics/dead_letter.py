"""Dead letters: whole records that could not be processed, with the reason and their position.

The topic is `<topic>.dlq`. Key and value are the bytes of the record. Its own headers come first; these follow:

| header | content |
| --- | --- |
| `anabranch-reason` | `decode`, `agent`, `line`, `timer`, `window`; `time`: it has none; `refused` by its topic |
| `anabranch-error` | type and message of the error, 1,000 characters at most |
| `anabranch-private` | names of the record's private fields, separated by commas, if it has any |
| `anabranch-private-error` | the error with its message, if the one in `anabranch-error` is hidden |
| `anabranch-source` | `topic[partition]@offset`, with `#row` for a row of a packed batch, or `file:line` |
| `anabranch-topic`, `-partition`, `-offset`, `-row`, `-timestamp-ms` | position and time of the record, if known |
| `anabranch-at` | `file:line` of the user's code that raised, and its function; if there is such code |
| `anabranch-agent`, `-app`, `-app-version` | the agent, app and version that failed |
| `anabranch-attempts` | number of times that the agent has failed at it |
| `anabranch-retry-topic` | the topic to which `dlq replay` re-publishes it: only this agent reads it |
| `anabranch-operator`, `-window` | of a window that failed: its table; start and end, ISO 8601, with `/` between |

A record that is re-published to a retry topic has one more header behind its own, `anabranch-retry-of`, with its source
as above. When it fails again, its next dead letter names that source, in the same dead-letter topic.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from .headers import without_control
from .producer import Headers

__all__ = [
    "FIRED",
    "HEADROOM_BYTES",
    "LATE_SUFFIX",
    "OPERATOR_HEADER",
    "RETRY_SUFFIX",
    "SUFFIX",
    "DeadLetter",
    "Origin",
    "dead_letter",
    "dead_letter_topic",
    "fired_retry_topics",
    "operator_of",
    "own_retry_topics",
    "read_headers",
    "read_retry",
    "retry_header",
    "retry_topic",
    "skipped_topic",
]

SUFFIX = ".dlq"
LATE_SUFFIX = ".late"
RETRY_SUFFIX = "-retry"
MAX_ERROR_CHARACTERS = 1000

# The most that these headers add to a record, so that the dead letter of the largest record still fits.
HEADROOM_BYTES = 16 * 1024

_PREFIX = "anabranch-"
_FIRST = f"{_PREFIX}reason"
_RETRY_OF = f"{_PREFIX}retry-of"

# Kafka accepts no longer topic names, and no other characters in them.
_MAX_NAME = 249
_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")
# Numbers as Kafka has them: Python refuses to read thousands of digits.
_SOURCE = re.compile(r"(.+)\[(\d{1,10})\]@(\d{1,19})(?:#(\d{1,10}))?", re.ASCII)


class DeadLetter(NamedTuple):
    """A record for the dead-letter topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def skipped_topic(app: str) -> str:
    """Return the topic in which the workers of a bounded run count skipped records, one record each."""
    return f"{app}-skipped"


class Origin(NamedTuple):
    """The position of a record before it was re-published.

    >>> str(Origin("orders", 3, 7)), Origin.parsed("orders[3]@7#1")
    ('orders[3]@7', Origin(topic='orders', partition=3, offset=7, row=1))
    """

    topic: str
    partition: int
    offset: int
    row: int | None = None

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}" + ("" if self.row is None else f"#{self.row}")

    @classmethod
    def parsed(cls, text: str) -> Origin | None:
        """Return the position that a text names, or None if it names none."""
        found = _SOURCE.fullmatch(text)
        if found is None:
            return None
        return cls(found[1], int(found[2]), int(found[3]), None if found[4] is None else int(found[4]))


def dead_letter_topic(topic: str) -> str:
    """Return the name of a topic's dead-letter topic."""
    return f"{topic}{SUFFIX}"


def retry_topic(app: str, agent: str, topic: str | None = None) -> str:
    """Return the name of an agent's retry topic; with `topic`, of the one for that topic of several.

    >>> retry_topic("shop", "total"), retry_topic("shop", "total", "returns")
    ('shop-total-retry', 'shop-total-returns-retry')
    """
    more = "" if topic is None else f"-{topic.removeprefix(f'{app}-')}"
    name = f"{app}-{agent}{more}"
    legal = _ILLEGAL.sub("_", name)
    if legal != name or len(legal) + len(RETRY_SUFFIX) > _MAX_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]  # two agents must not share a topic
        legal = f"{legal[: _MAX_NAME - len(RETRY_SUFFIX) - len(digest) - 1]}-{digest}"
    return legal + RETRY_SUFFIX


def own_retry_topics(app: str, agent: str, topic: str) -> tuple[str, str]:
    """Return the two possible names of the retry topic of an agent for one topic of several.

    The second is that of agents whose app needs the first for another agent.

    >>> own_retry_topics("shop", "total", "returns")
    ('shop-total-returns-retry', 'shop-total-returns-d8a27e11-retry')
    """
    digest = hashlib.sha256(json.dumps([app, agent, topic]).encode()).hexdigest()[:8]
    return retry_topic(app, agent, topic), retry_topic(app, agent, f"{topic}-{digest}")


FIRED = ("timers", "windows")
"""The kinds of things that agents fire between records; an agent has a retry topic for each."""


def fired_retry_topics(app: str, agent: str, kind: str) -> tuple[str, str]:
    """Return the two possible names of the retry topic of what an agent fires of a kind, one of `FIRED`.

    The second is that of agents whose app needs the first for the records of an agent.

    >>> fired_retry_topics("shop", "orders", "windows")
    ('shop-orders-windows-retry', 'shop-orders-fired-windows-retry')
    """
    return retry_topic(app, f"{agent}-{kind}"), retry_topic(app, f"{agent}-fired-{kind}")


OPERATOR_HEADER = f"{_PREFIX}operator"
"""The header of a dead letter, and of the record in a retry topic, with the table of a window."""


def retry_header(origin: Origin) -> tuple[str, bytes]:
    """Return the header of a record that is re-published to a retry topic."""
    return _RETRY_OF, str(origin).encode()


def read_retry(headers: Iterable[tuple[str, bytes | None]] | None) -> tuple[Headers, Origin | None]:
    """Return the own headers of a re-published record and its first position; None if no header names one."""
    own: list[tuple[str, bytes | None]] = []
    origin: Origin | None = None
    for name, value in headers or ():
        if name == _RETRY_OF:
            origin = Origin.parsed((value or b"").decode(errors="replace"))
        else:
            own.append((name, value))
    return own, origin


def operator_of(headers: Iterable[tuple[str, bytes | None]]) -> str:
    """Return the table of a window that is re-published; empty if no header names one."""
    return (dict(headers).get(OPERATOR_HEADER) or b"").decode(errors="replace")


def read_headers(headers: Iterable[tuple[str, bytes | None]] | None) -> tuple[Headers, dict[str, str]]:
    """Return the headers of the record in a dead letter, and the facts about it, without their prefix.

    The dead letters of other programs have no facts. A record that was a dead letter itself has two sets; the last one
    belongs to this letter.
    """
    found = list(headers or ())
    at = next((i for i in range(len(found) - 1, -1, -1) if found[i][0] == _FIRST), len(found))
    facts = {name.removeprefix(_PREFIX): (value or b"").decode(errors="replace") for name, value in found[at:]}
    return found[:at], facts


def dead_letter(
    *,
    topic: str,
    key: bytes | None,
    value: bytes | None,
    reason: str,
    error: str,
    private_error: str | None = None,
    private: Iterable[str] = (),
    at: str | None = None,
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
    retry_topic: str | None = None,
    operator: str | None = None,
    window: str | None = None,
) -> DeadLetter:
    """Return the dead letter of a record of `topic`; facts that are None get no header.

    The letter holds the whole record, so that it can be repaired and re-published: who may read the topic may see it.
    """
    known: dict[str, object | None] = {
        "reason": reason,
        "error": error[:MAX_ERROR_CHARACTERS],
        "private": ",".join(sorted(private)) or None,
        "private-error": None if private_error in (None, error) else (private_error or "")[:MAX_ERROR_CHARACTERS],
        "at": at,
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
        "retry-topic": retry_topic,
        "operator": operator,
        "window": window,
    }
    facts = [
        (f"{_PREFIX}{name}", str(value).encode(errors="backslashreplace"))
        for name, value in known.items()
        if value is not None
    ]
    return DeadLetter(dead_letter_topic(topic), key, value, [*without_control(list(headers or ())), *facts])
