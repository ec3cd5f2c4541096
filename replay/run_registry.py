"""Where runs stand: the compacted topic of runs.

    topic   anabranch-runs, one partition, cleanup.policy=compact
    key     run id
    value   JSON of `RunState`, written in the same transaction as the records it counts

So the state that a `read_committed` reader finds is exactly that of the records it finds. It must be read after the
run's own `TransactionalProducer.open()`: that ends what a dead predecessor left open, and fences a living one, so that
the state cannot change behind the reader's back. Unknown fields are ignored: a newer program's state can be read.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from confluent_kafka import TopicPartition

from ..topics.admin import Admin, TopicSpec
from ..topics.cluster import Cluster
from ..topics.errors import Stop
from ..topics.partition_reader import read_to_end
from .sources.source import SourcePosition

__all__ = ["BROKER_DEFAULT", "RUNS_TOPIC", "RunRegistry", "RunState"]

RUNS_TOPIC = "anabranch-runs"

_logger = logging.getLogger("anabranch.runs")

# Another run's transaction that its death left open holds back what follows it until the broker ends it: the timeout
# of 10 s, and the broker's look at timeouts every 10 s.
_READ_S = 60.0

# Replicas of a topic: as many as the cluster is set up to give.
BROKER_DEFAULT = -1


class RunState(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What a run has done, as of its last transaction.

    Attributes:
        specs: the sources that were named; with `format` and `topic`, what was asked.
        fingerprint: of the files, see `FileHistory.fingerprint`.
        position: of the next item; opaque.
        sent, skipped, dead_letters, blank: counts of lines or records since the run began.
        counts: records sent, by partition.
        begins: by partition, the offset of the first record sent.
        marks: end marks: by partition, the offset after the last record sent; none where nothing was sent.
        types: of columns whose files do not say them, as the first start found them, so that every start has the same.
        ends: where a topic that is replayed ended at the first start, by partition.
        done: the sources were read to their end.
        started_ms, updated_ms: wall clock, milliseconds since 1970.
    """

    run_id: str
    topic: str
    specs: tuple[str, ...]
    format: dict[str, Any]
    fingerprint: str
    started_ms: int
    updated_ms: int = 0
    position: SourcePosition | None = None
    sent: int = 0
    skipped: int = 0
    dead_letters: int = 0
    blank: int = 0
    counts: dict[int, int] = {}
    begins: dict[int, int] = {}
    marks: dict[int, int] = {}
    ends: dict[int, int] = {}
    types: dict[str, str] | None = None
    done: bool = False


class RunRegistry:
    """The topic of runs of a cluster."""

    def __init__(self, cluster: Cluster, topic: str = RUNS_TOPIC) -> None:
        self._cluster = cluster
        self._admin = Admin(cluster)
        self.topic = topic

    def create(self) -> None:
        """Make the topic where it is missing.

        Raises:
            Stop: it exists and is not what runs can be kept in.
        """
        # Small segments, because only closed ones are compacted, and every start reads them all.
        config = {"cleanup.policy": "compact", "segment.bytes": str(16 * 1024 * 1024)}
        found = self._admin.partitions([self.topic]).get(self.topic)
        if found is None:
            self._admin.create([TopicSpec(self.topic, 1, BROKER_DEFAULT, config)])
        elif found != 1 or "compact" not in self._admin.config(self.topic).get("cleanup.policy", ""):
            raise Stop(
                f"topic {self.topic} holds the positions of runs and must be compacted and have 1 partition",
                hint="it was made by somebody else: delete it if nothing in it matters",
            )

    def read(self, run_id: str) -> RunState | None:
        """The committed state of a run; None where it never committed anything (blocking).

        Raises:
            Stop: the topic cannot be read to its end in a minute, or the state is not one.
        """
        value = self._values().get(run_id.encode())
        return None if value is None else self._decoded(run_id, value)

    def all(self) -> list[RunState]:
        """The committed states of all runs, by id (blocking). What is not one is left out, and a warning says so.

        Raises:
            Stop: the topic cannot be read to its end in a minute.
        """
        if not self._admin.partitions([self.topic]):
            return []
        found: list[RunState] = []
        for key, value in sorted(self._values().items()):
            try:
                found.append(self._decoded(key.decode(errors="replace"), value))
            except Stop as exc:
                _logger.warning("left out: %s", exc)
        return found

    def holds(self, state: RunState) -> bool:
        """Whether the topic still has the offsets that the run wrote to; if not, it was deleted or made anew."""
        partitions = self._admin.partitions([state.topic]).get(state.topic, 0)
        if any(partition >= partitions for partition in state.marks):
            return False
        ends = self._admin.ends([TopicPartition(state.topic, partition) for partition in state.marks])
        return all(ends[state.topic, partition] >= mark for partition, mark in state.marks.items())

    @staticmethod
    def record(state: RunState) -> tuple[bytes, bytes]:
        """Key and value that keep a state."""
        return state.run_id.encode(), msgspec.json.encode(state)

    def _decoded(self, run_id: str, value: bytes) -> RunState:
        try:
            return msgspec.json.decode(value, type=RunState)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise Stop(
                f"the state of run {run_id} in {self.topic} cannot be read: {exc}",
                hint="--run-id NAME starts another run; a tombstone with the run's name as the key forgets this one",
            ) from None

    def _values(self) -> dict[bytes, bytes]:
        partition = TopicPartition(self.topic, 0)
        # The end with open transactions: behind one of them may stand what our predecessor committed.
        ends, begins = self._admin.ends([partition]), self._admin.begins([partition])
        last: dict[bytes, bytes] = {}
        for run in read_to_end(self._cluster, begins, ends, stalled_s=_READ_S):
            for message in run.messages:
                key, value = message.key(), message.value()
                if key is None:
                    continue  # no run is called so
                if value is None:
                    last.pop(key, None)
                else:
                    last[key] = value
        return last
