"""History played into a topic exactly once.

Promise: killed at any moment and started again, a `read_committed` reader of the topic sees every record of the sources
once, in the sources' order within each partition. It rests on one rule: the position of the next item is written in the
same transaction as the items before it, and read only by who owns the run's `transactional.id`.

Not promised: order between partitions; anything for `read_uncommitted` readers; a socket's lines that were received and
not committed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..topics import clock as process_clock
from ..topics.admin import Admin, TopicSpec
from ..topics.cleanup import on_failure
from ..topics.clock import Clock
from ..topics.cluster import Cluster
from ..topics.dead_letter import dead_letter_topic
from ..topics.errors import Rebuild, Stop, Usage
from ..topics.garbage_collector import seldom_collected
from ..topics.identifiers import random_hex
from ..topics.partitioner_registry import PartitionerRegistry
from ..topics.partitioners import HashPartitioner, Partitioner
from ..topics.producer import TransactionalProducer
from .pipeline.column_profile import Profile
from .pipeline.counters import Counters
from .pipeline.pace import Pace, Paced
from .pipeline.packing import GATHERED_ROWS, Compression, Packing, check_packable
from .pipeline.pipeline import Pipeline
from .replay_report import NEAR_1970, NEAR_1970_MS, Progress, Report
from .run_registry import BROKER_DEFAULT, RUNS_TOPIC, RunRegistry, RunState
from .sources.file_history import FileHistory
from .sources.format import OnBadLine
from .sources.source import Replayable, Source, SourcePosition
from .sources.source_record import BadLine
from .sources.topic_source import TopicHistory
from .target_topic import MAX_MESSAGE_BYTES, Target
from .transaction import Transaction

__all__ = ["DEFAULT_PARTITIONS", "Player"]

DEFAULT_PARTITIONS = 4

# A transaction ends when it holds this much, is this old, or the source has nothing at hand. Larger ones are no faster,
# and what is sent is kept in memory until it is committed, by us and by librdkafka.
TRANSACTION_RECORDS = 50_000
TRANSACTION_BYTES = 32 * 1024 * 1024
TRANSACTION_S = 0.2

# Where records travel packed, many more of them are one transaction; what bounds it is what is kept.
PACKED_TRANSACTION_RECORDS = 5_000_000

_EXAMPLES = 10

# What librdkafka takes unless told otherwise.
_CLIENT_MAX_BYTES = 1_000_000
# Records at the beginning of a start whose columns are looked at, for the report: 20 ms or so.
_PROFILED = 10_000
# As librdkafka has it.
_BATCH_BYTES = 1_000_000
# Of a message for what is around a value.
_AROUND_BYTES = 4_096

_logger = logging.getLogger("anabranch.replay")


class Player:
    """Plays a history into a topic, or the rest of it.

    Args:
        run_id: name of the run; none means the one that follows from what is asked (`Pipeline.run_id`), so that asking
            the same again goes on with the same run. A socket, which cannot go on, gets a new one each time.
        partitions: of the topic, when it is made; 4 unless given. An existing topic keeps its own.
        course: in which order records go, which of them, and what becomes of them.
        pace: how fast; may be another one at each start.
        clock: None for that of the process.
        on_bad_line: `fail` ends the replay at the first, with nothing of its transaction sent; `skip` counts them;
            `dead-letter` sends them to `<topic>.dlq`.
        pack: send packed batches, compressed so; see `topics.packed`. Counts are those of their rows.
        runs_topic: where runs keep their positions.
        value_type: of the topic, where it is known: the report says which values of the first records it refuses.
    """

    def __init__(
        self,
        cluster: Cluster,
        history: Replayable,
        topic: str,
        *,
        course: Pipeline | None = None,
        pace: Pace | None = None,
        run_id: str | None = None,
        partitions: int | None = None,
        partitioner: Partitioner | None = None,
        on_bad_line: OnBadLine = "fail",
        pack: Compression | None = None,
        runs_topic: str = RUNS_TOPIC,
        transaction_records: int | None = None,
        transaction_s: float = TRANSACTION_S,
        batch_lines: int | None = None,
        clock: Clock | None = None,
        value_type: Any = None,
    ) -> None:
        self._course, self._pace, self._clock = course or Pipeline(), pace or Pace(), clock or process_clock.current()
        self._course.checked(history, self._pace)
        way = self._course.identity(history)
        fresh = "" if history.resumable else f"-{random_hex(8)}"
        self._pack: Compression | None = pack
        if pack:
            check_packable(history)
            way["packed"] = True
        self.run_id = run_id or self._course.run_id(history, topic, packed=pack is not None) + fresh
        self._asked = {**history.format.identity(), **({"course": way} if way else {})}
        self._cluster = cluster
        self._history = history
        self._topic = topic
        self._partitions = partitioner.partitions if partitioner is not None else partitions
        self._partitioner = partitioner
        self._on_bad_line: OnBadLine = on_bad_line
        usual = PACKED_TRANSACTION_RECORDS if pack else TRANSACTION_RECORDS
        self._transaction_records = transaction_records or usual
        self._transaction_s = transaction_s
        self._batch_lines = batch_lines
        self._admin = Admin(cluster)
        self._runs = RunRegistry(cluster, runs_topic)
        self._stop = threading.Event()
        self._examples: list[str] = []
        self._warnings: list[str] = []
        self._dead_letters_ready = False
        self._notes = Counters()
        self._profile = Profile(value_type, _PROFILED)

    def stop(self) -> None:
        """End after the transaction that is under way; may be called from a signal handler or another thread."""
        self._stop.set()

    def play(self, on_progress: Callable[[Progress], None] | None = None) -> Report:
        """Send what has not been sent yet, to the sources' end or until `stop()` (blocking).

        Args:
            on_progress: called after each commit, about five times a second, in this thread.

        Raises:
            BadLine: a bad line, with `fail`.
            Usage: a column that is named does not exist.
            Stop: the sources have changed since the run began, cannot be read, or the topic would not keep the records.
            Rebuild: another process has taken the run over.
        """
        begun_s = self._clock.now_s()
        fingerprint = self._history.fingerprint() + self._course.fingerprint()
        self._history.check(self._topic)
        self._runs.create()
        producer = TransactionalProducer(self._cluster, f"anabranch-replay-{self.run_id}", **self._producing())
        try:
            producer.open()
            found = self._runs.read(self.run_id) if self._history.resumable else None
            state = self._accept(found, fingerprint) if found else self._first_state(fingerprint)
            if isinstance(self._history, FileHistory) and state.types is not None:
                self._history = self._history.with_types(state.types)
            if found and state.done and isinstance(self._history, TopicHistory):
                self._warnings += self._history.grown_since(state.ends, state.started_ms)
            if not state.done:
                with seldom_collected():
                    state = self._play_from(state, producer, begun_s, on_progress)
        except Rebuild as exc:
            raise Rebuild(
                f"run {self.run_id} is no longer ours: {exc}",
                hint="it was started a second time, and the later start goes on with it; nothing is sent twice",
            ) from exc
        finally:
            producer.close()
        return self._report(state, found, self._clock.now_s() - begun_s)

    def _producing(self) -> dict[str, Any]:
        """How messages leave: what is packed is compressed already, and may be as large as the topic takes at once."""
        there = self._admin.partitions([self._topic])
        most = Target.of(self._topic, self._admin.config(self._topic)).max_bytes if there else MAX_MESSAGE_BYTES
        if self._pack:
            return {"compression_type": "none", "batch_size": min(_BATCH_BYTES, most)}
        # A topic may take less at a time than clients send by themselves.
        return {"batch_size": most} if most < _BATCH_BYTES else {}

    def _first_state(self, fingerprint: str) -> RunState:
        history = self._history
        return RunState(
            run_id=self.run_id,
            topic=self._topic,
            specs=history.specs,
            format=self._asked,
            fingerprint=fingerprint,
            ends=history.ends if isinstance(history, TopicHistory) else {},
            types=dict(history.schema.format.inferred) if isinstance(history, FileHistory) else None,
            started_ms=self._clock.now_ms(),
        )

    def _accept(self, state: RunState, fingerprint: str) -> RunState:
        """Refuse to go on with a run that was about something else."""
        again = f"--run-id NAME starts another run, which sends everything to {self._topic}"
        if state.topic != self._topic or state.specs != self._history.specs:
            raise Usage(f"run {self.run_id} sends {' '.join(state.specs)} to {state.topic}", hint=again)
        if state.format != self._asked:
            raise Usage(f"run {self.run_id} was begun with other options for its records", hint=again)
        if state.fingerprint != fingerprint:
            own = self._history.fingerprint()
            if own and state.fingerprint.startswith(own):
                raise Stop(
                    f"the transform {self._course.transform} of run {self.run_id} has changed since it began",
                    hint=f"bring it back as it was, or: {again}",
                )
            changed = self._history.changed_since(state.started_ms)
            raise Stop(
                f"the sources of run {self.run_id} have changed since it began"
                + (f": {', '.join(changed[:5])}" if changed else " (files, sizes or contents)"),
                hint=f"bring the files back as they were, or: {again}",
            )
        if not self._runs.holds(state):
            raise Stop(
                f"topic {self._topic} no longer holds what run {self.run_id} sent: it was deleted or made anew",
                hint=again,
            )
        return state

    def _play_from(
        self,
        state: RunState,
        producer: TransactionalProducer,
        begun_s: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> RunState:
        target, partitioner = self._prepare_topic()
        source = self._open(state, target, partitioner)
        watch = _Watch(state, source, begun_s)
        try:
            while not state.done and not self._stop.is_set():
                work = Transaction(producer, self._runs, target, partitioner, state)
                with on_failure(work.abandon):
                    position = self._collect(source, work)
                if work.empty and not source.ended:
                    self._clock.wait(self._stop, source.poll_again_s)
                    continue
                if 0 < work.newest_ms < NEAR_1970_MS and not state.sent:
                    self._warnings.append(f"records of the year 1970: {NEAR_1970}")
                state = work.commit(position, done=source.ended, now_ms=self._clock.now_ms())
                if on_progress is not None:
                    on_progress(self._progress(state, work.newest_ms, source, watch))
        finally:
            source.close()
        return state

    def _open(self, state: RunState, target: Target, partitioner: Partitioner) -> Source:
        more = {} if self._batch_lines is None else {"batch_lines": self._batch_lines}
        history, course = self._history, self._course
        most = int(self._cluster.config().get("message.max.bytes", _CLIENT_MAX_BYTES))
        if self._pack:
            target.check_packed()
        if self._pack or target.max_bytes < most:
            most = min(most, target.max_bytes)
            most -= min(_AROUND_BYTES, most // 4)
            history = history.unpacked()
        if isinstance(history, FileHistory):
            history = history.with_max_record_bytes(most)
            if self._pack and course.columns_stay(history):
                course = replace(course, order="source")
                history = history if self._pace else history.columnar()
        source = course.open(
            history,
            state.position,
            partitioner=partitioner,
            pace=self._pace,
            clock=self._clock,
            notes=self._notes,
            **more,
        )
        if not self._pack:
            return source
        rows = min(GATHERED_ROWS, self._transaction_records)
        look = self._profile.add
        return Packing(source, partitioner, self._pack, max_bytes=most, sent=state.sent, gathered_rows=rows, look=look)

    def _collect(self, source: Source, work: Transaction) -> SourcePosition:
        """Take batches into a transaction until one of its bounds is met; returns the position after them."""
        until_s = self._clock.now_s() + self._transaction_s
        while True:
            batch = source.next_batch()
            if batch.bad:
                self._take_bad(batch.bad, work)
            work.blank += batch.blank
            if batch.records:
                if not self._pack:
                    self._profile.add(batch.records)
                work.send(batch.records, self._clock.now_ms())
            elif source.poll_again_s:
                return batch.after
            full = len(work) >= self._transaction_records or work.size_bytes >= TRANSACTION_BYTES
            if source.ended or full or self._clock.now_s() >= until_s:
                return batch.after

    def _take_bad(self, found: Sequence[BadLine], work: Transaction) -> None:
        bad = sorted(found, key=lambda line: line.line)
        if self._on_bad_line == "fail":
            raise bad[0]
        for line in bad[: _EXAMPLES - len(self._examples)]:
            self._examples.append(f"{line.position}: {line.reason}")
            _logger.warning("bad line (%s) %s", self._on_bad_line, self._examples[-1])
        if self._on_bad_line == "skip":
            work.skipped += len(bad)
            return
        if not self._dead_letters_ready:
            self._make_dead_letter_topic()
        work.bury(bad)

    def _prepare_topic(self) -> tuple[Target, Partitioner]:
        needed = self._history.partitions
        there = self._admin.partitions([self._topic]).get(self._topic)
        found = there or self._partitions or needed or DEFAULT_PARTITIONS
        if needed not in (None, found):
            raise Usage(
                f"the records come from {needed} partitions and would go to topic {self._topic} with {found}",
                hint="--repartition places them by the hash of their keys",
            )
        if there is None:
            partitioner = self._partitioner or HashPartitioner(found)
            PartitionerRegistry(self._cluster).create(TopicSpec(self._topic, found, BROKER_DEFAULT), partitioner)
            return self._checked_target(), partitioner
        if self._partitions not in (None, found):
            self._warnings.append(f"topic {self._topic} exists with {found} partitions, not {self._partitions}")
        partitioner = PartitionerRegistry(self._cluster).check(self._topic, found, self._partitioner)
        return self._checked_target(), partitioner

    def _checked_target(self) -> Target:
        target = Target.of(self._topic, self._admin.config(self._topic))
        self._warnings += target.warnings()
        for warning in self._warnings:
            _logger.warning(warning)
        return target

    def _make_dead_letter_topic(self) -> None:
        self._admin.create([TopicSpec(dead_letter_topic(self._topic), 1, BROKER_DEFAULT)])
        self._dead_letters_ready = True

    def _progress(self, state: RunState, at_ms: int, source: Source, watch: _Watch) -> Progress:
        rounds = self._course.rounds
        inner = source.source if isinstance(source, Packing) else source
        watch.at_ms = at_ms or watch.at_ms
        return Progress(
            sent=state.sent,
            sent_now=state.sent - watch.sent_before,
            skipped=state.skipped,
            dead_letters=state.dead_letters,
            done_bytes=source.done_bytes,
            size_bytes=self._history.size_bytes * rounds,
            begun_bytes=watch.begun_bytes,
            limit=self._course.limit,
            at_ms=watch.at_ms,
            lag_s=inner.lag_s if isinstance(inner, Paced) else 0.0,
            seconds=self._clock.now_s() - watch.begun_s,
        )

    def _report(self, state: RunState, found: RunState | None, seconds: float) -> Report:
        return Report(
            run_id=self.run_id,
            topic=self._topic,
            sent=state.sent,
            skipped=state.skipped,
            dead_letters=state.dead_letters,
            blank=state.blank,
            sent_now=state.sent - (found.sent if found else 0),
            seconds=seconds,
            counts=dict(state.counts),
            begins=dict(state.begins),
            marks=dict(state.marks),
            done=state.done,
            already_done=found is not None and found.done,
            resumed_from=found.sent if found else None,
            resumable=self._history.resumable,
            examples=tuple(self._examples),
            warnings=tuple(self._warnings),
            late=self._notes.late,
            late_ms=self._notes.late_ms,
            left_out=self._notes.left_out,
            profile=self._profile,
        )


class _Watch:
    """What progress is counted from."""

    def __init__(self, state: RunState, source: Source, begun_s: float) -> None:
        self.sent_before, self.begun_bytes, self.begun_s = state.sent, source.done_bytes, begun_s
        self.at_ms = 0
