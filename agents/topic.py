"""Topics: Faust's description of a topic, with our codecs and a short way into the epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, Unpack, cast, overload

import faust
import msgspec
from faust.types import TP
from faust.types.tuples import RecordMetadata
from typing_extensions import TypeVar

from ..topics.errors import BadRecord, Stop, Usage
from ..topics.keys import plain, record_key
from ..topics.output import Output
from ..topics.partitioners import RangePartitioner
from ..topics.producer import Headers
from ..topics.serde import Codec, codec, key_codec
from .engine.outbox import sendable
from .engine.packed_rows import Rows
from .faust_values import UNMARKED_TEXT, UNTYPED
from .runtime import runtime_of
from .unread_topics import refuse_unread

if TYPE_CHECKING:
    from faust.types import CodecT

    from .app import App
    from .declarations import Failure
    from .flows.aggregates import Aggregate, What
    from .flows.flow import Flow, KeyedFlow, ReduceOptions
    from .tables.table import Table

__all__ = ["Sent", "Topic"]


K = TypeVar("K", default=Any)
V = TypeVar("V", default=Any)
T = TypeVar("T")
K2 = TypeVar("K2")

_json_text = msgspec.json.Decoder(str).decode


class Sent:
    """Answer of a send whose record waits for the gate: awaiting it gives the metadata, offset -1, at once."""

    __slots__ = ("_metadata",)

    def __init__(self, metadata: RecordMetadata) -> None:
        self._metadata = metadata

    def __await__(self) -> Generator[None, None, RecordMetadata]:
        return self._metadata
        yield  # makes this a generator that ends at once

    def result(self) -> RecordMetadata:
        """As a future's."""
        return self._metadata


HeadersGiven: TypeAlias = "Mapping[str, bytes | str | None] | Iterable[tuple[str, bytes | str | None]]"


def header_list(headers: HeadersGiven | None) -> Headers | None:
    """Headers as librdkafka takes them; a mapping or pairs, text values as UTF-8, None stays null."""
    if not headers:
        return None
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [(_header_name(name), _header_value(value)) for name, value in pairs]


def _header_name(name: object) -> str:
    text = str(name)
    text.encode()  # the client ends the process where this fails (confluent-kafka 2.16)
    return text


def _header_value(value: object) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else str(value).encode()


class Topic(faust.Topic, Generic[K, V]):
    """A topic whose values have a declared type; see `anabranch.topics.serde` for what is declared how.

    A `key_serializer` or `value_serializer` that is given keeps its Faust meaning. Without one, text is UTF-8, and text
    that looks as Faust writes it (JSON, in quotes) is refused: see `anabranch.agents.faust_values`.

    Attributes:
        partitioner: how keys map to partitions, where the program says so.
        former: name -> what the topic was called while it did not carry the app's id (`leftover.py`).

    Raises:
        Usage: it has a pattern instead of names, or its offsets are not to be committed.
    """

    def __init__(
        self,
        *args: Any,
        partitioner: RangePartitioner | None = None,
        former: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._runtime = runtime_of(self.app)
        if self.pattern is not None:
            raise Usage(
                f"app.topic(pattern={getattr(self.pattern, 'pattern', self.pattern)!r}): not supported",
                hint="name the topics: app.topic('orders', 'returns')",
            )
        if not self.topics:
            raise Usage("app.topic(): no name given", hint="name the topic: app.topic('orders')")
        if not self.acks:
            raise Usage(
                f"app.topic({self.get_topic_name()!r}, acks=False): not supported",
                hint="offsets are committed together with what the agent did",
            )
        self.partitioner = partitioner
        self.former = former or {}
        self.streams: list[Any] = []
        self.expected_streams = 1
        # What "raw" says of text and bytes is what they are without it.
        raw = self.value_serializer == "raw" and self.value_type in (bytes, str)
        self._serializer = None if raw else self.value_serializer
        self._value = self._codec(raw=raw)
        # Text is bare here, as other clients write it; tables keep it as JSON.
        self._key = codec(str) if self.key_type is str else key_codec(bytes if self.key_type is None else self.key_type)
        self.decode_value: Any = self._loads if self._serializer else self._value.decode
        self.decode_key: Any = self._key.decode

    def _codec(self, *, raw: bool) -> Codec:
        if self._serializer:
            return codec(None)
        if self.value_type is None:
            return UNTYPED
        return UNMARKED_TEXT if self.value_type is str and not raw else codec(self.value_type)

    def _loads(self, data: bytes) -> Any:
        if self.value_type is str and self._serializer == "json":
            return _json_text(data)  # Faust takes a number for text here
        return self.app.serializers.loads_value(cast(Any, self.value_type), data, serializer=self._serializer)

    @property
    def partitioner(self) -> RangePartitioner | None:
        return self._partitioner

    @partitioner.setter
    def partitioner(self, partitioner: RangePartitioner | None) -> None:
        self._partitioner = partitioner
        if partitioner is not None:
            self._runtime.partitioners |= dict.fromkeys(self.topics, partitioner)

    @property
    def declared(self) -> Any:
        """The type of its values, if it alone decides how they are decoded; else `Ellipsis`."""
        return ... if self._serializer else self.value_type

    def decode_rows(self, rows: Rows) -> list[V]:
        """Values of rows of a packed batch, all at once.

        Raises:
            whatever the decoder raises for a row that does not fit.
        """
        packed = rows.package.open()
        encoded = rows.picked(packed.values())
        if packed.kind == "json" and self.declared is not ...:
            return self._value.decode_all(encoded)
        return list(map(self.decode_value, encoded))

    def _clone_args(self) -> Mapping[str, Any]:
        return {**super()._clone_args(), "partitioner": self.partitioner, "former": self.former}

    def derive_topic(
        self, *, topics: Sequence[str] | None = None, internal: bool | None = None, prefix: str = "", **kwargs: Any
    ) -> Any:
        """As Faust's; a topic of the app's own (`internal`: of `group_by`) carries the app's id, so that apps of one
        program do not share it."""
        app, names = cast("App", self.app), list(self.topics if topics is None else topics)
        if not internal or self.internal:
            return super().derive_topic(topics=names, internal=internal, prefix=prefix, **kwargs)
        former = [f"{prefix}{name}{kwargs.get('suffix', '')}" for name in names]
        if self._runtime.run_id:  # whose topics have it in front already
            names = [name.removeprefix(f"{app.conf.id}-") for name in names]
        made: Any = super().derive_topic(topics=names, internal=True, prefix=f"{app.conf.id}-{prefix}", **kwargs)
        made.former = dict(zip(made.topics, former, strict=True))
        return made

    def encode_key(self, key: Any, serializer: Any = None) -> bytes | None:
        """Key as bytes: of the declared type, else see `record_key`. Equal keys are equal bytes.

        Raises:
            BadRecord: it is NaN or infinite, or does not fit the declared type.
        """
        if key is None or isinstance(key, bytes):
            return key
        if serializer or self.key_serializer:
            return self.prepare_key(plain(key), serializer, self.schema, {})[0]
        if self.key_type is None:
            return record_key(key)
        return self._key.encode(key)

    def encode_value(self, value: Any, serializer: Any = None) -> bytes | None:
        """Value as bytes; bytes pass as they are, objects that know how to `dumps` themselves do."""
        if value is None or isinstance(value, bytes):
            return value
        if serializer or self._serializer:
            return self.prepare_value(value, serializer, self.schema, {})[0]
        if self.value_type is None and (hasattr(value, "dumps") or hasattr(value, "__struct_fields__")):
            return codec(type(value)).encode(value)
        return self._value.encode(value)

    async def send(
        self,
        *,
        key: K | bytes | None = None,
        value: V | bytes | None = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersGiven | None = None,
        schema: object = None,
        key_serializer: CodecT | str | None = None,
        value_serializer: CodecT | str | None = None,
        callback: Callable[[Sent], object] | None = None,
        force: bool = False,
    ) -> Awaitable[RecordMetadata]:
        """Send a record with the running epoch; it is visible once the epoch is committed.

        Args:
            timestamp: seconds since 1970, negative before it; None takes that of the record the agent works on, else
                now. Exactly 0 ms cannot be sent; -1 ms is a record without a time to Kafka.
            force: send at once, outside of any transaction (at least once); `ask` needs it.

        Raises:
            BadRecord: the value does not fit its type or is larger than the topic may take.
        """
        del schema
        runtime = self._runtime
        output = self.output(
            self.encode_key(key, key_serializer),
            self.encode_value(value, value_serializer),
            None if timestamp is None else sendable(round(timestamp * 1000)),
            partition=partition,
            headers=header_list(headers),
        )
        if force or not runtime.engine_runs:
            await runtime.provisioner.declare_once(self)
            return await runtime.sender.send(output)
        self.need()
        runtime.context.send(output)
        tp = TP(output.topic, output.partition)
        sent = Sent(RecordMetadata(tp.topic, tp.partition, tp, -1, timestamp, None))
        if callback:
            callback(sent)
        return sent

    def output(
        self,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int | None = None,
        *,
        partition: int | None = None,
        headers: Headers | None = None,
    ) -> Output:
        """A record for this topic, as the epoch takes it.

        Raises:
            BadRecord: it is larger than the topic may take.
        """
        runtime = self._runtime
        name = self.get_topic_name()
        size = len(value or b"") + len(key or b"")
        if size > runtime.max_record_bytes:
            raise BadRecord(
                f"a record of {size:,} bytes for topic {name} is over {runtime.max_record_bytes:,}",
                hint="raise max.message.bytes of the topic and the app's producer_max_request_size",
            )
        if partition is None:
            partitioner = runtime.partitioners.get(name)
            partition = -1 if partitioner is None or key is None else partitioner.partition(key)
            if key is None and self.internal:
                partition = 0  # None is a key to `group_by`: all of it belongs together
        return Output(name, value, key, partition, timestamp_ms, headers)

    def outputs(self, keys: Iterable[Any], values: Iterable[Any], timestamp_ms: int | None) -> list[Output]:
        """`output` of many records, their keys and values to be encoded.

        Raises:
            BadRecord: one is larger than the topic may take.
        """
        runtime = self._runtime
        raw_keys, raw_values = list(map(self.encode_key, keys)), list(map(self.encode_value, values))
        partitioner = runtime.partitioners.get(self.get_topic_name())
        sizes = (
            max((len(key or b"") for key in raw_keys), default=0),
            max((len(v or b"") for v in raw_values), default=0),
        )
        if partitioner is not None or sum(sizes) > runtime.max_record_bytes:
            return list(map(self.output, raw_keys, raw_values, repeat(timestamp_ms)))
        name = self.get_topic_name()
        return [
            Output(name, value, key, -1, timestamp_ms, None) for key, value in zip(raw_keys, raw_values, strict=True)
        ]

    def need(self) -> None:
        """The running epoch writes to it: make it before the commit, where it is not there."""
        provisioner = self._runtime.provisioner
        name = self.get_topic_name()
        if name not in provisioner.declared:
            provisioner.add(provisioner.spec_of(self, name), self.partitioner)

    def send_soon(self, **kwargs: Any) -> Any:
        """Send from a plain function: as `send`, through the epoch."""
        kwargs.pop("eager_partitioning", None)
        coro = self.send(**kwargs)
        try:
            coro.send(None)
        except StopIteration as sent:
            return sent.value
        coro.close()
        raise BadRecord(f"topic {self.get_topic_name()}: send_soon needs a running worker", hint="use `await send(…)`")

    async def publish_message(self, fut: Any, wait: bool = False) -> Any:
        """Faust's own way to send: everything goes through `send`."""
        message = fut.message
        return await self.send(
            key=message.key,
            value=message.value,
            partition=message.partition,
            timestamp=message.timestamp,
            headers=message.headers,
        )

    # Flows begin here: see `flow.py`

    def flow(self, *, on_failure: Failure = "dead_letter") -> Flow[V]:
        """Begin a flow of the topic's values.

        Args:
            on_failure: failure policy of the flow's agents.
        """
        from .flows.flow import Flow

        return Flow(self, type=Any if self.value_type is None else self.value_type, on_failure=on_failure)

    @overload
    def map(self, function: Callable[[V], T]) -> Flow[T]: ...
    @overload
    def map(self, function: str) -> Flow[Any]: ...
    def map(self, function: Callable[[V], T] | str) -> Flow[Any]:
        """Begin a flow with `Flow.map`."""
        return self.flow().map(cast("Callable[[V], T]", function))

    def filter(self, function: Callable[[V], object] | str) -> Flow[V]:
        """Begin a flow with `Flow.filter`."""
        return self.flow().filter(function)

    def flat_map(self, function: Callable[[V], Iterable[T]]) -> Flow[T]:
        """Begin a flow with `Flow.flat_map`."""
        return self.flow().flat_map(function)

    def select(self, *fields: str, **computed: What) -> Flow[dict[str, Any]]:
        """Begin a flow with `Flow.select`."""
        return self.flow().select(*fields, **computed)

    def with_columns(self, **computed: What) -> Flow[dict[str, Any]]:
        """Begin a flow with `Flow.with_columns`."""
        return self.flow().with_columns(**computed)

    @overload
    def key_by(self: Topic[Any, tuple[K2, T]]) -> KeyedFlow[K2, T]: ...
    @overload
    def key_by(self, key: Callable[[V], K2], value: None = None) -> KeyedFlow[K2, V]: ...
    @overload
    def key_by(self, key: Callable[[V], K2], value: Callable[[V], T]) -> KeyedFlow[K2, T]: ...
    @overload
    def key_by(self, key: str | int, value: None = None) -> KeyedFlow[Any, V]: ...
    @overload
    def key_by(self, key: str | int, value: Callable[[V], T]) -> KeyedFlow[Any, T]: ...
    @overload
    def key_by(self, key: What = None, value: What = None) -> KeyedFlow[Any, Any]: ...
    def key_by(self, key: What = None, value: What = None) -> KeyedFlow[Any, Any]:
        """Begin a flow with `Flow.key_by`."""
        return self.flow().key_by(key, value)

    @overload
    def reduce(self, how: Callable[[V, V], V] | Callable[[Iterable[V]], object], table: Table[K, V]) -> Table[K, V]: ...
    @overload
    def reduce(
        self,
        how: Callable[[V, V], V] | Callable[[Iterable[V]], object],
        table: str | None = None,
        **options: Unpack[ReduceOptions],
    ) -> Table[K, V]: ...
    def reduce(
        self, how: Callable[..., Any], table: str | Table[K, V] | None = None, **options: Unpack[ReduceOptions]
    ) -> Table[Any, V]:
        """Reduce the values by the records' own keys: `Flow.reduce`."""
        return self.flow().reduce(how, cast("str | None", table), **options)

    def aggregate(
        self, table: str | Table[K, dict[str, Any]] | None = None, /, **columns: Aggregate[Any]
    ) -> Table[K, dict[str, Any]]:
        """Aggregate the values by the records' own keys: `Flow.aggregate`."""
        return self.flow().aggregate(cast("str | None", table), **columns)

    async def declare(self) -> None:
        """Create the topic where it does not exist.

        Raises:
            Usage: see `refuse_unread`.
        """
        app, runtime = cast("App", self.app), self._runtime
        await runtime.provisioner.declare([self])
        for name, former in ({} if runtime.run_id else self.former).items():
            try:
                await asyncio.to_thread(refuse_unread, runtime.cluster, runtime.admin, app.conf.id, former, name)
            except Stop as exc:
                await runtime.engine.stop_with(exc)
                raise

    async def maybe_declare(self) -> None:
        """As `declare`."""
        await self.declare()
