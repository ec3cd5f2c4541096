"""What the engine asks of the app that it serves, of the streams that it feeds, and what runners ask of the engine.

`App`, `Stream` and `Engine` are these; the engine knows no more of them, so that it can be read without them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.partitioners import Plan, RangePartitioner
from ...topics.topic_partition import TopicPartition
from ..tables.uncommitted_writes import UncommittedWrites
from .record_queue import RecordQueue
from .settings import EngineSettings

__all__ = ["Engaged", "Host", "RecordFeed"]


class Host(Protocol):
    """An app. `conf`, `topics`, `agents` and so on are Faust's.

    Attributes:
        run_id: of the bounded run it works for; empty for the live app.
        plans: topic -> its range plan, where it has one.
        stopped_by: why the app ends, if something is wrong.
        keep_identity: whether the worker's name stays its own after its end.
        complete: is set once all of a bounded run's history is in Kafka; None where nobody says so.
        ends: where history ends, of partitions of which a bounded run has said so.
    """

    conf: Any
    flow_control: Any
    on_partitions_assigned: Any
    on_partitions_revoked: Any
    on_rebalance_complete: Any
    rebalancing_count: int
    _assignment: Any
    run_id: str
    plans: dict[str, RangePartitioner]
    stopped_by: BaseException | None
    keep_identity: bool
    complete: threading.Event | None
    ends: Mapping[tuple[str, int], int]

    @property
    def topics(self) -> Any: ...

    @property
    def agents(self) -> Any: ...

    @property
    def needed(self) -> Any: ...

    @property
    def directory(self) -> Any: ...

    @property
    def cluster(self) -> Cluster: ...

    @property
    def admin(self) -> Admin: ...

    @property
    def engine_settings(self) -> EngineSettings: ...

    @property
    def live_tables(self) -> Iterable[UncommittedWrites]:
        """Tables that have a changelog and take part in epochs."""
        ...

    def partitioner_of(self, topic: str, partitions: int) -> Plan:
        """How keys map to the partitions of a topic."""
        ...

    async def declare(self, topics: Iterable[Any]) -> None:
        """Make the topics that are not there."""
        ...

    async def declare_changelogs(self) -> None:
        """Likewise."""
        ...

    async def create_topic(self, topic: str, partitions: int, replication: int) -> None:
        """Make a topic by name, where it is not there."""
        ...

    async def end(self) -> None:
        """The engine has ended."""
        ...


class RecordFeed(Protocol):
    """A stream.

    Attributes:
        inbox: what it has been handed.
        running: its agent is at a record.
        wakeup: set while it is parked; timer: resumes it anyway.
        committed: its progress as of the last commit.
        grouped: an agent gets several records at a time; by_batch: those that arrived together.
        in_hand: it works on something that is no record of a topic.
        runner: who drives its agent.
    """

    inbox: RecordQueue
    running: bool
    wakeup: asyncio.Future[None] | None
    timer: asyncio.TimerHandle | None
    committed: dict[TopicPartition, int]
    grouped: bool
    by_batch: bool
    in_hand: bool
    runner: Any

    @property
    def name(self) -> str: ...

    @property
    def progress_name(self) -> str: ...

    @property
    def topic(self) -> Any: ...

    @property
    def message(self) -> Any:
        """The record its agent works on, None while there is none."""
        ...

    def forget_message(self) -> None:
        """The record is undone or handled."""
        ...


class Engaged(Protocol):
    """The engine, as runners know it."""

    @property
    def stopping(self) -> bool: ...

    @property
    def ended(self) -> bool:
        """Whether its loop is over."""
        ...

    def add_runner(self, runner: Any) -> None: ...

    def remove_runner(self, runner: Any, *, expected: bool) -> None: ...

    def failed(self, runner: Any, error: BaseException) -> bool:
        """An agent raised; whether it may go on at once."""
        ...

    def enter(self, runner: Any) -> None:
        """The stepper is about to resume an agent."""
        ...

    def leave_agent(self) -> None:
        """It has."""
        ...

    async def stop_with(self, error: BaseException) -> None: ...
