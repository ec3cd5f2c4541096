"""Topics: Faust's description of a topic, with anabranch's codecs and a short path into the epoch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, Unpack, cast, overload

import faust
from faust.types import TP
from faust.types.tuples import RecordMetadata
from typing_extensions import TypeVar

from ..topics.errors import BadRecord, Stop, Usage
from ..topics.keys import plain, record_key
from ..topics.output import Output
from ..topics.packed import Rows
from ..topics.partitioners import RangePartitioner
from ..topics.producer import Headers
from ..topics.serde import (
    Codec,
    check_declared,
    checked_json,
    codec,
    decode_json_text,
    is_finite,
    json_lines,
    key_codec,
)
from ..topics.threads import daemon_thread
from .engine.outbox import sendable
from .event_time.event_time import DEFAULT_IDLE, DEFAULT_JUMP, TimeUnit, Timing
from .faust_adapter.faust_values import UNMARKED_TEXT, UNTYPED
from .runtime import runtime_of
from .unread_topics import refuse_unread

if TYPE_CHECKING:
    from faust.types import CodecT
    from faust.types.tuples import FutureMessage

    from ..topics.durations import Duration
    from ..topics.private_fields import PrivateNames
    from .app import App
    from .declarations import Failure
    from .event_time.windows import Windows
    from .flows.aggregates import Aggregate, What
    from .flows.flow import Flow, KeyedFlow, ReduceOptions
    from .flows.window_flow import WindowedFlow
    from .stream import Stream
    from .tables.table import Table

__all__ = ["Sent", "Topic"]


K = TypeVar("K", default=Any)
V = TypeVar("V", default=Any)
T = TypeVar("T")
K2 = TypeVar("K2")


# Values of these types need no encoding.
_PASSED_ON = frozenset({type(None), bytes})


class Sent:
    """Result of a send whose record waits for the barrier: awaiting it returns the metadata, with offset -1, at
    once."""

    __slots__ = ("_metadata",)

    def __init__(self, metadata: RecordMetadata) -> None:
        self._metadata = metadata

    def __await__(self) -> Generator[None, None, RecordMetadata]:
        return self._metadata
        yield  # makes this a generator that ends at once

    def result(self) -> RecordMetadata:
        """Return the metadata, as a future does."""
        return self._metadata


HeadersGiven: TypeAlias = "Mapping[str, bytes | str | None] | Iterable[tuple[str, bytes | str | None]]"


def header_list(headers: HeadersGiven | None) -> Headers | None:
    """Convert headers, a mapping or pairs, for librdkafka: text values become UTF-8, None stays null."""
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
    """A topic with keys of type `K` and values of type `V`; `app.topic(…)` makes it.

    `anabranch.topics.serde` documents the codecs of types. A `key_serializer` or `value_serializer` keeps its Faust
    meaning. Without one, text is UTF-8, and text as Faust writes it (JSON, in quotes) is refused: see
    `anabranch.agents.faust_adapter.faust_values`.

    Attributes:
        partitioner: how keys map to partitions, if the program declares it.
        former: name -> what the topic was called while it did not carry the app's id (`unread_topics.py`).
        private: the fields that are not shown.
        timing: the event time of the records.
        sized_like: the topic whose number of partitions it gets if it declares none; None: `topic_partitions`.

    Raises:
        Usage: it has a pattern instead of names, or its offsets are not to be committed.
    """

    def __init__(
        self,
        *args: Any,
        partitioner: RangePartitioner | None = None,
        former: Mapping[str, str] | None = None,
        private: Collection[str] = (),
        timing: Timing | None = None,
        sized_like: Topic | None = None,
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
        self.private = private
        self.former = former or {}
        self.timing = timing or Timing()
        self.sized_like = sized_like
        self.streams: list[Stream] = []
        self.expected_streams = 1
        # For text and bytes, "raw" means the same as no serializer.
        raw = self.value_serializer == "raw" and self.value_type in (bytes, str)
        self._serializer = None if raw else self.value_serializer
        self.check_types(is_read=False)
        self._value = self._codec(raw=raw)
        # Text keys are bare here, as other clients write them; tables keep them as JSON.
        self._key = codec(str) if self.key_type is str else key_codec(bytes if self.key_type is None else self.key_type)
        self.decode_value: Callable[[bytes], V] = self._loads if self._serializer else self._value.decode
        self.decode_key: Callable[[bytes], K] = self._key.decode

    def check_types(self, *, is_read: bool) -> None:
        """Refuse declared types as `check_declared` does.

        Raises:
            Usage: no record can be read as one of them.
        """
        check_declared(
            f"topic {', '.join(self.topics)}",
            is_read=is_read,
            key_type=None if self.key_serializer else self.key_type,
            value_type=None if self._serializer else self.value_type,
        )

    def _codec(self, *, raw: bool) -> Codec:
        if self._serializer:
            return codec(None)
        if self.value_type is None:
            return UNTYPED
        return UNMARKED_TEXT if self.value_type is str and not raw else codec(self.value_type)

    def _loads(self, data: bytes) -> Any:
        if self.value_type is str and self._serializer == "json":
            return decode_json_text(data)  # Faust takes a number for text here
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
    def private(self) -> Collection[str]:
        return self._private

    @private.setter
    def private(self, names: Collection[str]) -> None:
        self._private = names
        for topic in self.topics:
            self._runtime.private.declare(topic, names)

    @property
    def app_private(self) -> PrivateNames:
        """The private fields of all topics and tables of the app."""
        return self._runtime.private

    @property
    def declared(self) -> object:
        """The declared type of the values, or `Ellipsis` where a serializer decodes them."""
        return ... if self._serializer else self.value_type

    def decode_rows(self, rows: Rows) -> list[V]:
        """Decode the values of rows of a packed batch at once; raises what the decoder raises for a row."""
        packed = rows.package.open()
        encoded = rows.picked(packed.values())
        if packed.kind == "json" and self.declared is not ...:
            return self._value.decode_all(encoded)
        return list(map(self.decode_value, encoded))

    def _clone_args(self) -> Mapping[str, object]:
        return {
            **super()._clone_args(),
            "partitioner": self.partitioner,
            "former": self.former,
            "private": self.private,
            "timing": self.timing,
            "sized_like": self.sized_like,
        }

    def derive_topic(
        self, *, topics: Sequence[str] | None = None, internal: bool | None = None, prefix: str = "", **kwargs: Any
    ) -> Topic:
        """Return a topic of the same kind under another name.

        The name of an internal topic (of `group_by`) begins with the app's id, so that apps of one program do not share
        it.
        """
        app, names = cast("App", self.app), list(self.topics if topics is None else topics)
        if not internal or self.internal:
            return cast("Topic", super().derive_topic(topics=names, internal=internal, prefix=prefix, **kwargs))
        former = [f"{prefix}{name}{kwargs.get('suffix', '')}" for name in names]
        if self._runtime.run_id:  # whose topics have it in front already
            names = [name.removeprefix(f"{app.conf.id}-") for name in names]
        made = cast(
            "Topic", super().derive_topic(topics=names, internal=True, prefix=f"{app.conf.id}-{prefix}", **kwargs)
        )
        made.former = dict(zip(made.topics, former, strict=True))
        made.sized_like, made.partitions = self, kwargs.get("partitions")
        return made

    def encode_key(self, key: object, serializer: CodecT | str | None = None) -> bytes | None:
        """Encode a key as the declared type, else as `record_key` does. Equal keys are equal bytes.

        Raises:
            BadRecord: the key is NaN or infinite, or does not fit the declared type.
        """
        if key is None or isinstance(key, bytes):
            return key
        if serializer or self.key_serializer:
            return self.prepare_key(plain(key), serializer, self.schema, {})[0]
        if self.key_type is None:
            return record_key(key)
        try:
            return self._key.encode(key)
        except BadRecord as exc:
            raise BadRecord(f"key of topic {self.get_topic_name()}: {exc.args[0]}", hint=exc.hint) from None

    def encode_value(self, value: object, serializer: CodecT | str | None = None) -> bytes | None:
        """Encode a value. Bytes pass unchanged; objects with a `dumps` method are encoded by it.

        Raises:
            BadRecord: the value is none of the topic's, or holds NaN or infinity, which JSON writes as null.
        """
        if value is None or isinstance(value, bytes):
            return value
        if chosen := serializer or self._serializer:
            data = self.prepare_value(value, serializer, self.schema, {})[0]
            return None if data is None else checked_json(value, data, chosen)
        own = self.value_type is None and (hasattr(value, "dumps") or hasattr(value, "__struct_fields__"))
        data = (codec(type(value)) if own else self._value).encode(value)
        # The codec of a Faust record, which has that method, has looked for these itself.
        if b"null" in data and not hasattr(value, "to_representation") and not is_finite(value):
            raise BadRecord(
                f"a value for topic {self.get_topic_name()} is, or holds, NaN or infinity: JSON would write null",
                hint="send None where there is no number, or text",
            )
        return data

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
        """Send a record with the running epoch; it becomes visible when the epoch is committed.

        Args:
            key: of the declared type, or bytes; None sends a record without a key.
            value: of the declared type, or bytes; None sends a tombstone.
            partition: default: the partitioner chooses by key.
            timestamp: seconds since 1970, negative before it; default: that of the record that the agent processes,
                else now. Exactly 0 ms cannot be sent; -1 ms is a record without a timestamp to Kafka.
            headers: a mapping, or pairs of name and value; text values are sent as UTF-8.
            force: send at once, outside of any transaction (at least once).

        Returns:
            An awaitable of the record's metadata; the offset is -1 for records of an epoch.

        Raises:
            BadRecord: the value does not fit its type, or is larger than the topic may take.
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
        """Make a record for this topic, as the epoch takes it.

        Raises:
            BadRecord: the record is larger than the topic may take.
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
                partition = 0  # None is a key to `group_by`: its records belong together
        return Output(name, value, key, partition, timestamp_ms, headers)

    def encoded(
        self, keys: Iterable[object], values: Iterable[object]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Encode many keys and values; see `encode_key` and `encode_value`."""
        values = list(values)
        plain_values = self._serializer is None and self.value_type is not None
        encode = self._value.encode if plain_values and not _PASSED_ON.intersection(map(type, values)) else None
        return self._encoded_keys(keys), list(map(encode or self.encode_value, values))

    def _encoded_keys(self, keys: Iterable[object]) -> list[bytes | None]:
        bare_keys = self.key_type is None and self.key_serializer is None
        return list(map(record_key if bare_keys else self.encode_key, keys))

    def records(
        self, keys: Iterable[object], values: Sequence[object], timestamps_ms: Sequence[int | None]
    ) -> list[Output]:
        """Make records of keys and values, as `send` does, several times faster than one by one.

        Raises:
            BadRecord: a value does not fit its type, or is larger than the topic may take.
        """
        encoded: Sequence[bytes | None] = ()
        if self._serializer is None and self.value_type is None and set(map(type, values)) == {dict}:
            with suppress(Exception):  # `encode_value` says for which one, and why
                lines = json_lines(values)
                if not any(b"null" in line for line in lines):  # otherwise one may be NaN
                    encoded = lines
        return self.outputs(self._encoded_keys(keys), encoded or list(map(self.encode_value, values)), timestamps_ms)

    def outputs(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int | None] | int | None,
    ) -> list[Output]:
        """Make records of encoded keys and values; see `output`.

        Args:
            timestamps_ms: those of the records, or that of all of them.

        Raises:
            BadRecord: a record is larger than the topic may take.
        """
        runtime, name = self._runtime, self.get_topic_name()
        sizes = (
            max([len(key or b"") for key in keys], default=0),
            max([len(value or b"") for value in values], default=0),
        )
        times = timestamps_ms if isinstance(timestamps_ms, Sequence) else repeat(timestamps_ms)
        if runtime.partitioners.get(name) is not None or sum(sizes) > runtime.max_record_bytes:
            return list(map(self.output, keys, values, times))
        fields = zip(repeat(name), values, keys, repeat(-1), times, repeat(None))
        return list(map(tuple.__new__, repeat(Output), fields))  # half the time of calling `Output`

    def need(self) -> None:
        """Have the topic created before the commit if it does not exist: the running epoch writes to it."""
        provisioner = self._runtime.provisioner
        name = self.get_topic_name()
        if name not in provisioner.declared:
            provisioner.add(provisioner.spec_of(self, name), self.partitioner)

    def send_soon(self, **kwargs: Any) -> Awaitable[RecordMetadata]:
        """Send from a plain function, with the running epoch; arguments as for `send`."""
        kwargs.pop("eager_partitioning", None)
        coro = self.send(**kwargs)
        try:
            coro.send(None)
        except StopIteration as sent:
            return sent.value
        coro.close()
        raise BadRecord(f"topic {self.get_topic_name()}: send_soon needs a running worker", hint="use `await send(…)`")

    async def publish_message(self, fut: FutureMessage, wait: bool = False) -> Awaitable[RecordMetadata]:
        """Send a message of Faust's own methods; everything goes through `send`."""
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
        from .flows.element_types import UNKNOWN
        from .flows.flow import Flow

        return Flow(self, type=UNKNOWN if self.value_type is None else self.value_type, on_failure=on_failure)

    @overload
    def map(self, function: Callable[[V], T]) -> Flow[T]: ...
    @overload
    def map(self, function: str) -> Flow: ...
    def map(self, function: Callable[[V], T] | str) -> Flow:
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
    def key_by(self, key: What = None, value: What = None) -> KeyedFlow: ...
    def key_by(self, key: What = None, value: What = None) -> KeyedFlow:
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
        self, how: Callable[..., object], table: str | Table[K, V] | None = None, **options: Unpack[ReduceOptions]
    ) -> Table:
        """Reduce the values by the records' own keys: `Flow.reduce`."""
        return self.flow().reduce(how, cast("str | None", table), **options)

    def aggregate(
        self, table: str | Table[K, dict[str, Any]] | None = None, /, **columns: Aggregate
    ) -> Table[K, dict[str, Any]]:
        """Aggregate the values by the records' own keys: `Flow.aggregate`."""
        return self.flow().aggregate(cast("str | None", table), **columns)

    def with_time(
        self,
        time: str | Callable[[V], object] | None,
        *,
        unit: TimeUnit | None = None,
        grace: Duration | None = None,
        max_jump: Duration | None = DEFAULT_JUMP,
        idle_after: Duration | None = DEFAULT_IDLE,
    ) -> Flow[V]:
        """Begin a flow with `Flow.with_time`."""
        return self.flow().with_time(time, unit=unit, grace=grace, max_jump=max_jump, idle_after=idle_after)

    def window(
        self,
        windows: Windows,
        *,
        grace: Duration | None = None,
        keep: Duration | None = None,
        late_to: str | None = None,
    ) -> WindowedFlow:
        """Reduce the values by the records' own keys and by window: `Flow.window`."""
        return self.flow().window(windows, grace=grace, keep=keep, late_to=late_to)

    async def declare(self) -> None:
        """Create the topic if it does not exist.

        Raises:
            Usage: a topic under a former name has records that would not be read; see `refuse_unread`.
        """
        app, runtime = cast("App", self.app), self._runtime
        await runtime.provisioner.declare([self])
        for name, former in ({} if runtime.run_id else self.former).items():
            try:
                await daemon_thread(refuse_unread, runtime.cluster, runtime.admin, app.conf.id, former, name)
            except Stop as exc:
                await runtime.engine.stop_with(exc)
                raise

    async def maybe_declare(self) -> None:
        """Create the topic if it does not exist."""
        await self.declare()
