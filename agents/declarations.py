"""Declarations of a program, as types for editors and type checkers: what `App`, `app.topic`, `app.agent`, `app.Table`
and the other decorators take, and what they return.

Faust declares its settings at run time and returns unspecific types, so no editor knows them. The classes here list the
options that anabranch accepts (`tests/test_types.py` compares them with `faust_settings.py`), and say of each call what
comes out of it: `app.topic("orders", value_type=Order)` is a `Topic[Any, Order]`, and an agent on it takes a
`Stream[Order]`. Protocols carry the overloads, so that `App` itself stays readable; `typed_as` attaches them.

A type that the program does not declare is `Any`: keys and values are untyped JSON then.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from datetime import timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

if TYPE_CHECKING:
    import asyncio
    import logging
    import ssl
    from pathlib import Path

    from faust.types import AgentT, ChannelT, CodecT
    from faust.types.auth import CredentialsT
    from faust.types.web import ResourceOptions
    from faust.web import View
    from mode import SupervisorStrategyT
    from mode.utils.trees import NodeT
    from yarl import URL

    from ..topics.durations import Duration
    from ..topics.partitioners import RangePartitioner
    from .agent import Agent
    from .event_time.event_time import TimeUnit
    from .failure_policy import Retry
    from .stream import Stream
    from .tables.table import Table
    from .topic import Topic

__all__ = [
    "AgentDeclaration",
    "AgentOptions",
    "AppOptions",
    "AsyncFunction",
    "Failure",
    "PageDeclaration",
    "Seconds",
    "SetTableDeclaration",
    "StreamDeclaration",
    "TableDeclaration",
    "TableOptions",
    "TaskDeclaration",
    "TimedTopicOptions",
    "TopicDeclaration",
    "TopicOptions",
    "typed_as",
]

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")
P = TypeVar("P")
AsyncFunction = TypeVar("AsyncFunction", bound="Callable[..., Awaitable[object]]")

Seconds: TypeAlias = "float | timedelta"

Failure: TypeAlias = "Literal['dead_letter', 'skip', 'fail', 'retry'] | Retry"
"""A failure policy; `agents/failure_policy.py` documents them."""

Nothing: TypeAlias = "Coroutine[object, object, None] | Awaitable[None]"
"""Result of an agent function that does not yield."""

_Url: TypeAlias = "str | URL"


class AppOptions(TypedDict, total=False):
    """Faust's settings that `App(…)` accepts. A setting of `None` counts as not given."""

    # The app
    autodiscover: bool | str | Iterable[str] | Callable[[], Iterable[str]]
    config_source: object
    datadir: str | Path | None
    debug: bool | None
    env: Mapping[str, str] | None
    env_prefix: str | None
    id_format: str | None
    loop: asyncio.AbstractEventLoop | None
    origin: str | None
    timezone: tzinfo | None
    version: int | None

    # The cluster
    broker: _Url | list[str] | None
    broker_consumer: _Url | list[str] | None
    broker_producer: _Url | list[str] | None
    broker_check_crcs: bool | None
    broker_client_id: str | None
    broker_commit_interval: Seconds | None
    broker_credentials: CredentialsT | None
    broker_heartbeat_interval: Seconds | None
    broker_max_poll_interval: Seconds | None
    broker_max_poll_records: int | None
    broker_request_timeout: Seconds | None
    broker_session_timeout: Seconds | None
    url: _Url | None

    # Reading and writing
    consumer_auto_offset_reset: Literal["earliest", "latest"]
    consumer_connections_max_idle_ms: int | None
    consumer_max_fetch_size: int | None
    consumer_metadata_max_age_ms: int | None
    processing_guarantee: Literal["exactly_once", "at_least_once"]
    producer_compression_type: Literal["gzip", "snappy", "lz4", "zstd", "none"] | None
    producer_connections_max_idle_ms: int | None
    producer_linger: Seconds | None
    producer_linger_ms: int | None
    producer_max_batch_size: int | None
    producer_max_request_size: int | None
    producer_metadata_max_age_ms: int | None
    producer_request_timeout: Seconds | None

    # Agents, topics, tables
    agent_supervisor: str | type[SupervisorStrategyT] | None
    blocking_timeout: Seconds | None
    cache: _Url | None
    cython_optimizations: bool | None
    reply_create_topic: bool | None
    reply_expires: Seconds | None
    reply_to: str | None
    reply_to_prefix: str | None
    store: _Url | None
    stream_ack_cancelled_tasks: bool | None
    stream_ack_exceptions: bool | None
    stream_publish_on_commit: bool | None
    table_cleanup_interval: Seconds | None
    table_key_index_size: int | None
    table_standby_replicas: int | None
    topic_allow_declare: bool | None
    topic_disable_leader: bool | None
    topic_partitions: int | None
    topic_replication_factor: int | None

    # The web server
    canonical_url: _Url | None
    web: _Url | None
    web_application_options: Mapping[str, object] | None
    web_bind: str | None
    web_cors_options: Mapping[str, object] | None
    web_enabled: bool | None
    web_graph_enabled: bool | None
    web_host: str | None
    web_port: int | None
    web_router_enabled: bool | None
    web_ssl_context: ssl.SSLContext | None
    web_tables_enabled: bool | None
    web_transport: _Url | None

    # The worker and classes of Faust's
    HttpClient: str | type | None
    Schema: str | type | None
    Serializers: str | type | None
    Worker: str | type | None
    beacon: NodeT[object] | None
    logging_config: Mapping[str, object] | None
    loghandlers: list[logging.Handler] | None
    worker_redirect_stdouts: bool | None
    worker_redirect_stdouts_level: str | int | None

    # Names of Faust 1.x, which Faust still takes
    client_id: str | None
    commit_interval: Seconds | None
    create_reply_topic: bool | None
    default_partitions: int | None
    num_standby_replicas: int | None
    replication_factor: int | None


class TopicOptions(TypedDict, total=False):
    """Options of `app.topic(…)` beside the types of keys and values.

    Attributes:
        partitions: number of partitions when the topic is created; default: the app's `topic_partitions`.
        retention: how long Kafka keeps a record.
        compacting, deleting: the topic's `cleanup.policy`.
        replicas: number of replicas when the topic is created.
        config: topic configuration under Kafka's names, for when the topic is created.
        key_serializer, value_serializer: Faust's codecs; see `Topic`.
        partitioner: maps keys to partitions by range instead of by hash.
        private: fields that commands, logs and web views do not show, such as `["email", "user.phone"]`; `$key` and
            `$value` stand for the whole key and value. See docs/privacy.md.
    """

    partitions: int | None
    retention: Duration | None
    compacting: bool | None
    deleting: bool | None
    replicas: int | None
    config: Mapping[str, str | int | float | bool] | None
    key_serializer: CodecT | str | None
    value_serializer: CodecT | str | None
    partitioner: RangePartitioner | None
    private: Collection[str]
    pattern: object
    schema: object
    acks: bool
    internal: bool
    maxsize: int | None
    allow_empty: bool
    has_prefix: bool
    loop: asyncio.AbstractEventLoop | None


class TimedTopicOptions(TopicOptions, total=False):
    """Options of `app.topic(…)` with those of event time; docs/time.md explains them.

    Attributes:
        time: the event time of a record: a field's name, an expression or a function of the value. It is a number, a
            datetime with a zone, or such a datetime as ISO 8601 text. Default: the record's timestamp in Kafka.
        time_unit: the unit of times that are numbers: `s`, `ms` (the default), `us` or `ns`.
        grace: how far records may be out of order: watermarks are so much behind the newest record of a partition.
        max_jump: a record further ahead than this moves time only together with a second one; None: no such guard.
        idle_after: a partition of a live topic that has had no record for so long does not hold time back, and its time
            goes on at the pace of the clock until open windows have closed; default: `1m`. None: it waits.
    """

    time: str | Callable[..., object] | None
    time_unit: TimeUnit | None
    grace: Duration | None
    max_jump: Duration | None
    idle_after: Duration | None


class AgentOptions(TypedDict, total=False):
    """Options of `@app.agent(…)` beside the channel.

    Attributes:
        name: identifies the agent's progress in the committed offsets; default: module and name of the function.
        concurrency: number of instances of the function; records are dealt to them by key.
        sink: agents, channels and functions that get each value that the agent yields.
        on_failure: policy for records that make the agent raise; see `Agent`.
    """

    name: str | None
    concurrency: int
    sink: Iterable[AgentT[object] | ChannelT[object] | Callable[..., Awaitable[object] | None]] | None
    on_failure: Failure
    supervisor_strategy: type[SupervisorStrategyT] | None
    isolated_partitions: bool
    use_reply_headers: bool


class NewAgentOptions(AgentOptions, TopicOptions, total=False):
    """Options of `@app.agent(…)` where the agent makes its own topic."""

    key_type: object


class TableOptions(TypedDict, total=False):
    """Options of `app.Table(…)` beside `default` and the types of keys and values.

    Attributes:
        partitions: number of partitions of the changelog; default: that of the topics the app reads.
        help: a description, shown in lists of tables.
        extra_topic_configs: topic configuration of the changelog under Kafka's names.
        store: `memory://`, or `rocksdb://` for a table on disk; default: the app's `store`.
        ttl: seconds of event time after which a key expires that is not written again.
        local: the same key may be in several partitions, and results name the partition.
        private: fields of the values that are not shown, as in `TopicOptions`.
        on_window_close: a function, async or not, that an agent calls with (key, (start, end)) and the final value of
            each window that has closed; of a table with `.tumbling(…)` or `.hopping(…)`.
    """

    partitions: int | None
    help: str | None
    extra_topic_configs: Mapping[str, str | int | float | bool] | None
    store: _Url | None
    ttl: Duration | None
    local: bool
    private: Collection[str]
    on_window_close: Callable[[Any, Any], object] | None


class TopicDeclaration(Protocol):
    """`app.topic(…)`."""

    @overload
    def __call__(
        self, *topics: str, key_type: type[K], value_type: type[V], **options: Unpack[TimedTopicOptions]
    ) -> Topic[K, V]: ...
    @overload
    def __call__(
        self, *topics: str, key_type: None = None, value_type: type[V], **options: Unpack[TimedTopicOptions]
    ) -> Topic[Any, V]: ...
    @overload
    def __call__(
        self, *topics: str, key_type: type[K], value_type: None = None, **options: Unpack[TimedTopicOptions]
    ) -> Topic[K]: ...
    @overload
    def __call__(
        self, *topics: str, key_type: object = None, value_type: object = None, **options: Unpack[TimedTopicOptions]
    ) -> Topic: ...
    def __call__(self, *topics: str, **options: object) -> Topic:
        """Describe a topic, or several that one agent reads; see `TimedTopicOptions`.

        In a bounded run, topics are the run's own, named `<app>-run-<id>-<topic>`.

        Args:
            topics: names.
            key_type: type of the keys; default: bytes are read, and keys that are written are JSON or text.
            value_type: type of the values; default: untyped JSON.

        Raises:
            Usage: Kafka does not allow the name, or an option is not supported.
        """
        ...


class TableDeclaration(Protocol):
    """`app.Table(…)` and `app.GlobalTable(…)`."""

    @overload
    def __call__(
        self,
        name: str,
        *,
        default: Callable[[], V],
        key_type: type[K],
        value_type: object = None,
        **options: Unpack[TableOptions],
    ) -> Table[K, V]: ...
    @overload
    def __call__(
        self,
        name: str,
        *,
        default: Callable[[], V],
        key_type: object = None,
        value_type: object = None,
        **options: Unpack[TableOptions],
    ) -> Table[Any, V]: ...
    @overload
    def __call__(
        self,
        name: str,
        *,
        default: None = None,
        key_type: type[K],
        value_type: type[V],
        **options: Unpack[TableOptions],
    ) -> Table[K, V]: ...
    @overload
    def __call__(
        self,
        name: str,
        *,
        default: None = None,
        key_type: None = None,
        value_type: type[V],
        **options: Unpack[TableOptions],
    ) -> Table[Any, V]: ...
    @overload
    def __call__(
        self,
        name: str,
        *,
        default: None = None,
        key_type: type[K],
        value_type: None = None,
        **options: Unpack[TableOptions],
    ) -> Table[K]: ...
    @overload
    def __call__(
        self,
        name: str,
        *,
        default: None = None,
        key_type: object = None,
        value_type: object = None,
        **options: Unpack[TableOptions],
    ) -> Table: ...
    def __call__(self, name: str, **options: object) -> Table:
        """Declare a table: a dict whose changes Kafka keeps; see `anabranch.Table` and `TableOptions`.

        Args:
            name: names the table and its changelog, `<app id>-<name>-changelog`.
            default: makes the value of a key that is not in the table; default: `KeyError`.
            key_type: type of the keys; default: untyped JSON.
            value_type: type of the values; default: that of `default()`, or untyped JSON.

        Raises:
            Usage: an option or a store is not supported.
        """
        ...


class SetTableDeclaration(Protocol):
    """`app.SetTable(…)`."""

    @overload
    def __call__(
        self, name: str, *, key_type: type[K], value_type: type[V], **options: Unpack[TableOptions]
    ) -> Table[K, set[V]]: ...
    @overload
    def __call__(
        self, name: str, *, key_type: None = None, value_type: type[V], **options: Unpack[TableOptions]
    ) -> Table[Any, set[V]]: ...
    @overload
    def __call__(
        self, name: str, *, key_type: object = None, value_type: object = None, **options: Unpack[TableOptions]
    ) -> Table[Any, set[Any]]: ...
    def __call__(self, name: str, **options: object) -> Table[Any, set[Any]]:
        """Declare a table of sets: `seen[user].add(page)`. A key whose set is empty is not in the table.

        Args:
            value_type: type of the elements; default: untyped JSON.
            name, key_type, options: as for `app.Table`.

        Raises:
            Usage: as `app.Table`.
        """
        ...


class AgentDecorator(Protocol[V]):
    """Makes an agent of a function that takes a `Stream[V]`."""

    @overload
    def __call__(self, fun: Callable[[Stream[V]], AsyncIterable[R]]) -> Agent[V, R]: ...
    @overload
    def __call__(self, fun: Callable[[Stream[V]], Nothing]) -> Agent[V, None]: ...
    def __call__(self, fun: object) -> Agent:
        """Register the agent function."""
        ...


class AnyAgentDecorator(Protocol):
    """Makes an agent of a function; the function's annotation says what the stream's values are."""

    @overload
    def __call__(self, fun: Callable[[Stream[V]], AsyncIterable[R]]) -> Agent[V, R]: ...
    @overload
    def __call__(self, fun: Callable[[Stream[V]], Nothing]) -> Agent[V, None]: ...
    def __call__(self, fun: object) -> Agent:
        """Register the agent function."""
        ...


class TaskDeclaration(Protocol):
    """`@app.task` and `@app.task(…)`."""

    @overload
    def __call__(self, fun: AsyncFunction) -> AsyncFunction: ...
    @overload
    def __call__(
        self, fun: None = None, *, on_leader: bool = False, traced: bool = True
    ) -> Callable[[AsyncFunction], AsyncFunction]: ...
    def __call__(self, fun: object = None, *, on_leader: bool = False, traced: bool = True) -> object:
        """Run an async function when the worker starts; one that fails ends the worker.

        Args:
            on_leader: run it on one worker of the group only.
        """
        ...


class PageDeclaration(Protocol):
    """`@app.page(…)`."""

    def __call__(
        self,
        path: str,
        *,
        base: type[View] = ...,
        cors_options: Mapping[str, ResourceOptions] | None = None,
        name: str | None = None,
    ) -> Callable[[Callable[..., object] | type[View]], type[View]]:
        """Serve an async function `(web, request, …)` at a path of the worker's web port.

        Args:
            path: such as `/count/{word}/`; names in braces become arguments.
        """
        ...


class StreamDeclaration(Protocol):
    """`app.stream(…)`."""

    @overload
    def __call__(self, channel: Topic[Any, V], **options: object) -> Stream[V]: ...
    @overload
    def __call__(self, channel: AsyncIterable[V] | Iterable[V], **options: object) -> Stream[V]: ...
    def __call__(self, channel: object, **options: object) -> Stream:
        """Make a stream of a topic, or of an iterable in memory."""
        ...


class AgentDeclaration(Protocol):
    """`@app.agent(…)`."""

    @overload  # a topic is a channel, too: the last overload is for channels in memory
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, channel: Topic[Any, V], **options: Unpack[AgentOptions]
    ) -> AgentDecorator[V]: ...
    @overload
    def __call__(
        self, channel: None = None, *, value_type: type[V], **options: Unpack[NewAgentOptions]
    ) -> AgentDecorator[V]: ...
    @overload
    def __call__(
        self, channel: str | ChannelT[object] | None = None, **options: Unpack[NewAgentOptions]
    ) -> AnyAgentDecorator: ...
    def __call__(self, channel: object = None, **options: object) -> object:
        """Make an agent of an async function that iterates a stream; see `anabranch.Agent` and `AgentOptions`.

        Args:
            channel: the topic that the agent reads; by name or omitted, the agent makes its own topic, with the options
                of `app.topic`.
        """
        ...


def typed_as(declaration: type[P]) -> Callable[[Callable[..., object]], P]:
    """Give a method the signature of a protocol; the method itself stays as it is."""
    del declaration
    return lambda method: cast(Any, method)
