"""A batch of a source of windows by column: which rows have no time or are late, and what the others are reduced to.

The result is that of `Source` row by row: late is decided for each row, in the order of the partition. What columns may
not do in the same way raises `NotVectorizable`; nothing has happened then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from ...topics.errors import Stop
from ..event_time.channel import Channel, watermark
from ..event_time.time_columns import Mask, Times, moments, panes_of, stream_times, whole_times
from ..event_time.windows import Pane, Windows
from .groups import Panes, Piece
from .window_states import States

if TYPE_CHECKING:
    from ...topics.packed import Row, Rows
    from ..event_time.event_time import EventTime
    from .column_evaluation import Frame
    from .combiner import Combiner, Failed

__all__ = ["ColumnResult", "Late", "reduce_columns"]

Late = tuple[int, Pane, int, str]
"""A record that is late: its number in the batch, its pane, the watermark before it, and the reason."""


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """The result of a batch: states, and the rows that are not in them.

    Attributes:
        states: the partial results of the rows that are on time; where they wait, the rows themselves.
        untimed: the rows without a time, and their errors.
        failed: the rows at which a function of the flow failed.
        late: the late rows, in order; operators may still filter them out.
    """

    states: States | Piece
    untimed: Failed
    failed: Failed
    late: list[Late]


def reduce_columns(
    rows: Rows,
    combiner: Combiner,
    windows: Windows,
    time: EventTime,
    read: Callable[[Row], int],
    channel: Channel,
    *,
    grace_ms: int,
    closed_ms: int,
    waits: bool = False,
) -> ColumnResult:
    """Judge and reduce the rows of a packed batch, and advance the channel.

    Args:
        read: returns the time of a row, or raises.
        closed_ms: windows that were complete before this are closed in the table.
        waits: whether the rows are to be reduced later, together with those of other batches.

    Raises:
        NotVectorizable: the result might differ from that of row by row.
    """
    columns = rows.columns()
    frame = combiner.frame(columns)
    times, off = _times(frame, rows, time)
    untimed: Failed = []
    there: Mask | None = None
    if off.any():
        times, untimed = _read_alone(rows, times, off.nonzero()[0].tolist(), read)
        there = np.ones(len(times), bool)
        there[[row for row, _ in untimed]] = False
    timed = times if there is None else times[there]
    if not len(timed):
        return ColumnResult({}, untimed, [], [])
    numbers = None if there is None else there.nonzero()[0]

    def kafka_ms(row: int) -> int:
        return rows[row if numbers is None else int(numbers[row])].timestamp()[1]

    before = stream_times(channel, timed, kafka_ms)
    codes, spans = panes_of(windows, timed)
    behind, late = _late(windows, spans, codes, before, grace_ms, closed_ms)
    if numbers is not None and there is not None:
        late = [(int(numbers[row]), pane, watermark_ms, reason) for row, pane, watermark_ms, reason in late]
        codes, behind = _spread(codes, numbers, len(times)), _spread(behind, numbers, len(times))
        frame.live = frame.live & there
    if late:
        frame.live = frame.live & ~behind
    panes = Panes(codes, spans)
    if waits:
        piece, failed = combiner.piece_of(frame, rows, rows.key_column(), panes)
        return ColumnResult(piece, untimed, failed, late)
    states, failed = combiner.by_frame(frame, columns, rows, rows.key_column(), panes)
    return ColumnResult(cast(States, states), untimed, failed, late)


def _spread(of_some: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
    """Return an array for all rows of one for some of them; the others have 0."""
    made = np.zeros(count, of_some.dtype)
    made[numbers] = of_some
    return made


def _times(frame: Frame, rows: Rows, time: EventTime) -> tuple[Times, Mask]:
    """Return the times, and flags of rows that have to be read alone; they may have none."""
    if time.of is None:
        times, off = whole_times(rows.time_array(), "ms")
        return times, off | (times < 0)
    column = frame.column(time.of)
    off = column.off
    if column.kind in ("null", "bool"):
        return np.zeros(len(off), np.int64), np.ones(len(off), bool)
    if column.kind != "text":
        times, wrong = whole_times(column.numbers, time.unit)
    elif not off.any():
        times, wrong = moments(column.texts)
    else:
        present = column.only(~off)
        found, refused = moments(present.texts)
        numbers = (~off).nonzero()[0]
        times, wrong = _spread(found, numbers, len(off)), _spread(refused, numbers, len(off))
    return times, off | wrong


def _read_alone(rows: Rows, times: Times, numbers: list[int], read: Callable[[Row], int]) -> tuple[Times, Failed]:
    times, untimed = times.copy(), list[tuple[int, Exception]]()
    for number in numbers:
        try:
            times[number] = read(rows[number])
        except Stop:
            raise
        except Exception as exc:  # noqa: BLE001 (an expression may raise anything)
            untimed.append((number, exc))
    return times, untimed


def _late(
    windows: Windows, spans: list[Pane], codes: np.ndarray, before: Times, grace_ms: int, closed_ms: int
) -> tuple[Mask, list[Late]]:
    """Return flags of the rows that count in no window, and these rows."""
    horizons = np.array([windows.horizon_ms(span) for span in spans])
    horizon = horizons[codes] if len(spans) > 1 else horizons[0]
    behind: Mask = before > horizon + grace_ms
    closed: Mask = (horizons < closed_ms)[codes]
    off = behind | closed
    late: list[Late] = []
    for row in off.nonzero()[0].tolist():
        span = spans[int(codes[row])]
        if behind[row]:
            late.append((row, span, watermark(int(before[row]), grace_ms), "late"))
        else:
            late.append((row, span, closed_ms, "closed"))
    return off, late
