"""One transaction of a replay: records, dead letters and the position after them, visible together.

What was sent is kept until it is committed: when Kafka aborts a transaction, the same items are sent in a new one.
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
from ..topics.dead_letter import dead_letter
from ..topics.errors import AnabranchError, Stop
from ..topics.partitioners import Partitioner
from ..topics.producer import Aborted, Headers, OnDelivery, TransactionalProducer
from .pipeline.packing import rows_of
from .pipeline.partitioning import last_of_each, places_of
from .run_registry import RunRegistry, RunState
from .sources.source import SourcePosition
from .sources.source_record import BadLine, SourceRecord
from .target_topic import Target

__all__ = ["Transaction"]

_ATTEMPTS = 10
_PAUSE_S = (0.1, 2.0)

# Of many items: keys, values, times, headers.
_Columns = tuple[list[bytes | None], list[bytes | None], list[int], list[Headers | None]]

_SIZE_HINT = "where it is too large: -X message.max.bytes=… here, and max.message.bytes of topic {topic}"


class Transaction:
    """Begins with the first record, so that a waiting source holds none open.

    Args:
        partitioner: of the topic.
        state: of the run before this.

    Attributes:
        newest_ms: the latest event time of what was sent last; 0 where there is none.
        size_bytes: of the values in it.
    """

    def __init__(
        self,
        producer: TransactionalProducer,
        runs: RunRegistry,
        target: Target,
        partitioner: Partitioner,
        state: RunState,
    ) -> None:
        self._producer = producer
        self._runs = runs
        self._target = target
        self._partitioner = partitioner
        self._state = state
        self._kept: list[tuple[_Columns, list[int]]] = []
        self._bad: list[BadLine] = []
        self._counts: Counter[int] = Counter()
        self._begins: dict[int, int] = {}
        self._marks: dict[int, int] = {}
        # Partitions that have got something, and those of which nobody knows whether they have.
        self._reached: set[int] = set()
        self._unsure: set[int] = set()
        self._sent = 0
        self._begun = False
        self._aborted = ""
        self.size_bytes = 0
        self.skipped = 0
        self.blank = 0
        self.newest_ms = 0

    def __len__(self) -> int:
        """Records (rows, where they are packed) and dead letters in it."""
        return self._sent + len(self._bad)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to say, not even that lines were passed over."""
        return not (len(self) or self.skipped or self.blank)

    def send(self, items: Sequence[SourceRecord], now_ms: int) -> None:
        """Send records; they are kept until the commit.

        Raises:
            Stop: the topic would not keep them, or one is too large.
        """
        # Not zip(*items): it makes an iterator of each item, and the garbage collector looks at them all.
        keys, values, stamps = [item[0] for item in items], [item[1] for item in items], [item[2] for item in items]
        headers, named = [item[3] for item in items], [item[4] for item in items]
        columns: _Columns = keys, values, stamps, headers
        newest_ms = max(stamps)
        if newest_ms:
            self._target.check_times(min(stamps) or min(filter(None, stamps)), newest_ms, now_ms)
            self.newest_ms = newest_ms
        if self._target.compacts:
            self._target.check_keys(without_key=None in keys)
        places = places_of(keys, named, self._partitioner, self._state.sent + self._sent)
        self._kept.append((columns, places))
        rows = rows_of(headers)
        if rows is None:
            self._counts.update(places)
            self._sent += len(places)
        else:
            for at, count in zip(places, rows, strict=True):
                self._counts[at] += count
            self._sent += sum(rows)
        self.size_bytes += sum(map(len, filter(None, values)))
        if not self._aborted:
            try:
                self._produce(columns, places)
            except Aborted as exc:
                self._aborted = str(exc)

    def bury(self, bad: list[BadLine]) -> None:
        """Send lines that could not become records to the dead letter topic."""
        self._bad += bad
        if not self._aborted:
            try:
                self._produce_dead(bad)
            except Aborted as exc:
                self._aborted = str(exc)

    def commit(self, position: SourcePosition, *, done: bool, now_ms: int) -> RunState:
        """Make it visible, with the state of the run after it, which is returned (blocking).

        Raises:
            Stop: Kafka aborts it again and again, or gives no outcome.
            Rebuild: another process has taken the run over.
        """
        # Not the loop of the engine's `ExactlyOnce`: a replay has no group that it could lose, and the records of an
        # aborted transaction are still at hand as columns.
        for attempt in range(_ATTEMPTS):
            try:
                if self._aborted:
                    self._send_again()
                self._begin()
                # Offsets are known only when everything is delivered.
                self._producer.flush()
                if self._unsure:
                    self._producer.abort()
                    raise Aborted(f"what went to partitions {sorted(self._unsure)} first may be lost")
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
        """End it with nothing of it visible."""
        if self._begun and not self._aborted:
            # Whatever is wrong is being raised already; a transaction that cannot be ended here ends by its timeout.
            with contextlib.suppress(AnabranchError, Aborted, KafkaException):
                self._producer.abort()

    def _begin(self) -> None:
        if not self._begun:
            self._producer.begin()
            self._begun = True

    def _send_again(self) -> None:
        self._begun = False
        self._aborted = ""
        self._reached.clear()
        self._unsure.clear()
        self._begins.clear()
        for columns, places in self._kept:
            self._produce(columns, places)
        self._produce_dead(self._bad)

    def _produce(self, columns: _Columns, places: list[int]) -> None:
        self._begin()
        keys, values, stamps, headers = columns
        last = last_of_each(places)
        reports: list[OnDelivery | None] = [None] * len(places)
        for number in last.values():
            reports[number] = self._note
        for partition in last.keys() - self._reached:
            reports[places.index(partition)] = self._note_first
        self._reached |= last.keys()
        left = iter(places)
        calls = zip(repeat(self._target.topic), values, keys, left, reports, repeat(None), stamps, headers)
        while True:
            try:
                # A loop in Python would cost half as much as what it calls.
                deque(starmap(self._producer.produce_fast, calls), maxlen=0)
                break
            except (BufferError, KafkaException):
                # Full, or an error: the other way to produce waits while it is full, and knows errors apart.
                at = len(places) - length_hint(left) - 1
                self._produce_one(values[at], keys[at], places[at], stamps[at], headers[at], reports[at])
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

    def _produce_dead(self, bad: list[BadLine]) -> None:
        for line in bad:
            self._begin()
            # A path may hold bytes that are no UTF-8; a dead letter must not fail over that.
            where = line.position.encode("utf-8", "backslashreplace").decode()
            letter = dead_letter(
                topic=self._target.topic, reason="line", error=line.reason, key=None, value=line.value, source=where
            )
            self._producer.produce(letter.topic, letter.value, letter.key, headers=letter.headers)

    def _note(self, error: KafkaError | None, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        # A record that was not delivered fails the commit, so it needs no word here.
        if error is None and partition is not None and offset is not None and offset >= 0:
            self._marks[partition] = max(offset + 1, self._marks.get(partition, 0))

    def _note_first(self, error: KafkaError | None, message: Message) -> None:
        """The first record for a partition. Whoever is refused once, for the partition is new or has moved, and sends
        more meanwhile, may find that accepted first; librdkafka then takes the first for delivered, without an offset
        (confluentinc/confluent-kafka-go#921). Once a partition has got something, the broker minds the order."""
        partition, offset = message.partition(), message.offset()
        if error is None and partition is not None and (offset is None or offset < 0):
            self._unsure.add(partition)
        elif error is None and partition is not None and offset is not None:
            self._begins[partition] = offset
        self._note(error, message)

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
            begins={**self._begins, **state.begins},
            marks={**state.marks, **self._marks},
            done=done,
            updated_ms=now_ms,
        )


def _added(counts: Mapping[int, int], more: Mapping[int, int]) -> dict[int, int]:
    return {p: counts.get(p, 0) + more.get(p, 0) for p in sorted({*counts, *more})}
