"""An app without a broker: its agents process partitions one by one, with commits, rollbacks and dead letters.

What the engine does with an agent is done here in few lines (`Agents.epoch`): hand over batches; when something raises,
drop the epoch and hand over record by record, each undone alone; encode what is to be committed at the end of an epoch.
Everything else is the real thing: agents of flows, tables, codecs, packed batches, partial results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow
from anabranch import App
from anabranch.agents.decoded_batches import record_batch
from anabranch.agents.engine.outbox import Outbox
from anabranch.agents.engine.partition_queue import QueuedBatch
from anabranch.agents.engine.record_queue import RecordQueue
from anabranch.agents.runtime import runtime_of
from anabranch.agents.tables.table import Table
from anabranch.topics.errors import Stop
from anabranch.topics.output import Output
from anabranch.topics.packed import pack, rows_of
from anabranch.topics.partitioners import HashPartitioner
from anabranch.topics.topic_partition import TopicPartition

__all__ = ["Agents", "Plain", "packed"]

PARTITIONS = 3


class Plain:
    """A record as a consumer hands it over."""

    def __init__(self, offset: int, key: bytes | None, value: bytes | None, headers: Any = None) -> None:
        self._offset, self._key, self._value, self._headers = offset, key, value, headers

    def __len__(self) -> int:
        return len(self._value or b"")

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> Any:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_000


def packed(offset: int, rows: Sequence[dict[str, Any]], schema: pyarrow.Schema, key: str) -> Plain:
    """Rows as one packed record; `__key` holds keys that are no field."""
    made = pack(pyarrow.RecordBatch.from_pylist(list(rows), schema=schema), key=key)
    return Plain(offset, None, made.value, made.headers)


class _Context:
    """The engine as agents of flows see it."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    def combine(self, topic: str, reduce: Callable[[dict[Any, Any]], object], partials: Callable[[], Any]) -> None:
        kept = self._agents.outbox.partials
        if topic not in kept:
            kept[topic] = partials()
        kept[topic].note_time(1_000)
        reduce(kept[topic].states)

    def apply_policy(self, stream: Any, message: Any, error: Exception, reason: str) -> None:
        del reason
        self._agents.letters.append((stream.topic.get_topic_name(), message, error))


class _Stream:
    """The stream of an agent, with one batch."""

    def __init__(self, agents: Agents, topic: Any) -> None:
        self.context, self.topic, self.queue = _Context(agents), topic, RecordQueue()
        self.message: Any = None
        self.batch: QueuedBatch | None = None

    async def queued_batches(self) -> Any:
        yield self.batch

    async def batches(self) -> Any:
        made = record_batch(self, self.batch)
        if made:
            yield made


class Agents:
    """The agents of an app.

    Attributes:
        outbox: of the running epoch.
        letters: topic, record and error of what was given up, for good once the epoch is committed.
        topics: topic -> partition -> records that were sent there.
    """

    def __init__(self, declare: Callable[[App], None]) -> None:
        self.app = App("simulated", topic_partitions=PARTITIONS)
        declare(self.app)
        self.tables: list[Table] = list(runtime_of(self.app).tables)
        for table in self.tables:
            table.changelog_partitions = PARTITIONS
            for partition in range(PARTITIONS):
                table.add_partition(partition)
        self.outbox = Outbox()
        self.letters: list[tuple[str, Any, Exception]] = []
        self.committed_letters: list[tuple[str, Any, Exception]] = []
        self.topics: dict[str, dict[int, list[Plain]]] = defaultdict(lambda: defaultdict(list))
        topics = [agent.channel.get_topic_name() for agent in self.app.agents.values()]
        runtime_of(self.app).engine.rebalance.partition_counts = dict.fromkeys(topics, PARTITIONS)
        self._streams = {name: _Stream(self, agent.channel) for name, agent in self.app.agents.items()}
        for agent in self.app.agents.values():
            agent.channel.send = self._send(agent.channel)

    def _send(self, topic: Any) -> Any:
        async def send(*, key: Any, value: Any, **_: Any) -> None:
            self.outbox.add(topic.output(topic.encode_key(key), topic.encode_value(value), 1_000))

        return send

    def run(self, topic: str, partition: int, epochs: Iterable[Sequence[Sequence[Any]]]) -> None:
        """Hand over a partition's records: runs (plain records, or one packed one) of epochs."""
        for epoch in epochs:
            for name, agent in self.app.agents.items():
                if agent.channel.get_topic_name() == topic:
                    self.epoch(self._streams[name], agent.fun, TopicPartition(topic, partition), epoch)

    def epoch(self, stream: _Stream, function: Any, at: TopicPartition, runs: Sequence[Sequence[Any]]) -> None:
        """One agent's, to the commit."""
        batches = [self._batch(at, run) for run in runs]
        stream.queue.end_isolation()
        try:
            for batch in batches:
                self._step(stream, function, batch)
            self._commit()
        except Stop:
            raise
        except Exception:
            self._drop()
            stream.queue.isolate()
            self._savepoint()
            for batch in batches:
                for message in batch.messages:
                    self._alone(
                        stream, function, QueuedBatch(at, batch.rows.since(message)[:1] if batch.rows else [message], 0)
                    )
            self._commit()
        for table in self.tables:
            table.uncommitted.end_savepoints()

    def _batch(self, at: TopicPartition, run: Sequence[Any]) -> QueuedBatch:
        rows = rows_of(*at, run[0])
        return QueuedBatch(at, list(run) if rows is None else rows, run[-1].offset() + 1)

    def _step(self, stream: _Stream, function: Any, batch: QueuedBatch) -> None:
        stream.batch = batch
        step = runtime_of(self.app).agent_step
        step.begin(*batch.at, [])
        try:
            function(stream).send(None)  # nothing here makes an agent wait
        except StopIteration:
            pass
        finally:
            step.end()

    def _alone(self, stream: _Stream, function: Any, batch: QueuedBatch) -> None:
        sent, given_up = len(self.outbox.outputs), len(self.letters)
        try:
            self._step(stream, function, batch)
            for table in self.tables:
                table.uncommitted.check()
        except Stop:
            raise
        except Exception as exc:
            for table in self.tables:
                table.uncommitted.discard_writes()
            self.outbox.truncate(sent)
            del self.letters[given_up:]
            self.letters.append((batch.at.topic, batch.messages[0], exc))
        self._savepoint()

    def _savepoint(self) -> None:
        for table in self.tables:
            table.uncommitted.savepoint()

    def _drop(self) -> None:
        self.outbox.clear()
        self.letters.clear()
        for table in self.tables:
            table.uncommitted.drop_epoch()

    def _commit(self) -> None:
        outputs = self.outbox.all()
        changes = [table.uncommitted.encode_epoch(lambda _: PARTITIONS) for table in self.tables]
        for table, made in zip(self.tables, changes, strict=True):
            table.uncommitted.freeze_epoch(made)
            table.uncommitted.epoch_committed(dict.fromkeys(made, 1))
        self._deliver(outputs)
        self.committed_letters += self.letters
        self.outbox.clear()
        self.letters.clear()

    def _deliver(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if output.partition < 0:
                assert output.key is not None
                at = HashPartitioner(PARTITIONS).partition(output.key)
            else:
                at = output.partition
            log = self.topics[output.topic][at]
            log.append(Plain(len(log), output.key, output.value, output.headers))

    def contents(self, table: str) -> list[dict[bytes, bytes]]:
        """What each partition of a table holds."""
        return [dict(state.store.items()) for state in self.app.tables[table].states.values()]
