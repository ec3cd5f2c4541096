"""Replays a history into a topic exactly once.

Promise: if the replay is killed at any moment and started again, a `read_committed` reader of the topic sees every
record of the sources once, and within each partition in the order of the sources. It rests on one rule: the position of
the next record is written in the same transaction as the records before it, and only the owner of the run's
`transactional.id` reads it.

Not promised: order between partitions; anything for `read_uncommitted` readers; lines of a socket that were received
and not committed.
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
from ..topics.private_fields import NOTHING, PrivateFields
from ..topics.producer import TransactionalProducer
from .pipeline.column_profile import Profile
from .pipeline.pace import Pace, PacedSource
from .pipeline.packing import GATHERED_ROWS, Compression, PackingSource, check_packable
from .pipeline.pipeline import Pipeline
from .replay_report import NEAR_1970, NEAR_1970_MS, Counters, Progress, Report
from .replay_transaction import Transaction
from .run_state import BROKER_DEFAULT, RUNS_TOPIC, RunRegistry, RunState
from .sources.file_history import FileHistory
from .sources.format import OnBadLine
from .sources.source import Replayable, Source, SourcePosition
from .sources.source_record import BadLine
from .sources.topic_source import TopicHistory
from .target_topic import MAX_MESSAGE_BYTES, TargetTopic

__all__ = ["DEFAULT_PARTITIONS", "Player"]

DEFAULT_PARTITIONS = 4

# A transaction ends when it holds this much, is this old, or the source has no records now. Larger ones are not faster,
# and records are kept in memory until they are committed, here and in librdkafka.
TRANSACTION_RECORDS = 50_000
TRANSACTION_BYTES = 32 * 1024 * 1024
TRANSACTION_S = 0.2

# Packed records are small, so a transaction holds many more of them; its size in bytes is the bound that matters.
PACKED_TRANSACTION_RECORDS = 5_000_000

_EXAMPLES = 10

# librdkafka's default of message.max.bytes.
_CLIENT_MAX_BYTES = 1_000_000
# Records of each start that are profiled for the report; it takes about 20 ms.
_PROFILED = 10_000
# librdkafka's default of batch.size.
_BATCH_BYTES = 1_000_000
# Room in a message beside its value.
_OVERHEAD_BYTES = 4_096

_logger = logging.getLogger("anabranch.replay")


class Player:
    """Replays a history into a topic, or what an earlier start has left of it.

    Args:
        pipeline: the order of the records, which of them are replayed, and what is done with them.
        pace: how fast; may differ at each start.
        run_id: name of the run. None derives it from the history, the pipeline and the topic (`Pipeline.run_id`), so
            that the same replay resumes the same run. A socket cannot be resumed: it gets a new run each time.
        partitions: how many the topic has when it is created, 4 by default. An existing topic keeps its own number.
        partitioner: of the topic when it is created, by default the hash of the key. That of an existing topic must be
            the same.
        on_bad_line: `fail` ends the replay at the first bad line and aborts its transaction; `skip` counts bad lines;
            `dead-letter` sends them to `<topic>.dlq`.
        pack: send packed batches with this compression; see `topics.packed`. Counts are those of their rows.
        runs_topic: the topic that stores the positions of runs.
        clock: for tests.
        ends_input: write an end-of-input message into each partition behind the last record. Only for topics in which
            control records count, the inputs of a bounded run.
        value_type: of the topic, if it is known: the report says which values of the first records it refuses.
        private: the topic's private fields, of which the report shows no values.
        check: called with the history and the topic's partitioner before the first record of a run is sent; what it
            raises ends the replay.
    """

    def __init__(
        self,
        cluster: Cluster,
        history: Replayable,
        topic: str,
        *,
        pipeline: Pipeline | None = None,
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
        ends_input: bool = False,
        value_type: object = None,
        private: PrivateFields = NOTHING,
        check: Callable[[Replayable, Partitioner], None] | None = None,
    ) -> None:
        self._check = check
        self._pipeline, self._pace, self._clock = (
            pipeline or Pipeline(),
            pace or Pace(),
            clock or process_clock.current(),
        )
        self._pipeline.checked(history, self._pace)
        options = self._pipeline.identity(history)
        fresh = "" if history.resumable else f"-{random_hex(8)}"
        self._pack: Compression | None = pack
        if pack:
            check_packable(history)
            options["packed"] = True
        self.run_id = run_id or self._pipeline.run_id(history, topic, packed=pack is not None) + fresh
        self._options: dict[str, object] = {**history.format.identity(), **({"pipeline": options} if options else {})}
        self._cluster = cluster
        self._history = history
        self._topic = topic
        self._partitions = partitioner.partitions if partitioner is not None else partitions
        self._partitioner = partitioner
        self._on_bad_line: OnBadLine = on_bad_line
        default = PACKED_TRANSACTION_RECORDS if pack else TRANSACTION_RECORDS
        self._transaction_records = transaction_records or default
        self._transaction_s = transaction_s
        self._batch_lines = batch_lines
        self._admin = Admin(cluster)
        self._runs = RunRegistry(cluster, runs_topic)
        self._ends_input = ends_input
        self._stop = threading.Event()
        self._examples: list[str] = []
        self._warnings: list[str] = []
        self._dead_letters_ready = False
        self._counters = Counters()
        self._profile = Profile(value_type, _PROFILED, private=private)

    def stop(self) -> None:
        """Stop after the current transaction. May be called from a signal handler or another thread."""
        self._stop.set()

    def play(self, on_progress: Callable[[Progress], None] | None = None) -> Report:
        """Send what has not been sent yet, until the end of the sources or until `stop()` (blocking).

        Args:
            on_progress: called in this thread after each commit, about five times a second.

        Raises:
            BadLine: a line is bad, with `on_bad_line="fail"`.
            Usage: an option names a column that does not exist.
            Stop: the sources have changed since the run began, cannot be read, or the topic would not keep the records.
            Rebuild: another process has taken the run over.
        """
        begun_s = self._clock.now_s()
        fingerprint = self._history.fingerprint() + self._pipeline.fingerprint()
        self._history.check(self._topic)
        self._runs.create()
        producer = TransactionalProducer(self._cluster, f"anabranch-replay-{self.run_id}", **self._producer_options())
        try:
            producer.open()
            found = self._runs.read(self.run_id) if self._history.resumable else None
            state = self._accept(found, fingerprint) if found else self._first_state(fingerprint)
            if isinstance(self._history, FileHistory) and state.types is not None:
                self._history = self._history.with_types(state.types)
            if found and state.done and isinstance(self._history, TopicHistory):
                self._warnings += self._history.grown_since(state.source_ends, state.started_ms)
            if not state.done:
                with seldom_collected():
                    state = self._play_from(state, producer, begun_s, on_progress)
        except Rebuild as exc:
            raise Rebuild(
                f"another process has taken over run {self.run_id}: {exc}",
                hint="the run was started a second time, and the later process continues it; no record is sent twice",
            ) from exc
        finally:
            producer.close()
        return self._report(state, found, self._clock.now_s() - begun_s)

    def _producer_options(self) -> dict[str, Any]:
        """Return the producer's options. Packed batches are compressed already, and may fill a whole request."""
        there = self._admin.partitions([self._topic])
        limit = TargetTopic.of(self._topic, self._admin.config(self._topic)).max_bytes if there else MAX_MESSAGE_BYTES
        if self._pack:
            return {"compression_type": "none", "batch_size": min(_BATCH_BYTES, limit)}
        # The topic may accept smaller batches than a producer sends by default.
        return {"batch_size": limit} if limit < _BATCH_BYTES else {}

    def _first_state(self, fingerprint: str) -> RunState:
        history = self._history
        return RunState(
            run_id=self.run_id,
            topic=self._topic,
            specs=history.specs,
            format=self._options,
            fingerprint=fingerprint,
            source_ends=history.ends if isinstance(history, TopicHistory) else {},
            types=dict(history.schema.format.inferred) if isinstance(history, FileHistory) else None,
            started_ms=self._clock.now_ms(),
        )

    def _accept(self, state: RunState, fingerprint: str) -> RunState:
        """Refuse to resume a run with other sources, options or contents; returns its state."""
        again = f"--run-id NAME starts another run, which sends everything to {self._topic}"
        if state.topic != self._topic or state.specs != self._history.specs:
            raise Usage(f"run {self.run_id} sends {' '.join(state.specs)} to {state.topic}", hint=again)
        if state.format != self._options:
            raise Usage(f"run {self.run_id} was started with other options for its records", hint=again)
        if state.fingerprint != fingerprint:
            own = self._history.fingerprint()
            if own and state.fingerprint.startswith(own):
                raise Stop(
                    f"the transform {self._pipeline.transform} of run {self.run_id} has changed since it began",
                    hint=f"restore it, or: {again}",
                )
            changed = self._history.changed_since(state.started_ms)
            raise Stop(
                f"the sources of run {self.run_id} have changed since it began"
                + (f": {', '.join(changed[:5])}" if changed else " (files, sizes or contents)"),
                hint=f"restore the files, or: {again}",
            )
        if not self._runs.holds(state):
            raise Stop(
                f"topic {self._topic} no longer holds the records of run {self.run_id}: it was deleted or recreated",
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
        if self._check is not None and not state.updated_ms:
            self._check(self._history, partitioner)
        source = self._open(state, target, partitioner)
        start = _RunStart(state, source, begun_s)
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
                if source.ended and self._ends_input:
                    work.ends_partitions = range(partitioner.partitions)
                state = work.commit(position, done=source.ended, now_ms=self._clock.now_ms())
                if on_progress is not None:
                    on_progress(self._progress(state, work.newest_ms, source, start))
        finally:
            source.close()
        return state

    def _open(self, state: RunState, target: TargetTopic, partitioner: Partitioner) -> Source:
        more = {} if self._batch_lines is None else {"batch_lines": self._batch_lines}
        history, pipeline = self._history, self._pipeline
        most = int(self._cluster.config().get("message.max.bytes", _CLIENT_MAX_BYTES))
        if self._pack:
            target.check_packed()
        if self._pack or target.max_bytes < most:
            most = min(most, target.max_bytes)
            most -= min(_OVERHEAD_BYTES, most // 4)
            history = history.unpacked()
        if isinstance(history, FileHistory):
            history = history.with_max_record_bytes(most)
            if self._pack and pipeline.keeps_columns(history):
                pipeline = replace(pipeline, order="source")
                history = history if self._pace else history.columnar()
        source = pipeline.open(
            history,
            state.position,
            partitioner=partitioner,
            pace=self._pace,
            clock=self._clock,
            counters=self._counters,
            **more,
        )
        if not self._pack:
            return source
        rows = min(GATHERED_ROWS, self._transaction_records)
        return PackingSource(
            source,
            partitioner,
            self._pack,
            max_bytes=most,
            sent=state.sent,
            gathered_rows=rows,
            on_rows=self._profile.add,
        )

    def _collect(self, source: Source, work: Transaction) -> SourcePosition:
        """Add batches to a transaction until it reaches one of its bounds; returns the position after them."""
        until_s = self._clock.now_s() + self._transaction_s
        while True:
            batch = source.next_batch()
            if batch.bad:
                self._handle_bad(batch.bad, work)
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

    def _handle_bad(self, found: Sequence[BadLine], work: Transaction) -> None:
        bad = sorted(found, key=lambda line: line.line)
        if self._on_bad_line == "fail":
            raise bad[0]
        for line in bad[: _EXAMPLES - len(self._examples)]:
            self._examples.append(line.described)
            _logger.warning("bad line (%s) %s", self._on_bad_line, self._examples[-1])
        if self._on_bad_line == "skip":
            work.skipped += len(bad)
            return
        if not self._dead_letters_ready:
            self._create_dead_letter_topic()
        work.send_bad_lines(bad)

    def _prepare_topic(self) -> tuple[TargetTopic, Partitioner]:
        """Create the topic or check it; returns it and its partitioner."""
        needed = self._history.partitions
        there = self._admin.partitions([self._topic]).get(self._topic)
        found = there or self._partitions or needed or DEFAULT_PARTITIONS
        if needed not in (None, found):
            raise Usage(
                f"the records come from {needed} partitions and would go to topic {self._topic} with {found}",
                hint="--repartition distributes them by the hash of their keys",
            )
        if there is None:
            partitioner = self._partitioner or HashPartitioner(found)
            PartitionerRegistry(self._cluster).create(TopicSpec(self._topic, found, BROKER_DEFAULT), partitioner)
            return self._checked_target(), partitioner
        if self._partitions not in (None, found):
            self._warnings.append(f"topic {self._topic} exists with {found} partitions, not {self._partitions}")
        partitioner = PartitionerRegistry(self._cluster).check(self._topic, found, self._partitioner)
        return self._checked_target(), partitioner

    def _checked_target(self) -> TargetTopic:
        target = TargetTopic.of(self._topic, self._admin.config(self._topic))
        self._warnings += target.warnings()
        for warning in self._warnings:
            _logger.warning(warning)
        return target

    def _create_dead_letter_topic(self) -> None:
        self._admin.create([TopicSpec(dead_letter_topic(self._topic), 1, BROKER_DEFAULT)])
        self._dead_letters_ready = True

    def _progress(self, state: RunState, at_ms: int, source: Source, start: _RunStart) -> Progress:
        rounds = self._pipeline.rounds
        inner = source.source if isinstance(source, PackingSource) else source
        start.at_ms = at_ms or start.at_ms
        return Progress(
            sent=state.sent,
            sent_now=state.sent - start.sent_before,
            skipped=state.skipped,
            dead_letters=state.dead_letters,
            done_bytes=source.done_bytes,
            size_bytes=self._history.size_bytes * rounds,
            begun_bytes=start.begun_bytes,
            limit=self._pipeline.limit,
            at_ms=start.at_ms,
            lag_s=inner.lag_s if isinstance(inner, PacedSource) else 0.0,
            seconds=self._clock.now_s() - start.begun_s,
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
            begin_offsets=dict(state.begin_offsets),
            end_offsets=dict(state.end_offsets),
            done=state.done,
            already_done=found is not None and found.done,
            resumed_from=found.sent if found else None,
            resumable=self._history.resumable,
            examples=tuple(self._examples),
            warnings=tuple(self._warnings),
            out_of_order=self._counters.out_of_order,
            out_of_order_ms=self._counters.out_of_order_ms,
            filtered_out=self._counters.filtered_out,
            profile=self._profile,
        )


class _RunStart:
    """Where this start began; progress is counted from here."""

    def __init__(self, state: RunState, source: Source, begun_s: float) -> None:
        self.sent_before, self.begun_bytes, self.begun_s = state.sent, source.done_bytes, begun_s
        self.at_ms = 0
