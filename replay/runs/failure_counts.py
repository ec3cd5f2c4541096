"""How many records of a bounded run failed: bad lines, dead letters, and records that agents skipped.

All of it is read from Kafka, so a run that is started again finds the same counts. Dead letters that `dlq replay` has
re-published are not counted: the run processes their records, and those that fail again have new dead letters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.dead_letter import Origin, dead_letter_topic, skipped_topic
from ...topics.errors import Usage
from ...topics.partition_reader import read_to_end
from ...topics.topic_partition import TopicPartition
from ..dead_letters.dead_letter_reader import DeadLetterRecord
from ..dead_letters.republisher import Republisher
from ..replay_report import Report

__all__ = [
    "Allowance",
    "FailedRecords",
    "ProducedRanges",
    "bad_lines",
    "dead_letters",
    "includes",
    "is_within",
    "skipped_records",
]

# By topic and partition: the offset of the first record, and the offset after the last.
ProducedRanges = Mapping[TopicPartition, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class FailedRecords:
    """Records, or lines of a file, that failed in the same way.

    Attributes:
        what: `bad lines skipped`, `bad lines in the dead letters`, `dead letters` or `skipped`.
        topic: the topic that the records were in, or that the lines were meant for.
        agent: the agent that failed; empty for lines.
        example: the error of one of them, and where it was raised.
    """

    what: str
    topic: str
    count: int
    agent: str = ""
    example: str = ""

    def __str__(self) -> str:
        agent = f" by agent {self.agent}" if self.agent else ""
        return f"{self.what}{agent} in {self.topic}" + (f": {self.example}" if self.example else "")


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
        """Parse `N` or `N%`.

        Raises:
            Usage: the text is neither.
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
        """Return whether `failed` of the `of` records and bad lines that the run has read may fail."""
        return failed <= (self.count if self.percent is None else math.floor(of * self.percent / 100 + 1e-9))


def bad_lines(replays: Sequence[Report]) -> list[FailedRecords]:
    """Return the bad lines of the inputs, by topic and what was done with them."""
    found: dict[tuple[str, str], FailedRecords] = {}
    for report in replays:
        example = report.examples[0] if report.examples else ""
        for what, count in (
            ("bad lines skipped", report.skipped),
            ("bad lines in the dead letters", report.dead_letters),
        ):
            if count:
                before = found.get((report.topic, what), FailedRecords(what, report.topic, 0, example=example))
                found[report.topic, what] = replace(before, count=before.count + count)
    return list(found.values())


def dead_letters(
    cluster: Cluster, app: str, topics: Collection[str], ranges: ProducedRanges | None = None
) -> list[FailedRecords]:
    """Count the dead letters of an app's agents, by topic, agent and error (blocking).

    Args:
        topics: the topics that the records were in.
        ranges: count only records within these offsets; None counts all.
    """
    admin = Admin(cluster)
    there = admin.partitions([dead_letter_topic(topic) for topic in topics])
    found: dict[tuple[str, str, str], FailedRecords] = {}
    for letter, republished in Republisher.each_of(cluster, sorted(there), admin):
        if republished or letter.reason == "line" or letter.facts.get("app", app) != app:
            continue
        if ranges is not None and not is_within(letter, ranges):
            continue
        agent, topic = letter.facts.get("agent", ""), letter.facts.get("topic", "?")
        error = letter.facts.get("error", "?")
        if "at" in letter.facts:
            error += f" at {letter.facts['at']}"
        first = found.setdefault((topic, agent, letter.error), FailedRecords("dead letters", topic, 0, agent, error))
        found[topic, agent, letter.error] = replace(first, count=first.count + 1)
    return [found[kind] for kind in sorted(found)]


def is_within(letter: DeadLetterRecord, ranges: ProducedRanges) -> bool:
    """Return whether a dead letter is that of a record within offsets, or of a window that has closed behind it."""
    is_window = letter.reason == "window"  # it has closed in front of a record, maybe of one that is still to come
    origin = Origin.parsed(letter.facts.get("source", "")) if is_window else letter.origin
    return includes(ranges, origin, beyond=is_window)


def includes(ranges: ProducedRanges, origin: Origin | None, *, beyond: bool = False) -> bool:
    """Return whether offsets include a record; with `beyond`, also the one behind their end."""
    if origin is None:
        return False
    begin, end = ranges.get(TopicPartition(origin.topic, origin.partition), (0, 0))
    return begin <= origin.offset < end + beyond


class _Skip(msgspec.Struct):
    agent: str
    topic: str
    error: str


def skipped_records(cluster: Cluster, app: str) -> list[FailedRecords]:
    """Count the records that the agents of a run skipped, by topic and agent (blocking)."""
    admin, name = Admin(cluster), skipped_topic(app)
    partitions = admin.partitions([name]).get(name, 0)
    begins, ends = admin.spans((name, p) for p in range(partitions))
    found: dict[tuple[str, str], FailedRecords] = {}
    for run in read_to_end(cluster, begins, ends) if partitions else ():
        for message in run.messages:
            skip = msgspec.json.decode(message.value(), type=_Skip)
            first = found.setdefault(
                (skip.topic, skip.agent), FailedRecords("skipped", skip.topic, 0, skip.agent, skip.error)
            )
            found[skip.topic, skip.agent] = replace(first, count=first.count + 1)
    return [found[kind] for kind in sorted(found)]
