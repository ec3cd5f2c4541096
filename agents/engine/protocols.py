"""Protocols that the engine requires of the app and its streams, and that runners require of the engine.

`Runtime`, `Stream` and `Engine` implement them. The engine uses nothing else of these classes, so it can be read
without them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.durations import Duration
from ...topics.partitioners import Partitioner, RangePartitioner
from ...topics.private_fields import PrivateNames
from ...topics.producer import Headers
from ...topics.topic_partition import TopicPartition
from ..failure_policy import Retry
from ..tables.agent_step import AgentStep
from ..tables.table import Table
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
    "topics_read",
]


class DeclaredTopic(Protocol):
    """A topic as the program declares it: `agents.topic.Topic`.

    Attributes:
        topics: names of the topic; most topics have one.
        partitioner: its range partitioner; None if it is partitioned by hash.
        internal: whether it belongs to the app, as the topics of `group_by` do.
        has_prefix: whether its name begins with the app's id.
        sized_like: the topic whose number of partitions it gets if it declares none; None: `topic_partitions`.
        streams: streams that read it.
        expected_streams: final number of these streams, one for each concurrent agent instance.
    """

    @property
    def topics(self) -> Sequence[str]: ...

    @property
    def partitioner(self) -> RangePartitioner | None: ...

    @property
    def partitions(self) -> int | None: ...

    @property
    def sized_like(self) -> DeclaredTopic | None: ...

    @property
    def replicas(self) -> int | None: ...

    @property
    def compacting(self) -> bool | None: ...

    @property
    def deleting(self) -> bool | None: ...

    @property
    def retention(self) -> Duration | None: ...

    @property
    def config(self) -> Mapping[str, object] | None: ...

    @property
    def internal(self) -> bool: ...

    @property
    def has_prefix(self) -> bool: ...

    def get_topic_name(self) -> str:
        """Return the name of a topic that has a single name."""
        ...


class DeclaredAgent(Protocol):
    """An agent as the program declares it: `agents.agent.Agent`.

    Attributes:
        on_failure: name of the failure policy.
        retry: the retries before the failure policy applies; None: no retries.
        timers: its timers; None if it has no function for any.
    """

    on_failure: str
    retry: Retry | None

    @property
    def timers(self) -> object | None: ...

    @property
    def channel(self) -> object:
        """The topic that the agent reads, or an in-memory channel."""
        ...


def topics_read(agent: DeclaredAgent) -> list[str]:
    """Return the topics that an agent reads; none if it reads an in-memory channel."""
    return list(getattr(agent.channel, "topics", ()))


class HostSettings(Protocol):
    """The Faust settings that the engine reads.

    Attributes:
        id: id of the app, the name of its consumer group.
        appdir: data folder of this worker.
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
        """Announce the partitions that this worker owns now; the announcement is sent with its next epoch."""
        ...


class Host(Protocol):
    """The interface of the app to the engine: `agents.runtime.Runtime`.

    Attributes:
        run_id: id of the bounded run that the app processes; empty for the live app.
        partitioners: topic -> range partitioner, for topics that have one.
        private: the private fields of topics and tables.
        stopped_by: the error that stopped the app; None if there is none.
        keep_identity: keep the static identity when leaving the group.
        history_complete: set once all of a bounded run's history is in Kafka; None if no run reports this.
        history_ends: offsets at which a bounded run's history ends, for partitions whose end is known.
        agent_step: the running step of an agent, which tells tables what to show.
    """

    run_id: str
    partitioners: dict[str, RangePartitioner]
    private: PrivateNames
    stopped_by: BaseException | None
    keep_identity: bool
    history_complete: threading.Event | None
    history_ends: Mapping[TopicPartition, int]
    agent_step: AgentStep

    @property
    def conf(self) -> HostSettings: ...

    def channels(self) -> Mapping[Any, Iterable[Any]]:
        """Return partition -> the program's topics that read it; the keys have `topic` and `partition`."""
        ...

    @property
    def aligned(self) -> Sequence[Sequence[str]]:
        """Groups of topics whose records are processed in the order of their times; see `alignment.py`."""
        ...

    @property
    def topics(self) -> Iterable[DeclaredTopic]: ...

    @property
    def repartition_topics(self) -> Collection[str]:
        """Names of the repartition topics that the app has made for itself."""
        ...

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
    def tables(self) -> Iterable[Table]:
        """Tables that have a changelog and take part in epochs."""
        ...

    def partitioner_of(self, topic: str, partitions: int) -> Partitioner:
        """Return the partitioner of a topic with this number of partitions."""
        ...

    def refuse_question(self, headers: Headers | None, error: BaseException) -> None:
        """Give the error to the asker of a question whose record is refused; other records are ignored."""
        ...

    def answer_refused(self, headers: Headers | None, why: str) -> None:
        """Answer a question that made its agent fail; other records are ignored."""
        ...

    async def request_stop(self) -> None:
        """Request the end of the worker: the engine has ended."""
        ...


class TellsWindows(Protocol):
    """Tells the program of windows that close between the records of a stream: `AgentWindows`."""

    @property
    def tells(self) -> bool:
        """True if the program has an `on_window_close` that is called for them."""
        ...


class RecordFeed(Protocol):
    """The interface of a stream to the engine.

    Barrier, runners and router set `running`, `wakeup`, `timer`, `runner` and `message`.

    Attributes:
        queue: its record queue.
        running: whether its agent is at a record.
        wakeup: the future that it awaits while it is parked.
        timer: resumes it after the timeout of a park.
        takes_control: whether its agent receives control records of topics in which they count.
        grouped: whether its agent receives several records at a time.
        by_batch: whether these are batches, of records that arrived together.
        in_hand: whether its agent works on a value that is not a record of a topic.
        max_ahead_ms: how far its partitions may be apart in event time, in milliseconds; None: any distance. See
            `held_partitions.py`.
        runner: the runner of its agent.
        message: the record that its agent processes; a `FiringRecord` while something fires; None between records.
    """

    queue: RecordQueue
    running: bool
    wakeup: asyncio.Future[None] | None
    timer: asyncio.TimerHandle | None
    takes_control: bool
    grouped: bool
    by_batch: bool
    in_hand: bool
    max_ahead_ms: int | None
    runner: Any
    message: Any

    @property
    def windows(self) -> TellsWindows | None:
        """Tells of windows that close; None in an app without windowed tables."""
        ...

    @property
    def name(self) -> str: ...

    @property
    def progress_name(self) -> str: ...

    @property
    def clock(self) -> object | None:
        """Event time, if timers fire between its records; else None."""
        ...

    @property
    def topic(self) -> Any: ...


class EngineLoop(Protocol):
    """The interface of the loop to the other parts of the engine: `Engine`.

    Attributes:
        stopping: whether the worker is stopping.
        rollbacks_total: epochs rolled back and reprocessed.
        left_uncommitted: whether it has stopped without knowing that the last epoch is committed.
        first_record_at: wall-clock time of the first record; 0 before it.
    """

    stopping: bool
    rollbacks_total: int
    left_uncommitted: bool
    first_record_at: float

    @property
    def ended(self) -> bool:
        """True if the loop has ended or was cancelled."""
        ...

    @property
    def rebuild_wanted(self) -> bool:
        """True if the Kafka clients are unusable and the loop is about to recreate them."""
        ...

    def is_silent(self, at: TopicPartition) -> bool:
        """Return whether all records of a partition were consumed; see `is_at_end`."""
        ...

    def end_commit(self) -> None:
        """Wait until no commit is under way, inside a rebalance callback (blocking)."""
        ...

    def drop_epochs(self) -> None:
        """Drop the epoch and the one that is being committed: their partitions are lost."""
        ...

    def commit_now(self) -> None:
        """Commit inside a rebalance callback, while all agents are parked (blocking)."""
        ...

    async def stop_with(self, error: BaseException) -> None:
        """Stop the worker with an error."""
        ...


class RebalanceListener(Protocol):
    """Runs the tasks of the loop and is notified of rebalances: `agents.faust_adapter.consumer.Consumer`."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Run a coroutine as a task that ends with the worker."""
        ...

    async def partitions_assigned(self, owned: Collection[TopicPartition], added: Collection[TopicPartition]) -> None:
        """Handle an assignment: `added` are assigned, and their tables are not restored yet."""
        ...

    async def partitions_active(self, owned: Collection[TopicPartition], rebalances: int) -> None:
        """Handle the end of a rebalance: all owned partitions are active.

        Args:
            rebalances: number of rebalances completed since the start.
        """
        ...

    async def partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Handle partitions that were revoked or lost."""
        ...


class RunnerHost(Protocol):
    """The interface of the engine to runners: `AgentContext`."""

    @property
    def stopping(self) -> bool: ...

    @property
    def ended(self) -> bool:
        """True if the engine's loop has ended."""
        ...

    def add_runner(self, runner: Any) -> None: ...

    def remove_runner(self, runner: Any, *, expected: bool) -> None: ...

    def failed(self, runner: Any, error: BaseException) -> bool:
        """Handle an agent's exception; return whether the agent may be restarted at once."""
        ...

    def enter(self, runner: Any) -> None:
        """Prepare for an agent that the runner is about to resume."""
        ...

    def leave_agent(self) -> None:
        """Clean up after an agent that is suspended."""
        ...

    async def stop_with(self, error: BaseException) -> None: ...
