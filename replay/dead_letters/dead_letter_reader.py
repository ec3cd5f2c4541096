"""Reads dead letters from their topics: the facts in their headers, filters, and counts by kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.dead_letter import OPERATOR_HEADER, RETRY_SUFFIX, SUFFIX, Origin, read_headers, retry_topic
from ...topics.headers import copied_headers
from ...topics.json_value import JsonValue
from ...topics.message import Message
from ...topics.partition_reader import read_to_end
from ...topics.private_fields import NOTHING, PrivateFields
from ...topics.private_texts import HIDDEN, HIDDEN_TEXT
from ...topics.producer import Headers

__all__ = [
    "DeadLetterBatch",
    "DeadLetterFilter",
    "DeadLetterRecord",
    "KindCount",
    "KindCounts",
    "NoDeadLetters",
    "count_by_kind",
    "dead_letter_topics",
    "find_dead_letter_topic",
    "read_dead_letters",
]


# Digits of the largest offset or time. Python refuses to parse numbers of thousands of digits.
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A dead letter.

    Attributes:
        topic, partition, offset: its position in the dead-letter topic.
        timestamp_ms: its timestamp, in milliseconds since 1970.
        key, value, headers: those of the record that failed.
        facts: the content of the `anabranch-…` headers, by name without that prefix; empty for dead letters
            of other programs.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    facts: dict[str, str]

    @classmethod
    def of(cls, message: Message) -> DeadLetterRecord:
        """Parse a record of a dead-letter topic."""
        headers, facts = read_headers(copied_headers([message])[0])
        return cls(
            message.topic() or "",
            message.partition() or 0,
            message.offset() or 0,
            message.timestamp()[1],
            message.key(),
            message.value(),
            headers,
            facts,
        )

    @property
    def private(self) -> PrivateFields:
        """The private fields of the record, as its app declared them when it failed."""
        names = frozenset(filter(None, self.facts.get("private", "").split(",")))
        return PrivateFields(names, declared=bool(names))

    @property
    def reason(self) -> str:
        """See `topics.dead_letter`; `unknown` for dead letters of other programs."""
        return self.facts.get("reason", "unknown")

    @property
    def error(self) -> str:
        """The type of the error; dead letters are counted by it."""
        return self.facts.get("error", "").partition(":")[0]

    @property
    def origin(self) -> Origin | None:
        """The position of the record that failed; None if it never was in a topic. Of a window that can be told again,
        that in front of which it has closed."""
        topic, partition = self.facts.get("topic"), self._number("partition")
        if self.reason == "window":
            return Origin.parsed(self.facts.get("source", "")) if "retry-topic" in self.facts else None
        if not topic or partition is None or self.reason == "line":
            return None
        return Origin(topic, partition, self._number("offset") or 0, self._number("row"))

    @property
    def is_of_window(self) -> bool:
        """True if it holds a window, which is no record: one that has failed, or one from a retry topic that could not
        be read, with the header that `dlq replay` gives only to windows."""
        return self.reason == "window" or [name for name, _ in self.headers] == [OPERATOR_HEADER]

    @property
    def record_ms(self) -> int:
        """The timestamp of the record that failed; that of the dead letter differs if its topic did not accept it."""
        text = self.facts.get("timestamp-ms", "")
        found = self._number("timestamp-ms")
        if found is None and text.startswith("-"):  # before 1970; -1 means "no time" in Kafka
            before = self._number("timestamp-ms", text[1:])
            found = None if before in (None, 1) else -before
        return self.timestamp_ms if found is None else found

    def _number(self, fact: str, text: str | None = None) -> int | None:
        """Return a fact, or `text` instead, as a number; None if it is not a number that Kafka could have."""
        text = self.facts.get(fact, "") if text is None else text
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None

    @property
    def retry_topic(self) -> str | None:
        """The retry topic, which only the agent that failed reads; None if no agent failed."""
        app, agent = self.facts.get("app"), self.facts.get("agent")
        if self.origin is None or not app or not agent:
            return None
        named = self.facts.get("retry-topic", "")
        return named if named.endswith(RETRY_SUFFIX) else retry_topic(app, agent)

    def described(self, private: PrivateFields = NOTHING) -> dict[str, JsonValue]:
        """Return the dead letter as plain JSON; bytes that are not UTF-8 are escaped.

        Args:
            private: fields that are hidden, besides those that the letter names; headers with the text of one, and
                texts of errors that may quote one, are hidden, too.
        """
        private = private.joined(self.private)
        key, value = private.key_bytes(self.key, self.value), private.value_bytes(self.value)
        headers: list[JsonValue] = [[name, self._shown_header(private, content)] for name, content in self.headers]
        facts = {name: text for name, text in self.facts.items() if name not in ("timestamp-ms", "private-error")}
        if private and self.reason == "line" and "error" in facts:
            facts["error"] = HIDDEN_TEXT
        if not private and "private-error" in self.facts:
            facts["error"] = self.facts["private-error"]
        return {
            "partition": self.partition,
            "offset": self.offset,
            "timestamp_ms": self.timestamp_ms,
            "key": _text(key),
            "value": _text(value),
            "headers": headers,
            **{name.replace("-", "_"): text for name, text in facts.items()},
        }

    def _shown_header(self, private: PrivateFields, content: bytes | None) -> str | None:
        text = _text(content)
        return HIDDEN if text is not None and private and private.quotes(text, self.value) else text


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Conditions on dead letters; those that are not given hold for every dead letter.

    Attributes:
        offsets: first and last offset in the dead-letter topic, inclusive.
        match: text that key, value or error contains.
    """

    reason: str | None = None
    agent: str | None = None
    offsets: tuple[int, int] | None = None
    match: str | None = None

    def holds(self, letter: DeadLetterRecord) -> bool:
        """Return whether a dead letter meets the conditions."""
        if self.reason is not None and letter.reason != self.reason:
            return False
        if self.agent is not None and letter.facts.get("agent") != self.agent:
            return False
        if self.offsets is not None and not self.offsets[0] <= letter.offset <= self.offsets[1]:
            return False
        if self.match is None:
            return True
        texts = letter.key, letter.value, letter.facts.get("error", "").encode()
        return any(self.match.encode() in (text or b"") for text in texts)


class DeadLetterBatch(NamedTuple):
    """Consecutive dead letters of a partition, from offset `begin` up to, not including, `end`."""

    topic: str
    partition: int
    begin: int
    end: int
    letters: list[DeadLetterRecord]


class NoDeadLetters(NamedTuple):
    """A topic without dead letters: it has no dead-letter topic. This is not an error.

    Attributes:
        exists: whether the topic itself exists; if not, its name may be misspelled.
        others: the dead-letter topics that exist.
    """

    topic: str
    exists: bool
    others: tuple[str, ...]


def find_dead_letter_topic(admin: Admin, name: str) -> str | NoDeadLetters:
    """Return the dead-letter topic that a user names, by its own name or by that of the topic it belongs to."""
    found = admin.partitions()
    of = name.removesuffix(SUFFIX)
    if of + SUFFIX in found:
        return of + SUFFIX
    return NoDeadLetters(of, of in found, tuple(sorted(topic for topic in found if topic.endswith(SUFFIX))))


def dead_letter_topics(admin: Admin) -> list[str]:
    """Return the names of all dead-letter topics."""
    return sorted(topic for topic in admin.partitions() if topic.endswith(SUFFIX))


def read_dead_letters(cluster: Cluster, *topics: str) -> Iterator[DeadLetterBatch]:
    """Read the committed dead letters of topics, up to the present ends (blocking)."""
    admin = Admin(cluster)
    begins, ends = admin.spans((topic, p) for topic, n in admin.partitions(topics).items() for p in range(n))
    position = dict(begins)
    for run in read_to_end(cluster, begins, ends):
        begin, position[run.at] = position[run.at], run.position
        yield DeadLetterBatch(*run.at, begin, run.position, [DeadLetterRecord.of(message) for message in run.messages])


@dataclass(slots=True)
class KindCount:
    """How many dead letters of one kind there are.

    Attributes:
        republished: how many of them have been re-published.
        first_ms, last_ms: the earliest and the latest time of the records that failed, in milliseconds since 1970.
        at: the line of the user's code that raised the error (`file:line`), of the last dead letter that has one.
    """

    letters: int = 0
    republished: int = 0
    first_ms: int = 2**63 - 1
    last_ms: int = -(2**63)
    at: str = ""


KindCounts = dict[tuple[str, str, str], KindCount]
"""Counts by (agent, reason, error)."""


def count_by_kind(letters: Iterable[tuple[DeadLetterRecord, bool]], counts: KindCounts | None = None) -> KindCounts:
    """Count dead letters by kind; returns `counts` with them added.

    Args:
        letters: dead letters, each with whether it has been re-published.
    """
    counts = {} if counts is None else counts
    for letter, republished in letters:
        count = counts.setdefault((letter.facts.get("agent", ""), letter.reason, letter.error), KindCount())
        count.letters += 1
        count.republished += republished
        count.first_ms = min(count.first_ms, letter.record_ms)
        count.last_ms = max(count.last_ms, letter.record_ms)
        count.at = letter.facts.get("at", count.at)
    return counts
