"""Partial results of windows: by pane and key, and how they are joined with the windows of a table.

The partial results of several batches can be *pending*: they are kept, and joined with the table together, when one of
their windows is complete and has to be sent, when the table is read, and at the barrier at the latest. For what that
means for failures see `combiner.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

from ...topics.errors import Stop
from ...topics.keys import as_key
from ..decoded_batches import record_batch
from ..engine.epoch import PendingRefused
from ..event_time.windows import Pane
from ..tables.absent import ABSENT
from ..tables.value_cache import own_copy
from ..tables.window_table import WindowTable, window_content
from .combiner import refused
from .pieces import Pieces
from .reducers import AggregateReducer, Reducer, merge_states

if TYPE_CHECKING:
    from ..engine.partition_queue import QueuedBatch
    from ..stream import Stream
    from ..tables.open_partition import OpenPartition
    from ..tables.open_windows import WindowKey
    from ..tables.window_content import WindowContent
    from .groups import Piece
    from .late_records import LateRecords

__all__ = ["Joining", "PendingWindows", "States", "WaitingRows", "merge_panes"]

States = dict[Pane, dict[object, object]]
"""Partial results of records: pane -> key -> state of the reducer."""

# What may be pending in a partition; more is no faster.
_MOST_PENDING = 100_000


def merge_panes(states: States, others: Mapping[Pane, dict[object, object]], how: Reducer) -> None:
    """Merge partial results into the first ones, which may keep parts of the others.

    Raises:
        PendingRefused: the first ones were pending, and the reducer has read the table, and with it a part of the
            others. The epoch has to be rolled back.
    """
    for pane, of_pane in others.items():
        known = states.get(pane)
        if known is None:
            if of_pane:  # else the records of the pane were filtered out
                states[pane] = of_pane
        elif known is not of_pane:
            merge_states(known, of_pane, how.merge)
            if pane not in states:
                raise PendingRefused("a function of the flow reads the flow's table")


class WaitingRows:
    """Rows of packed batches that are reduced together: a key that occurs in several batches is looked up once.

    Args:
        how: reduces them.

    Attributes:
        first: the earliest pane of the rows; None if there are none.
    """

    def __init__(self, how: Reducer) -> None:
        self._how = how
        self._pieces = Pieces()
        self.first: Pane | None = None

    def add(self, piece: Piece, states: States) -> None:
        """Add the rows of a batch. Where they do not go with the others, or would be too much, reduce those first."""
        if not len(piece) or piece.panes is None:
            return
        if not self._pieces.add(piece):
            self.reduce_into(states)
            self._pieces.add(piece)
        codes, spans = piece.panes
        first = spans[int(codes.min())]  # the earliest pane is the first
        self.first = first if self.first is None else min(first, self.first)

    def reduce_into(self, states: States) -> None:
        """Reduce the rows into partial results of others before them."""
        if not self._pieces:
            return
        from .groups import grouped_pieces

        groups, columns = grouped_pieces(self._pieces)
        reduced = groups.by_pane(self._how.grouped(groups, columns))
        self._pieces, self.first = Pieces(), None
        merge_panes(states, reduced, self._how)


class PendingWindows:
    """Pending changes of one partition of windows, joined with the table together; see `OpenPartition.defer`.

    Attributes:
        states: partial results.
        waiting: rows that are behind them.
    """

    def __init__(self, joining: Joining, content: WindowContent, how: Reducer) -> None:
        self._joining, self._content = joining, content
        self.states, self.waiting = States(), WaitingRows(how)

    @property
    def is_full(self) -> bool:
        return sum(map(len, self.states.values())) > _MOST_PENDING

    @property
    def first(self) -> Pane | None:
        """The earliest pane of what is pending; None if there is nothing."""
        return min((*self.states, *([] if self.waiting.first is None else [self.waiting.first])), default=None)

    def apply_to(self, partition: OpenPartition) -> None:
        """Join the partial results with the partition.

        Raises:
            PendingRefused: the table holds a value that cannot be joined; the epoch has to be rolled back.
        """
        self._joining.apply(partition, self._content, self)


class Joining:
    """Joins the partial results of an agent's batches with the windows of a table.

    Args:
        stream: the stream of the agent.
        how: joins states.
        closes: whether windows that are complete close with what is joined, because nobody is told of them.
    """

    def __init__(self, stream: Stream, table: WindowTable, how: Reducer, *, closes: bool) -> None:
        self._stream, self._table, self._how, self._closes = stream, table, how, closes
        self._windows = table.spec.windows

    def begin(self, batch: QueuedBatch) -> tuple[WindowContent, PendingWindows]:
        """Begin with a batch: return the content of its partition, and what its results and rows are added to."""
        partition, content = window_content(self._table)
        if self._stream.queue.isolating:
            self._table.opened_to_write()  # what was pending is not of the next record
        pending = cast("PendingWindows | None", partition.pending.get(batch.at.topic))
        return content, PendingWindows(self, content, self._how) if pending is None or pending.is_full else pending

    def end(self, batch: QueuedBatch, added: PendingWindows) -> None:
        """End a batch, whose results are merged into what `begin` has returned."""
        first = added.first
        if first is None:
            return
        partition, content = window_content(self._table)
        isolating = self._stream.queue.isolating
        if isolating or self._windows.gap_ms is not None or self._table.uncommitted.tracking:
            partition = self._table.opened_to_write()
            added.waiting.reduce_into(added.states)
            self._join(partition, content, added.states, isolating=isolating)
            return
        if partition.pending.get(batch.at.topic) is not added:
            partition.defer(batch.at.topic, added)
        content.open.expect(self._windows.horizon_ms(first))  # earlier panes have earlier horizons

    def gather(self, batch: QueuedBatch, late: LateRecords) -> States:
        """Return the partial results in records of a repartition topic, for windows that are open."""
        decoded = record_batch(self._stream, batch)
        windows, how = self._windows, self._how
        watermark_ms = window_content(self._table)[1].watermark_ms
        states, merge = States(), how.merge
        pane, is_closed, of_pane = (0, 0), False, dict[object, Any]()
        for number, (key, start, end, state) in enumerate(decoded.values):
            if start != pane[0] or end != pane[1]:  # partial results of a pane follow each other
                pane = start, end
                is_closed = windows.horizon_ms(pane) < watermark_ms
                of_pane = {} if is_closed else states.setdefault(pane, {})
            if is_closed:
                late.send(self._stream, decoded.messages[number], pane, watermark_ms, "closed")
                continue
            if type(key) is list:
                key = as_key(cast(object, key))
            of_pane[key] = merge(of_pane[key], state) if key in of_pane else state
        return states

    def apply(self, partition: OpenPartition, content: WindowContent, pending: PendingWindows) -> None:
        """Join what was pending with a partition, and forget it; see `PendingWindows`."""
        states = pending.states
        try:
            pending.waiting.reduce_into(states)
            self._join(partition, content, states, isolating=False)
            states.clear()  # a batch that is under way, whose functions have read the table, goes on with none
            if self._closes and len(partition.pending) == 1:  # other ones may have parts of the same windows
                content.open.close_due(content.watermark_ms)
        except Stop:
            raise
        except Exception as exc:
            raise refused(self._stream, self._table, exc) from exc

    def _join(self, partition: OpenPartition, content: WindowContent, states: States, *, isolating: bool) -> None:
        """Join partial results with the windows of a partition, all or none.

        Args:
            states: they are used up.
            isolating: the record may be rolled back alone, so the table's values are copied before a function that can
                fail changes them in place.
        """
        if self._windows.gap_ms is not None:
            self._join_sessions(partition, content, states, isolating=isolating)
            return
        how, open_windows = self._how, content.open
        rows: list[tuple[Pane, list[WindowKey]]] = []
        changes: dict[WindowKey, Any] = {}
        for span, of_window in self._by_window(states).items():
            start, end = span
            of_span = list(zip(of_window, repeat(start), repeat(end)))
            known = [ABSENT] * len(of_span)  # nothing needs to be looked for where no window ends so
            if open_windows.has_any(end):
                known = _read(partition, of_span, isolating=isolating)
            changes.update(zip(of_span, how.joined(known, of_window.values()), strict=True))
            rows.append((span, of_span))
        partition.put(changes)
        for (_, end), of_span in rows:
            open_windows.add_all(end, of_span)

    def _by_window(self, states: States) -> States:
        """Return the partial results of windows, given those of panes."""
        windows = States()
        for pane, of_pane in states.items():
            own = of_pane
            for number, span in enumerate(self._windows.of_pane(pane)):
                if number:  # windows must not share what a function may change in place
                    own = {key: own_copy(state) for key, state in of_pane.items()}
                known = windows.get(span)
                if known is None:
                    windows[span] = own
                else:
                    merge_states(known, own, self._how.merge)
        return windows

    def _join_sessions(
        self, partition: OpenPartition, content: WindowContent, states: States, *, isolating: bool
    ) -> None:
        """Join states of single times with the open sessions of their keys."""
        how, gap_ms = self._how, cast(int, self._windows.gap_ms)
        made: dict[WindowKey, Any] = {}
        gone: set[WindowKey] = set()
        by_key: dict[Any, list[tuple[int, int, Any]]] = {}
        for (start, end), of_pane in states.items():
            for key, reduced in of_pane.items():
                by_key.setdefault(key, []).append((start, end, reduced))
        for key, parts in by_key.items():
            there = content.open.sessions(key)
            sessions: list[tuple[int, int, Any, list[WindowKey]]] = [
                (row[1], row[2], self._state_of(value), [row])
                for row, value in zip(there, _read(partition, there, isolating=isolating), strict=True)
            ]
            sessions += [(start, end, reduced, []) for start, end, reduced in parts]
            joined: list[tuple[int, int, Any, list[WindowKey]]] = []
            for start, end, reduced, rows in sorted(sessions, key=lambda session: session[:2]):
                if joined and start - (joined[-1][1] - 1) <= gap_ms:
                    first, last, before, others = joined[-1]
                    joined[-1] = (first, max(last, end), how.merge(before, reduced), [*others, *rows])
                else:
                    joined.append((start, end, reduced, rows))
            for start, end, reduced, rows in joined:
                row = (key, start, end)
                if rows == [row] and not any(start <= part[0] < end for part in parts):
                    continue  # a session that nothing was added to
                made[row] = how.joined([ABSENT], [reduced])[0]
                gone.update(other for other in rows if other != row)
        for row in gone:
            partition.delete(row)
            content.open.remove(row)
        partition.put(made)
        for row in made:
            content.open.add(row)

    def _state_of(self, value: Any) -> Any:
        return self._how.opened(value) if isinstance(self._how, AggregateReducer) else value


def _read(partition: OpenPartition, rows: list[WindowKey], *, isolating: bool) -> list[Any]:
    known = partition.get_many(rows)
    return list(map(own_copy, known)) if isolating else known
