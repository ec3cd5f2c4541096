"""A bounded run: history in, the app's agents over it, result out; batch is a stream that ends.

This process coordinates; workers compute. A run has an identity of its own: the app id is `<app>-run-<id>`, and its
group, topics and changelogs are its own, so history is never added to live totals, and a run can be repeated. The id
follows from what is asked (program text, inputs with their content's fingerprint, options): the same command goes on
where it was, or says that it is finished; a changed program or file is a new run.

Into live (`into_live`), the app keeps its own id: history goes into its real topics, to its real group and tables.
Workers that are there already do the work; where there are none, they are started for as long as it takes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...agents.app import App
from ...agents.runtime import runtime_of
from ...topics import clock
from ...topics.admin import Admin, TopicSpec
from ...topics.cluster import Cluster
from ...topics.consumer_groups import Groups
from ...topics.dead_letter import RETRY_SUFFIX, retry_topic
from ...topics.errors import Stop, Usage
from ...topics.partitioner_registry import PartitionerRegistry
from ..app_loader import load_app, source_of
from ..cluster_choice import home
from ..pipeline.pace import Pace
from ..pipeline.packing import Compression
from ..pipeline.pipeline import Pipeline
from ..player import Player
from ..record_counts import count_records
from ..replay_report import Progress, Report
from ..source_resolver import resolve_source
from ..sources.file_history import FileHistory
from ..sources.format import OnBadLine
from ..sources.source import Replayable
from ..table_reader import Snapshot, TableReader, find_table, known_ending, write_result
from .completion import Completion, StageProgress
from .declared_types import declared_types
from .failures import Failed, bad_lines, dead_letters, skipped
from .inputs import Input, refuse_unaligned
from .timeline import Timeline
from .verification import Counts
from .worker_pool import WorkerPool

__all__ = ["BoundedRun", "RunReport", "Watcher"]

_POLL_S = 0.1

_INTO_LIVE = (
    "into live: history goes into {topics} of {app} itself. It is added to the live totals, everybody who reads these "
    "topics gets it, and it cannot be taken back; a second start adds nothing."
)


@dataclass(slots=True)
class RunReport:
    """How a run ended.

    Attributes:
        replays: one for each input.
        seconds: from the first replay to the last commit; `total_seconds` with starts and the result file.
        moments: when it had done what.
        stages: the topics that were worked off, in the order in which they were through.
        into_live: it went into the app's own topics.
        failed: records and lines that failed, by kind and stage.
        unrecorded: agents that skip what they fail at, in workers that do not record how much.
        found: records that are in the topics of the inputs, counted by reading; with `records` the run's certificate.
        finished_before: the run was complete, nothing was computed.
    """

    run_id: str
    app_id: str
    replays: list[Report] = field(default_factory=list[Report])
    seconds: float = 0.0
    total_seconds: float = 0.0
    failed: list[Failed] = field(default_factory=list[Failed])
    unrecorded: tuple[str, ...] = ()
    stages: list[StageProgress] = field(default_factory=list[StageProgress])
    into_live: bool = False
    restarts: int = 0
    finished_before: bool = False
    found: int = 0
    snapshot: Snapshot | None = None
    output: Path | None = None
    moments: Timeline = field(default_factory=Timeline)

    @property
    def records(self) -> int:
        """Records of all inputs."""
        return sum(replay.sent for replay in self.replays)

    @property
    def failures(self) -> int:
        """How many records and lines failed."""
        return sum(failed.count for failed in self.failed)

    @property
    def read(self) -> int:
        """Records and bad lines of all inputs."""
        return self.records + sum(replay.skipped + replay.dead_letters for replay in self.replays)

    @property
    def records_now(self) -> int:
        """Records that this start sent."""
        return sum(replay.sent_now for replay in self.replays)


class Watcher:
    """What a run tells while it goes on; this one says nothing."""

    def replaying(self, topic: str, progress: Progress) -> None:
        """After each commit of the replay into `topic`."""

    def draining(self, done: int, left: int) -> None:
        """While agents work off what is there; offsets, transaction markers counted."""

    def note(self, text: str) -> None:
        """A line worth reading."""


class BoundedRun:
    """One bounded run.

    Args:
        app_name: as for `-A`.
        inputs: what is replayed, in the order of their stages.
        course: in which order records go into the topics.
        pace: how fast; each input by itself.
        output: result file; its ending says the format. None writes none.
        table: the table that is the result; None means the app's only one.
        repartition: see `resolve_source`; for inputs that are archives or topics.
        run_id: None derives it from what is asked.
        pack: replay packed batches, see `Player`.
        into_live: feed the app's own topics instead of a run's.
    """

    def __init__(
        self,
        cluster: Cluster,
        app_name: str,
        inputs: Sequence[Input],
        *,
        course: Pipeline | None = None,
        pace: Pace | None = None,
        output: Path | None = None,
        table: str | None = None,
        run_id: str | None = None,
        processes: int = 1,
        on_bad_line: OnBadLine = "fail",
        pack: Compression | None = None,
        repartition: bool = False,
        into_live: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        self._cluster, self._app_name, self._output = cluster, app_name, output
        self._course, self._pace = course or Pipeline(), pace
        self._processes = processes
        self._on_bad_line: OnBadLine = on_bad_line
        self._pack: Compression | None = pack
        self._watch = watcher or Watcher()
        if output is not None:
            known_ending(output)
        self._inputs = list(inputs)
        self._histories = [
            resolve_source(i.specs, i.format, cluster=cluster, repartition=repartition, spool=i.spool)
            for i in self._inputs
        ]
        self._into_live, self._named = into_live, run_id
        # No run is an app's own identity.
        self.run_id = "" if into_live else run_id or self._derive_id()
        os.environ["ANABRANCH_RUN"] = self.run_id
        self.app: App = load_app(app_name)
        runtime_of(self.app).cluster = cluster
        self._table = find_table(self.app, table) if output is not None or table is not None else None
        self._sources = self._find_sources()
        self._topics = [self._physical(i.topic) for i in self._inputs]
        self._histories = [self._typed(*each) for each in zip(self._histories, self._topics, strict=True)]
        own = f"{self.app.conf.id}-" if self.run_id else ""
        names = [topic.removeprefix(own) for topic in self._topics]
        refuse_unaligned(self._inputs, names, by_time=self._course.order == "time")
        self.data = home() / (f"{self.app.conf.id}-into-live" if into_live else self.app.conf.id)

    def _derive_id(self) -> str:
        asked = [
            [
                i.topic,
                i.stage,
                self._course.run_id(history, i.topic or "", packed=self._pack is not None),
                history.fingerprint(),
            ]
            for i, history in zip(self._inputs, self._histories, strict=True)
        ]
        text = json.dumps([self._app_name, asked], sort_keys=True).encode()
        return hashlib.sha256(text + source_of(self._app_name)).hexdigest()[:8]

    def _find_sources(self) -> dict[str, Any]:
        """The app's own names of the topics its agents read -> the topics."""
        prefix = f"{self.app.conf.id}-" if self.run_id else ""
        found: dict[str, Any] = {}
        for agent in self.app.agents.values():
            for name in getattr(agent.channel, "topics", ()):
                found[name.removeprefix(prefix)] = agent.channel
        return found

    def _typed(self, history: Replayable, topic: str) -> Replayable:
        """History whose CSV columns are what the app's topic declares them to be."""
        if not isinstance(history, FileHistory):
            return history
        own = f"{self.app.conf.id}-" if self.run_id else ""
        source = self._sources.get(topic.removeprefix(own))
        return history.with_declared_types(declared_types(getattr(source, "value_type", None)))

    def _physical(self, topic: str | None) -> str:
        # What a flow sends to itself by way of Kafka is no place for history.
        outer = [name for name, topic in self._sources.items() if not getattr(topic, "has_prefix", False)]
        listed = ", ".join(sorted(outer)) or "none"
        if topic is None:
            if len(outer) != 1:
                raise Usage(f"{self._app_name} reads several topics: {listed}", hint="say which: --input TOPIC=PATH")
            topic = outer[0]
        if topic not in outer:
            raise Usage(f"{self._app_name} reads no topic {topic}", hint=f"it reads: {listed}")
        return runtime_of(self.app).resolve_topic(topic)

    def execute(self) -> RunReport:
        """Do it, or what is left of it (blocking).

        Raises:
            AnabranchError: what ended it; the same command goes on from there.
        """
        moments = Timeline()
        report = RunReport(
            self.run_id, self.app.conf.id, output=self._output, into_live=self._into_live, moments=moments
        )
        if self._into_live:
            self._watch.note(_INTO_LIVE.format(app=self.app.conf.id, topics=", ".join(sorted(set(self._topics)))))
        new = self._create_topics()
        groups = Groups(self._cluster)
        if runtime_of(self.app).settings.start_at_end and not groups.size(self.app.conf.id):
            # Before history is sent, which is to be read: workers that come later begin where the topics end then.
            groups.begin_at_ends(self.app.conf.id, self._read_topics())
        drain = Completion(self._cluster, self.app.conf.id, self._read_topics(), shared=self._into_live)
        crew = WorkerPool(self._cluster, self._app_name, self.run_id, self.data, processes=self._processes)
        with crew, Counts(self._cluster) as counts:
            if new and not self._into_live:
                # They are ready when the first records are.
                self._see_to_workers(report, crew, drain)
            self._play(report, drain, crew, counts)
            report.restarts = crew.restarts
            with ThreadPoolExecutor(2) as beside:
                counted = beside.submit(self._count, report, drain, counts)
                reader = beside.submit(self._read_table)
                crew.end()
                moments.note("workers ended")
            report.seconds = moments.now_s
            counted.result()
            self._write(report, reader.result())
        report.total_seconds = moments.now_s
        return report

    def _read_table(self) -> TableReader | None:
        """Of what workers write on their way out there is little: the reader reads on then."""
        if self._table is None:
            return None
        reader = TableReader(self._cluster, self._table)
        reader.read_raw()
        return reader

    def _write(self, report: RunReport, reader: TableReader | None) -> None:
        if reader is None:
            return
        report.snapshot = reader.read()
        if self._output is not None:
            write_result(report.snapshot, self._output)
            report.moments.note("result written")

    def _create_topics(self) -> bool:
        """Whether none of them was there before, so that the run is a new one."""
        admin = Admin(self._cluster)
        specs = [
            (
                TopicSpec(runtime_of(self.app).resolve_topic(name), topic.partitions or self.app.conf.topic_partitions),
                topic.partitioner,
            )
            for name, topic in self._sources.items()
        ]
        existing = admin.partitions([spec.name for spec, _ in specs])
        PartitionerRegistry(self._cluster, admin).agree(
            [(spec, partitioner) for spec, partitioner in specs if partitioner is not None]
        )
        admin.create([spec for spec, partitioner in specs if partitioner is None and spec.name not in existing])
        return not existing

    def _read_topics(self) -> list[str]:
        """What the agents read, and what `dlq replay` has put back for them."""
        prefixes = tuple(
            f"{retry_topic(self.app.conf.id, name).removesuffix(RETRY_SUFFIX)}-" for name in self.app.agents
        )
        there = Admin(self._cluster).partitions()
        retried = [name for name in there if name.endswith(RETRY_SUFFIX) and name.startswith(prefixes)]
        return [*(runtime_of(self.app).resolve_topic(name) for name in self._sources), *retried]

    def _play(self, report: RunReport, drain: Completion, crew: WorkerPool, counts: Counts) -> None:
        stages = sorted({i.stage for i in self._inputs})
        report.finished_before = True
        for stage in stages:
            for i, (asked, history) in enumerate(zip(self._inputs, self._histories, strict=True)):
                if asked.stage == stage:
                    report.replays.append(self._replay(i, history, report, crew, drain))
            drain.expect(_marks(report.replays))
            if all(replay.already_done for replay in report.replays) and drain.drained():
                continue
            report.finished_before = False
            report.moments.note("all in Kafka")
            self._see_to_workers(report, crew, drain)
            crew.complete()
            drain.count_ahead(counts)
            crew.history_ends(drain.marks)
            while not drain.drained():
                crew.history_ends(drain.marks)
                self._see_to_workers(report, crew, drain)
                self._watch.draining(drain.done_offsets, drain.left_offsets)
                clock.sleep(_POLL_S)
        report.moments.note("processed")

    def _see_to_workers(self, report: RunReport, crew: WorkerPool, drain: Completion) -> None:
        """Of a run that was there before, workers start with the first records: if it is finished, none is needed."""
        if crew.pids:
            crew.check()
        elif not self._into_live or not drain.members():
            crew.start()
            report.moments.note("workers started")

    def _replay(
        self, number: int, history: Replayable, report: RunReport, crew: WorkerPool, drain: Completion
    ) -> Report:
        topic = self._topics[number]
        player = Player(
            self._cluster,
            history,
            topic,
            course=self._course,
            pace=self._pace,
            run_id=self._replay_id(number),
            on_bad_line=self._on_bad_line,
            pack=self._pack,
            value_type=getattr(self._sources.get(topic.removeprefix(f"{self.app.conf.id}-")), "value_type", None),
        )

        def on_progress(progress: Progress) -> None:
            report.moments.note("first records in Kafka")
            self._see_to_workers(report, crew, drain)
            self._watch.replaying(topic.removeprefix(f"{self.app.conf.id}-"), progress)

        return player.play(on_progress)

    def _count(self, report: RunReport, drain: Completion, counts: Counts) -> None:
        """What went through is read again, to be counted.

        Raises:
            Stop: see `_certify`.
        """
        report.stages = [] if report.finished_before else drain.stages(counts)
        report.failed = self._failed(report, drain)
        # Topics that others write to and delete from say nothing about a run.
        report.found = report.records if self._into_live else self._certify(report)
        report.moments.note("counted")

    def _certify(self, report: RunReport) -> int:
        """Count what a reader finds in the topics of the inputs, where that was not done for their stages.

        Raises:
            Stop: less than was sent; then the result is worth nothing.
        """
        counts = {stage.topic: stage.records for stage in report.stages}
        topics = Admin(self._cluster).partitions(set(self._topics))
        found = sum(
            counts[topic] if topic in counts else count_records(self._cluster, topic, count)
            for topic, count in topics.items()
        )
        if found < report.records:
            raise Stop(
                f"run {self.run_id} sent {report.records:,} records, and its topics hold {found:,}",
                hint="somebody deleted records of the run; --run-id NAME starts another run",
            )
        return found

    def _replay_id(self, number: int) -> str | None:
        """Into live it is the replay's own: a changed program must not send history a second time."""
        if self._into_live:
            return f"{self._named}-{number}" if self._named else None
        return f"{self.app.conf.id}-{number}"

    def _failed(self, report: RunReport, drain: Completion) -> list[Failed]:
        """Of this run, earlier starts included. Into live, of the records that it sent and what came of them now."""
        app, spans = self.app.conf.id, None
        if self._into_live:
            sent = {
                (replay.topic, p): (begin, replay.marks[p])
                for replay in report.replays
                for p, begin in replay.begins.items()
            }
            spans = {**drain.spans, **sent}
            agents = self.app.agents.values()
            report.unrecorded = tuple(agent.name for agent in agents if getattr(agent, "on_failure", "") == "skip")
        letters = dead_letters(self._cluster, app, drain.topics, spans)
        return [*bad_lines(report.replays), *letters, *([] if self._into_live else skipped(self._cluster, app))]


def _marks(replays: Sequence[Report]) -> dict[tuple[str, int], int]:
    marks: dict[tuple[str, int], int] = {}
    for replay in replays:
        for partition, mark in replay.marks.items():
            at = replay.topic, partition
            marks[at] = max(mark, marks.get(at, 0))
    return marks
