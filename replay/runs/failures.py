"""What of a bounded run's history failed: bad lines, dead letters, and what agents skipped; and how much of it may.

All of it is read from Kafka, so a run that is started again finds the same. Dead letters that `dlq replay` has put back
are not counted: the run processes them, and those that fail again have new letters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.dead_letter import dead_letter_topic, skipped_topic
from ...topics.errors import Usage
from ...topics.partition_reader import read_to_end
from ..dead_letters.letters import Letter
from ..dead_letters.republisher import DeadLetters
from ..replay_report import Report

__all__ = ["Allowance", "Failed", "Spans", "bad_lines", "dead_letters", "skipped"]

Key = tuple[str, int]
Spans = Mapping[Key, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Failed:
    """Records, or lines of a file, of one kind.

    Attributes:
        what: happened to them: `bad lines skipped`, `bad lines in the dead letters`, `dead letters` or `skipped`.
        stage: the topic that they were in or meant for.
        agent: that failed at them; empty for lines.
        example: the error of one of them, and where it was raised.
    """

    what: str
    stage: str
    count: int
    agent: str = ""
    example: str = ""

    def __str__(self) -> str:
        agent = f" by agent {self.agent}" if self.agent else ""
        return f"{self.what}{agent} in {self.stage}" + (f": {self.example}" if self.example else "")


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many records of a run may fail.

    >>> Allowance.parsed("0.5%").allows(5, of=1_000), Allowance.parsed("3").allows(4, of=1_000)
    (True, False)
    """

    count: int = 0
    percent: float | None = None

    @classmethod
    def parsed(cls, text: str) -> Allowance:
        """From `N` or `N%`.

        Raises:
            Usage: it is neither.
        """
        number = text.strip().removesuffix("%").strip()
        if text.strip().endswith("%") and re.fullmatch(r"\d+(\.\d*)?|\.\d+", number) and float(number) <= 100:
            return cls(percent=float(number))
        if number.isascii() and number.isdigit() and not text.strip().endswith("%"):
            return cls(int(number))
        raise Usage(
            f"--allow-failures {text}",
            hint="a number of failures or a percentage of records: --allow-failures 10 or 0.5%",
        )

    def allows(self, failed: int, *, of: int) -> bool:
        """Whether so many may fail; `of` is what the run has read, bad lines among it."""
        return failed <= (self.count if self.percent is None else math.floor(of * self.percent / 100 + 1e-9))


def bad_lines(replays: Sequence[Report]) -> list[Failed]:
    """Of the inputs."""
    found: dict[tuple[str, str], Failed] = {}
    for report in replays:
        example = report.examples[0] if report.examples else ""
        for what, count in (
            ("bad lines skipped", report.skipped),
            ("bad lines in the dead letters", report.dead_letters),
        ):
            if count:
                before = found.get((report.topic, what), Failed(what, report.topic, 0, example=example))
                found[report.topic, what] = replace(before, count=before.count + count)
    return list(found.values())


def dead_letters(cluster: Cluster, app: str, topics: Collection[str], spans: Spans | None = None) -> list[Failed]:
    """Of the agents of an app, by topic and agent (blocking).

    Args:
        topics: where the records were.
        spans: of their offsets, where other records of these topics are no concern of the run.
    """
    admin = Admin(cluster)
    there = admin.partitions([dead_letter_topic(topic) for topic in topics])
    found: dict[tuple[str, str, str], Failed] = {}
    for letter, put_back in DeadLetters.each_of(cluster, sorted(there), admin):
        if put_back or letter.reason == "line" or letter.facts.get("app", app) != app:
            continue
        if spans is not None and not _within(letter, spans):
            continue
        origin = letter.origin
        agent, stage = letter.facts.get("agent", ""), origin.topic if origin is not None else "?"
        error = letter.facts.get("error", "?")
        if "at" in letter.facts:
            error += f" at {letter.facts['at']}"
        first = found.setdefault((stage, agent, letter.error), Failed("dead letters", stage, 0, agent, error))
        found[stage, agent, letter.error] = replace(first, count=first.count + 1)
    return [found[kind] for kind in sorted(found)]


def _within(letter: Letter, spans: Spans) -> bool:
    origin = letter.origin
    begin, end = spans.get((origin.topic, origin.partition), (0, 0)) if origin is not None else (0, 0)
    return origin is not None and begin <= origin.offset < end


class _Skip(msgspec.Struct):
    agent: str
    topic: str
    error: str


def skipped(cluster: Cluster, app: str) -> list[Failed]:
    """What the agents of a run skipped, by topic and agent (blocking)."""
    admin, name = Admin(cluster), skipped_topic(app)
    partitions = admin.partitions([name]).get(name, 0)
    begins, ends = admin.spans((name, p) for p in range(partitions))
    found: dict[tuple[str, str], Failed] = {}
    for run in read_to_end(cluster, begins, ends) if partitions else ():
        for message in run.messages:
            skip = msgspec.json.decode(message.value(), type=_Skip)
            first = found.setdefault((skip.topic, skip.agent), Failed("skipped", skip.topic, 0, skip.agent, skip.error))
            found[skip.topic, skip.agent] = replace(first, count=first.count + 1)
    return [found[kind] for kind in sorted(found)]
