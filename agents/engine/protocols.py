"""What the engine needs from the app that it serves and from the streams that it feeds, and what runners need from it.

`Runtime`, `Stream` and `Engine` implement these; the engine uses nothing else of them, so it can be read without them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.partitioners import Partitioner, RangePartitioner
from ...topics.topic_partition import TopicPartition
from ..failure_policy import Retry
from ..tables.uncommitted_writes import UncommittedWrites
from .record_queue import RecordQueue
from .settings import EngineSettings

if TYPE_CHECKING:
    from .topic_provisioner import TopicProvisioner

__all__ = [
    "DeclaredAgent",
    "DeclaredTopic",
    "EngineLoop",
    "Host",
    "HostSettings",
    "RebalanceListener",
    "RecordFeed",
    "RunnerHost",
    "WorkerAnnouncer",
]


class DeclaredTopic(Protocol):
    """A topic as the program declares it: `agents.topic.Topic`.

    Attributes:
        topics: its names; most topics have one.
        partitioner: its range partitioner, where it is not partitioned by hash.
        internal: it belongs to the app, as those of `group_by` do; has_prefix: its name carries the app's id.
        streams: streams that read it; expected_streams: how many there will be, one for each concurrent agent instance.
    """

    @property
    def topics(self) -> Sequence[str]: ...

    @property
    def partitioner(self) -> RangePartitioner | None: ...

    @property
    def partitions(self) -> int | None: ...

    @property
    def replicas(self) -> int | None: ...

    @property
    def compacting(self) -> bool | None: ...

    @property
    def deleting(self) -> bool | None: ...

    @property
    def retention(self) -> object: ...

    @property
    def config(self) -> Mapping[str, object] | None: ...

    @property
    def internal(self) -> bool: ...

    @property
    def has_prefix(self) -> bool: ...

    def get_topic_name(self) -> str:
        """Its name, where it has one."""
        ...


class DeclaredAgent(Protocol):
    """An agent as the program declares it: `agents.agent.Agent`.

    Attributes:
        on_failure: the failure policy by name; retry: what comes before it.
    """

    on_failure: str
    retry: Retry | None

    @property
    def channel(self) -> object:
        """The topic that it reads, or a channel in memory."""
        ...


class HostSettings(Protocol):
    """The settings of Faust's that the engine reads.

    Attributes:
        id: the consumer group.
        appdir: folder of this worker's data.
    """

    @property
    def id(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def appdir(self) -> Path: ...

    @property
    def topic_allow_declare(self) -> bool: ...

    @property
    def topic_partitions(self) -> int: ...

    @property
    def topic_replication_factor(self) -> int: ...


class WorkerAnnouncer(Protocol):
    """Tells other workers which partitions this one owns: `agents.web.worker_registry.WorkerRegistry`."""

    def announce(self) -> None:
        """Announce the partitions that this worker owns now, with its next epoch."""
        ...


class Host(Protocol):
    """The app, as the engine sees it: `agents.runtime.Runtime`.

    Attributes:
        run_id: the bounded run that the app works for; empty for the live app.
        partitioners: topic -> its range partitioner, where it has one.
        stopped_by: the error that ended the app, if one did.
        keep_identity: leave the group without giving up the static identity.
        history_complete: set once all of a bounded run's history is in Kafka; None where no run says so.
        history_ends: offsets at which a bounded run's history ends, of the partitions whose end is known.
    """

    run_id: str
    partitioners: dict[str, RangePartitioner]
    stopped_by: BaseException | None
    keep_identity: bool
    history_complete: threading.Event | None
    history_ends: Mapping[tuple[str, int], int]

    @property
    def conf(self) -> HostSettings: ...

    def channels(self) -> Mapping[Any, Iterable[Any]]:
        """Partition -> the topics of the program that read it; its keys have `topic` and `partition`."""
        ...

    @property
    def topics(self) -> Iterable[DeclaredTopic]: ...

    @property
    def agents(self) -> Mapping[str, DeclaredAgent]: ...

    @property
    def provisioner(self) -> TopicProvisioner: ...

    @property
    def worker_registry(self) -> WorkerAnnouncer: ...

    @property
    def cluster(self) -> Cluster: ...

    @property
    def admin(self) -> Admin: ...

    @property
    def settings(self) -> EngineSettings: ...

    @property
    def tables(self) -> Iterable[UncommittedWrites]:
        """Tables that have a changelog and take part in epochs."""
        ...

    def partitioner_of(self, topic: str, partitions: int) -> Partitioner:
        """How keys map to the partitions of a topic."""
        ...

    async def request_stop(self) -> None:
        """The engine has ended."""
        ...


class RecordFeed(Protocol):
    """A stream.

    Attributes:
        queue: the records that it has been given.
        running: its agent is at a record.
        wakeup: set while it is parked; timer: resumes it anyway.
        committed: its progress as of the last commit.
        grouped: an agent gets several records at a time; by_batch: those that arrived together.
        in_hand: it works on something that is no record of a topic.
        runner: drives its agent.
    """

    queue: RecordQueue
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


class EngineLoop(Protocol):
    """The loop, as the other parts of the engine see it: `Engine`.

    Attributes:
        stopping: the worker ends.
        rebuild_wanted: the clients are finished, and the loop is about to renew them.
        rollbacks_total: epochs rolled back and reprocessed.
        first_record_at: wall-clock time of the first record; 0 before it.
    """

    stopping: bool
    rebuild_wanted: bool
    rollbacks_total: int
    first_record_at: float

    @property
    def ended(self) -> bool:
        """Whether the loop is over, or was cancelled."""
        ...

    def commit_now(self) -> None:
        """Commit inside of a rebalance callback, with all agents parked (blocking)."""
        ...

    async def stop_with(self, error: BaseException) -> None:
        """Stop the worker with an error."""
        ...


class RebalanceListener(Protocol):
    """Hears of the loop's life and of rebalances: `agents.faust_adapter.consumer.Consumer`."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Run a coroutine as a task that ends with the worker."""
        ...

    async def partitions_assigned(self, owned: Collection[TopicPartition], added: Collection[TopicPartition]) -> None:
        """An assignment has come; its tables are not restored yet."""
        ...

    async def partitions_active(self, owned: Collection[TopicPartition], rebalances: int) -> None:
        """The records of all owned partitions are consumed; so many rebalances have ended since the start."""
        ...

    async def partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Partitions were revoked or lost."""
        ...


class RunnerHost(Protocol):
    """The engine, as runners see it: `AgentContext`."""

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
        """The agent is suspended."""
        ...

    async def stop_with(self, error: BaseException) -> None: ...
