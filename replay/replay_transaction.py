"""One transaction of a replay: records, dead letters and the position after them become visible together.

Records are kept until they are committed: when Kafka aborts a transaction, the same records are sent in a new one.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import repeat, starmap
from operator import length_hint

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message

from ..topics import clock
from ..topics.control_records import END_OF_INPUT, ControlRecord
from ..topics.dead_letter import dead_letter
from ..topics.errors import AnabranchError, Rebuild, Stop
from ..topics.packed import packed_rows
from ..topics.partitioners import Partitioner
from ..topics.producer import Aborted, Headers, OnDelivery, TransactionalProducer
from .pipeline.partitioning import key_partitions, last_of_each
from .run_state import RunRegistry, RunState
from .sources.source import SourcePosition
from .sources.source_record import BadLine, SourceRecord
from .target_topic import TargetTopic

__all__ = ["Transaction"]

_ATTEMPTS = 10
_PAUSE_S = (0.1, 2.0)

# Of many records: keys, values, timestamps, headers.
_Columns = tuple[list[bytes | None], list[bytes | None], list[int], list[Headers | None]]

_SIZE_HINT = "if it is too large: -X message.max.bytes=… here, and max.message.bytes of topic {topic}"


class Transaction:
    """One transaction. It begins with the first record, so none is open while the source waits.

    Args:
        partitioner: that of the topic.
        state: the run's state before this transaction.

    Attributes:
        skipped, blank: bad lines that were skipped and blank lines; the caller counts them.
        newest_ms: the latest event time of the records that were sent last; 0 if they have no times.
        size_bytes: size of all values.
        ends_partitions: partitions that end with this transaction: each gets an end-of-input message at its commit.
    """

    def __init__(
        self,
        producer: TransactionalProducer,
        runs: RunRegistry,
        target: TargetTopic,
        partitioner: Partitioner,
        state: RunState,
    ) -> None:
        self._producer = producer
        self._runs = runs
        self._target = target
        self._partitioner = partitioner
        self._state = state
        self._batches: list[tuple[_Columns, list[int]]] = []
        self._bad: list[BadLine] = []
        self._counts: Counter[int] = Counter()
        self._begin_offsets: dict[int, int] = {}
        self._end_offsets: dict[int, int] = {}
        # Partitions that have received records, and those whose first record may be lost (see `_on_first_delivery`).
        self._reached: set[int] = set()
        self._doubtful: set[int] = set()
        self._sent = 0
        self._begun = False
        self._aborted = ""
        self.size_bytes = 0
        self.skipped = 0
        self.blank = 0
        self.newest_ms = 0
        self.ends_partitions: Sequence[int] = ()

    def __len__(self) -> int:
        """Number of records and dead letters; each row of a packed batch counts as a record."""
        return self._sent + len(self._bad)

    @property
    def empty(self) -> bool:
        """True if the transaction has nothing to commit: no records, and no lines that were skipped."""
        return not (len(self) or self.skipped or self.blank)

    def send(self, records: Sequence[SourceRecord], now_ms: int) -> None:
        """Send records; they are kept until the commit.

        Raises:
            Stop: the topic would not keep them, or one is too large.
        """
        # Not zip(*records): it creates an iterator for each record, and the garbage collector visits them all.
        keys, values = [record[0] for record in records], [record[1] for record in records]
        times, headers = [record[2] for record in records], [record[3] for record in records]
        columns: _Columns = keys, values, times, headers
        newest_ms = max(times)
        if newest_ms:
            self._target.check_times(min(times) or min(filter(None, times)), newest_ms, now_ms)
            self.newest_ms = newest_ms
        if self._target.compacts:
            self._target.check_keys(without_key=None in keys)
        own = [record[4] for record in records]
        partitions = key_partitions(keys, own, self._partitioner, self._state.sent + self._sent)
        self._batches.append((columns, partitions))
        rows = _rows_per_message(headers)
        if rows is None:
            self._counts.update(partitions)
            self._sent += len(partitions)
        else:
            for partition, count in zip(partitions, rows, strict=True):
                self._counts[partition] += count
            self._sent += sum(rows)
        self.size_bytes += sum(map(len, filter(None, values)))
        if not self._aborted:
            try:
                self._produce(columns, partitions)
            except Aborted as exc:
                self._aborted = str(exc)

    def send_bad_lines(self, bad: list[BadLine]) -> None:
        """Send lines that could not become records to the dead-letter topic."""
        self._bad += bad
        if not self._aborted:
            try:
                self._produce_dead_letters(bad)
            except Aborted as exc:
                self._aborted = str(exc)

    def commit(self, position: SourcePosition, *, done: bool, now_ms: int) -> RunState:
        """Commit the records together with the new state of the run, and return that state (blocking).

        Raises:
            Stop: Kafka aborts the transaction repeatedly, or does not report its outcome.
            Rebuild: another process has taken the run over.
        """
        # Not the loop of the engine's `ExactlyOnce`: a replay has no group that it could lose, and the records of an
        # aborted transaction are still at hand as columns.
        for attempt in range(_ATTEMPTS):
            try:
                if self._aborted:
                    self._send_again()
                self._begin()
                self._produce_ends()
                # Offsets are known only when all records are delivered.
                self._producer.flush()
                if self._doubtful:
                    self._producer.abort()
                    raise Aborted(f"the first records of partitions {sorted(self._doubtful)} may be lost")
                state = self._next_state(position, done=done, now_ms=now_ms)
                key, value = self._runs.record(state)
                self._producer.produce(self._runs.topic, value, key)
                self._producer.commit()
                return state
            except Aborted as exc:
                self._aborted = str(exc)
                clock.sleep(min(_PAUSE_S[0] * 2**attempt, _PAUSE_S[1]))
        raise Stop(
            f"Kafka aborted the same transaction {_ATTEMPTS} times: {self._aborted}", hint="see the broker's log"
        )

    def abandon(self) -> None:
        """Abort the transaction, if it is open."""
        if self._begun and not self._aborted:
            # An error is being raised already; a transaction that cannot be aborted here ends by its timeout.
            with contextlib.suppress(AnabranchError, Aborted, KafkaException):
                self._producer.abort()

    def _begin(self) -> None:
        if not self._begun:
            self._producer.begin()
            self._begun = True

    def _send_again(self) -> None:
        """Send the records of an aborted transaction with a new client: see `TransactionalProducer.renew`."""
        self._producer.renew()
        self._check_owner()
        self._begun = False
        self._aborted = ""
        self._reached.clear()
        self._doubtful.clear()
        self._begin_offsets.clear()
        for columns, partitions in self._batches:
            self._produce(columns, partitions)
        self._produce_dead_letters(self._bad)

    def _check_owner(self) -> None:
        """Raise Rebuild if the run's state is not ours any more: a new client fences whoever has written it."""
        state, found = self._state, self._runs.read(self._state.run_id)
        if found is None:
            changed = state.updated_ms > 0  # forgotten
        else:
            # A run of a source that cannot be resumed may have begun anew under its name, so an older state is there.
            changed = found.started_ms >= state.started_ms and self._runs.record(found) != self._runs.record(state)
        if changed:
            raise Rebuild(f"the state of run {state.run_id} has changed since this process wrote it")

    def _produce(self, columns: _Columns, partitions: list[int]) -> None:
        self._begin()
        keys, values, times, headers = columns
        last = last_of_each(partitions)
        # Delivery reports cost time, so only the first and the last record of each partition have one.
        reports: list[OnDelivery | None] = [None] * len(partitions)
        for number in last.values():
            reports[number] = self._on_delivery
        for partition in last.keys() - self._reached:
            reports[partitions.index(partition)] = self._on_first_delivery
        self._reached |= last.keys()
        left = iter(partitions)
        calls = zip(repeat(self._target.topic), values, keys, left, reports, repeat(None), times, headers)
        while True:
            try:
                # A Python loop would add half of the time that the calls take.
                deque(starmap(self._producer.produce_fast, calls), maxlen=0)
                break
            except (BufferError, KafkaException):
                # The queue is full, or an error: `produce` waits while the queue is full, and sorts the errors.
                at = len(partitions) - length_hint(left) - 1
                self._produce_one(values[at], keys[at], partitions[at], times[at], headers[at], reports[at])
        self._producer.poll()

    def _produce_one(
        self,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        timestamp_ms: int,
        headers: Headers | None,
        report: OnDelivery | None,
    ) -> None:
        topic = self._target.topic
        try:
            self._producer.produce(topic, value, key, partition, timestamp_ms, headers, report)
        except Stop as exc:
            if "MSG_SIZE" not in str(exc):
                raise
            size = len(value or b"") + len(key or b"")
            raise Stop(f"{exc} (a record of {size:,} bytes)", hint=_SIZE_HINT.format(topic=topic)) from exc

    def _produce_dead_letters(self, bad: list[BadLine]) -> None:
        for line in bad:
            self._begin()
            # A path may contain bytes that are not UTF-8; a dead letter must not fail because of them.
            source = line.position.encode("utf-8", "backslashreplace").decode()
            letter = dead_letter(
                topic=self._target.topic, reason="line", error=line.reason, key=None, value=line.value, source=source
            )
            self._producer.produce(letter.topic, letter.value, letter.key, headers=letter.headers)

    def _produce_ends(self) -> None:
        key, value, headers = ControlRecord(END_OF_INPUT).written()
        for partition in self.ends_partitions:
            report = self._on_delivery if partition in self._reached else self._on_first_delivery
            self._produce_one(value, key, partition, 0, headers, report)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        # A record that was not delivered fails the commit, so errors are not handled here.
        if error is None and partition is not None and offset is not None and offset >= 0:
            self._end_offsets[partition] = max(offset + 1, self._end_offsets.get(partition, 0))

    def _on_first_delivery(self, error: KafkaError | None, message: Message) -> None:
        """Handle the delivery report of a partition's first record.

        If the broker refuses the first batch once, because the partition is new or has moved, and accepts a later batch
        before the first is sent again, librdkafka reports the first as delivered, without an offset
        (confluentinc/confluent-kafka-go#921): it may be lost. Once a partition has received a batch, the broker
        enforces the order, and this cannot happen.
        """
        partition, offset = message.partition(), message.offset()
        if error is None and partition is not None and (offset is None or offset < 0):
            self._doubtful.add(partition)
        elif error is None and partition is not None and offset is not None:
            self._begin_offsets[partition] = offset
        self._on_delivery(error, message)

    def _next_state(self, position: SourcePosition, *, done: bool, now_ms: int) -> RunState:
        state = self._state
        return msgspec.structs.replace(
            state,
            position=position,
            sent=state.sent + self._sent,
            skipped=state.skipped + self.skipped,
            dead_letters=state.dead_letters + len(self._bad),
            blank=state.blank + self.blank,
            counts=_added(state.counts, self._counts),
            begin_offsets={**self._begin_offsets, **state.begin_offsets},
            end_offsets={**state.end_offsets, **self._end_offsets},
            done=done,
            updated_ms=now_ms,
        )


def _added(counts: Mapping[int, int], more: Mapping[int, int]) -> dict[int, int]:
    return {p: counts.get(p, 0) + more.get(p, 0) for p in sorted({*counts, *more})}


def _rows_per_message(headers: Sequence[Headers | None]) -> list[int] | None:
    """Return how many rows each message holds, according to its headers; None if each is a record."""
    if headers.count(None) == len(headers):
        return None
    return [packed_rows(found) if found else 1 for found in headers]
