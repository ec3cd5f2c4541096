"""The end of a flow behind `window`: tables of windows, and the records of those that have closed.

    by5 = sales.key_by("user").window(Tumbling("5m"), grace="30s").aggregate("by-user-5m", n=Count())
    by5.final().filter(col("n") > 100).to("busy")

`window_agents.py` documents what the agents do that these methods make, `window_chains.py` what comes of closed windows
that are reduced again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ...topics import clock
from ...topics.control_records import WATERMARK
from ...topics.dead_letter import LATE_SUFFIX
from ...topics.durations import Duration, duration_ms, duration_text
from ...topics.errors import Usage
from ..declarations import TableOptions
from ..event_time.channel import FOREVER_MS, NEVER_MS
from ..event_time.event_time import Timing, time_ms
from ..event_time.windows import SameWindows, Window, Windows
from ..runtime import runtime_of
from ..tables.store_directory import store_scheme
from ..tables.window_content import WindowSpec
from ..tables.window_table import WindowTable, window_partition
from .aggregates import Aggregate, What
from .combiner import Combiner
from .description import FlowDescription, aggregate_text, value_text
from .element_types import UNKNOWN, declarable
from .expressions import part
from .flow import aggregates_of, name_of_function, or_field
from .late_records import LateRecords
from .operators import Filter, FlatMap, Keying, Map, Operator, Select, WithColumns
from .reducers import AggregateReducer, PairReducer, Reducer
from .window_agents import Source, control_apart
from .window_closer import Listeners, WindowCloser
from .window_repartition import ToldTimes, WindowRepartition
from .window_sender import WindowSender
from .window_states import Joining, merge_panes

if TYPE_CHECKING:
    from ..app import App
    from ..stream import Stream
    from ..tables.open_windows import WindowKey
    from ..topic import Topic
    from .flow import Ending
    from .window_chains import KeyedWindows

__all__ = ["AggregatedWindows", "WindowRecords", "WindowedFlow", "checked_windows", "send_windows"]

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
        upstream: the table whose closed windows are reduced; None: the records of the flow's topic are.
    """

    flow: Ending
    windows: Windows
    timing: Timing
    keep_ms: int
    late_to: str | None = None
    upstream: AggregatedWindows | None = None

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
        name = table or f"{self._origin_name}-windows"
        return self._into(name, AggregateReducer(hows), options or {}, aggregate_text(hows))

    def reduce(
        self, how: Callable[..., object], table: str | None = None, *, options: TableOptions | None = None
    ) -> AggregatedWindows:
        """Join the elements of each key and window two by two, into a table; see `Flow.reduce`.

        Raises:
            Usage: `how` is not a function.
        """
        name = f"{self._origin_name}-windows-{name_of_function(how)}"
        return self._into(table or name, PairReducer(how), options or {}, f"reduce({value_text(how)})")

    @property
    def _origin_name(self) -> str:
        return self.flow.origin_name if self.upstream is None else self.upstream.table.name

    def _into(self, name: str, how: Reducer, options: TableOptions, ending: str) -> AggregatedWindows:
        if self._idle_after_ms is not None:
            runtime_of(self.flow.app).change_settings(notice_ends=True)
        flow, upstream = self.flow, self.upstream
        table = self._table(name, how, options)
        if upstream is None:
            grace = duration_text(self.timing.grace_ms)
            flow.describe(f"window({self.windows}, grace={grace}) → {ending}", table, how.sums)
        else:
            window = "" if isinstance(self.windows, SameWindows) else f"window({self.windows}) → "
            flow.describe(f"{window}{ending}", table, how.sums, source=f"final() of table {upstream.table.name}")
        if upstream is None and flow.keyed is None:
            made = AggregatedWindows(flow, table, flow.topic.get_topic_name(), self.keep_ms)
            self._fill_in_place(made, how)
            return made
        into = WindowRepartition(flow, table, how)
        made = AggregatedWindows(flow, table, into.topic.get_topic_name(), self.keep_ms)
        if upstream is None:
            self._combine(into, how)
        else:
            from .window_chains import chain

            chain(upstream, flow, into, how)
        self._gather(made, how, into.topic)
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
        own_key = self.flow.keyed is None and self.upstream is None
        key_type = declarable(topic.key_type) if own_key else self.flow.key_type
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
                topic.get_topic_name() if self.upstream is None else self.upstream.closes_in,
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
            joining = Joining(stream, table, how, closes=not closer.tells)
            async for batch in stream.queued_batches(closer.wait_s):
                if await closer.told_again(batch):
                    continue
                closer.begin(batch)
                if batch.messages:
                    state, pending = joining.begin(batch)
                    judged = source.judge(batch, pending.states, state.watermark_ms, pending.waiting)
                    joining.end(batch, pending)
                    if judged.woke:
                        closer.wake(batch.at)
                    if judged.time_ms > NEVER_MS:
                        state.keeper.advance(judged.channel, judged.time_ms, clock.now_ms())
                for resting in source.rest() if not batch.messages else ():
                    stream.context.at(stream, resting.at)
                    _, state = window_partition(table)
                    if moves := resting.time_ms > state.keeper.time_ms:
                        state.keeper.advance(resting.channel, resting.time_ms, clock.now_ms())
                    if moves or resting.repeats:
                        closer.look_at(resting.at, idle=True)
                await closer.close(batch)

        self.flow.add_filling_agent(table, self.flow.topic, fill)

    def _combine(self, into: WindowRepartition, how: Reducer) -> None:
        """Make the agent before the repartition topic."""
        table, late = into.table, self._late(into.table)

        async def combine(stream: Stream) -> None:
            stream.takes_control = True
            stream.max_ahead_ms = table.spec.max_ahead_ms(runtime_of(self.flow.app).settings.max_ahead_windows)
            source = self._source(stream, table, how, late)
            told = ToldTimes(into)
            async for batch in stream.queued_batches(source.wait_s):
                if not batch.messages:
                    for resting in source.rest():
                        told.rest(stream, resting.channel, resting.time_ms, repeats=resting.repeats)
                    continue
                states = into.begin(stream)
                judged = source.judge(batch, states)
                into.end(stream, states)
                told.move(stream, judged.channel, judged.time_ms, woke=judged.woke)
                if stream.context.epoch.full:
                    stream.context.router.cut()

        self.flow.add_agent(f"{table.name}-combine", self.flow.topic, combine)

    def _gather(self, made: AggregatedWindows, how: Reducer, between: Topic) -> None:
        """Make the agent behind the repartition topic."""
        table, late = made.table, self._late(made.table)

        async def gather(stream: Stream) -> None:
            stream.takes_control = True
            closer = WindowCloser(stream, table, made.listeners)
            joining = Joining(stream, table, how, closes=not closer.tells)
            async for batch in stream.queued_batches(closer.wait_s):
                if await closer.told_again(batch):
                    continue
                closer.begin(batch)
                if batch.messages:
                    records, control = control_apart(stream, batch)
                    state, pending = joining.begin(batch)
                    if records.messages:
                        merge_panes(pending.states, joining.gather(records, late), how)
                        joining.end(batch, pending)
                    for record in control:
                        if record.kind == WATERMARK:
                            state.keeper.hear(record)
                await closer.close(batch)

        self.flow.add_filling_agent(table, between, gather)


@dataclass(frozen=True)
class AggregatedWindows:
    """A table of windows, as `window(…).aggregate(…)` and `reduce(…)` return it, and the windows that have closed.

    Attributes:
        flow: the flow that is reduced into the table.
        table: the table. Its keys are (key, start, end), with times in milliseconds.
        closes_in: name of the topic that the agent reads that closes the windows.
        keep_ms: how long closed windows stay in the table.
        listeners: who is told of its windows.
    """

    flow: Ending
    table: WindowTable
    closes_in: str
    keep_ms: int
    listeners: Listeners = field(default_factory=Listeners)

    @property
    def app(self) -> App:
        return self.flow.app

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
        keys = [(key, start, end) for start, end in kind.holding(at_ms)]
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

    def key_by(self, key: What, value: What = None) -> KeyedWindows:
        """Bring closed windows of several keys together; `aggregate`, `reduce`, `top` or `window` follows.

            hours.final().key_by("end").top(1, by="n")

        Args:
            key: a field's name, such as `end`, or a function of the element.
            value: what is left of the element, likewise; None keeps it as it is.

        Raises:
            Usage: the windows are those of `updates`.
        """
        from .window_chains import KeyedWindows

        self._refuse_updates("key_by")
        return KeyedWindows(self.made, self.steps, (key, value))

    def window(
        self, windows: Windows, *, grace: None = None, keep: Duration | None = None, late_to: str | None = None
    ) -> WindowedFlow:
        """Reduce the closed windows of each key by window of their ends; see `KeyedWindows.window`.

        Raises:
            Usage: an argument is not supported, or the windows are those of `updates`.
        """
        from .window_chains import chained_window

        self._refuse_updates("window")
        return chained_window(self.made, self.steps, None, windows, grace=grace, keep=keep, late_to=late_to)

    def _refuse_updates(self, method: str) -> None:
        if self.every_s is not None:
            raise Usage(
                f"{method} behind updates(): a window that has changed would count again, and what it was before stays "
                "counted",
                hint=f"final().{method}(…): each window counts once",
            )

    if not TYPE_CHECKING:

        def aggregate(self, *_: object, **__: object) -> NoReturn:
            """Refuse to aggregate each window by itself.

            Raises:
                Usage: always.
            """
            raise Usage(
                "final() ends in aggregate or reduce without saying which windows belong together",
                hint='final().key_by("end").aggregate(…), or final().window(Tumbling("1d")).aggregate(…)',
            )

        reduce = top = aggregate

    def to(self, topic: Topic | str) -> Topic:
        """Send what is left of each window to a topic, with its key.

        The timestamp of a closed window is its last millisecond, that of another one is stream time. Updates have the
        key (key, start, end), as a JSON array.

        Returns:
            The topic.
        """
        return send_windows(self, None, topic)


def send_windows(records: WindowRecords, keyed: tuple[What, What] | None, topic: Topic | str) -> Topic:
    """Have windows sent to a topic; see `WindowRecords.to`.

    Args:
        keyed: what is the key of the records, and what is left of the windows; None: their own key counts.
    """
    made = records.made
    target, table = made.app.topic(topic) if isinstance(topic, str) else topic, made.table
    keying = Keying(made.flow.topic, records.steps, keyed, fields=part)
    sender = WindowSender(table, keying, target, whole_key=records.every_s is not None)
    made.listeners.finals.append(sender)
    table.is_sent = True
    if records.every_s is not None:
        made.listeners.every_s = records.every_s
        made.listeners.updates.append(sender)
    which = "final()" if records.every_s is None else f"updates(every={records.every_s:g} s)"
    to = f"topic {target.get_topic_name()}"
    text = FlowDescription.of(f"{which} of table {table.name}", records.steps, keyed, "", to)
    runtime_of(made.app).flows.append(text)
    return target


def window(
    flow: Ending, windows: Windows, *, grace: Duration | None, keep: Duration | None, late_to: str | None
) -> WindowedFlow:
    """Return a flow whose elements are reduced by window; see `Flow.window`.

    Raises:
        Usage: see there.
    """
    checked_windows(windows)
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


def checked_windows(windows: object) -> None:
    """Refuse what is no kind of windows.

    Raises:
        Usage: it is none.
    """
    if not isinstance(windows, Windows):
        raise Usage(f"window({windows!r})", hint='for example Tumbling("5m") or Sessions("30m")')
