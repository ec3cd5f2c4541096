"""The internal state of an app, in one attribute of it: cluster, settings, engine, topics and the reason of its stop.

`App` is the public interface; other packages of this project get the internal state with `runtime_of(app)`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from ..topics.admin import Admin, is_topic_name
from ..topics.cluster import Cluster
from ..topics.dead_letter import dead_letter_topic
from ..topics.errors import BadRecord, Usage
from ..topics.partitioners import HashPartitioner, Partitioner, RangePartitioner
from ..topics.private_fields import PrivateNames
from ..topics.producer import Headers
from ..topics.topic_partition import TopicPartition
from .engine.agent_context import AgentContext
from .engine.loop import Engine
from .engine.protocols import topics_read
from .engine.settings import BOUNDED, EngineSettings
from .engine.status import EngineStatus
from .engine.topic_provisioner import TopicProvisioner
from .faust_adapter.faust_settings import Settings, change_settings, check_settings, client_options, engine_settings
from .questions import refusal
from .sender import Sender
from .tables.agent_step import AgentStep
from .tables.table import Table
from .web.worker_registry import WorkerRegistry

if TYPE_CHECKING:
    from faust.cli.base import AppCommand

    from .agent_windows import AgentWindows
    from .app import App
    from .flows.description import FlowDescription
    from .stream import Stream
    from .stream_clock import Waiting
    from .topic import Topic

__all__ = ["COMPLETE", "Runtime", "runtime_of"]

COMPLETE = "ANABRANCH_RUN_COMPLETE"
"""The environment variable that makes windows of a bounded run wait for the end of its inputs."""


class Runtime:
    """The internal state of an app.

    Args:
        app: the app that it belongs to.
        app_id: the id that the program sets. A bounded run has an id of its own, so that history is never added to the
            totals of the live app.
        settings: the program's engine settings; None for the defaults.
        standby_replicas: overrides `settings.standby_replicas` if not None.

    Attributes:
        run_id: id of the bounded run that the app belongs to; empty for the live app.
        waits_for_end: windows of the bounded run stay open to the end of its inputs, so that no record is late.
        keep_identity: stop without leaving the group, so that its partitions stay reserved for a rolling restart.
        history_complete: set once all of a bounded run's history is in Kafka; None outside of such a run.
        history_ends: (topic, partition) -> offset at which history ends, where it is known.
        supervised: `work` runs the app and reports its error. Faust's own worker is informed by a crash of the app.
        stopped_by: the error that ended the app; None while it runs and after a normal stop.
        stop_requested: set when the worker has to stop.
        partitioners: topic -> its range partitioner; other topics are partitioned by hash.
        provisioner: creates the topics that the app needs.
        described: name -> the topic that the program has described first under it.
        flows: the flows of the program, as people read them.
        flow_agents: names of the agents that flows are made into.
        flow_repartitions: names of the repartition topics of flows.
        commands: the program's commands for the command line (`@app.command`).
        private: the private fields of topics and tables.
        agent_step: the running step of an agent, which tells tables what to show.
        lacks_windows: names of tables that have `on_window_close` and no windows yet.
        waiting: what `add_waiting` was given.
    """

    def __init__(self, app: App, app_id: str, settings: EngineSettings | None, standby_replicas: int | None) -> None:
        self.app = app
        self.app_id = app_id
        self.run_id = os.environ.get("ANABRANCH_RUN", "")
        self.waits_for_end = bool(self.run_id) and bool(os.environ.get(COMPLETE))
        base = settings or (BOUNDED if self.run_id else EngineSettings())
        self.base_settings = base if standby_replicas is None else replace(base, standby_replicas=standby_replicas)
        self._settings: tuple[int, EngineSettings] | None = None
        self._cluster: Cluster | None = None
        self._admin: Admin | None = None
        self._worker_registry: WorkerRegistry | None = None
        self._answers: set[asyncio.Future[Any]] = set()  # on their way; the event loop alone would not keep them
        self.keep_identity = False
        self.history_complete: threading.Event | None = None
        self.history_ends: Mapping[TopicPartition, int] = {}
        self._aligned: Sequence[Sequence[str]] = ()
        self.supervised = False
        self.stopped_by: BaseException | None = None
        self.stop_requested = asyncio.Event()
        self.partitioners: dict[str, RangePartitioner] = {}
        self.provisioner = TopicProvisioner(self)
        self.described: dict[str, Topic] = {}
        self.flows: list[FlowDescription] = []
        self.flow_agents: set[str] = set()
        self.flow_repartitions: set[str] = set()
        self._repartition_owners: dict[str, str] = {}
        self.commands: list[type[AppCommand]] = []
        self.private = PrivateNames(app_id)
        self.agent_step = AgentStep()
        self.lacks_windows: set[str] = set()
        self.waiting: list[Callable[[Stream], Waiting | None]] = []

    @contextmanager
    def represented_by(self, other: Runtime) -> Generator[None]:
        """Let this app's topics, tables and streams work in the engine of another app, inside of the block."""
        before, self.__dict__ = self.__dict__, other.__dict__
        try:
            yield
        finally:
            self.__dict__ = before

    @property
    def repartition_topics(self) -> set[str]:
        """Names of the repartition topics that the app has made for itself, for `key_by` and `group_by`."""
        return self.flow_repartitions | {name for topic in self.topics if topic.internal for name in topic.topics}

    # Settings -------------------------------------------------------------------------------------------------------

    @property
    def conf(self) -> Settings:
        """Faust's settings of the app."""
        return cast(Settings, self.app.conf)

    @property
    def group_id(self) -> str:
        """The id of the app's consumer group: the app id, with the run id appended in a bounded run."""
        return f"{self.app_id}-run-{self.run_id}" if self.run_id else self.app_id

    @property
    def settings(self) -> EngineSettings:
        """The engine's settings, from the program's `EngineSettings` and from Faust's settings.

        Raises:
            Usage: a Faust setting cannot be applied.
        """
        conf = self.conf
        if self._settings is None or self._settings[0] != conf.changes:
            check_settings(conf)
            made = engine_settings(self.base_settings, conf)
            # The topics of a bounded run contain only its history.
            made = replace(made, start_at_end=made.start_at_end and not self.run_id)
            self._settings = (conf.changes, made)
        return self._settings[1]

    @property
    def aligned(self) -> Sequence[Sequence[str]]:
        """Groups of topics whose records are processed in the order of their times, as far as they are in one task."""
        if self.run_id or self.settings.align_s is None:
            return self._aligned
        read = {name for agent in self.app.agents.values() for name in topics_read(agent)}
        names = [name for name, topic in self.described.items() if name in read and not topic.has_prefix]
        return [names] if len(names) > 1 else []

    @aligned.setter
    def aligned(self, topics: Sequence[Sequence[str]]) -> None:
        self._aligned = topics

    def change_settings(self, **changes: Any) -> None:
        """Change the engine's settings before the worker starts, as the command line does."""
        self.base_settings, self._settings = replace(self.base_settings, **changes), None

    def forget_settings(self) -> None:
        """Recompute `settings` on the next access, after Faust has reloaded its configuration."""
        self._settings = None

    @property
    def declared_broker(self) -> str | None:
        """The bootstrap servers that the program, its configuration or Faust's BROKER_URL sets; None without them."""
        conf = self.conf
        return Cluster.servers_of(conf.broker) if conf.given & {"broker", "url"} else None

    @property
    def client_options(self) -> Mapping[str, str]:
        """librdkafka's options for the program's `broker_credentials`; the command line overrides them."""
        return client_options(self.conf)

    def configure(self, **settings: Any) -> None:
        """Change Faust settings after the program has used them, as the command line does."""
        change_settings(self.conf, settings)

    @cached_property
    def max_record_bytes(self) -> int:
        """The largest record that is sent, in bytes; cached because reading a Faust setting takes 3 µs."""
        return self.conf.producer_max_request_size

    # The cluster ----------------------------------------------------------------------------------------------------

    @property
    def cluster(self) -> Cluster:
        """The cluster of the app's topics: from the command line, else KAFKA_BOOTSTRAP_SERVERS, else `broker`."""
        if self._cluster is None:
            self._cluster = Cluster.named(
                os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or self.declared_broker or "localhost:9092",
                defaults=self.client_options,
            )
        return self._cluster

    @cluster.setter
    def cluster(self, cluster: Cluster) -> None:
        self._cluster, self._admin = cluster, None

    @property
    def admin(self) -> Admin:
        """The admin client; it is reused, because each new client has to connect first."""
        if self._admin is None:
            self._admin = Admin(self.cluster, patience_s=self.settings.patience_s)
        return self._admin

    @cached_property
    def sender(self) -> Sender:
        """The producer of records that are sent outside of epochs."""
        return Sender(self.cluster, lambda output, why: self.refuse_question(output.headers, why))

    def refuse_question(self, headers: Headers | None, error: BaseException) -> None:
        """Give the error to the asker of a question whose record is refused; other records are ignored."""
        if "_reply_consumer" in self.app.__dict__:
            cast(Any, self.app)._reply_consumer.refuse_question(headers, error)

    def answer_refused(self, headers: Headers | None, why: str) -> None:
        """Answer a question that made its agent fail, outside of the epoch, which may wait for the asker."""
        answer = refusal(headers, why)
        if answer is not None:
            sending = asyncio.ensure_future(self.sender.send(answer))
            self._answers.add(sending)
            sending.add_done_callback(self._answers.discard)

    @property
    def worker_registry(self) -> WorkerRegistry:
        """The registry of the app's workers and the partitions that they announce."""
        if self._worker_registry is None:
            self._worker_registry = WorkerRegistry(self)
        return self._worker_registry

    # The engine -----------------------------------------------------------------------------------------------------

    @cached_property
    def engine(self) -> Engine:
        """The engine of this worker."""
        return Engine(self)

    @property
    def context(self) -> AgentContext:
        """The engine's interface for agents and streams."""
        return self.engine.context

    @property
    def status(self) -> EngineStatus:
        """The engine's status for health checks, metrics and logs."""
        return self.engine.status

    @property
    def engine_started(self) -> bool:
        """True if the app runs or has run as a worker."""
        return "engine" in self.__dict__ and self.engine.status.instance != ""

    @property
    def engine_runs(self) -> bool:
        """True if sent records join an epoch. A client sends them at once."""
        app = self.app
        return "engine" in self.__dict__ and app.started and not app.client_only and not app.producer_only

    async def request_stop(self) -> None:
        """Stop the worker after the engine has ended, whether `work` or Faust's `app.main()` runs it."""
        self.stop_requested.set()
        if not self.supervised and self.stopped_by is not None:
            await self.app.crash(self.stopped_by)

    def raise_if_stopped(self) -> None:
        """Raise the error that ended the app, if there is one."""
        if self.stopped_by is not None:
            raise self.stopped_by

    # Topics and tables ----------------------------------------------------------------------------------------------

    @property
    def agents(self) -> Any:
        """The app's agents by name."""
        return self.app.agents

    @property
    def topics(self) -> Any:
        """The topics that agents read."""
        return self.app.topics

    def channels(self) -> Mapping[Any, Iterable[Any]]:
        """Return partition -> the declared topics that read it, from Faust's conductor."""
        return cast(Any, self.app.topics)._tp_index

    @property
    def tables(self) -> Iterable[Table]:
        """The tables that have a changelog and take part in epochs."""
        return cast(Any, self.app.tables).data.values()

    def record_time_ms(self) -> int:
        """Return the timestamp of the record that the running agent processes; see `AgentContext`."""
        return self.context.record_time_ms()

    def window_writer(self) -> AgentWindows | None:
        """Return what the stream of the running agent knows of windows; None outside of agents."""
        runner = self.context.current if "engine" in self.__dict__ else None
        stream = None if runner is None else cast("Stream | None", runner.stream)
        return None if stream is None else stream.windows

    def reads(self, agent: str, topic: str) -> bool:
        """Return whether the program has an agent; which topics it makes for itself is known when it runs."""
        del topic
        return agent in self.agents

    def partitioner_of(self, topic: str, partitions: int) -> Partitioner:
        """Return the partitioner of a topic with `partitions` partitions, for sending, look-ups and checks."""
        return self.partitioners.get(topic) or HashPartitioner(partitions)

    def add_waiting(self, find: Callable[[Stream], Waiting | None]) -> None:
        """Let something wait for event time in streams; see `stream_clock.py`.

        Args:
            find: returns what waits in a stream that is about to be iterated; None if nothing does.
        """
        self.waiting.append(find)
        if not self.run_id:
            self.change_settings(notice_ends=True)  # idle partitions are at their ends

    def resolve_topic(self, name: str) -> str:
        """Return the topic's name in Kafka; in a bounded run, the name of the run's own topic."""
        return name if not self.run_id or name.startswith(self.conf.id) else f"{self.conf.id}-{name}"

    def name_in_program(self, topic: str) -> str:
        """Return the name by which the program knows a topic: in a bounded run, without the prefix of the run."""
        return topic.removeprefix(f"{self.group_id}-") if self.run_id else topic

    def own_repartition(self, topic: str, owner: str, on_failure: str) -> None:
        """Note whose records a repartition topic takes: they mean nothing to others.

        Args:
            owner: a table, or an agent with the topics that it reads.
            on_failure: name of the failure policy of the agent that reads it.

        Raises:
            Usage: it is another one's, or its name is too long for Kafka.
        """
        hint = 'the table, or group_by(…, name="…"), is a part of the name; group_by(…, topic=app.topic("…")) names it'
        if not is_topic_name(dead_letter_topic(topic) if on_failure == "dead_letter" else topic):
            raise Usage(f"{owner}: the name of a repartition topic is too long: {topic}", hint=hint)
        other = self._repartition_owners.setdefault(topic, owner)
        if other != owner:
            raise Usage(f"{other} and {owner} have the same repartition topic, {topic}", hint=hint)

    def check_topic(self, name: str) -> None:
        """Refuse an invalid topic name; note a valid name as written to by the program before the app starts.

        Raises:
            BadRecord: an agent uses the name while the worker runs.
            Usage: the program uses the name before the app starts.
        """
        text, hint = f"no topic can be called {name!r}", "1 to 249 of: letters without accents, digits, . _ -"
        if self.app.started:
            if not is_topic_name(name):
                raise BadRecord(text, hint=hint)
            return
        if not is_topic_name(name):
            raise Usage(text, hint=hint)
        self.provisioner.written.add(name)


def runtime_of(app: Any) -> Runtime:
    """Return the internal state of an app."""
    return app._runtime
