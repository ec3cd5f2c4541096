"""The repartition topic of a window table: partial results by key and pane, and the watermarks that follow them.

`window_agents.py` documents the invariants, `window_chains.py` those of tables that read closed windows of others.
"""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING, cast

from ...topics import clock
from ..event_time.channel import END_MS, FOREVER_MS, NEVER_MS
from ..runtime import runtime_of
from ..tables.window_table import WindowTable
from .element_types import UNKNOWN
from .flow import check_finite, check_known, check_written
from .partial_records import partial_records
from .watermarked_partials import WatermarkedPartials
from .window_states import States

if TYPE_CHECKING:
    from ...topics.output import Output
    from ..app import App
    from ..stream import Stream
    from ..tables.window_content import WindowSpec
    from .flow import Ending
    from .reducers import Reducer

__all__ = ["ToldTimes", "WindowRepartition"]


class WindowRepartition:
    """The repartition topic of a table, as the agents see it that write to it.

    Args:
        flow: the flow that is reduced into the table. Its repartition topic is declared.
        how: reduces.

    Attributes:
        table: the table.
        topic: the topic.
    """

    def __init__(self, flow: Ending, table: WindowTable, how: Reducer) -> None:
        self._declared = flow.declared_states(table, how)
        key_type = UNKNOWN if flow.key_type is None else flow.key_type
        self.table, self.topic = table, flow.repartition(table, key_type, int, int, self._declared)
        self._name = self.topic.get_topic_name()

    def begin(self, stream: Stream) -> States:
        """Return the partial results of the running epoch, to merge others into; none while the stream isolates
        records: these are sent each by itself, so that a rollback to a savepoint finds them."""
        return States() if stream.queue.isolating else self.waiting(stream).states

    def end(self, stream: Stream, states: States, added: int | None = None) -> None:
        """Send what was merged into the partial results that `begin` has returned, with the running epoch.

        Args:
            added: how many there are more than before; None: they are counted.

        Raises:
            BadRecord: the topic cannot hold one.
            Stop: the topic cannot hold such results at all.
        """
        if not stream.queue.isolating:
            self.waiting(stream).note_added(added)
            return
        if not states:
            return
        self.topic.need()
        check_finite([state for of_pane in states.values() for state in of_pane.values()])
        for output in self._outputs(states, clock.now_ms()):
            stream.context.send(output)

    def waiting(self, stream: Stream) -> WatermarkedPartials:
        """Return what is sent at the end of the running epoch."""
        self.topic.need()
        partials = stream.context.epoch.outbox.partials
        if self._name not in partials:
            partials[self._name] = WatermarkedPartials(self._outputs, self._name, self._counts)
        return cast(WatermarkedPartials, partials[self._name])

    def _outputs(self, states: States, timestamp_ms: int | None) -> list[Output]:
        declared, topic = self._declared, self.topic
        for of_pane in states.values() if declared is UNKNOWN else ():
            check_known(self.table, of_pane)
        keys = list(chain.from_iterable(states.values()))
        results = list(chain.from_iterable(map(dict.values, states.values())))
        parts = (
            zip(of_pane, repeat(start), repeat(end), of_pane.values(), strict=False)  # the bounds are repeated for ever
            for (start, end), of_pane in states.items()
        )
        encoded = topic.encoded(keys, chain.from_iterable(parts))
        check_written(encoded[1], results, declared)
        return partial_records(topic, *encoded, timestamp_ms)

    def _counts(self) -> tuple[int, int]:
        known = runtime_of(cast("App", self.topic.app)).engine.rebalance.partition_counts
        return known.get(self._name) or self.table.changelog_partitions, known[self.table.spec.channels_of]


class ToldTimes:
    """The stream times that an agent has told the operator behind a repartition topic. It tells them when something
    may be due there, or in a table that is chained to it, not with each record."""

    def __init__(self, repartition: WindowRepartition) -> None:
        self._repartition = repartition
        self._told_ms: dict[str, int] = {}

    def move(self, stream: Stream, channel: str, time_ms: int, *, woke: bool = False) -> None:
        """Tell the time of a channel if it matters, or if the channel was idle."""
        if woke or self._is_due(channel, time_ms):
            self._repartition.waiting(stream).move(channel, time_ms)
            self._told_ms[channel] = time_ms

    def rest(self, stream: Stream, channel: str, time_ms: int, *, repeats: bool) -> None:
        """Tell that a channel is idle if that has to be repeated, or if its time matters."""
        if repeats or self._is_due(channel, time_ms):
            self._repartition.waiting(stream).rest(channel, time_ms)
            self._told_ms[channel] = time_ms

    def _is_due(self, channel: str, time_ms: int) -> bool:
        return _is_due(self._repartition.table.spec, self._told_ms.get(channel, NEVER_MS), time_ms)


def _is_due(spec: WindowSpec, before_ms: int, after_ms: int) -> bool:
    """Return whether a channel's stream time has passed something that an operator behind it waits for."""
    if after_ms in (before_ms, NEVER_MS):
        return False
    windows, grace_ms = spec.windows, spec.grace_ms
    if windows.gap_ms is not None or after_ms == END_MS or before_ms in (NEVER_MS, END_MS):
        return True
    if grace_ms == FOREVER_MS:
        return False
    before_ms, after_ms = before_ms - grace_ms, after_ms - grace_ms
    if windows.pane(after_ms) != windows.pane(before_ms):
        return True
    return any(_is_due(chained, before_ms, after_ms) for chained in spec.chained)
