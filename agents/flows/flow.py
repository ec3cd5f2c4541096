"""Flows: pipelines of plain functions from a topic to a table or a topic, made into agents.

    totals = lines.map(parse).key_by("key", "number").reduce(sum)

    lines ─▶ agent: parse, combine by key ─▶ …-repartition ─▶ agent: merge ─▶ table ─▶ its changelog

A flow is a description. `reduce`, `aggregate` and `to` make agents of it, with everything that agents have:
exactly-once processing, failure policies, bounded runs. The functions are plain Python and take one element each. A
function that raises sends the record, alone, to the failure policy. A field's name or an expression (`expressions.py`)
can stand for a function.

Invariants.
- `key_by` sends elements through a repartition topic of the app, so that all elements of one key meet in one partition.
  The order of elements that come from different partitions is not defined there, so reductions must be associative
  and commutative.
- Elements are *combined* before they are sent: one partial result for each key of an epoch. While records are processed
  one by one, because one of them has failed, each record sends its own.
- Without `key_by` the record's own key counts, and nothing is sent.
- Tombstones (records without a value) are skipped. JSON's `null` is a value but not an element: it goes to the failure
  policy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Unpack, cast, overload

import msgspec
from typing_extensions import TypeVar

from ...topics.errors import BadRecord, Stop, Usage
from ...topics.keys import as_key
from ...topics.private_fields import KEY, VALUE
from ...topics.serde import is_finite
from ..declarations import Failure, TableOptions
from ..engine.outbox import Partials
from ..event_time.event_time import DEFAULT_IDLE, DEFAULT_JUMP, TimeUnit, Timing
from ..failure_policy import policy
from ..runtime import runtime_of
from ..tables.table import Table
from .aggregates import Aggregate, What
from .combiner import Combiner, merge, reduce_batch, reduce_into
from .description import FlowDescription, aggregate_text, value_text
from .element_types import UNKNOWN, declarable, returned, type_of
from .expressions import Expression, col
from .operators import Filter, FlatMap, Keying, Map, Operator, Select, WithColumns
from .partial_records import partial_records
from .private_keys import shows_private
from .reducers import AggregateReducer, PairReducer, Reducer, check_json

if TYPE_CHECKING:
    from ...topics.durations import Duration
    from ...topics.output import Output
    from ..app import App
    from ..event_time.windows import Windows
    from ..stream import Stream
    from ..topic import Topic
    from .window_flow import WindowedFlow

__all__ = [
    "Ending",
    "Flow",
    "KeyedFlow",
    "NoOperators",
    "ReduceOptions",
    "aggregates_of",
    "check_finite",
    "check_known",
    "check_written",
    "name_of_function",
    "or_field",
    "repartition_topic",
]

K = TypeVar("K", default=Any)
K2 = TypeVar("K2")
T = TypeVar("T", default=Any)
U = TypeVar("U")


class ReduceOptions(TableOptions, total=False):
    """Options of the table that `reduce` makes; see `app.Table`."""

    default: Callable[[], object]
    key_type: object
    value_type: object


@dataclass(frozen=True)
class Ending(Generic[K, T]):
    """A flow as its ends see it.

    Attributes:
        topic: the source.
        steps: the operators, in order.
        keyed: what is the key and what is left of an element; None where the record's own key counts.
        type: type of the elements, UNKNOWN where it is not declared.
        key_type: type of the keys, where a table has to know it (see `element_types.py`).
        on_failure: failure policy of the agents, as in `@app.agent`.
        timing: the event time of the records, where the flow declares another than the topic.
    """

    topic: Topic
    steps: tuple[Operator, ...] = ()
    keyed: tuple[What, What] | None = None
    type: object = UNKNOWN
    key_type: object = None
    on_failure: Failure = "dead_letter"
    timing: Timing | None = None

    @overload
    def reduce(
        self,
        how: Callable[[T, T], T] | Callable[[Iterable[T]], object],
        table: str | None = None,
        **options: Unpack[ReduceOptions],
    ) -> Table[K, T]: ...
    @overload
    def reduce(
        self, how: Callable[[T, T], T] | Callable[[Iterable[T]], object], table: Table[K2, T]
    ) -> Table[K2, T]: ...
    def reduce(
        self, how: Callable[..., object], table: str | Table | None = None, **options: Unpack[ReduceOptions]
    ) -> Table:
        """Join the elements of each key two by two, into a table.

        Args:
            how: a function of two elements, associative and commutative; or Python's `sum`, `min`, `max`.
            table: a table, or the name of a new one; default: a name made of the topic's and the function's.
            options: of a new table, as for `app.Table`.

        Returns:
            The table: key -> joined element.

        Raises:
            Usage: `how` is not a function, the table is none, or an option is not supported.
        """
        name = f"{self.origin_name}-{name_of_function(how)}"
        if (
            self.type is not UNKNOWN and self.type is not float
        ):  # a function annotated as float may return an int, which that table refuses
            options.setdefault("value_type", self.type)
        reducer = PairReducer(how)
        made = self._into(name if table is None else table, options, reducer)
        self.describe(f"reduce({value_text(how)})", made, reducer.sums)
        return made

    @overload
    def aggregate(self, table: str | None = None, /, **columns: Aggregate) -> Table[K, dict[str, Any]]: ...
    @overload
    def aggregate(self, table: Table[K2, dict[str, Any]], /, **columns: Aggregate) -> Table[K2, dict[str, Any]]: ...
    def aggregate(self, table: str | Table | None = None, /, **columns: object) -> Table:
        """Compute aggregates of the elements of each key, into a table.

            orders.key_by("user").aggregate("by-user", orders=Count(), spent=Sum("amount"), mean=Mean("amount"))

        If an aggregate needs more than its result to continue, its state is stored beside it: `_mean` beside `mean`.

        Args:
            table: a table, or the name of a new one; default: a name made of the topic's.
            columns: the aggregates by name.

        Returns:
            The table: key -> dict of results by name.

        Raises:
            Usage: a column is not an aggregate.
        """
        hows = aggregates_of(columns)
        how = AggregateReducer(hows)
        made = self._into(f"{self.origin_name}-aggregates" if table is None else table, {}, how)
        made.state_fields = how.state_fields
        self.describe(aggregate_text(hows), made, how.sums)
        return made

    @overload
    def to(self, topic: Topic[K2, T]) -> Topic[K2, T]: ...
    @overload
    def to(self, topic: str) -> Topic: ...
    def to(self, topic: Topic | str) -> Topic:
        """Send the elements to a topic, with the record's timestamp.

        The key is that of `key_by`, else the record's own.

        Args:
            topic: a topic, or the name of one.

        Returns:
            The topic.
        """
        target = self.app.topic(topic) if isinstance(topic, str) else topic
        keying = Keying(self.topic, self.steps, self.keyed)

        async def send(stream: Stream) -> None:
            async for batch in stream.batches():
                for message, value in zip(batch.messages, batch.values, strict=True):
                    timestamp_s = message.timestamp()[1] / 1000
                    for key, element in keying.pairs((message,), (value,), own_key=bytes):
                        await target.send(key=key, value=element, timestamp=timestamp_s)

        self.add_agent(f"{self.origin_name}-to-{self._in_program(target)}", self.topic, send)
        self.describe("", target)
        return target

    def window(
        self,
        windows: Windows,
        *,
        grace: Duration | None = None,
        keep: Duration | None = None,
        late_to: str | None = None,
    ) -> WindowedFlow:
        """Reduce the elements of each key by window of their event time; `aggregate` or `reduce` follows.

            sales.key_by("user").window(Tumbling("5m"), grace="30s").aggregate("by-user-5m", n=Count())

        Args:
            windows: `Tumbling`, `Hopping`, `Cumulating` or `Sessions`.
            grace: how long a window waits for records that come out of order, in event time; default: the topic's.
            keep: how long closed windows stay in the table, in event time; default: one day. A bounded run keeps all.
            late_to: the topic for late records; default: `<topic>.late`. With `drop` they are only counted.

        Raises:
            Usage: there is no grace, or an option is not supported. See docs/windows.md.
        """
        from .window_flow import window

        return window(self, windows, grace=grace, keep=keep, late_to=late_to)

    @property
    def app(self) -> App:
        return cast("App", self.topic.app)

    @property
    def origin(self) -> str:
        return self.topic.get_topic_name()

    @property
    def origin_name(self) -> str:
        """The topic's name in the program, from which names of tables are made: the same live and in a bounded run."""
        return self._in_program(self.topic)

    def _in_program(self, topic: Topic) -> str:
        return runtime_of(self.app).name_in_program(topic.get_topic_name())

    def add_agent(self, name: str, topic: Topic, run: Callable[[Stream], Awaitable[None]]) -> None:
        """Make an agent of the flow.

        Raises:
            Usage: another one has the name.
        """
        if name in self.app.agents:
            raise Usage(
                f"two agents called {name}: a flow calls its agents by its table, or by the topics at its ends",
                hint="reduce into a table, or send from one topic to another, in one flow; or give agent or table "
                "another name",
            )
        made = self.app.agent(topic, name=name, on_failure=self.on_failure)(run)
        runtime_of(self.app).flow_agents.add(made.name)

    def add_filling_agent(self, table: Table, topic: Topic, run: Callable[[Stream], Awaitable[None]]) -> None:
        """Add the agent that fills a table from a topic; by default the table gets as many partitions."""
        table.sized_like = table.sized_like or topic
        self.add_agent(table.name, topic, run)

    def describe(self, ending: str, end: Table | Topic, sums: tuple[str, ...] = (), source: str = "") -> None:
        """Add the flow to those that `anabranch describe` shows; for `sums` see `FlowDescription`.

        Args:
            source: what is shown as its source; default: the topic, and a repartition topic only behind `key_by`.
        """
        keyed = self.keyed is not None or source != ""
        between = repartition_topic(self.app, end.name) if isinstance(end, Table) and keyed else None
        target = f"table {end.name}" if isinstance(end, Table) else f"topic {end.get_topic_name()}"
        flow = FlowDescription.of(source or self.origin, self.steps, self.keyed, ending, target, between, sums)
        runtime_of(self.app).flows.append(flow)

    def declared_states(self, table: Table, how: Reducer) -> object:
        """Return the declared type of the states that are sent through the repartition topic, UNKNOWN without one."""
        if not isinstance(how, PairReducer):
            return UNKNOWN
        return (table.value_type or UNKNOWN) if self.type is UNKNOWN else self.type

    def repartition(self, table: Table, *types: object) -> Topic:
        """Declare the repartition topic of a table. If its keys are private, those of the table's changelog are too.

        Args:
            types: types of the parts of a record's value, which is an array.
        """
        private = self.topic.app_private
        hidden = self.keyed is not None and shows_private(self.keyed[0], private.of(self.origin))
        if hidden:
            private.declare(table.changelog_name, [KEY])
        made = self.app.topic(
            repartition_topic(self.app, table.name),
            has_prefix=True,
            private=[KEY, VALUE] if hidden else (),
            value_type=GenericAlias(tuple, types),
            partitions=table.partitions,
        )
        made.sized_like = self.topic
        runtime = runtime_of(self.app)
        runtime.flow_repartitions.add(made.get_topic_name())
        runtime.own_repartition(made.get_topic_name(), f"table {table.name}", policy(self.on_failure)[0])
        return made

    def _into(self, into: str | Table, options: ReduceOptions, how: Reducer) -> Table:
        """Make the agents that reduce the elements into a table."""
        if not isinstance(into, str) and not hasattr(into, "key_codec"):
            raise Usage(f"the table of a flow: {into!r}", hint='a table, or its name: reduce(sum, "totals")')
        options.setdefault("key_type", self.key_type if self.keyed else declarable(self.topic.key_type))
        table = self.app.Table(into, **options) if isinstance(into, str) else into
        combiner = Combiner(Keying(self.topic, self.steps, self.keyed, table.key_codec), how, self.topic.declared)

        async def fill(stream: Stream) -> None:
            async for batch in stream.queued_batches():
                reduce_into(stream, batch, combiner, table)

        if self.keyed is None:
            self.add_filling_agent(table, self.topic, fill)
            return table
        declared = self.declared_states(table, how)
        between = self.repartition(table, _keys_between(table), declared)

        def outputs(states: dict[object, object], timestamp_ms: int | None) -> list[Output]:
            if declared is UNKNOWN:
                check_known(table, states)
            keys, values = between.encoded(states.keys(), states.items())
            check_written(values, states.values(), declared)
            return partial_records(between, keys, values, timestamp_ms)

        async def combine(stream: Stream) -> None:
            async for batch in stream.queued_batches():
                if stream.queue.isolating:
                    states = reduce_batch(stream, batch, combiner)
                    check_finite(states.values())
                    if declared is UNKNOWN:
                        check_known(table, states)
                        check_json(states.values())
                    for key, state in states.items():
                        await between.send(key=key, value=(key, state))
                else:
                    between.need()
                    reduce = partial(reduce_batch, stream, batch, combiner)
                    stream.context.combine(between.get_topic_name(), reduce, lambda: Partials(outputs))

        async def gather(stream: Stream) -> None:
            async for batch in stream.batches():
                states = _gathered(batch.values, how.merge)
                merge(table.opened_to_write(), how, states, isolating=stream.queue.isolating)

        self.add_agent(f"{table.name}-combine", self.topic, combine)
        self.add_filling_agent(table, between, gather)
        return table


@dataclass(frozen=True)
class Flow(Ending[Any, T]):
    """Elements of type `T` on their way from a topic. `topic.map(…)`, `topic.filter(…)` and so on begin a flow; each
    method returns a new one. For its attributes see the base class.
    """

    # One element at a time ------------------------------------------------------------------------------------------

    @overload
    def map(self, function: Callable[[T], U]) -> Flow[U]: ...
    @overload
    def map(self, function: str) -> Flow: ...
    def map(self, function: Callable[[T], object] | str) -> Flow:
        """Replace each element by the function's result, or by the field of that name."""
        function = or_field(function)
        known = isinstance(function, Expression)
        type_ = declarable(type_of(function, self.type)) or UNKNOWN if known else returned(function)
        return self._then(Map(function), type_)

    def filter(self, function: Callable[[T], object] | str) -> Flow[T]:
        """Keep the elements for which the function, or the field of that name, is true."""
        return self._then(Filter(or_field(function)), self.type)

    def flat_map(self, function: Callable[[T], Iterable[U]]) -> Flow[U]:
        """Replace each element by all elements that the function returns for it."""
        return self._then(FlatMap(function), UNKNOWN)

    def select(self, *fields: str, **computed: What) -> Flow[dict[str, Any]]:
        """Replace each element by a dict of some fields.

        Args:
            fields: names of fields to keep.
            computed: new fields: another field's name, an expression or a function.
        """
        return self._then(Select({**dict(zip(fields, fields, strict=True)), **computed}), UNKNOWN)

    def with_columns(self, **computed: What) -> Flow[dict[str, Any]]:
        """Replace each element by a dict of its fields and the computed ones; see `select`."""
        return self._then(WithColumns(computed), UNKNOWN)

    def _then(self, operator: Operator, type_: object) -> Flow:
        return Flow(self.topic, (*self.steps, operator), None, type_, None, self.on_failure, self.timing)

    def with_time(
        self,
        time: str | Callable[[T], object] | None,
        *,
        unit: TimeUnit | None = None,
        grace: Duration | None = None,
        max_jump: Duration | None = DEFAULT_JUMP,
        idle_after: Duration | None = DEFAULT_IDLE,
    ) -> Flow[T]:
        """Declare the event time of the topic's records for this flow; see `app.topic(time=…)`.

        Raises:
            Usage: the flow has operators already: the time of a record is known before they see it.
        """
        if self.steps:
            raise Usage(
                "with_time behind an operator: the time of a record must be known before operators leave it out",
                hint="begin the flow with it: topic.flow().with_time(…); time=… may be a function of the value",
            )
        timing = Timing.of(time, unit, grace, max_jump, idle_after)
        return Flow(self.topic, (), None, self.type, None, self.on_failure, timing)

    @overload
    def key_by(self: Flow[tuple[K2, U]]) -> KeyedFlow[K2, U]: ...
    @overload
    def key_by(self, key: Callable[[T], K2], value: None = None) -> KeyedFlow[K2, T]: ...
    @overload
    def key_by(self, key: Callable[[T], K2], value: Callable[[T], U]) -> KeyedFlow[K2, U]: ...
    @overload
    def key_by(self, key: str | int, value: None = None) -> KeyedFlow[Any, T]: ...
    @overload
    def key_by(self, key: str | int, value: Callable[[T], U]) -> KeyedFlow[Any, U]: ...
    @overload
    def key_by(self, key: What = None, value: What = None) -> KeyedFlow: ...
    def key_by(self, key: What = None, value: What = None) -> KeyedFlow:
        """Bring all elements of one key together.

        Args:
            key: a field's name, an index or a function of the element; None: elements are pairs of key and value.
            value: what is left of the element, likewise; None keeps it as it is.
        """
        if key is None:
            key, value = 0, 1
        left = self.type if value is None else declarable(type_of(value, self.type)) or UNKNOWN
        key_type = declarable(type_of(key, self.type))
        return KeyedFlow(self.topic, self.steps, (key, value), left, key_type, self.on_failure, self.timing)


class NoOperators:
    """Base class of flows behind `key_by`: refuses the operators of flows, so that they can only end."""

    _before_another_key: ClassVar[str]  # what to do before elements get another key: the hint

    if not TYPE_CHECKING:

        def _refuse(self, *_: object, **__: object) -> NoReturn:
            raise Usage(
                "no operator is allowed between key_by and the end of a flow", hint="apply map and filter before key_by"
            )

        map = filter = flat_map = select = with_columns = _refuse

        def key_by(self, *_: object) -> NoReturn:
            """Refuse a second key.

            Raises:
                Usage: always.
            """
            raise Usage("key_by twice", hint=self._before_another_key)


@dataclass(frozen=True)
class KeyedFlow(NoOperators, Ending[K, T]):
    """A flow behind `key_by`, which can only end: in `reduce`, `aggregate` or `to`."""

    _before_another_key = "end the flow in a topic between them: .to(topic)"


def repartition_topic(app: App, table: str) -> str:
    """Return the name of the topic with the partial results of a table's flow."""
    return f"{app.conf.id}-{table}-repartition"


def name_of_function(how: object) -> str:
    """Return the name of an argument of `reduce`, as names of tables contain it.

    Raises:
        Usage: it is not a function.
    """
    if isinstance(how, Aggregate) or not callable(how):
        raise Usage(
            f"reduce({how!r})", hint="expected a function of two elements, or sum, min, max; see also aggregate"
        )
    return getattr(how, "__name__", "reduced").strip("<>")


def aggregates_of(columns: Mapping[str, object]) -> dict[str, Aggregate]:
    """Return the arguments of `aggregate`.

    Raises:
        Usage: one is not an aggregate, or there is none.
    """
    hows: dict[str, Aggregate] = {}
    wrong: list[str] = []
    for name, how in columns.items():
        if isinstance(how, Aggregate):
            hows[name] = how
        else:
            wrong.append(f"{name}={how!r}")
    if wrong or not columns:
        raise Usage(f"aggregate({', '.join(wrong)})", hint="for example orders=Count(), spent=Sum('amount')")
    return hows


def check_known(table: Table, states: Mapping[Any, object]) -> None:
    """Refuse structs whose class the repartition topic does not know.

    Raises:
        Stop: an element is one.
    """
    kinds = {kind for kind in set(map(type, states.values())) if issubclass(kind, msgspec.Struct)}
    if kinds:
        raise Stop(
            f"{table.name}: the flow does not declare that its elements are {kinds.pop().__name__}s",
            hint="annotate the function that makes them, as in def parse(line: str) -> Order",
        )


# Types whose values JSON never changes; a float may be NaN.
_UNCHANGED = frozenset({str, int, bool, type(None)})


def check_written(values: Iterable[bytes | None], states: Collection[object], declared: object) -> None:
    """Refuse partial results that JSON has changed.

    Args:
        values: the values of their records.
        declared: their type; UNKNOWN if it is not declared.

    Raises:
        BadRecord: JSON has changed one.
    """
    if set(map(type, states)) <= _UNCHANGED:
        return
    # Numbers that JSON does not have are written as null, so only records with a null need a look.
    if b"null" in b"".join(filter(None, values)):
        check_finite(states)
    if declared is UNKNOWN:
        check_json(states)


def check_finite(states: Iterable[object]) -> None:
    """Refuse partial results that JSON would change, because it has no such numbers.

    Raises:
        BadRecord: one is, or holds, NaN or infinity.
    """
    if not is_finite(list(states)):
        raise BadRecord(
            "a partial result is not a finite number, or holds one that is not: JSON would return it as null",
            hint="filter such elements out before key_by, or replace them",
        )


def _keys_between(table: Table) -> object:
    """Return the declared type of a table's keys in the repartition topic.

    Raises:
        Usage: the keys are Faust records, which JSON arrays cannot hold.
    """
    if hasattr(table.key_type, "from_data"):
        raise Usage(
            f"table {table.name}: key_by into a table whose keys are Faust records",
            hint="a tuple of their fields, or a frozen msgspec.Struct",
        )
    return UNKNOWN if table.key_type is None else table.key_type


def _gathered(pairs: Sequence[tuple[object, object]], merge: Callable[..., object]) -> dict[object, object]:
    """Return key -> state of partial results; keys that are JSON arrays become tuples."""
    try:
        states = dict(pairs)
    except TypeError:  # a list cannot be a key
        states = {}
    if len(states) == len(pairs):  # as in a packed batch
        return states
    states.clear()
    for key, state in pairs:
        if type(key) is list:
            key = as_key(cast(object, key))
        states[key] = merge(states[key], state) if key in states else state
    return states


def or_field(function: Callable[..., U] | str) -> Callable[..., U]:
    """Return a function of elements; of a field's name, the expression that takes the field."""
    return cast("Callable[..., U]", col(function)) if isinstance(function, str) else function
