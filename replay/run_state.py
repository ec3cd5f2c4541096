"""Where a replay's position is kept: the state of each run, in a compacted topic.

    topic   anabranch-runs, one partition, cleanup.policy=compact
    key     run id
    value   JSON of `RunState`, written in the same transaction as the records that it counts

So the state that a `read_committed` reader finds always matches the records that it finds. A run reads its state after
its own `TransactionalProducer.open()`: that aborts a transaction which a dead predecessor left open and fences a live
one, so the state cannot change after it was read. Unknown fields are ignored: the state of a newer program can be read.
"""

from __future__ import annotations

import logging

import msgspec
from confluent_kafka import TopicPartition as KafkaPartition

from ..topics.admin import Admin, TopicSpec
from ..topics.cluster import Cluster
from ..topics.errors import Stop
from ..topics.partition_reader import read_to_end
from ..topics.topic_partition import TopicPartition
from .sources.source import SourcePosition

__all__ = ["BROKER_DEFAULT", "RUNS_TOPIC", "RunRegistry", "RunState"]

RUNS_TOPIC = "anabranch-runs"

_logger = logging.getLogger("anabranch.runs")

# A transaction that another run left open when it died holds back the records behind it until the broker aborts it:
# after its timeout of 10 s, and the broker checks timeouts every 10 s.
_READ_S = 60.0

# Replication factor of a new topic: the cluster's default.
BROKER_DEFAULT = -1


class RunState(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The state of a run as of its last transaction.

    Attributes:
        specs: the sources as the user named them; together with `format` and `topic`, the user's request.
        format: the options that determine the records that are read from the sources, as plain JSON.
        fingerprint: fingerprint of the sources' content, see `Replayable.fingerprint`.
        position: position of the next record; opaque.
        sent, skipped, dead_letters, blank: counts of records or lines since the run began.
        counts: records produced, by partition.
        begin_offsets: by partition, the offset of the first record produced.
        end_offsets: by partition, the offset after the last record produced; absent where nothing was produced.
        types: types of columns that their files do not declare, as the first start found them, so that every start
            uses the same.
        source_ends: by partition, where a topic that is replayed ended at the first start.
        done: the sources were read to their end.
        started_ms, updated_ms: wall clock, milliseconds since 1970.
    """

    run_id: str
    topic: str
    specs: tuple[str, ...]
    format: dict[str, object]
    fingerprint: str
    started_ms: int
    updated_ms: int = 0
    position: SourcePosition | None = None
    sent: int = 0
    skipped: int = 0
    dead_letters: int = 0
    blank: int = 0
    counts: dict[int, int] = {}
    begin_offsets: dict[int, int] = {}
    end_offsets: dict[int, int] = {}
    source_ends: dict[int, int] = {}
    types: dict[str, str] | None = None
    done: bool = False


class RunRegistry:
    """The topic that holds the states of a cluster's runs."""

    def __init__(self, cluster: Cluster, topic: str = RUNS_TOPIC) -> None:
        self._cluster = cluster
        self._admin = Admin(cluster)
        self.topic = topic

    def create(self) -> None:
        """Create the topic if it is missing.

        Raises:
            Stop: it exists with another configuration.
        """
        # Small segments, because only closed ones are compacted, and every start reads them all.
        config = {"cleanup.policy": "compact", "segment.bytes": str(16 * 1024 * 1024)}
        found = self._admin.partitions([self.topic]).get(self.topic)
        if found is None:
            self._admin.create([TopicSpec(self.topic, 1, BROKER_DEFAULT, config)])
        elif found != 1 or "compact" not in self._admin.config(self.topic).get("cleanup.policy", ""):
            raise Stop(
                f"topic {self.topic} holds the positions of runs and must be compacted and have 1 partition",
                hint="it was created by another program: delete it if its content is not needed",
            )

    def read(self, run_id: str) -> RunState | None:
        """Return the committed state of a run; None if it never committed anything (blocking).

        Raises:
            Stop: the topic cannot be read to its end within a minute, or the state cannot be decoded.
        """
        value = self._values().get(run_id.encode())
        return None if value is None else self._decoded(run_id, value)

    def all(self) -> list[RunState]:
        """Return the committed states of all runs, by id (blocking). Logs a warning for one that cannot be decoded.

        Raises:
            Stop: the topic cannot be read to its end within a minute.
        """
        if not self._admin.partitions([self.topic]):
            return []
        found: list[RunState] = []
        for key, value in sorted(self._values().items()):
            try:
                found.append(self._decoded(key.decode(errors="replace"), value))
            except Stop as exc:
                _logger.warning("ignored: %s", exc)
        return found

    def holds(self, state: RunState) -> bool:
        """Return whether the run's topic still has the offsets of its records; False if it was deleted or recreated."""
        partitions = self._admin.partitions([state.topic]).get(state.topic, 0)
        if any(partition >= partitions for partition in state.end_offsets):
            return False
        ends = self._admin.ends([KafkaPartition(state.topic, partition) for partition in state.end_offsets])
        return all(ends[TopicPartition(state.topic, partition)] >= end for partition, end in state.end_offsets.items())

    @staticmethod
    def record(state: RunState) -> tuple[bytes, bytes]:
        """Return key and value of the record that stores a state."""
        return state.run_id.encode(), msgspec.json.encode(state)

    def _decoded(self, run_id: str, value: bytes) -> RunState:
        try:
            return msgspec.json.decode(value, type=RunState)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise Stop(
                f"the state of run {run_id} in {self.topic} cannot be read: {exc}",
                hint="--run-id NAME starts another run; a tombstone with the run's name as the key deletes this state",
            ) from None

    def _values(self) -> dict[bytes, bytes]:
        partition = KafkaPartition(self.topic, 0)
        # The end that includes open transactions: what our predecessor committed may lie behind one.
        ends, begins = self._admin.ends([partition]), self._admin.begins([partition])
        last: dict[bytes, bytes] = {}
        for run in read_to_end(self._cluster, begins, ends, stalled_s=_READ_S):
            for message in run.messages:
                key, value = message.key(), message.value()
                if key is None:
                    continue  # not the state of a run
                if value is None:
                    last.pop(key, None)
                else:
                    last[key] = value
        return last
