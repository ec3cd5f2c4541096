"""A bounded run: replays history, lets the app's agents process it, writes the result, and ends.

This process coordinates; worker processes compute. A run has an identity of its own: its app id is `<app>-run-<id>`, so
its group, topics and changelogs are its own. History is never added to live totals, and a run can be repeated. The id
is derived from the program's text, the inputs with a fingerprint of their content, and the options: the same command
resumes where it left off, or reports that the run is finished; a changed program or file makes a new run.

With `into_live`, the app keeps its own id: history goes into its real topics and is processed by its real group into
its real tables. Workers of the app that are running do the work; if there are none, they are started for the duration.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...agents.app import App
from ...agents.engine.replayed_dead_letters import existing_retry_topics
from ...agents.runtime import COMPLETE, runtime_of
from ...agents.topic import Topic
from ...topics import clock
from ...topics.admin import Admin, TopicSpec
from ...topics.cluster import Cluster
from ...topics.consumer_groups import ConsumerGroups
from ...topics.errors import AnabranchError, Stop, Usage
from ...topics.partitioner_registry import PartitionerRegistry
from ...topics.partitioners import Partitioner
from ...topics.spelling import did_you_mean
from ...topics.topic_partition import TopicPartition
from ..app_loader import load_app, source_of
from ..cluster_choice import home
from ..late_history import late_check
from ..pipeline.pace import Pace
from ..pipeline.packing import Compression
from ..pipeline.pipeline import Pipeline
from ..player import Player
from ..record_counts import BackgroundCounts, count_records
from ..replay_report import Progress, Report
from ..source_resolver import resolve_source
from ..sources.file_history import FileHistory
from ..sources.format import OnBadLine
from ..sources.source import Replayable
from ..table_reader import TableReader, check_result_path, find_table, write_result
from ..topic_result import TopicOutputs
from .aligned_inputs import aligned_phases, ends_of_partitions, refuse_global_tables, refuse_uneven
from .completion import Completion
from .failure_counts import FailedRecords, bad_lines, dead_letters, skipped_records
from .inputs import Input, declared_types
from .inputs_with_windows import late_records, refuse_open_windows, refuse_windows, time_rows, topics_with_end
from .run_report import RunReport, Timeline, Watcher
from .run_verification import RunVerification, verify_run
from .worker_pool import WorkerPool

__all__ = ["BoundedRun"]

# A run in which windows wait for the end has topics of its own: windows of another one may have closed earlier.
_COMPLETE_SUFFIX = "-complete"

_POLL_S = 0.1
_LOOK_S = 1.0  # between two looks at the agents' progress while a replay runs

_INTO_LIVE = (
    "into live: history goes into {topics} of {app} itself. It is added to the live totals, every consumer of these "
    "topics receives it, and it cannot be taken back; a second start adds nothing."
)


class BoundedRun:
    """One bounded run.

    Args:
        app_name: the app, as for the command line's `-A`.
        inputs: what is replayed, in the order of their phases.
        pipeline: the order of the records, and what is done with them on their way into the topics.
        pace: how fast each input is replayed.
        output: result file; its suffix selects the format. None writes no file.
        topic_outputs: files for topics of the program, by the topics' names there; see `TopicOutputs`.
        table: the table that is the result; None selects the app's only one.
        run_id: name of the run; None derives it, see the module.
        processes: how many workers are started.
        pack: replay packed batches, compressed in this way; see `Player`.
        repartition: for inputs that are archives or topics, see `resolve_source`.
        into_live: use the app's own topics, group and tables instead of a run's.
        allow_late: into live: send records that would be late for windows.
        digests: compute digests of all tables and output topics.
        complete: windows stay open to the end of the inputs, so that no record is late.

    Raises:
        Usage: the app, an input or an option is wrong.
    """

    def __init__(
        self,
        cluster: Cluster,
        app_name: str,
        inputs: Sequence[Input],
        *,
        pipeline: Pipeline | None = None,
        pace: Pace | None = None,
        output: Path | None = None,
        topic_outputs: Mapping[str, Path] | None = None,
        table: str | None = None,
        run_id: str | None = None,
        processes: int = 1,
        on_bad_line: OnBadLine = "fail",
        pack: Compression | None = None,
        repartition: bool = False,
        into_live: bool = False,
        allow_late: bool = False,
        digests: bool = False,
        complete: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        self._cluster, self._app_name, self._output = cluster, app_name, output
        self._looked_s = clock.now_s()
        self._pipeline, self._pace = pipeline or Pipeline(), pace
        self._processes, self._digests = processes, digests
        self._on_bad_line: OnBadLine = on_bad_line
        self._pack: Compression | None = pack
        self._watcher = watcher or Watcher()
        if output is not None:
            check_result_path(output)
        self._inputs = list(inputs)
        self._histories = [
            resolve_source(i.specs, i.format, cluster=cluster, repartition=repartition, spool=i.spool)
            for i in self._inputs
        ]
        self._into_live, self._given_id, self._allow_late = into_live, run_id, allow_late
        # An empty run id is the identity of the app itself.
        self._complete = complete
        self.run_id = "" if into_live else f"{run_id or self._derive_id()}{_COMPLETE_SUFFIX if complete else ''}"
        os.environ["ANABRANCH_RUN"] = self.run_id
        os.environ[COMPLETE] = "1" if complete else ""
        self.app: App = load_app(app_name)
        runtime_of(self.app).cluster = cluster
        self._outputs = TopicOutputs(self._declared_topics(), topic_outputs or {}, runtime_of(self.app).tables)
        if into_live and complete:
            raise Usage("--complete with --into-live: live topics have no end", hint="omit one of them")
        if into_live and topic_outputs:
            raise Usage(
                "--output TOPIC=FILE writes a topic of a run's own", hint="omit --into-live, or archive the topic"
            )
        self._table = find_table(self.app, table) if output is not None or table is not None else None
        self._app_topics = self._find_app_topics()
        self._topics = [self._kafka_topic(i.topic) for i in self._inputs]
        self._histories = [self._typed(*each) for each in zip(self._histories, self._topics, strict=True)]
        self._with_end = topics_with_end(self.app)
        refuse_windows(self.app, self._topics, into_live=into_live)
        self._aligned = self._align()
        self.data = home() / (f"{self.app.conf.id}-into-live" if into_live else self.app.conf.id)

    def _align(self) -> dict[int, list[str]]:
        """Return the topics in Kafka that are aligned in a phase, in the order in which the program declares them."""
        found = aligned_phases(
            self._inputs,
            [self._app_name_of(topic) for topic in self._topics],
            [history.timed for history in self._histories],
            by_time=self._pipeline.order == "time",
            packed=self._pack is not None,
            into_live=self._into_live,
        )
        runtime = runtime_of(self.app)
        refuse_global_tables(runtime.tables, found)
        declared = list(runtime.described)
        return {phase: sorted(map(runtime.resolve_topic, names), key=declared.index) for phase, names in found.items()}

    def _derive_id(self) -> str:
        given = [
            [
                i.topic,
                i.phase,
                self._pipeline.run_id(history, i.topic or "", packed=self._pack is not None),
                history.fingerprint(),
            ]
            for i, history in zip(self._inputs, self._histories, strict=True)
        ]
        text = json.dumps([self._app_name, given], sort_keys=True).encode()
        return hashlib.sha256(text + source_of(self._app_name)).hexdigest()[:8]

    def _app_name_of(self, topic: str) -> str:
        """Return the name by which the app's program knows a topic: without the prefix of the run."""
        return topic.removeprefix(f"{self.app.conf.id}-") if self.run_id else topic

    def _declared_topics(self) -> dict[str, Topic]:
        """Return the topics of the program by the names that it gives them; without those that it makes for itself."""
        described = runtime_of(self.app).described.items()
        return {self._app_name_of(name): topic for name, topic in described if not topic.has_prefix}

    def _find_app_topics(self) -> dict[str, Topic]:
        """Return the topics that the app's agents read, by the names in its program."""
        found: dict[str, Topic] = {}
        for agent in self.app.agents.values():
            if isinstance(agent.channel, Topic):
                found |= {self._app_name_of(name): agent.channel for name in agent.channel.topics}
        return found

    def _typed(self, history: Replayable, topic: str) -> Replayable:
        """Return the history with the column types that the app's topic declares, where it is a CSV file."""
        if not isinstance(history, FileHistory):
            return history
        return history.with_declared_types(declared_types(self._value_type(topic)))

    def _value_type(self, topic: str) -> object:
        found = self._app_topics.get(self._app_name_of(topic))
        return None if found is None else found.value_type

    def _kafka_topic(self, name: str | None) -> str:
        """Return the Kafka topic for an input's topic; None selects the only one that the app reads."""
        # History cannot go into a flow's internal topics.
        outer = [name for name, topic in self._app_topics.items() if not topic.has_prefix]
        listed = ", ".join(sorted(outer)) or "none"
        if name is None:
            if len(outer) != 1:
                raise Usage(
                    f"{self._app_name} reads several topics: {listed}", hint="name the topic: --input TOPIC=PATH"
                )
            name = outer[0]
        if name not in outer:
            raise Usage(
                f"{self._app_name} reads no topic {name}", hint=did_you_mean(name, outer, f"it reads: {listed}")
            )
        return runtime_of(self.app).resolve_topic(name)

    def execute(self) -> RunReport:
        """Do the run, or what is left of it (blocking).

        Raises:
            AnabranchError: the run failed; the same command resumes it.
        """
        timeline = Timeline()
        report = RunReport(
            self.run_id, self.app.conf.id, output=self._output, into_live=self._into_live, timeline=timeline
        )
        if self._into_live:
            self._watcher.note(_INTO_LIVE.format(app=self.app.conf.id, topics=", ".join(sorted(set(self._topics)))))
        new = self._create_topics()
        self._counts = Admin(self._cluster).partitions(self._topics)
        refuse_uneven(self._aligned, self._counts)
        groups = ConsumerGroups(self._cluster)
        if runtime_of(self.app).settings.start_at_end and not groups.size(self.app.conf.id):
            # Before history is produced: workers that start later begin at these offsets, and so read the history.
            groups.begin_at(self.app.conf.id, self._topics_read(), "latest")
        completion = Completion(self._cluster, self.app.conf.id, self._topics_read(), shared=self._into_live)
        pool = WorkerPool(
            self._cluster,
            self._app_name,
            self.run_id,
            self.data,
            processes=self._processes,
            aligned=list(self._aligned.values()),
            environment={COMPLETE: "1"} if self._complete else {},
        )
        with pool, BackgroundCounts(self._cluster) as counts:
            if new and not self._into_live:
                # Workers take a second to start; they are ready when the first records are.
                self._keep_workers(report, pool, completion)
            self._replay_and_process(report, completion, pool, counts)
            report.restarts = pool.restarts
            with ThreadPoolExecutor(2) as executor:
                counted = executor.submit(self._count, report, completion, counts)
                reader = executor.submit(self._read_table, report)
                pool.stop()
                timeline.note("workers ended")
            report.seconds = timeline.now_s
            counted.result()
            self._write_result(report, reader.result())
            report.topics_written = self._outputs.write(self._cluster)
            if not self._into_live:
                report.verification = self._verify_order(report)
        report.total_seconds = timeline.now_s
        return report

    def _verify_order(self, report: RunReport) -> RunVerification:
        made = {topic.get_topic_name() for topic in self._declared_topics().values()} - {*self._topics}
        inputs = zip(self._topics, self._inputs, strict=True)
        return verify_run(
            self._cluster, self.app, inputs, self._aligned, report, outputs=made if self._digests else None
        )

    def _read_table(self, report: RunReport) -> TableReader | None:
        """Read the result's changelog while the workers stop; the little that they still write is read afterwards."""
        if self._table is None:
            return None
        reader = TableReader(self._cluster, self._table, may_be_new=not report.records)
        reader.read_raw()
        return reader

    def _write_result(self, report: RunReport, reader: TableReader | None) -> None:
        if reader is None:
            return
        report.snapshot = reader.read()
        if self._output is not None:
            write_result(report.snapshot, self._output)
            report.timeline.note("result written")

    def _create_topics(self) -> bool:
        """Create the topics that are missing; returns whether none of them existed, so that the run is a new one."""
        admin = Admin(self._cluster)
        specs = [
            (
                TopicSpec(runtime_of(self.app).resolve_topic(name), topic.partitions or self.app.conf.topic_partitions),
                topic.partitioner,
            )
            for name, topic in self._app_topics.items()
        ]
        existing = admin.partitions([spec.name for spec, _ in specs])
        PartitionerRegistry(self._cluster, admin).agree(
            [(spec, partitioner) for spec, partitioner in specs if partitioner is not None]
        )
        admin.create([spec for spec, partitioner in specs if partitioner is None and spec.name not in existing])
        return not existing

    def _topics_read(self) -> list[str]:
        """Return the topics that the agents read, including their retry topics (`dlq replay`)."""
        runtime, there = runtime_of(self.app), Admin(self._cluster).partitions()
        return [*(runtime.resolve_topic(name) for name in self._app_topics), *existing_retry_topics(runtime, there)]

    def _replay_and_process(
        self, report: RunReport, completion: Completion, pool: WorkerPool, counts: BackgroundCounts
    ) -> None:
        """Replay the inputs phase by phase, and wait after each phase until the group has processed it."""
        report.finished_before = True
        phases = sorted({i.phase for i in self._inputs})
        for stage, phase in enumerate(phases, 1):
            completion.begin_phase()
            for i, (given, history) in enumerate(zip(self._inputs, self._histories, strict=True)):
                if given.phase == phase:
                    report.replays.append(self._replay(i, history, report, pool, completion))
            completion.begin(_end_offsets(report.replays))
            if all(replay.already_done for replay in report.replays) and completion.is_complete():
                continue
            report.finished_before = False
            last = phase == phases[-1]
            report.timeline.note("all in Kafka" if last else f"stage {stage} in Kafka")
            self._keep_workers(report, pool, completion)
            pool.history_complete()
            completion.count_ahead(counts)
            pool.set_end_offsets(ends_of_partitions(self._aligned.get(phase, ()), self._counts, completion.end_offsets))
            pool.set_end_offsets(completion.end_offsets)
            while not completion.is_complete():
                pool.set_end_offsets(completion.end_offsets)
                self._keep_workers(report, pool, completion)
                self._watcher.processing(completion.done_offsets, completion.left_offsets)
                clock.sleep(_POLL_S)
            report.timeline.note("processed" if last else f"stage {stage} processed")

    def _keep_workers(self, report: RunReport, pool: WorkerPool, completion: Completion) -> None:
        """Start the workers, or restart those that were killed.

        Where the run existed before, this is called first when records have been produced: a finished run needs no
        workers. Into live, workers are started only if the app has none.
        """
        if pool.pids:
            pool.check()
        elif not self._into_live or not completion.members():
            pool.start()
            report.timeline.note("workers started")

    def _replay(
        self, number: int, history: Replayable, report: RunReport, pool: WorkerPool, completion: Completion
    ) -> Report:
        topic = self._topics[number]
        player = Player(
            self._cluster,
            history,
            topic,
            pipeline=self._pipeline,
            pace=self._pace,
            run_id=self._replay_id(number),
            on_bad_line=self._on_bad_line,
            pack=self._pack,
            ends_input=self._ends_input(number),
            value_type=self._value_type(topic),
            private=runtime_of(self.app).private.of(topic),
            check=self._late_check(topic) if self._into_live else None,
        )

        def on_progress(progress: Progress) -> None:
            report.timeline.note("first records in Kafka")
            self._keep_workers(report, pool, completion)
            self._watcher.replaying(self._app_name_of(topic), progress)
            if pool.pids and clock.now_s() - self._looked_s > _LOOK_S:
                self._looked_s = clock.now_s()
                with contextlib.suppress(AnabranchError):  # the replay waits for a broker that is away
                    self._watcher.processing(*completion.progress())

        return player.play(on_progress)

    def _late_check(self, topic: str) -> Callable[[Replayable, Partitioner], None]:
        return late_check(
            self._cluster, topic, self._pipeline, app=self.app, allow=self._allow_late, note=self._watcher.note
        )

    def _ends_input(self, number: int) -> bool:
        """Return whether a topic with windows has no further record behind this input."""
        if self._into_live:
            return False
        topic, phase = self._topics[number], self._inputs[number].phase
        later = [
            other
            for other, given in enumerate(self._inputs)
            if self._topics[other] == topic and (given.phase, other) > (phase, number)
        ]
        return topic in self._with_end and not later

    def _count(self, report: RunReport, completion: Completion, counts: BackgroundCounts) -> None:
        """Count what was processed, what failed and what the input topics hold (blocking).

        Raises:
            Stop: see `_verify`.
            Usage: windows did not close; see `refuse_open_windows`.
        """
        if not self._into_live:
            refuse_open_windows(self.app, time_rows(self._cluster, self.app))
        report.processed = [] if report.finished_before else completion.processed(counts)
        report.failed = self._failed(report, completion)
        late = late_records(self._cluster, self.app, _produced(report) if self._into_live else None)
        report.late, report.late_closed = late
        # Topics of the app itself have other producers and may delete records, so their counts prove nothing.
        report.found = report.records if self._into_live else self._verify(report)
        report.timeline.note("counted")

    def _verify(self, report: RunReport) -> int:
        """Count the records in the input topics, except in those that were counted as processed.

        Raises:
            Stop: there are fewer than the run produced, so the result is worth nothing.
        """
        counts = {progress.topic: progress.records for progress in report.processed}
        topics = Admin(self._cluster).partitions(set(self._topics))
        found = sum(
            counts[topic] if topic in counts else count_records(self._cluster, topic, count)
            for topic, count in topics.items()
        )
        if found < report.records:
            raise Stop(
                f"run {self.run_id} produced {report.records:,} records, but its topics hold {found:,}",
                hint="records of the run were deleted; --run-id NAME starts another run",
            )
        return found

    def _replay_id(self, number: int) -> str | None:
        """Return the run id of an input's replay.

        Into live, it is the id that the replay derives by itself, so that a changed program does not produce the
        history a second time.
        """
        if self._into_live:
            return f"{self._given_id}-{number}" if self._given_id else None
        return f"{self.app.conf.id}-{number}"

    def _failed(self, report: RunReport, completion: Completion) -> list[FailedRecords]:
        """Return what failed in this run, including earlier starts.

        Into live, only records that the run produced, and what the agents made of them during this start, are counted.
        """
        app, ranges = self.app.conf.id, None
        if self._into_live:
            ranges = {**completion.offset_ranges, **_produced(report)}
            agents = self.app.agents.values()
            report.unrecorded = tuple(agent.name for agent in agents if getattr(agent, "on_failure", "") == "skip")
        failed = dead_letters(self._cluster, app, completion.topics, ranges)
        skipped = [] if self._into_live else skipped_records(self._cluster, app)
        return [*bad_lines(report.replays), *failed, *skipped]


def _produced(report: RunReport) -> dict[TopicPartition, tuple[int, int]]:
    """Return the offset ranges of the records that a run produced."""
    return {
        TopicPartition(replay.topic, p): (begin, replay.end_offsets[p])
        for replay in report.replays
        for p, begin in replay.begin_offsets.items()
    }


def _end_offsets(replays: Sequence[Report]) -> dict[TopicPartition, int]:
    """Return the offsets after the last records of all replays, by topic and partition."""
    ends: dict[TopicPartition, int] = {}
    for replay in replays:
        for partition, end in replay.end_offsets.items():
            at = TopicPartition(replay.topic, partition)
            ends[at] = max(end, ends.get(at, 0))
    return ends
