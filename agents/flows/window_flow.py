"""The end of a flow behind `window`: tables of windows, and the records of those that have closed.

    by5 = sales.key_by("user").window(Tumbling("5m"), grace="30s").aggregate("by-user-5m", n=Count())
    by5.final().filter(col("n") > 100).to("busy")

`window_agents.py` documents what the agents do that these methods make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from ...topics import clock
from ...topics.control_records import WATERMARK
from ...topics.dead_letter import LATE_SUFFIX
from ...topics.durations import Duration, duration_ms, duration_text
from ...topics.errors import Usage
from ..declarations import TableOptions
from ..event_time.channel import FOREVER_MS, NEVER_MS
from ..event_time.event_time import Timing, time_ms
from ..event_time.windows import Window, Windows
from ..runtime import runtime_of
from ..tables.store_directory import store_scheme
from ..tables.window_content import WindowSpec
from ..tables.window_table import WindowTable, window_partition
from .aggregates import Aggregate, What
from .combiner import Combiner
from .description import FlowDescription, aggregate_text, value_text
from .element_types import UNKNOWN, declarable
from .expressions import part
from .flow import aggregates_of, check_finite, check_known, check_written, name_of_function, or_field
from .late_records import LateRecords
from .operators import Filter, FlatMap, Keying, Map, Operator, Select, WithColumns
from .partial_records import partial_records
from .reducers import AggregateReducer, PairReducer, Reducer
from .window_agents import Source, WatermarkedPartials, control_apart, is_due
from .window_closer import Listeners, WindowCloser, timestamp_within, window_element
from .window_states import Joining, States, merge_panes

if TYPE_CHECKING:
    from ...topics.output import Output
    from ..app import App
    from ..stream import Stream
    from ..tables.open_windows import WindowKey
    from ..topic import Topic
    from .flow import Ending

__all__ = ["AggregatedWindows", "WindowRecords", "WindowedFlow"]

_OWN_FIELDS = ("key", "start", "end")
_DEFAULT_KEEP = "1d"


@dataclass(frozen=True)
class WindowedFlow:
    """A flow behind `window`, which can only end: in `aggregate` or `reduce`.

    Attributes:
        flow: the flow up to here.
        windows: the kind of windows.
        timing: what the time of a record is; its grace is known.
        keep_ms: how long closed windows stay in the table.
        late_to: the topic for late records; None: `<topic>.late`; `drop`: they are only counted.
    """

    flow: Ending
    windows: Windows
    timing: Timing
    keep_ms: int
    late_to: str | None = None

    def aggregate(
        self, table: str | None = None, /, *, options: TableOptions | None = None, **columns: Aggregate
    ) -> AggregatedWindows:
        """Compute aggregates of the elements of each key and window, into a table; see `Flow.aggregate`.

        Args:
            table: the table's name; default: a name made of the topic's.
            options: options of the table, such as `store`.
            columns: the aggregates by name.

        Raises:
            Usage: a column is not an aggregate, or is called as the fields that a closed window has.
        """
        hows = aggregates_of(columns)
        if taken := sorted({*hows} & {*_OWN_FIELDS}):
            raise Usage(
                f"aggregate({', '.join(taken)}=…) behind window: closed windows have fields of that name",
                hint="give the aggregate another name",
            )
        name = table or f"{self.flow.origin_name}-windows"
        return self._into(name, AggregateReducer(hows), options or {}, aggregate_text(hows))

    def reduce(
        self, how: Callable[..., object], table: str | None = None, *, options: TableOptions | None = None
    ) -> AggregatedWindows:
        """Join the elements of each key and window two by two, into a table; see `Flow.reduce`.

        Raises:
            Usage: `how` is not a function.
        """
        name = f"{self.flow.origin_name}-windows-{name_of_function(how)}"
        return self._into(table or name, PairReducer(how), options or {}, f"reduce({value_text(how)})")

    def _into(self, name: str, how: Reducer, options: TableOptions, ending: str) -> AggregatedWindows:
        if self._idle_after_ms is not None:
            runtime_of(self.flow.app).change_settings(notice_ends=True)
        table = self._table(name, how, options)
        made = AggregatedWindows(self.flow.app, table)
        grace = duration_text(self.timing.grace_ms)
        self.flow.describe(f"window({self.windows}, grace={grace}) → {ending}", table, how.sums)
        if self.flow.keyed is None:
            self._fill_in_place(made, how)
        else:
            self._fill_by_key(made, how)
        return made

    def _table(self, name: str, how: Reducer, options: TableOptions) -> WindowTable:
        app, runtime = self.flow.app, runtime_of(self.flow.app)
        unsupported = sorted(set(options) - {"partitions", "help", "extra_topic_configs", "store"})
        if unsupported:
            raise Usage(
                f"table {name} of windows: {', '.join(unsupported)}: not supported",
                hint="keep=… of window() says how long closed windows stay",
            )
        if name in {table.name for table in runtime.tables}:
            raise Usage(f"table {name} exists already", hint="a table of windows belongs to one flow: give it a name")
        topic = self.flow.topic
        key_type = self.flow.key_type if self.flow.keyed else declarable(topic.key_type)
        value_type = None
        if isinstance(how, PairReducer) and self.flow.type not in (UNKNOWN, float):
            value_type = self.flow.type
        table = WindowTable[Any](
            name,
            spec=WindowSpec(
                self.windows,
                FOREVER_MS if runtime.waits_for_end else self.timing.grace_ms,
                # The history of a bounded run is at its end: what it has computed is its result.
                None if runtime.run_id else self.keep_ms,
                key_type,
                topic.get_topic_name(),
                self._late_topic(),
                self.timing,
            ),
            partitions=options.get("partitions"),
            value_type=value_type,
            help=options.get("help") or "",
            config={k: str(v) for k, v in (options.get("extra_topic_configs") or {}).items()},
            store=store_scheme(options.get("store") or app.conf.store, name),
            step=lambda: runtime.agent_step,
        )
        app.add_table(table)
        if topic.private and table.spec.late_topic is not None:
            topic.app_private.declare(table.spec.late_topic, topic.private)
        if isinstance(how, AggregateReducer):
            table.state_fields = how.state_fields
        return table

    @property
    def _idle_after_ms(self) -> int | None:
        """Milliseconds without a record until a live partition is idle; None in a bounded run, whose inputs end."""
        return None if runtime_of(self.flow.app).run_id else self.timing.idle_after_ms

    def _late_topic(self) -> str | None:
        if self.late_to is None:
            return f"{self.flow.origin}{LATE_SUFFIX}"
        return None if self.late_to == "drop" else runtime_of(self.flow.app).resolve_topic(self.late_to)

    def _late(self, table: WindowTable) -> LateRecords:
        return LateRecords(table.name, self.windows, table.spec.late_topic)

    def _source(self, stream: Stream, table: WindowTable, how: Reducer, late: LateRecords) -> Source:
        flow = self.flow
        # Keys are those of the table without the window.
        keying = Keying(flow.topic, flow.steps, flow.keyed, table.own_keys)
        return Source(
            stream,
            Combiner(keying, how, flow.topic.declared),
            table.spec,
            idle_after_ms=self._idle_after_ms,
            late=late,
        )

    def _fill_in_place(self, made: AggregatedWindows, how: Reducer) -> None:
        """Make the agent that does everything, on the source partition."""
        table, late = made.table, self._late(made.table)

        async def fill(stream: Stream) -> None:
            stream.takes_control = True
            source, closer = self._source(stream, table, how, late), WindowCloser(stream, table, made.listeners)
            joining = Joining(stream, table, how)
            async for batch in stream.queued_batches(closer.wait_s):
                closer.begin(batch)
                if batch.messages:
                    state, states = joining.begin(batch)
                    judged = source.judge(batch, states, state.watermark_ms)
                    joining.end(batch, states)
                    if judged.time_ms > NEVER_MS:
                        state.keeper.advance(judged.channel, judged.time_ms, clock.now_ms())
                for resting in source.rest() if not batch.messages else ():
                    stream.context.at(stream, resting.at)
                    _, state = window_partition(table)
                    if resting.time_ms > state.keeper.time_ms:
                        state.keeper.advance(resting.channel, resting.time_ms, clock.now_ms())
                        closer.look_at(resting.at)
                await closer.close(batch)

        self.flow.add_filling_agent(table, self.flow.topic, fill)

    def _fill_by_key(self, made: AggregatedWindows, how: Reducer) -> None:
        """Make the agents before and behind the repartition topic."""
        table, late, windows = made.table, self._late(made.table), self.windows
        runtime = runtime_of(self.flow.app)
        declared = self.flow.declared_states(table, how)
        key_type = UNKNOWN if self.flow.key_type is None else self.flow.key_type
        between = self.flow.repartition(table, key_type, int, int, declared)
        name = between.get_topic_name()

        def outputs(states: States, timestamp_ms: int | None) -> list[Output]:
            for of_pane in states.values() if declared is UNKNOWN else ():
                check_known(table, of_pane)
            keys = [key for of_pane in states.values() for key in of_pane]
            values = [(key, *pane, state) for pane, of_pane in states.items() for key, state in of_pane.items()]
            encoded = between.encoded(keys, values)
            check_written(encoded[1], [value[3] for value in values], declared)
            return partial_records(between, *encoded, timestamp_ms)

        def counts() -> tuple[int, int]:
            known = runtime.engine.rebalance.partition_counts
            return known.get(name) or table.changelog_partitions, known[self.flow.topic.get_topic_name()]

        async def combine(stream: Stream) -> None:
            stream.takes_control = True
            source, sent = self._source(stream, table, how, late), dict[str, int]()

            def waiting() -> WatermarkedPartials:
                partials = stream.context.epoch.outbox.partials
                if name not in partials:
                    partials[name] = WatermarkedPartials(outputs, name, counts)
                return cast(WatermarkedPartials, partials[name])

            async for batch in stream.queued_batches(source.wait_s):
                if not batch.messages:
                    for resting in source.rest():
                        before_ms = sent.get(resting.channel, NEVER_MS)
                        if resting.repeats or is_due(windows, before_ms, resting.time_ms, table.spec.grace_ms):
                            between.need()
                            waiting().rest(resting.channel, resting.time_ms)
                            sent[resting.channel] = resting.time_ms
                    continue
                between.need()
                context, isolating = stream.context, stream.queue.isolating
                states = States() if isolating else waiting().states
                judged = source.judge(batch, states)
                if isolating:
                    check_finite([state for of_pane in states.values() for state in of_pane.values()])
                    for output in outputs(states, clock.now_ms()):
                        context.send(output)
                due = is_due(windows, sent.get(judged.channel, NEVER_MS), judged.time_ms, table.spec.grace_ms)
                if due or judged.woke:
                    waiting().move(judged.channel, judged.time_ms)
                    sent[judged.channel] = judged.time_ms
                if context.epoch.full:
                    context.router.cut()

        async def gather(stream: Stream) -> None:
            stream.takes_control = True
            closer, joining = WindowCloser(stream, table, made.listeners), Joining(stream, table, how)
            async for batch in stream.queued_batches(closer.wait_s):
                closer.begin(batch)
                if batch.messages:
                    records, control = control_apart(stream, batch)
                    state, states = joining.begin(batch)
                    if records.messages:
                        merge_panes(states, joining.gather(records, late), how)
                        joining.end(batch, states)
                    for record in control:
                        if record.kind == WATERMARK:
                            state.keeper.hear(record)
                await closer.close(batch)

        self.flow.add_agent(f"{table.name}-combine", self.flow.topic, combine)
        self.flow.add_filling_agent(table, between, gather)


@dataclass(frozen=True)
class AggregatedWindows:
    """A table of windows, as `window(…).aggregate(…)` and `reduce(…)` return it, and the windows that have closed.

    Attributes:
        table: the table. Its keys are (key, start, end), with times in milliseconds.
        listeners: who is told of its windows.
    """

    app: App
    table: WindowTable
    listeners: Listeners = field(default_factory=Listeners)

    def final(self) -> WindowRecords:
        """Return the closed windows as a flow: one record each, once, when nothing can be added to it any more."""
        return WindowRecords(self)

    def updates(self, every: Duration) -> WindowRecords:
        """Return the windows that have changed as a flow, for a view that others keep of the table.

            by5.updates(every="10s").to("dashboard")

        Each record replaces the one before it with the same key: (key, start, end). The last one is the closed window.
        All open windows are sent again when a worker starts, or has rolled back.

        Args:
            every: how often changed windows are sent, by the wall clock.

        Raises:
            Usage: the windows are sessions, whose start and end change, or the table's updates have another pace.
        """
        name, every_s = self.table.name, duration_ms(every, "every", zero=False) / 1000
        if self.table.spec.windows.gap_ms is not None:
            raise Usage(
                f"table {name}: updates of sessions, which have no key of their own: start and end change with them",
                hint="final() sends each session once; or windows of a fixed length",
            )
        if self.listeners.updates and self.listeners.every_s != every_s:
            raise Usage(f"table {name}: updates with two paces", hint="the same every=… for all updates of a table")
        return WindowRecords(self, every_s=every_s)

    def at(self, key: object, time: datetime | str | int) -> dict[Window, Any]:
        """Return the windows of a key that hold a time, the earliest first; several where windows overlap.

        Args:
            time: a datetime with a zone, ISO 8601 text with a zone, or milliseconds since 1970.

        Raises:
            Usage: it is no such time.
        """
        try:
            at_ms = time_ms(time, "ms")
        except ValueError as exc:
            raise Usage(f"table {self.table.name}: {exc}", hint="for example 2026-01-31T12:00Z") from None
        kind = self.table.spec.windows
        if kind.gap_ms is not None:
            return {window: value for window, value in self.windows(key).items() if _holds(window, at_ms)}
        keys = [(key, start, end) for start, end in kind.of_pane(kind.pane(at_ms))]
        return {Window.of(*row[1:]): self.table[row] for row in keys if row in self.table}

    def windows(self, key: object) -> dict[Window, Any]:
        """Return all windows of a key that the table holds, the latest first; it looks at all rows of this worker."""
        rows = [(row, value) for row, value in self.table.items() if cast("WindowKey", row)[0] == key]
        rows.sort(key=lambda pair: cast("WindowKey", pair[0])[1:], reverse=True)
        return {Window.of(*cast("WindowKey", row)[1:]): value for row, value in rows}


def _holds(window: Window, at_ms: int) -> bool:
    return window.start_ms <= at_ms < window.end_ms


@dataclass(frozen=True)
class WindowRecords:
    """Windows of a table: dicts with `key`, `start`, `end` (milliseconds since 1970, the end excluded) and the
    aggregates by name, or `value` behind `reduce`.

    Each method returns a new flow; it ends in `to`.

    Attributes:
        every_s: how often windows that have changed are sent; None: only closed windows are.
    """

    made: AggregatedWindows
    steps: tuple[Operator, ...] = ()
    every_s: float | None = None

    def map(self, function: Callable[..., object] | str) -> WindowRecords:
        """Replace each window by the function's result; see `Flow.map`."""
        return self._then(Map(or_field(function)))

    def filter(self, function: Callable[..., object] | str) -> WindowRecords:
        """Keep the windows for which the function is true; see `Flow.filter`."""
        return self._then(Filter(or_field(function)))

    def flat_map(self, function: Callable[..., Iterable[object]]) -> WindowRecords:
        """Replace each window by all elements that the function returns for it."""
        return self._then(FlatMap(function))

    def select(self, *fields: str, **computed: What) -> WindowRecords:
        """Replace each window by a dict of some fields; see `Flow.select`."""
        return self._then(Select({**dict(zip(fields, fields, strict=True)), **computed}))

    def with_columns(self, **computed: What) -> WindowRecords:
        """Replace each window by a dict of its fields and the computed ones."""
        return self._then(WithColumns(computed))

    def _then(self, operator: Operator) -> WindowRecords:
        if self.every_s is not None and isinstance(operator, (Filter, FlatMap)):
            raise Usage(
                "filter or flat_map behind updates(): a window that is left out later would stay as it was sent last",
                hint="updates(…).map(…) or select(…); or filter behind final()",
            )
        return WindowRecords(self.made, (*self.steps, operator), self.every_s)

    def key_by(self, *_: object) -> WindowRecords:
        """Refuse a second key.

        Raises:
            Usage: always.
        """
        raise Usage(
            "key_by behind final() or updates(): windows of windows are not supported yet",
            hint="end the flow in a topic: .final().to(topic), and begin another one there",
        )

    window = aggregate = reduce = key_by

    def to(self, topic: Topic | str) -> Topic:
        """Send what is left of each window to a topic, with its key.

        The timestamp of a closed window is its last millisecond, that of another one is stream time. Updates have the
        key (key, start, end), as a JSON array.

        Returns:
            The topic.
        """
        made = self.made
        target = made.app.topic(topic) if isinstance(topic, str) else topic
        field, functions = part, list[Callable[[Iterable[object]], Iterable[object]]]()
        for step in self.steps:
            function, field = step.function(field)
            functions.append(function)
        table, whole_key = made.table, self.every_s is not None

        async def send(row: WindowKey, value: Any, time_ms: int) -> None:
            elements: Iterable[object] = (window_element(table, row, value),)
            for function in functions:
                elements = function(elements)
            for element in elements:
                timestamp_s = timestamp_within(row, time_ms) / 1000
                await target.send(key=row if whole_key else row[0], value=cast(Any, element), timestamp=timestamp_s)

        made.listeners.finals.append(send)
        if self.every_s is not None:
            made.listeners.every_s = self.every_s
            made.listeners.updates.append(send)
        which = "final()" if self.every_s is None else f"updates(every={self.every_s:g} s)"
        text = FlowDescription.of(
            f"{which} of table {table.name}", self.steps, None, "", f"topic {target.get_topic_name()}"
        )
        runtime_of(made.app).flows.append(text)
        return target


def window(
    flow: Ending, windows: Windows, *, grace: Duration | None, keep: Duration | None, late_to: str | None
) -> WindowedFlow:
    """Return a flow whose elements are reduced by window; see `Flow.window`.

    Raises:
        Usage: see there.
    """
    if not isinstance(cast(object, windows), Windows):
        raise Usage(f"window({windows!r})", hint='for example Tumbling("5m") or Sessions("30m")')
    if not isinstance(flow.on_failure, str) or flow.on_failure == "retry":
        raise Usage(
            "on_failure: a flow with windows cannot retry records, because later ones would have to wait",
            hint='on_failure="dead_letter", "skip" or "fail"',
        )
    if len(flow.topic.topics) > 1:
        raise Usage(
            f"windows of several topics in one flow ({', '.join(flow.topic.topics)}): not supported yet",
            hint="one flow for each topic",
        )
    timing = flow.timing or flow.topic.timing
    if grace is not None:
        timing = replace(timing, given_grace_ms=duration_ms(grace, "grace"))
    if timing.given_grace_ms is None:
        raise Usage(
            "window without grace: how long does a window wait for records that come out of order?",
            hint='window(…, grace="30s"), or grace=… of app.topic; "0s" if each partition is in order',
        )
    if late_to is not None and late_to != "drop":
        runtime_of(flow.app).check_topic(late_to)
    return WindowedFlow(flow, windows, timing, duration_ms(_DEFAULT_KEEP if keep is None else keep, "keep"), late_to)
