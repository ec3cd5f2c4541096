"""Chains of windows: closed windows of one table, brought together by another key, in windows of another table.

    hours = sales.key_by("item").window(Hopping("1h", step="5m")).aggregate("by-item", n=Count())
    hours.final().key_by("end").top(1, by="n")                      all items of one hour
    hours.final().window(Tumbling("1d")).aggregate(most=Max("n"))   all hours of an item in one day

    … ─▶ agent: windows, close ─▶ table ─▶ …
                  │ closed windows, reduced by pane and key      watermarks in it
                  ╰──────────────────────────────▶ …-repartition ─▶ agent: windows, close ─▶ second table ─▶ …

Invariants; see also `window_agents.py`.
- The time of a closed window is its last millisecond, `end - 1`; with it, it counts in the windows of the second table.
- The agent that closes windows passes on, in the transaction in which they are closed, what they add to the second
  table, and behind them its watermark. Each partition in which windows close is a channel of the second table.
- The watermark is passed on when all windows that are complete with it were passed on; of sessions, it is passed on
  minus the gap. So no closed window comes behind a time that was passed on: the second table needs no grace, and none
  of its input is late. (One that comes after its window has closed, because a source partition was idle and another
  one was not, goes to the late topic with the reason `closed`.)
- Without `window`, closed windows are reduced together that have the same start and end. These close with the watermark
  that is passed on behind the last of them.
- Idle source partitions bring time as far as the last table of the chain needs it (`WindowSpec.closed_at`). Only a
  partition that is the source itself, without a repartition topic, tells the next table that it is idle, and only when
  its windows have closed: until then they are still to come, and it holds time back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...topics.durations import Duration, duration_ms
from ...topics.errors import Usage
from ...topics.private_fields import KEY, VALUE
from ...topics.topic_partition import TopicPartition
from ..declarations import TableOptions
from ..event_time.channel import END_MS, NEVER_MS
from ..event_time.event_time import Timing
from ..event_time.time_keeper import channel_name
from ..event_time.windows import SameWindows, Windows
from ..runtime import runtime_of
from ..tables.value_cache import own_copy
from ..tables.window_table import WindowTable
from .aggregates import Aggregate, Top, What
from .element_types import UNKNOWN
from .expressions import part
from .flow import NoOperators
from .operators import Keying, Operator
from .window_flow import AggregatedWindows, WindowedFlow, WindowRecords, checked_windows, send_windows
from .window_letters import window_element
from .window_repartition import ToldTimes, WindowRepartition
from .window_sender import Portion

if TYPE_CHECKING:
    from ..stream import Stream
    from ..topic import Topic
    from .flow import Ending
    from .reducers import Reducer

__all__ = ["KeyedWindows", "chain", "chained_window"]

_IN_ORDER = Timing(given_grace_ms=0, max_jump_ms=None, idle_after_ms=None)
"""Closed windows come with a time that none of them is behind, and idle partitions are the source's."""


@dataclass(frozen=True)
class KeyedWindows(NoOperators):
    """Closed windows of a table behind `key_by`. They end in `window`, `aggregate`, `reduce`, `top` or `to`.

    Attributes:
        made: the table.
        steps: the operators, in order.
        keyed: what is the key, and what is left of an element.
    """

    _before_another_key = "aggregate between them: final().key_by(…).aggregate(…).final().key_by(…)"

    made: AggregatedWindows
    steps: tuple[Operator, ...]
    keyed: tuple[What, What]

    def window(
        self, windows: Windows, *, grace: None = None, keep: Duration | None = None, late_to: str | None = None
    ) -> WindowedFlow:
        """Reduce the closed windows of each key by window of their ends; `aggregate` or `reduce` follows.

        The time of a closed window is its last millisecond.

        Args:
            windows: `Tumbling`, `Hopping`, `Cumulating` or `Sessions`.
            grace: not supported: closed windows never come out of order.
            keep, late_to: see `Flow.window`.

        Raises:
            Usage: an argument is not supported.
        """
        return chained_window(self.made, self.steps, self.keyed, windows, grace=grace, keep=keep, late_to=late_to)

    def aggregate(
        self, table: str | None = None, /, *, options: TableOptions | None = None, **columns: Aggregate
    ) -> AggregatedWindows:
        """Compute aggregates of the closed windows with one key and the same start and end; see
        `WindowedFlow.aggregate`.

        Raises:
            Usage: the windows are sessions, or a column is not an aggregate.
        """
        return self._same.aggregate(table, options=options, **columns)

    def reduce(
        self, how: Callable[..., object], table: str | None = None, *, options: TableOptions | None = None
    ) -> AggregatedWindows:
        """Join the closed windows with one key and the same start and end two by two; see `WindowedFlow.reduce`.

        Raises:
            Usage: the windows are sessions, or `how` is not a function.
        """
        return self._same.reduce(how, table, options=options)

    def top(
        self, n: int = 10, table: str | None = None, *, by: What, options: TableOptions | None = None
    ) -> AggregatedWindows:
        """Keep the `n` greatest of the closed windows with one key and the same start and end, in the field `top`.

            hours.final().key_by("end").top(1, by="n")

        Args:
            n: how many.
            table: see `aggregate`.
            by: what is compared: a field's name, an expression or a function.

        Raises:
            Usage: the windows are sessions, or `n` is less than 1.
        """
        return self.aggregate(table, options=options, top=Top(by, n))

    def to(self, topic: Topic | str) -> Topic:
        """Send each closed window to a topic, with the key of `key_by`; see `WindowRecords.to`.

        Returns:
            The topic.
        """
        return send_windows(WindowRecords(self.made, self.steps), self.keyed, topic)

    @property
    def _same(self) -> WindowedFlow:
        spec = self.made.table.spec
        if spec.windows.gap_ms is not None:
            raise Usage(
                f"table {self.made.table.name}: sessions of several keys have no start and end in common",
                hint='say which of them belong together: final().key_by(…).window(Tumbling("1h")).aggregate(…)',
            )
        return WindowedFlow(
            _flow_of_windows(self.made, self.steps, self.keyed),
            SameWindows(spec.windows),
            _IN_ORDER,
            self.made.keep_ms,
            upstream=self.made,
        )


def chained_window(
    made: AggregatedWindows,
    steps: tuple[Operator, ...],
    keyed: tuple[What, What] | None,
    windows: Windows,
    *,
    grace: object,
    keep: Duration | None,
    late_to: str | None,
) -> WindowedFlow:
    """Return closed windows that are reduced by window again; see `KeyedWindows.window`.

    Raises:
        Usage: see there.
    """
    if grace is not None:
        raise Usage(
            f"window(grace={grace!r}) behind final(): closed windows never come out of order, so nothing is waited for",
            hint="omit grace; that of the first window(…) holds for all that follow",
        )
    checked_windows(windows)
    flow = _flow_of_windows(made, steps, keyed)
    if late_to is not None and late_to != "drop":
        runtime_of(made.app).check_topic(late_to)
    keep_ms = made.keep_ms if keep is None else duration_ms(keep, "keep")
    return WindowedFlow(flow, windows, _IN_ORDER, keep_ms, late_to, upstream=made)


def _flow_of_windows(
    made: AggregatedWindows, steps: tuple[Operator, ...], keyed: tuple[What, What] | None
) -> Ending[Any, Any]:
    """Return the flow of a table's closed windows: its source, its failures and its late records are those of the
    table's own flow."""
    key_type = made.table.spec.key_type if keyed is None or (keyed[0] == "key" and not steps) else None
    return replace(made.flow, steps=steps, keyed=keyed, type=UNKNOWN, key_type=key_type, timing=_IN_ORDER)


class WindowPassage:
    """Passes closed windows of a table on to another one, and its watermarks: a `Passage`.

    Args:
        stream: the stream of the agent that closes the windows.
        upstream: the table whose windows close.
        keying: the operators behind it, and how they find keys.
        how: reduces.
        into: the other table's repartition topic.
    """

    def __init__(
        self,
        stream: Stream,
        upstream: WindowTable,
        keying: Keying,
        how: Reducer,
        into: WindowRepartition,
    ) -> None:
        self._stream, self._upstream, self._keying, self._how = stream, upstream, keying, how
        self._windows, self._into = into.table.spec.windows, into
        self.into = into.topic.get_topic_name()
        self._is_same = isinstance(self._windows, SameWindows)
        self._hold_ms = upstream.spec.windows.gap_ms or 0
        self._told = ToldTimes(into)

    def send(self, portion: Portion) -> None:
        """Reduce closed windows into what is passed on."""
        windows, states, how = portion.windows, self._into.begin(self._stream), self._how
        added = 0  # in sessions there are as many panes as windows, which are not all counted for each portion
        for portion.number, (row, value) in enumerate(windows):
            key, start_ms, end_ms = row
            pane = (start_ms, end_ms) if self._is_same else self._windows.pane(end_ms - 1)
            of_pane = states.get(pane)
            before = len(of_pane or ())
            for new, element in self._keying.pairs_of(window_element(self._upstream, row, own_copy(value)), key):
                if of_pane is None:
                    of_pane = states[pane] = {}
                of_pane[new] = how.add(of_pane[new], element) if new in of_pane else how.start(element)
            added += len(of_pane or ()) - before
        self._into.end(self._stream, states, added=added)

    def move(self, at: TopicPartition, watermark_ms: int, *, woke: bool, idle: bool) -> None:
        """Pass on a watermark, if it matters; see `Passage`."""
        channel = channel_name(*at)
        time_ms = watermark_ms if watermark_ms in (NEVER_MS, END_MS) else watermark_ms - self._hold_ms
        if idle:
            self._told.rest(self._stream, channel, time_ms, repeats=True)
        else:
            self._told.move(self._stream, channel, time_ms, woke=woke)


def chain(upstream: AggregatedWindows, flow: Ending, into: WindowRepartition, how: Reducer) -> None:
    """Have the closed windows of a table passed on to another one.

    Args:
        flow: the closed windows, as they are reduced into the other table.
        into: the other table's repartition topic.
        how: reduces.
    """
    of, table, between = upstream.table, into.table, into.topic
    if KEY in of.private.names:
        # What becomes of a window may hold its key anywhere: in a new key, in a `top`.
        between.private = [KEY, VALUE]
        between.app_private.declare(table.changelog_name, [KEY, VALUE])
    keying = Keying(flow.topic, flow.steps, flow.keyed, table.own_keys, part)

    def begin(stream: Stream) -> WindowPassage:
        return WindowPassage(stream, of, keying, how, into)

    upstream.listeners.passages.append(begin)
    of.spec.chained.append(table.spec)
