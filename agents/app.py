"""The app: a `faust.App` on librdkafka, exactly-once by default.

Agents, topics, tables, timers, sinks and web views keep their Faust meaning. `docs/faust.md` lists the differences;
`declarations.py` has the types of options and results.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import AsyncIterator, Callable, Collection
from datetime import tzinfo
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import faust
from mode import shortlabel
from mode.utils.objects import cached_property

from ..topics.durations import Duration, interval_s
from ..topics.errors import Usage
from ..topics.partitioner_registry import PartitionerRegistry
from ..topics.partitioners import RangePartitioner
from ..topics.private_folder import private_folder
from ..topics.serde import codec
from ..topics.spelling import check_options, did_you_mean
from ..topics.threads import daemon_thread
from . import background_tasks
from .agent import Agent, declare_agent
from .background_tasks import async_function, called, cron_job, ends_the_worker, now_s
from .declarations import (
    AgentDeclaration,
    AppOptions,
    AsyncFunction,
    PageDeclaration,
    SetTableDeclaration,
    StreamDeclaration,
    TableDeclaration,
    TableOptions,
    TaskDeclaration,
    TopicDeclaration,
    typed_as,
)
from .engine.settings import EngineSettings
from .event_time.event_time import DEFAULT_IDLE, DEFAULT_JUMP, TimeUnit, Timing
from .faust_adapter.faust_settings import Settings, check_names
from .faust_adapter.faust_signals import check_signals, forget_receivers
from .faust_adapter.faust_values import MODELS
from .faust_adapter.transport import TableManager, Transport
from .faust_adapter.unsampled_monitor import UnsampledMonitor, check_sensors
from .private_names import checked_names
from .replies import ReplyConsumer
from .runtime import Runtime
from .stream import Stream
from .tables.store_directory import store_scheme
from .tables.ttl_table import new_table
from .tables.window_wrapper import windowed
from .timers import cancel_timer, set_timer
from .topic import Topic
from .web.key_routing import KeyRouter

if TYPE_CHECKING:
    from faust.cli.base import AppCommand
    from faust.types import ProducerT
    from faust.types.web import Web

    from .event_time.windows import Windows
    from .tables.agent_window_table import CloseCallback
    from .tables.table import Table
    from .tables.window_wrapper import WindowWrapper

__all__ = ["App"]

DEFAULT_PARTITIONS = 4


OWN_CLASSES: dict[str, Any] = {
    "Agent": Agent,
    "Router": KeyRouter,
    "Stream": Stream,
    "TableManager": TableManager,
    "Topic": Topic,
}
"""Classes that exactly-once processing depends on, by the names of Faust's settings; they cannot be replaced."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,150}")


def _check_id(id: str) -> None:
    """Refuse an id that cannot be part of a topic's name.

    Raises:
        Usage: it has other characters, or is too long.
    """
    if not _ID.fullmatch(id):
        raise Usage(
            f"App({id!r}): the id names topics and the consumer group",
            hint="letters, digits, '.', '_' and '-', 150 characters at most",
        )


_TOPIC_OPTIONS = {
    *inspect.signature(faust.App.topic).parameters,
    *("private", "time", "time_unit", "grace", "max_jump", "idle_after", "partitioner"),
}


def _partitions(topics: tuple[str, ...], declared: object, partitioner: object) -> int | None:
    """Return the number of partitions that a topic is to have; None for the app's default.

    Raises:
        Usage: the number cannot be one, or is not that of the partitioner.
    """
    named = f"topic {' '.join(topics)}"
    if declared is not None and (not isinstance(declared, int) or isinstance(declared, bool) or declared < 1):
        raise Usage(f"{named}: partitions={declared!r}: expected a whole number above 0")
    if partitioner is None:
        return declared
    if not isinstance(partitioner, RangePartitioner):
        raise Usage(
            f"{named}: partitioner={partitioner!r}: expected a RangePartitioner",
            hint='partitioner=RangePartitioner.parsed("g,p"); without one, keys are partitioned by hash',
        )
    if declared not in (None, partitioner.partitions):
        raise Usage(
            f"{named}: partitions={declared}, but {partitioner} has {partitioner.partitions}",
            hint="omit partitions=…, or give one split point less than there are partitions",
        )
    return partitioner.partitions


class App(faust.App):
    """An application: its topics, agents and tables, in one consumer group.

    Args:
        id: names the consumer group, the changelogs and the data folder.
        standby_replicas: number of standby copies of each partition's tables, on other workers; default 0.
        settings: settings of the engine.
        options: Faust's settings, such as `broker`, `datadir`, `processing_guarantee` (`exactly_once`, the default, or
            `at_least_once`), `topic_partitions` (default 4), `broker_commit_interval` (seconds; the longest duration
            of an epoch), `consumer_auto_offset_reset`, `store` (`memory://`, or `rocksdb://` for tables on disk),
            `web_port`.

    Raises:
        TypeError: an option does not exist; the error names the nearest one.
        Usage: the id cannot be part of a topic's name, or an option is not supported.

    The cluster is that of the command line, else of `KAFKA_BOOTSTRAP_SERVERS`, else of `broker`.
    """

    mundane_level = "debug"

    def __init__(
        self,
        id: str,
        *,
        standby_replicas: int | None = None,
        settings: EngineSettings | None = None,
        **options: Unpack[AppOptions],
    ) -> None:
        check_names(options, OWN_CLASSES)
        _check_id(id)
        self._runtime = Runtime(self, id, settings, standby_replicas)
        self._web_tables = True
        super().__init__(self._runtime.group_id, **options)

    def _init_signals(self) -> None:
        super()._init_signals()
        forget_receivers(self)

    # Settings -------------------------------------------------------------------------------------------------------

    def _load_settings(self, *, silent: bool = False) -> Settings:
        """Load the settings of the program, a configuration source and the environment; else anabranch's defaults."""
        id, given = self._default_options
        source = self._load_settings_from_source(self._config_source, silent=silent) if self._config_source else {}
        conf: dict[str, Any] = {**self._prepare_compat_settings({**given, **source})}
        defaults = {
            "processing_guarantee": "exactly_once",
            "topic_partitions": DEFAULT_PARTITIONS,
            "broker_commit_interval": self._runtime.base_settings.epoch_s,
            "topic_disable_leader": True,
            "Monitor": UnsampledMonitor,
            "web_bind": "127.0.0.1",
            "reply_to_prefix": f"{id}-reply-",
            "datadir": str(Path(os.environ.get("ANABRANCH_HOME") or ".anabranch") / "data" / self._runtime.app_id),
        }
        settings = Settings(id, **{**conf, **OWN_CLASSES}, anabranch_defaults=defaults)
        if "web_tables_enabled" in settings.given:
            self._web_tables = settings.web_tables_enabled
        settings.web_tables_enabled = False  # anabranch's table views know structs, and keys of other workers
        self._runtime.forget_settings()
        return settings

    def finalize(self) -> None:
        """Check the program's settings when it is complete.

        Raises:
            Usage: a setting, a sensor or a signal of Faust's is not supported.
        """
        super().finalize()
        _ = self._runtime.settings  # checks them
        for name in sorted(self._runtime.lacks_windows):
            raise Usage(
                f"table {name}: on_window_close without windows",
                hint=f"app.Table({name!r}, …).tumbling(size, expires=…)",
            )
        check_sensors(self.sensors, self._monitor)
        check_signals(self)

    # Faust's parts --------------------------------------------------------------------------------------------------

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Transport:
        return Transport(self.conf.broker_producer, self)

    def _new_web(self) -> Web:
        # Imported here because aiohttp's server takes long to import, and workers of a bounded run have no web views.
        from .web.health import blueprint as health
        from .web.table_views import blueprint, restore
        from .web.time_views import blueprint as times
        from .web.web_server import WebServer

        made = WebServer(self)
        made.blueprints.add("", health())
        made.blueprints.add("", restore())
        made.blueprints.add("", times())
        if self._web_tables:
            made.blueprints.add("/tables", blueprint("tables"))
            made.blueprints.add("/table", blueprint("table"))  # Faust's prefix
        return made

    @cached_property
    def _reply_consumer(self) -> ReplyConsumer:
        return ReplyConsumer(self, loop=self.loop, beacon=self.beacon)

    async def maybe_start_producer(self) -> ProducerT:
        """Start the producer. There is one kind of producer, because the engine manages transactions."""
        await self.producer.maybe_start()
        return self.producer

    async def start_client(self) -> None:
        """Start a client that is not a worker: a producer, and a reply consumer for `ask`."""
        self.client_only = True
        self.finalize()
        self._runtime.partitioners |= await daemon_thread(PartitionerRegistry(self._runtime.cluster).of)
        await self.producer.maybe_start()

    def is_leader(self) -> bool:
        """Return whether this worker is the leader of its group: it owns partition 0 of the first topic.

        An app that reads no topic joins a group at the first call, for a topic without records.
        """
        owned = self._runtime.status.owned
        if not owned and self._runtime.engine_runs:
            self._runtime.engine.elect()
        return any(tp.partition == 0 and tp.topic == min(t.topic for t in owned) for tp in owned)

    # Topics ---------------------------------------------------------------------------------------------------------

    @typed_as(TopicDeclaration)
    def topic(
        self,
        *topics: str,
        key_type: object = None,
        value_type: object = None,
        partitioner: RangePartitioner | None = None,
        private: Collection[str] = (),
        time: str | Callable[..., object] | None = None,
        time_unit: TimeUnit | None = None,
        grace: Duration | None = None,
        max_jump: Duration | None = DEFAULT_JUMP,
        idle_after: Duration | None = DEFAULT_IDLE,
        **options: Any,
    ) -> Topic:
        """Describe a topic; see `TopicDeclaration`."""
        check_options("topic", options, _TOPIC_OPTIONS)
        private = checked_names(f"topic {' '.join(topics)}", private, value_type)
        if not options.get("has_prefix"):
            topics = tuple(map(self._runtime.resolve_topic, topics))
        for name in topics:
            self._runtime.check_topic(name)
        options["partitions"] = _partitions(topics, options.get("partitions"), partitioner)
        types: dict[str, Any] = {"key_type": key_type, "value_type": value_type}
        made = cast("Topic", super().topic(*topics, **types, **options))
        made.partitioner = partitioner
        made.private = private
        made.timing = Timing.of(time, time_unit, grace, max_jump, idle_after)
        for name in made.topics:
            self._runtime.described.setdefault(name, made)
        return made

    # Agents and more: Faust's own methods, with anabranch's types ---------------------------------------------------

    agent: AgentDeclaration = typed_as(AgentDeclaration)(declare_agent)
    page: PageDeclaration = typed_as(PageDeclaration)(faust.App.page)
    stream: StreamDeclaration = typed_as(StreamDeclaration)(faust.App.stream)

    # Tables ---------------------------------------------------------------------------------------------------------

    @typed_as(TableDeclaration)
    def Table(  # noqa: N802 (Faust's name)
        self,
        name: str,
        *,
        default: Callable[[], object] | None = None,
        key_type: object = None,
        value_type: object = None,
        **options: Unpack[TableOptions],
    ) -> Table:
        """Declare a table; see `TableDeclaration`."""
        return self._add_table(name, default, key_type, value_type, options)

    @typed_as(SetTableDeclaration)
    def SetTable(  # noqa: N802 (Faust's name)
        self, name: str, *, key_type: object = None, value_type: object = None, **options: Unpack[TableOptions]
    ) -> Table[Any, set[Any]]:
        """Declare a table of sets; see `SetTableDeclaration`."""
        return self._add_table(name, None, key_type, value_type, options, sets=True)

    @typed_as(TableDeclaration)
    def GlobalTable(  # noqa: N802 (Faust's name)
        self,
        name: str,
        *,
        default: Callable[[], object] | None = None,
        key_type: object = None,
        value_type: object = None,
        **options: Unpack[TableOptions],
    ) -> Table:
        """Declare a table that every worker holds whole; see `tables/global_table.py` and `TableDeclaration`."""
        return self._add_table(name, default, key_type, value_type, options, is_global=True)

    def _add_table(
        self,
        name: str,
        default: Callable[[], object] | None,
        key_type: object,
        value_type: object,
        options: TableOptions,
        *,
        sets: bool = False,
        is_global: bool = False,
    ) -> Table:
        known = {"default", "key_type", "value_type", *TableOptions.__annotations__}
        unsupported = sorted(option for option, value in options.items() if option not in known and value is not None)
        if unsupported:
            raise Usage(
                f"table {name}: {', '.join(unsupported)}: not supported",
                hint=did_you_mean(unsupported[0], known, "see docs/tables.md for what tables can do"),
            )
        common: dict[str, Any] = {
            "default": default,
            "partitions": options.get("partitions"),
            "key_type": key_type,
            "value_type": value_type,
            "help": options.get("help") or "",
            "config": {k: str(v) for k, v in (options.get("extra_topic_configs") or {}).items()},
            "store": store_scheme(options.get("store") or self.conf.store, name),
            "step": lambda: self._runtime.agent_step,
        }
        if default is not None and not callable(default):
            raise Usage(
                f"table {name}: default={default!r} is a value",
                hint=f"a function makes it: default=lambda: {default!r}",
            )
        ttl, local, clock = options.get("ttl"), options.get("local", False), self._runtime.record_time_ms
        table = new_table(name, ttl, clock, sets=sets, is_global=is_global, local=local, **common)
        self.add_table(table, checked_names(f"table {name}", options.get("private") or (), value_type))
        if not (ttl or local or sets or is_global):
            table.with_windows = partial(self._give_windows, table, options.get("on_window_close"), common)
        if options.get("on_window_close") is not None:
            self._runtime.lacks_windows.add(name)
        return table

    def _give_windows(
        self,
        table: Table,
        on_close: CloseCallback | None,
        options: dict[str, Any],
        windows: Windows,
        size_ms: int,
        expires_ms: int | None,
    ) -> WindowWrapper[Any, Any]:
        """Replace a table by one with windows, which has its name and its changelog."""
        runtime = self._runtime
        made = windowed(
            table.name,
            windows,
            size_ms,
            expires_ms,
            on_close=on_close,
            is_input=runtime.reads,
            # The history of a bounded run is at its end: what it has computed is its result.
            keeps_all=bool(runtime.run_id),
            waits_for_end=runtime.waits_for_end,
            writer=runtime.window_writer,
            **options,
        )
        made.table.changelog_topic = table.changelog_topic
        if made.table.value_codec is codec():
            made.table.value_codec = MODELS
        self.tables[table.name] = cast(Any, made.table)
        cast(TableManager, self.tables).add_changelog(made.table)
        runtime.lacks_windows.discard(table.name)
        if not runtime.run_id:
            runtime.change_settings(notice_ends=True)
        return made

    def add_table(self, table: Table, private: Collection[str] = ()) -> None:
        """Add a table to the app, with its changelog.

        Args:
            private: private fields of its values; see `topics/private_fields.py`.
        """
        table.changelog_topic = self.topic(
            f"{self.conf.id}-{table.name}-changelog",
            has_prefix=True,
            partitions=table.partitions,
            compacting=True,
            private=private,
        )
        self.tables.add(cast(Any, table))

    # Timers in event time: see `timers.py` --------------------------------------------------------------------------

    at, cancel = set_timer, cancel_timer

    # Tasks: each of Faust's decorators comes down to `_task` ---------------------------------------------------------

    def _task(self, fun: AsyncFunction, on_leader: bool = False, traced: bool = False) -> AsyncFunction:
        return cast(AsyncFunction, super()._task(ends_the_worker(self, fun), on_leader=on_leader, traced=traced))

    task: TaskDeclaration = typed_as(TaskDeclaration)(faust.App.task)

    def timer(
        self,
        interval: Duration,
        on_leader: bool = False,
        traced: bool = True,
        name: str | None = None,
        max_drift_correction: float = 0.1,
    ) -> Callable[[AsyncFunction], AsyncFunction]:
        """Make a decorator for functions that run every `interval`, such as `5m`; one that fails ends the worker."""
        interval = interval_s(interval, "timer: interval")
        return called("timer", super().timer(interval, on_leader, traced, name, max_drift_correction))

    def itertimer(
        self, interval: Duration, *, clock: Callable[[], float] | None = None, **options: Any
    ) -> AsyncIterator[float]:
        """Yield every `interval`, by the clock of this project."""
        return super().itertimer(interval_s(interval, "itertimer: interval"), clock=clock or now_s, **options)

    def crontab(
        self, cron_format: str, *, timezone: tzinfo | None = None, on_leader: bool = False, traced: bool = True
    ) -> Callable[[AsyncFunction], AsyncFunction]:
        """Make a decorator for functions that run at the times of a cron line; one that fails ends the worker."""

        def decorate(fun: Any) -> Any:
            @wraps(fun)
            async def run(*args: Any) -> None:
                while not self.should_stop:
                    await self.sleep(background_tasks.seconds_until(cron_format, timezone or self.conf.timezone))
                    if not self.should_stop and (not on_leader or self.is_leader()):
                        with self.trace(shortlabel(fun), trace_enabled=traced):
                            await fun(*args)

            return cast(Any, self.task)(run, traced=False)

        return cron_job(cron_format, timezone, decorate)

    # Commands -------------------------------------------------------------------------------------------------------

    def command(
        self, *options: Any, base: type[AppCommand] | None = None, **kwargs: Any
    ) -> Callable[[Callable[..., object]], type[AppCommand]]:
        """Make a decorator for a function, async or not, that is a command: `anabranch -A shop NAME`.

        The function takes the options' values by name. Its first parameter is `self`, a Faust `AppCommand` with `app`
        and `say`, unless it has no parameters.

        Args:
            options: options and arguments of the command line, made by `option` and `argument` of `faust.cli` or click.
            base: a subclass of Faust's `AppCommand`.
        """

        def made(fun: Callable[..., object]) -> type[AppCommand]:
            awaited: Any = fun if inspect.iscoroutinefunction(fun) else async_function(fun)
            command = super(App, self).command(*options, base=base, **kwargs)(awaited)
            self._runtime.commands.append(command)
            return command

        return made

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
