"""One topic that letters are put back into: its run, and what was put back so far.

Which letters were put back stands in the topic of runs, written in the same transaction as their records.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from ...topics import clock
from ...topics.admin import Admin, TopicSpec
from ...topics.cleanup import on_failure
from ...topics.cluster import Cluster
from ...topics.dead_letter import HEADROOM_BYTES, retry_header
from ...topics.errors import Rebuild, Stop, Usage
from ...topics.partitioner_registry import PartitionerRegistry
from ...topics.partitioners import HashPartitioner
from ...topics.producer import TransactionalProducer
from ..run_registry import BROKER_DEFAULT, RunRegistry, RunState
from ..sources.source_record import SourceRecord
from ..target_topic import Target
from ..transaction import Transaction
from .letters import Letter
from .offset_ranges import Ranges

__all__ = ["Republished", "create_retry_topic"]

TRANSACTION_BYTES = 16_000_000

# The state of a run is one record, and a topic takes about 1 MB of it unless told otherwise.
_MOST_RANGES = 30_000

# What a retry topic has to take because its source does.
_LIMITS = ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms", "message.timestamp.difference.max.ms")


class Republished:
    """A context manager: it holds the run's producer, so that nobody else puts back the same meanwhile.

    Args:
        state: of the run, before it; one that never put back anything has its start.
        read: finds the state that is committed, once the producer is open.
        retry: the topic is one agent's own, so each record says where it was first.

    Attributes:
        done: offsets of letters that were put back.
        topic: where to.
    """

    def __init__(
        self, cluster: Cluster, admin: Admin, runs: RunRegistry, state: RunState, *, retry: bool, now: bool, most: int
    ) -> None:
        self._cluster, self._admin, self._runs = cluster, admin, runs
        self._state, self._retry, self._now, self._most = state, retry, now, most
        self._producer = TransactionalProducer(cluster, f"anabranch-replay-{state.run_id}")
        self.topic = state.topic
        self.done = Ranges()

    def __enter__(self) -> Republished:
        self._producer.open()
        return self

    def begin(self, found: RunState | None) -> None:
        """Go on from what is committed (blocking).

        Raises:
            Usage: there is no such topic to put it in.
            Stop: the topic does not hold any more what was put back.
        """
        self._state = found or self._state
        partitions = self._admin.partitions([self.topic]).get(self.topic)
        if partitions is None:
            raise Usage(f"no topic {self.topic}", hint="create it, or name another one: --to TOPIC")
        self._target = Target.of(self.topic, self._admin.config(self.topic))
        self._partitioner = PartitionerRegistry(self._cluster).check(self.topic, partitions, None)
        if not self._runs.holds(self._state):
            raise Stop(
                f"topic {self.topic} no longer holds what was put back: it was deleted or made anew",
                hint="--run-id NAME starts another run, which puts back all of them",
            )
        self.done = Ranges(self._state.position)

    def send(self, letters: list[tuple[int, Letter]]) -> None:
        """Put back letters, each with the offset from which on nothing else of their topic is meant (blocking).

        Raises:
            Stop: the topic would not keep the records.
            Rebuild: the same was started a second time.
        """
        try:
            for part in self._parts(letters):
                self._send(Transaction(self._producer, self._runs, self._target, self._partitioner, self._state), part)
        except Rebuild as exc:
            raise self.taken_over(exc) from exc

    def taken_over(self, exc: Rebuild) -> Rebuild:
        """What to say where another process goes on with the run."""
        return Rebuild(
            f"run {self._state.run_id} is no longer ours: {exc}",
            hint="it was started a second time, and the later start goes on with it; nothing is put back twice",
        )

    def _send(self, work: Transaction, part: list[tuple[int, Letter]]) -> None:
        now_ms = clock.now_ms()
        with on_failure(work.abandon):
            work.send([self._item(letter) for _, letter in part], now_ms)
            for begin, letter in part:
                self.done.add(letter.partition, begin, letter.offset + 1)
            if len(self.done) > _MOST_RANGES:
                raise Stop(
                    "the letters put back lie too scattered among the others to be remembered",
                    hint="filter less finely, or put back a range of them: --offset FIRST-LAST",
                )
        self._state = work.commit(self.done.position(), done=False, now_ms=now_ms)

    def _parts(self, letters: list[tuple[int, Letter]]) -> Iterator[list[tuple[int, Letter]]]:
        part: list[tuple[int, Letter]] = []
        size = 0
        for begin, letter in letters:
            part.append((begin, letter))
            size += len(letter.value or b"") + len(letter.key or b"")
            if len(part) >= self._most or size >= TRANSACTION_BYTES:
                yield part
                part, size = [], 0
        if part:
            yield part

    def _item(self, letter: Letter) -> SourceRecord:
        origin = letter.origin
        assert origin is not None
        partitions = self._partitioner.partitions
        own = origin.partition if self._retry or origin.topic == self.topic else None
        if own is not None and own >= partitions:
            if self._retry:
                raise Stop(
                    f"a record of {origin.topic}[{own}] has no partition in {self.topic}, which has {partitions}: "
                    f"{origin.topic} has got more since",
                    hint=f"kafka-topics.sh --alter --topic {self.topic} --partitions, as many as {origin.topic} has",
                )
            own = None
        headers = [*letter.headers, retry_header(origin)] if self._retry else letter.headers
        stamp_ms = 0 if self._now else letter.record_ms
        if not (stamp_ms or self._now):
            raise Stop(
                f"{letter.topic}[{letter.partition}]@{letter.offset}: its record's time is exactly 0 ms, which "
                "librdkafka takes for the present",
                hint="--now re-publishes records with the present time",
            )
        return letter.key, letter.value, stamp_ms, headers or None, own

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._producer.close()


def create_retry_topic(cluster: Cluster, admin: Admin, name: str, source: str) -> None:
    """Make a retry topic where it is missing: partitions, partitioner and limits are those of its source (blocking).

    Raises:
        Usage: the source is gone.
    """
    there = admin.partitions([name, source])
    if name in there:
        return
    if source not in there:
        raise Usage(
            f"topic {source} is gone, so it is not known how many partitions {name} needs",
            hint="create one of them, or name another topic for the records: --to TOPIC",
        )
    config = admin.config(source)
    limits = {key: config[key] for key in _LIMITS if key in config}
    limits["max.message.bytes"] = str(int(config["max.message.bytes"]) + HEADROOM_BYTES)
    registry = PartitionerRegistry(cluster, admin)
    partitioner = registry.of([source]).get(source, HashPartitioner(there[source]))
    registry.create(TopicSpec(name, there[source], BROKER_DEFAULT, limits), partitioner)
