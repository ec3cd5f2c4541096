"""Event time by column: what `time_ms`, `Channel` and `Windows` say of one record, for all rows of a batch at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from .channel import END_MS, Channel
from .event_time import EARLIEST_MS, LATEST_MS, LIKE_SECONDS, PER_MS, TimeUnit, time_ms
from .windows import Pane, Windows

__all__ = ["Mask", "Times", "moments", "panes_of", "stream_times", "whole_times"]

pc: Any = pyarrow.compute  # its functions are made at run time

Times = np.ndarray[Any, np.dtype[np.int64]]
"""A time in milliseconds for each row."""

Mask = np.ndarray[Any, np.dtype[np.bool_]]
"""A flag for each row."""

# A batch with more jumps than this is not looked at as a whole again.
_MOST_JUMPS = 8

# Spans of a calendar that are looked up one after the other, whether or not they hold records.
_MOST_SPANS = 400


# Reading ------------------------------------------------------------------------------------------------------------


def whole_times(numbers: np.ndarray, unit: TimeUnit | None) -> tuple[Times, Mask]:
    """Return the times of whole numbers or floats, and flags of the rows that `time_ms` refuses."""
    by, per = PER_MS[unit or "ms"]
    if numbers.dtype == np.float64:
        with np.errstate(all="ignore"):
            made = np.floor(numbers * by / per)
        off = ~((made >= EARLIEST_MS) & (made < LATEST_MS))
        times = np.where(off, 0, made).astype(np.int64)
    else:
        off = (numbers < EARLIEST_MS * per // by) | (numbers >= LATEST_MS * per // by)
        times = numbers
        if off.any():
            times = np.where(off, 0, times)
        if (by, per) != (1, 1):
            times = times * by // per
    if unit is None:
        off |= (times >= LIKE_SECONDS.start) & (times < LIKE_SECONDS.stop)
    return times, off


def moments(texts: pa.Array) -> tuple[Times, Mask]:
    """Return the times of ISO 8601 texts, and flags of those that `time_ms` refuses."""
    for unit in ("ms", "us"):
        try:
            read: Any = pc.cast(texts, pa.timestamp(unit, "UTC")).cast(pa.int64())
        except pa.ArrowException:
            continue
        times: Times = np.from_dlpack(read).astype(np.int64, copy=False)
        times = times if unit == "ms" else times // 1000
        return times, (times < EARLIEST_MS) | (times >= LATEST_MS)
    found = [_moment(text) for text in texts.to_pylist()]  # Python reads more forms, and some texts may have none
    off = np.fromiter((time is None for time in found), bool, len(found))
    return np.fromiter((time or 0 for time in found), np.int64, len(found)), off


def _moment(text: str) -> int | None:
    try:
        return time_ms(text)
    except ValueError:
        return None


# Stream time --------------------------------------------------------------------------------------------------------


def stream_times(channel: Channel, times: Times, kafka_ms: Callable[[int], int]) -> Times:
    """Advance a channel by the rows of a batch, and return stream time before each of them.

    Args:
        kafka_ms: returns the timestamp in Kafka of a row.
    """
    before = np.empty(len(times), np.int64)
    at = 0
    for _ in range(_MOST_JUMPS):
        at += _follow(channel, times[at:], before[at:])
        if at == len(times):
            return before
        before[at] = channel.time_ms
        channel.advance(int(times[at]), kafka_ms(at))
        at += 1
    for row in range(at, len(times)):
        before[row] = channel.time_ms
        channel.advance(int(times[row]), kafka_ms(row))
    return before


def _follow(channel: Channel, times: Times, before: Times) -> int:
    """Advance a channel by the rows in front of the first jump, note stream time before them, return their number."""
    known = np.maximum.accumulate(np.concatenate((np.array([channel.time_ms]), times)))
    count, most = len(times), channel.max_jump_ms
    if most is not None:
        ahead = times - min(most, END_MS) > known[:-1]
        count = int(ahead.argmax()) if ahead.any() else count
    if count:
        before[:count] = known[:count]
        channel.follow(int(known[count]))
    return count


# Panes --------------------------------------------------------------------------------------------------------------


def panes_of(windows: Windows, times: Times) -> tuple[np.ndarray, list[Pane]]:
    """Return the number of each row's pane, and the panes that hold rows, the earliest first."""
    grid = windows.grid
    if grid is None:
        return _calendar_panes(windows, times)
    numbers = (times - grid.offset_ms) // grid.step_ms
    first, last = int(numbers.min()), int(numbers.max())
    if last - first < max(1024, len(times)):
        numbers -= first
        there = np.bincount(numbers, minlength=last - first + 1) > 0
        codes = numbers if there.all() else (np.cumsum(there) - 1)[numbers]
        found = there.nonzero()[0] + first
    else:
        found, codes = np.unique(numbers, return_inverse=True)
    starts = (found * grid.step_ms + grid.offset_ms).tolist()
    return codes, [(start, start + grid.step_ms) for start in starts]


def _calendar_panes(windows: Windows, times: Times) -> tuple[np.ndarray, list[Pane]]:
    first, last = int(times.min()), int(times.max())
    panes = [windows.pane(first)]
    while panes[-1][1] <= last and len(panes) < _MOST_SPANS:
        panes.append(windows.pane(panes[-1][1]))
    if panes[-1][1] <= last:  # years between the rows
        ordered, panes = np.sort(times), list[Pane]()
        at = 0
        while at < len(ordered):
            panes.append(windows.pane(int(ordered[at])))
            at = int(np.searchsorted(ordered, panes[-1][1]))
    codes = np.searchsorted(np.array([end for _, end in panes]), times, side="right")
    there = np.bincount(codes, minlength=len(panes)) > 0
    if not there.all():
        codes, panes = (np.cumsum(there) - 1)[codes], [pane for pane, held in zip(panes, there, strict=True) if held]
    return codes, panes
