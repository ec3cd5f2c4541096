"""The report of a bounded run, its progress while it runs, and its timeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...topics import clock
from ..replay_report import Progress, Report
from ..table_reader import Snapshot
from .failure_counts import FailedRecords
from .run_verification import RunVerification

__all__ = ["RunReport", "Timeline", "TopicProgress", "Watcher"]


class Timeline:
    """The events of a run, each with the seconds from the run's start to the first time that it happened, in order."""

    def __init__(self) -> None:
        self._began_s = clock.now_s()
        self.seconds: dict[str, float] = {}

    def note(self, event: str) -> None:
        """Note that an event happens now. If it happened before, the first time is kept."""
        self.seconds.setdefault(event, self.now_s)

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return clock.now_s() - self._began_s


@dataclass(slots=True)
class TopicProgress:
    """How a group processed one topic.

    Attributes:
        records: how many it processed, including those of other producers.
        seconds: from the first record of the topic's replay, or of the replay that led to it, until the group had
            committed the topic's end offsets.
    """

    topic: str
    records: int
    seconds: float

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.records / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class RunReport:
    """How a bounded run ended.

    Attributes:
        replays: the report of each input's replay.
        seconds: from the first replay to the last commit.
        total_seconds: `seconds`, the start of the workers and the writing of the result.
        timeline: when the run reached each step.
        processed: the topics that the agents processed, in the order in which they finished.
        into_live: the history went into the app's own topics.
        failed: records and lines that failed, by kind and topic.
        unrecorded: agents with `on_failure="skip"` in workers that do not record how much they skip.
        found: how many records the input topics hold, counted by reading them. The run is verified if this is at least
            `records`.
        late: (table, topic with its late records) -> number of them; a topic of None has none: they were dropped.
        late_closed: how many of them were on time in their own partition, and came after their window had closed.
        verification: what the result depends on; None for a run into live topics.
        topics_written: for each file of a topic its number of records, the topic and the path.
        finished_before: an earlier start finished the run; this one computed nothing.
    """

    run_id: str
    app_id: str
    replays: list[Report] = field(default_factory=list[Report])
    seconds: float = 0.0
    total_seconds: float = 0.0
    failed: list[FailedRecords] = field(default_factory=list[FailedRecords])
    unrecorded: tuple[str, ...] = ()
    processed: list[TopicProgress] = field(default_factory=list[TopicProgress])
    into_live: bool = False
    restarts: int = 0
    finished_before: bool = False
    found: int = 0
    late: dict[tuple[str, str | None], int] = field(default_factory=dict[tuple[str, "str | None"], int])
    late_closed: int = 0
    verification: RunVerification | None = None
    snapshot: Snapshot | None = None
    output: Path | None = None
    topics_written: list[tuple[int, str, Path]] = field(default_factory=list[tuple[int, str, Path]])
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def records(self) -> int:
        """How many records the run produced from all inputs."""
        return sum(replay.sent for replay in self.replays)

    @property
    def failures(self) -> int:
        """How many records and lines failed."""
        return sum(failed.count for failed in self.failed)

    @property
    def read(self) -> int:
        """How many records and bad lines all inputs had."""
        return self.records + sum(replay.skipped + replay.dead_letters for replay in self.replays)

    def facts(self) -> dict[str, object]:
        """Return the report as plain JSON."""
        return {
            "run": self.run_id,
            "app": self.app_id,
            "finished_before": self.finished_before,
            "records": self.records,
            "found": self.found,
            "seconds": round(self.total_seconds, 3),
            "restarts": self.restarts,
            "topics": {stage.topic: stage.records for stage in self.processed if stage.records},
            "failures": [{"count": failed.count, "failed": str(failed)} for failed in self.failed],
            "late": [
                {"table": table, "topic": topic, "records": None if topic is None else count}
                for (table, topic), count in sorted(self.late.items(), key=str)
            ],
            "keys": None if self.snapshot is None else len(self.snapshot),
            "verification": None if self.verification is None else self.verification.facts(),
        }

    @property
    def records_now(self) -> int:
        """How many records this start produced."""
        return sum(replay.sent_now for replay in self.replays)


class Watcher:
    """Receives the progress of a bounded run. This base class ignores it."""

    def replaying(self, topic: str, progress: Progress) -> None:
        """Called after each commit of the replay into `topic`."""

    def processing(self, done: int, left: int) -> None:
        """Called while the agents process what the replay produced, with offsets, transaction markers included."""

    def note(self, text: str) -> None:
        """Called with a line for the user."""
