"""The app: a `faust.App` on librdkafka, exactly-once by default.

Agents, topics, tables, timers, sinks, web views keep their Faust meaning. What differs is said where it differs:
failure policies in `agent.py`, when things become visible in `engine.py`, types in `anabranch.topics.serde`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import faust
from faust.sensors import Monitor
from mode.utils.objects import cached_property

from ..topics.errors import Usage
from ..topics.partitioner_registry import PartitionerRegistry
from ..topics.partitioners import RangePartitioner
from ..topics.private_folder import private_folder
from .agent import Agent
from .background_tasks import called, ends_the_worker
from .engine.settings import EngineSettings
from .engine.transport import TableManager, Transport
from .faust_settings import Settings, check_names, check_settings
from .replies import ReplyConsumer
from .runtime import Runtime
from .stream import Stream
from .tables.store_directory import scheme_of
from .tables.ttl_table import new_table
from .topic import Topic
from .web.key_routing import KeyRouter

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
        _check_id(id)
        self._runtime = Runtime(self, id, settings, standby_replicas)
        self._web_tables = True
        super().__init__(self._runtime.group_id, **options)

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
            "broker_commit_interval": self._runtime.base_settings.epoch_s,
            "topic_disable_leader": True,
            "web_bind": "127.0.0.1",
            "reply_to_prefix": f"{id}-reply-",
            "datadir": str(Path(os.environ.get("ANABRANCH_HOME", ".anabranch")) / "data" / self._runtime.app_id),
        }
        settings = Settings(id, **{**conf, **ours}, anabranch_defaults=defaults)
        if "web_tables_enabled" in settings.given:
            self._web_tables = settings.web_tables_enabled
        settings.web_tables_enabled = False  # ours know Struct values, and what is not here
        self._runtime.forget_settings()
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

    # Faust's parts --------------------------------------------------------------------------------------------------

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
        self._runtime.partitioners |= await asyncio.to_thread(PartitionerRegistry(self._runtime.cluster).of)
        await self.producer.maybe_start()

    def is_leader(self) -> bool:
        """One worker of the group is: the owner of partition 0 of the first topic.

        An app that reads no topic joins a group the first time that this is asked, for a topic with no records.
        """
        owned = self._runtime.status.owned
        if not owned and self._runtime.engine_runs:
            self._runtime.engine.elect()
        return any(tp.partition == 0 and tp.topic == min(t.topic for t in owned) for tp in owned)

    # Topics ---------------------------------------------------------------------------------------------------------

    def topic(self, *topics: str, partitioner: RangePartitioner | None = None, **options: Any) -> Any:
        """As Faust's. In a bounded run topics are the run's own, named `<app>-run-<id>-<topic>`.

        Args:
            partitioner: how keys map to its partitions, where not by hash.
        """
        if not options.get("has_prefix"):
            topics = tuple(map(self._runtime.resolve_topic, topics))
        for name in topics:
            self._runtime.check_topic(name)
        if partitioner is not None:
            options["partitions"] = partitioner.partitions
        made: Any = super().topic(*topics, **options)
        made.partitioner = partitioner
        return made

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
            lambda: self._runtime.context.record_time_ms(),
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

    async def on_stop(self) -> None:
        """End at record boundaries, commit, leave the group; then stop the other services."""
        runtime = self._runtime
        runtime.stop_requested.set()
        if self._consumer is not None:
            if not runtime.keep_identity:
                runtime.worker_registry.withdraw()
            await runtime.engine.leave()
            await runtime.worker_registry.close()
            await cast(KeyRouter, self.router).close()
        await self.on_before_shutdown.send()
        if "sender" in runtime.__dict__:
            await runtime.sender.flush()
        await self._maybe_close_http_client()

    def _create_directories(self) -> None:
        private_folder(Path(self.conf.appdir))
