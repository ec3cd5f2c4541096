"""Flows: pipelines of plain functions from a topic to a table or a topic, made into agents.

    totals = lines.map(parse).key_by("key", "number").reduce(sum)

    lines ─▶ agent: parse, combine by key ─▶ …-repartition ─▶ agent: merge ─▶ table ─▶ its changelog

A flow is only a description; `reduce`, `aggregate` and `to` make agents of it, with all that agents have: exactly once,
failure policies, bounded runs. The functions are plain Python and get one element each; one that raises sends its
record, alone, to the dead letters.

Laws.
- `key_by` sends elements through a topic of the app's own, so that all of one key meet in one partition. Elements that
  come from different partitions have no promised order there, so reductions must be associative and commutative.
- That being so, elements are *combined* before they are sent: one partial result for each key of a batch.
- Without a `key_by` the record's own key counts, and nothing is sent.
- Tombstones (records without a value) have nothing to work on, and pass by.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from ...topics.errors import Stop, Usage
from .aggregates import Aggregate, What, getter
from .folding import Aggregating, Folding, Joining, folded

if TYPE_CHECKING:
    from ..app import App

__all__ = ["Flow"]

Function = Callable[[Any], Any]
Step = Callable[[Iterable[Any]], Iterable[Any]]
Pairs = Iterator[tuple[Any, Any]]

# Python's own reductions take a collection; of two elements they make this.
_PAIRWISE: Mapping[Any, Callable[[Any, Any], Any]] = {
    sum: operator.add,
    min: lambda a, b: b if b < a else a,
    max: lambda a, b: b if b > a else a,
}


@dataclass(frozen=True)
class Flow:
    """Elements on their way. `topic.map(…)`, `topic.filter(…)` and so on begin one; each method gives a new one.

    Attributes:
        topic: whose values the elements are made of.
        steps: what happens to them, in order.
        keyed: takes key and value out of an element; None where the record's own key counts.
        type: of the elements, where it is known.
        on_failure: policy of the agents, as in `@app.agent`.
    """

    topic: Any
    steps: tuple[Step, ...] = ()
    keyed: tuple[Function, Function] | None = None
    type: Any = Any
    on_failure: Any = "dead_letter"

    # One element at a time ------------------------------------------------------------------------------------------

    def map(self, function: Function) -> Flow:
        """What `function` makes of each element."""
        return self._then(partial(map, function), _returned(function))

    def filter(self, function: Function) -> Flow:
        """The elements for which `function` is true."""
        return self._then(partial(filter, function), self.type)

    def flat_map(self, function: Callable[[Any], Iterable[Any]]) -> Flow:
        """All that `function` gives for each element."""
        return self._then(lambda elements: chain.from_iterable(map(function, elements)), Any)

    def select(self, *fields: str, **computed: What) -> Flow:
        """Elements of these fields only, as dicts; `computed` ones from another field, an index or a function."""
        return self._then(partial(map, _columns({**dict(zip(fields, fields, strict=True)), **computed})), Any)

    def with_columns(self, **computed: What) -> Flow:
        """Elements with these fields too, as dicts."""
        columns = _columns(computed)
        return self._then(partial(map, lambda element: _fields_of(element) | columns(element)), Any)

    def _then(self, step: Step, type_: Any) -> Flow:
        if self.keyed is not None:
            raise Usage(
                "nothing can stand between key_by and the end of a flow", hint="map and filter first, then key_by"
            )
        return replace(self, steps=(*self.steps, step), type=type_)

    def key_by(self, key: What = None, value: What = None) -> Flow:
        """Bring all elements of one key together.

        Args:
            key: a field's name, an index, a function of the element; None: elements are pairs of key and value.
            value: what is left of the element, likewise; None leaves it as it is.
        """
        if self.keyed is not None:
            raise Usage("key_by twice", hint="end the flow in a topic between them: .to(topic)")
        if key is None:
            key, value = 0, 1
        return replace(self, keyed=(getter(key), getter(value)), type=self.type if value is None else Any)

    # Ends -----------------------------------------------------------------------------------------------------------

    def reduce(self, how: Any, table: Any = None, **options: Any) -> Any:
        """A table that holds, for each key, its elements joined two by two.

        Args:
            how: a function of two elements, associative and commutative; or Python's `sum`, `min`, `max`.
            table: a table, or the name of one that is made with `options`, as `app.Table` takes them.

        Returns:
            The table.
        """
        if isinstance(how, Aggregate) or not callable(how):
            raise Usage(f"reduce({how!r})", hint="a function of two elements, or sum, min, max; else see aggregate")
        if self.type is not Any:
            options.setdefault("value_type", self.type)
        name = f"{self._origin}-{getattr(how, '__name__', 'reduced').strip('<>')}"
        return self._into(table or name, options, Joining(_PAIRWISE.get(how, how)))

    def aggregate(self, table: Any = None, /, **columns: Any) -> Any:
        """A table that holds, for each key, a dict of aggregates.

            orders.key_by("user").aggregate("by-user", orders=Count(), spent=Sum("amount"), mean=Mean("amount"))

        Where going on needs more than an aggregate's result, that stands beside it: `_mean` beside `mean`.

        Args:
            table: a table, or the name of one that is made.

        Returns:
            The table.
        """
        wrong = [f"{name}={how!r}" for name, how in columns.items() if not isinstance(how, Aggregate)]
        if wrong or not columns:
            raise Usage(f"aggregate({', '.join(wrong)})", hint="such as orders=Count(), spent=Sum('amount')")
        return self._into(table or f"{self._origin}-aggregates", {}, Aggregating(columns))

    def to(self, topic: Any) -> Any:
        """Send the elements on: under the key of `key_by`, else the record's own, with the record's time.

        Args:
            topic: a topic, or the name of one.

        Returns:
            The topic.
        """
        target = self._app.topic(topic) if isinstance(topic, str) else topic

        async def send(stream: Any) -> None:
            async for batch in stream.batches():
                for message, value in zip(batch.messages, batch.values, strict=True):
                    stamp_s = message.timestamp()[1] / 1000
                    for key, element in self._pairs((message,), (value,), own_key=bytes):
                        await target.send(key=key, value=element, timestamp=stamp_s)

        self._agent(f"{self._origin}-to-{target.get_topic_name()}", self.topic, send)
        return target

    @property
    def _app(self) -> App:
        return self.topic.app

    @property
    def _origin(self) -> str:
        return self.topic.get_topic_name()

    def _agent(self, name: str, topic: Any, run: Any) -> None:
        self._app.agent(topic, name=name, on_failure=self.on_failure)(run)

    def _into(self, table: Any, options: dict[str, Any], how: Folding) -> Any:
        """Agents that fold the elements into a table."""
        made = self._app.Table(table, **options) if isinstance(table, str) else table
        if self.keyed is None:
            self._agent(made.name, self.topic, _filling(made, how, how.start, how.add, self._pairs))
            return made
        between = self._app.topic(
            f"{self._app.conf.id}-{made.name}-repartition",
            has_prefix=True,
            value_type=tuple[Any, self.type if isinstance(how, Joining) else Any],
            partitions=made.partitions,
        )

        async def combine(stream: Any) -> None:
            async for batch in stream.batches():
                for key, state in folded(self._pairs(batch.messages, batch.values), how.start, how.add).items():
                    if self.type is Any and isinstance(state, msgspec.Struct):
                        raise Stop(
                            f"{made.name}: it is not known that elements are {type(state).__name__}s",
                            hint="annotate what makes them, as in def parse(line: str) -> Order",
                        )
                    await between.send(key=key, value=(key, state))

        self._agent(f"{made.name}-combine", self.topic, combine)
        self._agent(made.name, between, _filling(made, how, _same, how.merge, _arrived))
        return made

    def _pairs(
        self, messages: Iterable[Any], values: Iterable[Any], own_key: Callable[[bytes], Any] = bytes.decode
    ) -> Pairs:
        """Keys and elements of records."""
        if self.keyed is None:
            return self._pairs_by_own_key(messages, values, own_key)
        key_of, value_of = self.keyed
        elements = self._stepped(value for value in values if value is not None)
        return ((_known(key_of(element)), value_of(element)) for element in elements)

    def _pairs_by_own_key(
        self, messages: Iterable[Any], values: Iterable[Any], own_key: Callable[[bytes], Any]
    ) -> Pairs:
        declared = self.topic.key_type is not None and own_key is not bytes
        decode = self.topic.decode_key if declared else own_key
        for message, value in zip(messages, values, strict=True):
            if value is not None:
                raw = message.key()
                key = None if raw is None else decode(raw)
                for element in self._stepped((value,)):
                    yield key if own_key is bytes else _known(key), element

    def _stepped(self, elements: Iterable[Any]) -> Iterable[Any]:
        for step in self.steps:
            elements = step(elements)
        return elements


def _filling(
    table: Any,
    how: Folding,
    start: Function,
    add: Callable[[Any, Any], Any],
    pairs: Callable[[Any, Any], Pairs],
) -> Any:
    async def fill(stream: Any) -> None:
        async for batch in stream.batches():
            for key, state in folded(pairs(batch.messages, batch.values), start, add).items():
                if key in table:
                    state = how.merge(how.opened(table[key]), state)
                table[key] = how.stored(state)

    return fill


def _arrived(_messages: Any, values: Iterable[Any]) -> Pairs:
    return ((tuple(key) if isinstance(key, list) else key, state) for key, state in values)


def _same(state: Any) -> Any:
    return state


def _known(key: Any) -> Any:
    if key is None:
        raise ValueError("no key: neither the record has one, nor does key_by find it")
    return key


def _returned(function: Any) -> Any:
    """The type of what `function` gives, where it says so."""
    if isinstance(function, type):
        return function
    try:
        return get_type_hints(function).get("return", Any)
    except (TypeError, NameError, AttributeError):  # a partial, a built-in, a name that is not there at run time
        return Any


def _columns(columns: Mapping[str, What]) -> Function:
    getters = {name: getter(what) for name, what in columns.items()}
    return lambda element: {name: get(element) for name, get in getters.items()}


def _fields_of(element: Any) -> dict[str, Any]:
    if isinstance(element, dict):
        return element
    if isinstance(element, msgspec.Struct):
        return msgspec.structs.asdict(element)
    raise TypeError(f"with_columns needs elements with fields, not {type(element).__name__}")
