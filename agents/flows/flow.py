"""Flows: pipelines of plain functions from a topic to a table or a topic, made into agents.

    totals = lines.map(parse).key_by("key", "number").reduce(sum)

    lines ─▶ agent: parse, combine by key ─▶ …-repartition ─▶ agent: merge ─▶ table ─▶ its changelog

A flow is only a description; `reduce`, `aggregate` and `to` make agents of it, with all that agents have: exactly once,
failure policies, bounded runs. The functions are plain Python and get one element each; one that raises sends its
record, alone, to the dead letters. Instead of a function, a field's name or an expression will do (`expressions.py`).

Laws.
- `key_by` sends elements through a topic of the app's own, so that all of one key meet in one partition. Elements that
  come from different partitions have no promised order there, so reductions must be associative and commutative.
- That being so, elements are *combined* before they are sent: one partial result for each key of an epoch. Where
  records come one by one, because one has failed, each sends its own.
- Without a `key_by` the record's own key counts, and nothing is sent.
- Tombstones (records without a value) have nothing to work on, and pass by. JSON's `null` is a value and no element: it
  goes to the policy of the agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from ...topics.errors import BadRecord, Stop, Usage
from ...topics.keys import as_key
from ...topics.output import Output
from ..engine.outbox import Partials
from ..engine.packed_rows import Rows
from ..tables.table import Table
from .aggregates import Aggregate, What
from .combiner import Combiner, Failed
from .element_types import declarable, returned, type_of
from .expressions import Expression, col
from .keying import Keying
from .operators import Filter, FlatMap, Map, Operator, Select, WithColumns
from .pending import PendingFolds, merge
from .reducers import Aggregating, Folding, Joining, check_json, folded

if TYPE_CHECKING:
    from ..app import App

__all__ = ["Flow"]

Function = Callable[[Any], Any]

# Columns cost the same for few rows; it does not matter much where the line is drawn.
_FEW = 256


@dataclass(frozen=True)
class Flow:
    """Elements on their way. `topic.map(…)`, `topic.filter(…)` and so on begin one; each method gives a new one.

    Attributes:
        topic: whose values the elements are made of.
        steps: what happens to them, in order.
        keyed: what is key and what is left of an element; None where the record's own key counts.
        type: of the elements, where it is known; key_type: of the keys, where a table has to be told (`types.py`).
        on_failure: policy of the agents, as in `@app.agent`.
    """

    topic: Any
    steps: tuple[Operator, ...] = ()
    keyed: tuple[What, What] | None = None
    type: Any = Any
    key_type: Any = None
    on_failure: Any = "dead_letter"

    # One element at a time ------------------------------------------------------------------------------------------

    def map(self, function: Function | str) -> Flow:
        """What `function` makes of each element; or the field of that name."""
        function = _or_field(function)
        known = isinstance(function, Expression)
        type_ = declarable(type_of(function, self.type)) or Any if known else returned(function)
        return self._then(Map(function), type_)

    def filter(self, function: Function | str) -> Flow:
        """The elements for which `function`, or the field of that name, is true."""
        function = _or_field(function)
        return self._then(Filter(function), self.type)

    def flat_map(self, function: Callable[[Any], Iterable[Any]]) -> Flow:
        """All that `function` gives for each element."""
        return self._then(FlatMap(function), Any)

    def select(self, *fields: str, **computed: What) -> Flow:
        """Elements of these fields only, as dicts; `computed` ones from another field, an expression or a function."""
        return self._then(Select({**dict(zip(fields, fields, strict=True)), **computed}), Any)

    def with_columns(self, **computed: What) -> Flow:
        """Elements with these fields too, as dicts."""
        return self._then(WithColumns(computed), Any)

    def _then(self, step: Operator, type_: Any) -> Flow:
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
        left = self.type if value is None else declarable(type_of(value, self.type)) or Any
        key_type = declarable(type_of(key, self.type))
        return replace(self, keyed=(key, value), type=left, key_type=key_type)

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
        if self.type not in (Any, float):  # who says float may give an int, which a table of floats refuses
            options.setdefault("value_type", self.type)
        name = f"{self._origin}-{getattr(how, '__name__', 'reduced').strip('<>')}"
        return self._into(name if table is None else table, options, Joining(how))

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
        return self._into(f"{self._origin}-aggregates" if table is None else table, {}, Aggregating(columns))

    def to(self, topic: Any) -> Any:
        """Send the elements on: under the key of `key_by`, else the record's own, with the record's time.

        Args:
            topic: a topic, or the name of one.

        Returns:
            The topic.
        """
        target = self._app.topic(topic) if isinstance(topic, str) else topic
        pairs = Keying(self.topic, self.steps, self.keyed)

        async def send(stream: Any) -> None:
            async for batch in stream.batches():
                for message, value in zip(batch.messages, batch.values, strict=True):
                    stamp_s = message.timestamp()[1] / 1000
                    for key, element in pairs.of((message,), (value,), own_key=bytes):
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
        options.setdefault("key_type", self.key_type if self.keyed else declarable(self.topic.key_type))
        made = self._app.Table(table, **options) if isinstance(table, str) else table
        fold = Combiner(Keying(self.topic, self.steps, self.keyed, made.key_codec), how, self.topic.declared)

        async def fill(stream: Any) -> None:
            async for batch in stream.batches():
                if not _waits(stream, batch, fold, how, made):
                    merge(made, how, _folded(stream, batch, fold), careful=stream.inbox.careful)

        if self.keyed is None:
            self._agent(made.name, self.topic, fill)
            return made
        declared: Any = Any
        if isinstance(how, Joining):
            declared = (made.value_type or Any) if self.type is Any else self.type
        between = self._app.topic(
            f"{self._app.conf.id}-{made.name}-repartition",
            has_prefix=True,
            value_type=tuple[_keys_between(made), declared],
            partitions=made.partitions,
        )

        def outputs(states: dict[Any, Any], timestamp_ms: int | None) -> list[Output]:
            made = between.outputs(states.keys(), states.items(), timestamp_ms)
            # What JSON does not have is written as null; only where there is one it is worth a look.
            _check_whole(state for state, record in zip(states.values(), made, strict=True) if b"null" in record.value)
            if declared is Any:
                check_json(states.values())
            return made

        async def combine(stream: Any) -> None:
            async for batch in stream.batches():
                states = _folded(stream, batch, fold)
                if declared is Any:
                    _check_known(made, states)
                if stream.inbox.careful:
                    _check_whole(states.values())
                    if declared is Any:
                        check_json(states.values())
                    for key, state in states.items():
                        await between.send(key=key, value=(key, state))
                else:
                    between.need()
                    stream.engine.combine(between.get_topic_name(), states, lambda: Partials(how.merge, outputs))

        async def gather(stream: Any) -> None:
            async for batch in stream.batches():
                states = folded(_arrived(batch.values), lambda state: state, how.merge)
                merge(made, how, states, careful=stream.inbox.careful)

        self._agent(f"{made.name}-combine", self.topic, combine)
        self._agent(made.name, between, gather)
        return made


def _by_column(batch: Any, fold: Combiner) -> Rows | None:
    """The rows, if the column way is to be tried."""
    rows = batch.messages
    if not fold.by_column or len(rows) < _FEW or not isinstance(rows, Rows) or rows.package.open().kind != "json":
        return None
    return rows


def _folded(stream: Any, batch: Any, fold: Combiner) -> dict[Any, Any]:
    """Key -> state. What functions refuse makes them raise or, where they are known to have no effects, goes to the
    policy of the agent at once."""
    rows = _by_column(batch, fold)
    if rows is None:
        return fold.rows(batch.messages, batch.values)
    done = fold.columns(batch.arrow, rows, rows.key_column()) or fold.each_row(rows, batch.values)
    _give_up(stream, rows, done[1])
    return done[0]


def _waits(stream: Any, batch: Any, fold: Combiner, how: Folding, table: Any) -> bool:
    """Whether the batch can wait for others of its epoch and partition, and does."""
    rows = None if stream.inbox.careful or table.opened is not Table else _by_column(batch, fold)
    made = None if rows is None else fold.piece(batch.arrow, rows, rows.key_column())
    if rows is None or made is None:
        return False
    piece, failed = made
    waiting = table.waiting.get(batch.partition, {}).get(batch.topic)
    if waiting is None or not waiting.add(piece):
        table.settle()
        waiting = PendingFolds(stream, fold, how)
        waiting.add(piece)
        table.wait(waiting)
    _give_up(stream, rows, failed)
    return True


def _give_up(stream: Any, rows: Rows, failed: Failed) -> None:
    for row, error in failed:
        stream.engine.give_up(stream, rows[row], error, "agent")


def _check_known(table: Any, states: dict[Any, Any]) -> None:
    kinds = {kind for kind in set(map(type, states.values())) if issubclass(kind, msgspec.Struct)}
    if kinds:
        raise Stop(
            f"{table.name}: it is not known that elements are {kinds.pop().__name__}s",
            hint="annotate what makes them, as in def parse(line: str) -> Order",
        )


def _check_whole(states: Iterable[Any]) -> None:
    """Refuse what would arrive as something else, because JSON has no such numbers.

    Raises:
        BadRecord: NaN or infinity.
    """
    for state in states:
        if not _is_finite(msgspec.to_builtins(state)):
            raise BadRecord(
                "a partial result is not a finite number, or holds one that is not: it would come back as null",
                hint="filter such elements out before key_by, or replace them",
            )


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or isfinite(value)


def _keys_between(table: Any) -> Any:
    """What a table's keys are declared as in a repartition topic."""
    if hasattr(table.key_type, "from_data"):
        raise Usage(
            f"table {table.name}: key_by into a table whose keys are Faust records",
            hint="a tuple of their fields, or a frozen msgspec.Struct",
        )
    return Any if table.key_type is None else table.key_type


def _arrived(values: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
    return ((as_key(key) if isinstance(key, list) else key, state) for key, state in values)


def _or_field(function: Function | str) -> Function:
    return col(function) if isinstance(function, str) else function
