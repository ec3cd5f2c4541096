"""The app: a `faust.App` on librdkafka, exactly-once by default.

Agents, topics, tables, timers, sinks, web views keep their Faust meaning. What differs is said where it differs:
failure policies in `agent.py`, when things become visible in `engine.py`, types in `anabranch.topics.serde`.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import faust
from faust.exceptions import AlreadyConfiguredWarning
from faust.sensors import Monitor
from mode.utils.objects import cached_property

from ..topics.admin import Admin, TopicSpec, is_topic_name
from ..topics.cluster import Cluster
from ..topics.errors import BadRecord, Usage
from ..topics.partitioner_registry import PartitionerRegistry
from ..topics.partitioners import HashPartitioner, Plan, RangePartitioner
from ..topics.private_folder import private_folder
from .agent import Agent
from .background_tasks import called, ends_the_worker
from .engine.loop import Engine
from .engine.settings import BOUNDED, EngineSettings
from .engine.topic_provisioner import TopicProvisioner
from .engine.transport import TableManager, Transport
from .faust_settings import Settings, check_names, check_settings, client_options, engine_settings
from .replies import ReplyConsumer
from .sender import Sender
from .stream import Stream
from .tables.store_directory import scheme_of
from .tables.table import Table
from .tables.ttl_table import new_table
from .topic import Topic, topic_config
from .web.key_routing import KeyRouter
from .web.worker_registry import WorkerRegistry

__all__ = ["App"]

DEFAULT_PARTITIONS = 4


_ID = re.compile(r"[A-Za-z0-9._-]{1,150}")


def _check_id(id: str) -> None:
    """Refuse an id that cannot be part of a topic's name.

    Raises:
        Usage: it holds other characters, or is too long.
    """
    if not _ID.fullmatch(id):
        raise Usage(
            f"App({id!r}): the id names topics and the consumer group",
            hint="letters, digits, '.', '_' and '-', 150 characters at most",
        )


class App(faust.App):
    """An app.

    Args:
        id: names the consumer group, the changelogs and the data folder.
        processing_guarantee: `exactly_once` (default) or `at_least_once`.
        topic_partitions: of topics and changelogs that do not say otherwise; 4.
        standby_replicas: other workers that keep a warm copy of each partition's tables; 0.
        settings: what an operator can turn in the engine.
        options: Faust's settings, and of them `broker`, `datadir`, `web_*`, `topic_*`, `broker_commit_interval`
            (seconds; an epoch's longest duration), `consumer_auto_offset_reset`, `store` (`memory://`, or `rocksdb://`
            for tables on disk).

    The cluster is that of the command line, else `KAFKA_BOOTSTRAP_SERVERS`, else `broker`.
    """

    mundane_level = "debug"

    def __init__(
        self,
        id: str,
        *,
        standby_replicas: int | None = None,
        settings: EngineSettings | None = None,
        **options: Any,
    ) -> None:
        check_names(options)
        # A bounded run has an identity of its own, so that history is never added to live totals.
        _check_id(id)
        self.run_id = os.environ.get("ANABRANCH_RUN", "")
        self.declared_id = id
        base = settings or (BOUNDED if self.run_id else EngineSettings())
        self._base = base if standby_replicas is None else replace(base, standby_replicas=standby_replicas)
        self._engine_settings: tuple[int, EngineSettings] | None = None
        self._web_tables = True
        super().__init__(f"{id}-run-{self.run_id}" if self.run_id else id, **options)
        self._cluster: Cluster | None = None
        self._admin: Admin | None = None
        self.keep_identity = False
        self.complete: threading.Event | None = None
        self.ends: Mapping[tuple[str, int], int] = {}
        self.supervised = False
        self.stopped_by: BaseException | None = None
        self.stop_requested = asyncio.Event()
        self.plans: dict[str, RangePartitioner] = {}
        self.needed = TopicProvisioner(self)

    # Settings -------------------------------------------------------------------------------------------------------

    def _load_settings(self, *, silent: bool = False) -> Any:
        """As Faust's: from the program, a configuration source and the environment; where none says, our defaults."""
        id, given = self._default_options
        source = self._load_settings_from_source(self._config_source, silent=silent) if self._config_source else {}
        conf: dict[str, Any] = {**self._prepare_compat_settings({**given, **source})}
        ours: dict[str, Any] = {
            "Agent": Agent,
            "Stream": Stream,
            "Topic": Topic,
            "TableManager": TableManager,
            "Router": KeyRouter,
        }
        defaults = {
            "processing_guarantee": "exactly_once",
            "topic_partitions": DEFAULT_PARTITIONS,
            "broker_commit_interval": self._base.epoch_s,
            "topic_disable_leader": True,
            "web_bind": "127.0.0.1",
            "reply_to_prefix": f"{id}-reply-",
            "datadir": str(Path(os.environ.get("ANABRANCH_HOME", ".anabranch")) / "data" / self.declared_id),
        }
        settings = Settings(id, **{**conf, **ours}, anabranch_defaults=defaults)
        if "web_tables_enabled" in settings.given:
            self._web_tables = settings.web_tables_enabled
        settings.web_tables_enabled = False  # ours know Struct values, and what is not here
        self._engine_settings = None
        return settings

    def finalize(self) -> None:
        """The program has said all it wants to say.

        Raises:
            Usage: a setting of Faust's, or a sensor, that would not be honoured.
        """
        super().finalize()
        check_settings(cast(Settings, self.conf))
        sensors: Any = self.sensors
        if (self._monitor is not None and type(self._monitor) is not Monitor) or set(sensors) - {self._monitor}:
            raise Usage("Faust sensors are not supported", hint="read /metrics of the worker's web port instead")
        signal: Any = self.on_produce_message
        if list(signal.iter_receivers(self)):
            raise Usage(
                "the signal on_produce_message is not supported",
                hint="give headers where records are sent: send(…, headers=…)",
            )

    @property
    def engine_settings(self) -> EngineSettings:
        """What an operator can turn in the engine, by anabranch's names and by Faust's."""
        conf = cast(Settings, self.conf)
        if self._engine_settings is None or self._engine_settings[0] != conf.changes:
            check_settings(conf)
            made = engine_settings(self._base, conf)
            # A run's topics hold its history, and nothing else.
            made = replace(made, start_at_end=made.start_at_end and not self.run_id)
            self._engine_settings = (conf.changes, made)
        return self._engine_settings[1]

    def set_engine(self, **changes: Any) -> None:
        """Change the engine's settings before the worker starts, as the command line does."""
        self._base, self._engine_settings = replace(self._base, **changes), None

    @property
    def declared_broker(self) -> str | None:
        """Bootstrap servers that the program, its configuration or Faust's BROKER_URL names."""
        conf = cast(Settings, self.conf)
        return Cluster.servers_of(conf.broker) if conf.given & {"broker", "url"} else None

    @property
    def client_options(self) -> Mapping[str, str]:
        """librdkafka's options for the program's `broker_credentials`; what the command line says wins over them."""
        return client_options(cast(Settings, self.conf))

    def configure(self, **settings: Any) -> None:
        """Change Faust settings after the program has used them, as the command line does.

        Faust warns of that, because what has been derived from a setting stays; nothing has from those we change.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AlreadyConfiguredWarning)
            for name, value in settings.items():
                setattr(self.conf, name, value)

    # The cluster ----------------------------------------------------------------------------------------------------

    @property
    def cluster(self) -> Cluster:
        """Where this app's topics live."""
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
        """Asks about topics and makes them; kept, because each new client first has to connect."""
        if self._admin is None:
            self._admin = Admin(self.cluster, patience_s=self.engine_settings.patience_s)
        return self._admin

    @property
    def engine(self) -> Engine:
        """The loop."""
        return cast(Engine, self.consumer)

    @property
    def engine_runs(self) -> bool:
        """Whether sends join an epoch; clients send at once."""
        return self._consumer is not None and self.started and not self.client_only and not self.producer_only

    @cached_property
    def sender(self) -> Sender:
        """For what cannot wait for an epoch."""
        return Sender(self.cluster)

    @cached_property
    def directory(self) -> WorkerRegistry:
        """Who of the app's workers has which partitions."""
        return WorkerRegistry(self)

    @cached_property
    def max_record_bytes(self) -> int:
        """Largest record that is sent; kept, because Faust's settings take 3 µs a look."""
        return self.conf.producer_max_request_size

    @property
    def live_tables(self) -> Iterable[Table]:
        """All tables."""
        return cast(Any, self.tables).data.values()

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Any:
        return Transport(self.conf.broker_producer, self)

    def _new_web(self) -> Any:
        # Imported here, because aiohttp's server takes a while and workers of a bounded run have no web views.
        from .web.probes import WebServer
        from .web.probes import blueprint as probes
        from .web.table_views import blueprint, restore

        made = WebServer(self)
        made.blueprints.add("", probes())
        made.blueprints.add("", restore())
        if self._web_tables:
            made.blueprints.add("/tables", blueprint("tables"))
            made.blueprints.add("/table", blueprint("table"))  # Faust's prefix
        return made

    @cached_property
    def _reply_consumer(self) -> Any:
        return ReplyConsumer(self, loop=self.loop, beacon=self.beacon)

    async def maybe_start_producer(self) -> Any:
        """As Faust's; transactions are the engine's affair, so there is one kind of producer."""
        await self.producer.maybe_start()
        return self.producer

    async def start_client(self) -> None:
        """Start what `ask` from outside of a worker needs: a producer and the reply consumer."""
        self.client_only = True
        self.finalize()
        self.plans |= await asyncio.to_thread(PartitionerRegistry(self.cluster).of)
        await self.producer.maybe_start()

    def is_leader(self) -> bool:
        """One worker of the group is: the owner of partition 0 of the first topic.

        An app that reads no topic joins a group the first time that this is asked, for a topic with no records.
        """
        owned = self.engine.assignment()
        if not owned and self.engine_runs:
            self.engine.elect()
        return any(tp.partition == 0 and tp.topic == min(t.topic for t in owned) for tp in owned)

    # Topics ---------------------------------------------------------------------------------------------------------

    def topic(self, *topics: str, plan: RangePartitioner | None = None, **options: Any) -> Any:
        """As Faust's. In a bounded run topics are the run's own, named `<app>-run-<id>-<topic>`.

        Args:
            plan: how keys map to its partitions, where not by hash.
        """
        if not options.get("has_prefix"):
            topics = tuple(map(self.own_name, topics))
        for name in topics:
            self._check_name(name)
        if plan is not None:
            options["partitions"] = plan.partitions
        made: Any = super().topic(*topics, **options)
        made.plan = plan
        return made

    def partitioner_of(self, topic: str, partitions: int) -> Plan:
        """How keys map to the partitions of a topic that has so many, for whoever sends, looks up or checks them."""
        return self.plans.get(topic) or HashPartitioner(partitions)

    def _check_name(self, topic: str) -> None:
        """Refuse what cannot be a topic: in an agent as its record, before that as the program."""
        text, hint = f"no topic can be called {topic!r}", "1 to 249 of: letters without accents, digits, . _ -"
        if self.started:
            if not is_topic_name(topic):
                raise BadRecord(text, hint=hint)
            return
        if not is_topic_name(topic):
            raise Usage(text, hint=hint)
        self.needed.written.add(topic)

    def own_name(self, topic: str) -> str:
        """Name of a topic that the program calls so: in a bounded run, the run's own."""
        return topic if not self.run_id or topic.startswith(self.conf.id) else f"{self.conf.id}-{topic}"

    async def declare(self, topics: Iterable[Any]) -> None:
        """Create topics that do not exist, in one call; those that do have to be spread as they are declared."""
        named = [(topic, name) for topic in topics for name in topic.topics]
        planned = [(self.spec_of(topic, name), topic.plan) for topic, name in named if topic.plan is not None]
        if planned:
            plans, may_create = PartitionerRegistry(self.cluster, self.admin), self.conf.topic_allow_declare
            self.plans |= await asyncio.to_thread(plans.agree if may_create else plans.compare, planned)
        if not self.conf.topic_allow_declare:
            return
        await self._create([self.spec_of(topic, name) for topic, name in named if name not in self.needed.declared])

    async def declare_once(self, topic: Any) -> None:
        """Create a topic before the first record that a client sends to it, where it does not exist."""
        if topic.get_topic_name() not in self.needed.declared:
            await self.declare([topic])

    def spec_of(self, topic: Any, name: str) -> TopicSpec:
        """How a topic would be made."""
        return TopicSpec(
            name,
            topic.partitions or self.conf.topic_partitions,
            topic.replicas or self.conf.topic_replication_factor,
            topic_config(topic),
        )

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        """Create one topic by name."""
        del options
        await self._create([TopicSpec(topic, partitions, replication)])

    async def _create(self, specs: list[TopicSpec]) -> None:
        if specs:
            existing = await asyncio.to_thread(self.admin.partitions, [spec.name for spec in specs])
            await asyncio.to_thread(self.admin.create, [spec for spec in specs if spec.name not in existing])
            self.needed.declared |= {spec.name for spec in specs}

    async def declare_changelogs(self) -> None:
        """Create changelogs; check those that exist against the topics the app reads.

        Raises:
            Usage: a changelog has another number of partitions than every topic the app reads.
        """
        counts = await asyncio.to_thread(self.admin.partitions)
        sources = {name: counts[name] for topic in self.topics for name in topic.topics if name in counts}
        missing: list[TopicSpec] = []
        for table in self.live_tables:
            name = table.changelog_name
            most = max(sources.values(), default=self.conf.topic_partitions)
            table.changelog_partitions = counts.get(name) or table.partitions or most
            if sources and table.changelog_partitions not in sources.values():
                listed = ", ".join(sorted(f"{topic} has {n}" for topic, n in sources.items()))
                raise Usage(
                    f"table {table.name}: its changelog {name} has {table.changelog_partitions} partitions, "
                    f"but {listed}",
                    hint="a table and the topics whose agents write to it need the same number of partitions; give "
                    "partitions=…, or delete the changelog to compute the table anew",
                )
            if name not in counts:
                config = {"cleanup.policy": "compact", **table.config}
                missing.append(
                    TopicSpec(name, table.changelog_partitions, self.conf.topic_replication_factor or 1, config)
                )
        await asyncio.to_thread(self.admin.create, missing)

    # Tables ---------------------------------------------------------------------------------------------------------

    def Table(  # noqa: N802 (Faust's name)
        self,
        name: str,
        *,
        default: Any = None,
        partitions: int | None = None,
        help: str | None = None,
        key_type: Any = None,
        value_type: Any = None,
        extra_topic_configs: Mapping[str, Any] | None = None,
        store: Any = None,
        ttl: Any = None,
        sets: bool = False,
        everywhere: bool = False,
        local: bool = False,
        **unsupported: Any,
    ) -> Any:
        """A table; see `anabranch.agents.tables.table.Table`. Its `store` is the app's where it has none of its own.

        `ttl` (seconds, or a timedelta) lets keys expire in event time, so long after their last write; see
        `anabranch.agents.tables.ttl_state` for what exactly that means.

        `local`: content is meant to be by partition; results say in which.

        Raises:
            Usage: an option or a store that this version does not have.
        """
        if names := ", ".join(sorted(option for option, value in unsupported.items() if value is not None)):
            raise Usage(f"table {name}: {names}: not supported", hint="see the README for what tables can do")
        table = new_table(
            name,
            ttl,
            lambda: self.engine.record_time_ms(),
            default=default,
            partitions=partitions,
            key_type=key_type,
            value_type=value_type,
            help=help or "",
            config={k: str(v) for k, v in (extra_topic_configs or {}).items()},
            store=scheme_of(store or self.conf.store, name),
            sets=sets,
            everywhere=everywhere,
            local=local,
        )
        table.changelog_topic = self.topic(
            f"{self.conf.id}-{name}-changelog", has_prefix=True, partitions=partitions, compacting=True
        )
        return self.tables.add(cast(Any, table))

    def SetTable(self, name: str, **options: Any) -> Any:  # noqa: N802 (Faust's name)
        """A table whose values are sets: `seen[user].add(page)`; options as for `Table`.

        `value_type` is that of the elements. A key whose set is empty is not in the table.

        Raises:
            Usage: as `Table`.
        """
        return self.Table(name, **options, sets=True)

    def GlobalTable(self, name: str, **options: Any) -> Any:  # noqa: N802 (Faust's name)
        """A table that every worker holds whole; see `anabranch.agents.tables.global_table`. Options as for `Table`."""
        return self.Table(name, **options, everywhere=True)

    # Tasks: each of Faust's decorators comes down to `_task` ---------------------------------------------------------

    def _task(self, fun: Any, on_leader: bool = False, traced: bool = False) -> Any:
        return super()._task(ends_the_worker(self, fun), on_leader=on_leader, traced=traced)

    def timer(self, *args: Any, **kwargs: Any) -> Any:
        """As Faust's; one that fails ends the worker, see `tasks.py`."""
        return called("timer", super().timer(*args, **kwargs))

    def crontab(self, *args: Any, **kwargs: Any) -> Any:
        """As `timer`."""
        return called("cron job", super().crontab(*args, **kwargs))

    # Life -----------------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """The engine has ended: so does the worker, be it ours (`work`) or Faust's (`app.main()`)."""
        self.stop_requested.set()
        if not self.supervised and self.stopped_by is not None:
            await self.crash(self.stopped_by)

    async def on_stop(self) -> None:
        """End at record boundaries, commit, leave the group; then stop what is left."""
        self.stop_requested.set()
        if self._consumer is not None:
            if not self.keep_identity:
                self.directory.withdraw()
            await self.engine.leave()
            await self.directory.close()
            await cast(KeyRouter, self.router).close()
        await self.on_before_shutdown.send()
        if "sender" in self.__dict__:
            await self.sender.flush()
        await self._maybe_close_http_client()

    def _create_directories(self) -> None:
        private_folder(Path(self.conf.appdir))

    def raise_if_stopped(self) -> None:
        """Raise what ended the engine, if something did."""
        if self.stopped_by is not None:
            raise self.stopped_by
