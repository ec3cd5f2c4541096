"""Dead letters, read from their topic: what each says of itself, which of them are meant, how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.dead_letter import RETRY_SUFFIX, SUFFIX, Origin, read_headers, retry_topic
from ...topics.headers import copied_headers
from ...topics.partition_reader import read_to_end
from ...topics.producer import Headers

__all__ = [
    "Count",
    "Counts",
    "Letter",
    "NoLetters",
    "Span",
    "Wanted",
    "counted",
    "letters_topic",
    "letters_topics",
    "read_letters",
]


# As many as an offset or a time may have; Python refuses to read thousands of them.
_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Attributes:
        topic, partition, offset, timestamp_ms: where it is, and the time of the record in it.
        headers: those of the record.
        facts: what our headers say, without their prefix; empty in letters of other programs.
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
    def of(cls, message: Any) -> Letter:
        """From a record of the topic."""
        headers, facts = read_headers(copied_headers([message])[0])
        stamp_ms = message.timestamp()[1]
        return cls(
            message.topic(),
            message.partition(),
            message.offset(),
            stamp_ms,
            message.key(),
            message.value(),
            headers,
            facts,
        )

    @property
    def reason(self) -> str:
        """`decode`, `agent` or `line`; `unknown` in letters of other programs."""
        return self.facts.get("reason", "unknown")

    @property
    def error(self) -> str:
        """The error's type, or what stands for it: errors of one kind are counted together."""
        return self.facts.get("error", "").partition(":")[0]

    @property
    def origin(self) -> Origin | None:
        """Where the record came from; None where it never was in a topic."""
        topic, partition = self.facts.get("topic"), self._number("partition")
        if not topic or partition is None or self.reason == "line":
            return None
        return Origin(topic, partition, self._number("offset") or 0, self._number("row"))

    @property
    def record_ms(self) -> int:
        """The record's own time; the letter's may be another, where its topic would not take that."""
        text = self.facts.get("timestamp-ms", "")
        told = self._number("timestamp-ms")
        if told is None and text.startswith("-"):  # before 1970; -1 is Kafka's word for "no time"
            before = self._number("timestamp-ms", text[1:])
            told = None if before in (None, 1) else -before
        return self.timestamp_ms if told is None else told

    def _number(self, fact: str, text: str | None = None) -> int | None:
        """A number among the facts, or of this text instead; None where it is none that Kafka could have."""
        text = self.facts.get(fact, "") if text is None else text
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None

    @property
    def retry_topic(self) -> str | None:
        """The topic that only its agent reads; None where no agent failed at it."""
        app, agent = self.facts.get("app"), self.facts.get("agent")
        if self.origin is None or not app or not agent:
            return None
        told = self.facts.get("retry-topic", "")
        return told if told.endswith(RETRY_SUFFIX) else retry_topic(app, agent)

    def described(self) -> dict[str, Any]:
        """As JSON shows it; bytes that are no UTF-8 are escaped."""
        return {
            "partition": self.partition,
            "offset": self.offset,
            "timestamp_ms": self.timestamp_ms,
            "key": _text(self.key),
            "value": _text(self.value),
            "headers": [[name, _text(value)] for name, value in self.headers],
            **{name.replace("-", "_"): value for name, value in self.facts.items() if name != "timestamp-ms"},
        }


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters are meant; what is not given does not matter.

    Attributes:
        offsets: of the letters, first and last.
        match: stands in key, value or error.
    """

    reason: str | None = None
    agent: str | None = None
    offsets: tuple[int, int] | None = None
    match: str | None = None

    def holds(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
        if self.reason is not None and letter.reason != self.reason:
            return False
        if self.agent is not None and letter.facts.get("agent") != self.agent:
            return False
        if self.offsets is not None and not self.offsets[0] <= letter.offset <= self.offsets[1]:
            return False
        if self.match is None:
            return True
        places = letter.key, letter.value, letter.facts.get("error", "").encode()
        return any(self.match.encode() in (place or b"") for place in places)


class Span(NamedTuple):
    """What was read of a partition: the letters from `begin` up to, not including, `end`."""

    topic: str
    partition: int
    begin: int
    end: int
    letters: list[Letter]


class NoLetters(NamedTuple):
    """A topic has no dead letters, for it has no topic of them: nothing is wrong with that.

    Attributes:
        exists: whether the topic itself is there; if not, its name may be misspelled.
        others: topics that have some.
    """

    topic: str
    exists: bool
    others: tuple[str, ...]


def letters_topic(admin: Admin, name: str) -> str | NoLetters:
    """The topic that is meant: itself, or the one that holds its dead letters."""
    found = admin.partitions()
    of = name.removesuffix(SUFFIX)
    if of + SUFFIX in found:
        return of + SUFFIX
    return NoLetters(of, of in found, tuple(sorted(topic for topic in found if topic.endswith(SUFFIX))))


def letters_topics(admin: Admin) -> list[str]:
    """All topics of dead letters."""
    return sorted(topic for topic in admin.partitions() if topic.endswith(SUFFIX))


def read_letters(cluster: Cluster, *topics: str) -> Iterator[Span]:
    """All committed letters of topics, up to their ends as they are now (blocking)."""
    admin = Admin(cluster)
    begins, ends = admin.spans((topic, p) for topic, n in admin.partitions(topics).items() for p in range(n))
    position = dict(begins)
    for run in read_to_end(cluster, begins, ends):
        begin, position[run.at] = position[run.at], run.position
        yield Span(*run.at, begin, run.position, [Letter.of(message) for message in run.messages])


@dataclass(slots=True)
class Count:
    """Letters of one kind.

    Attributes:
        put_back: how many of them were put back.
        first_ms, last_ms: times of their records, the earliest and the latest.
        at: the user's line that raised, of the last letter that says so.
    """

    letters: int = 0
    put_back: int = 0
    first_ms: int = 2**63 - 1
    last_ms: int = 0
    at: str = ""


Counts = dict[tuple[str, str, str], Count]
"""(agent, reason, error) -> how many."""


def counted(letters: Iterator[tuple[Letter, bool]], counts: Counts | None = None) -> Counts:
    """Letters by kind, added to those that are counted; each comes with whether it was put back."""
    counts = {} if counts is None else counts
    for letter, put_back in letters:
        count = counts.setdefault((letter.facts.get("agent", ""), letter.reason, letter.error), Count())
        count.letters += 1
        count.put_back += put_back
        count.first_ms = min(count.first_ms, letter.timestamp_ms)
        count.last_ms = max(count.last_ms, letter.timestamp_ms)
        count.at = letter.facts.get("at", count.at)
    return counts
