"""The content of one partition of a window table; `window_table.py` documents format and invariants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from ...topics.errors import Usage
from ...topics.serde import Codec
from ..event_time.channel import END_MS, FOREVER_MS, NEVER_MS, Channel, least_time
from ..event_time.event_time import Timing
from ..event_time.time_keeper import TimeKeeper
from ..event_time.windows import Windows
from .absent import ABSENT
from .expiry_sweep import ExpirySweep
from .held_values import HeldValues
from .open_windows import OpenWindows, WindowKey
from .store import Changes, Store
from .stored_content import StoredContent
from .stream_time import STREAM_TIME

__all__ = ["Input", "WindowContent", "WindowSpec", "committed_now_ms", "current", "ended_by", "inputs_without_end"]

_VERSION = 1

# Bytes at the end of the key of a window that ends in 2001 or later: a comma, thirteen digits and a bracket.
_USUAL = 15

Input = tuple[str, str]
"""An agent that writes to the table, and the topic that it reads."""


@dataclass(frozen=True)
class WindowSpec:
    """The declaration of a window table: its windows, and the records that count in them.

    Attributes:
        windows: the kind of windows.
        grace_ms: how far the watermark is behind stream time.
        keep_ms: how long closed windows are kept, in ms of event time; None: for ever.
        key_type: type of the keys without their windows; None is untyped JSON.
        source: name of the topic whose records have the event time.
        late_topic: name of the topic for late records; None if they are only counted.
        timing: what the time of a record is.
        channels_of: name of the topic whose partitions have the stream times that the watermark is the least of: that
            is `source`, or the topic of the agent that closes the windows which this table is made of.
        chained: tables that are filled from the closed windows of this one.
        closes: whether windows close at all; of a windowed table without `expires` they do not.
        is_input: returns whether the program still has an agent, which reads a topic; see `WindowContent.inputs`.
    """

    windows: Windows
    grace_ms: int
    keep_ms: int | None
    key_type: object = None
    source: str = ""
    late_topic: str | None = None
    timing: Timing = field(default_factory=Timing)
    channels_of: str = ""
    chained: list[WindowSpec] = field(default_factory=list["WindowSpec"], compare=False)
    closes: bool = True
    is_input: Callable[[str, str], bool] = lambda agent, topic: True

    def closed_at(self, time_ms: int) -> int:
        """Return the stream time at which all windows have closed that hold a time, and all chained ones that hold
        these."""
        return self._complete_at(time_ms) + self.grace_ms

    def _complete_at(self, time_ms: int) -> int:
        """Return the watermark with which `closed_at` is reached."""
        windows = self.windows
        last_ms, gap_ms = windows.of_pane(windows.pane(time_ms))[-1][1], windows.gap_ms or 0
        # The time of a closed window is its last millisecond, and sessions pass on a time that is a gap earlier.
        chained = [spec._complete_at(last_ms - 1) + gap_ms for spec in self.chained]
        return max([windows.closes_after_ms(last_ms) + 1, *chained])

    def max_ahead_ms(self, lengths: float | None) -> int | None:
        """Return how far a source partition may be ahead of another one; see `EngineSettings.max_ahead_windows`.

        Args:
            lengths: in lengths of a window; None: any distance.
        """
        if lengths is None or self.grace_ms == FOREVER_MS or not self.closes:
            return None
        start, end = self.windows.of_pane(self.windows.pane(0))[-1]
        return int(lengths * (end - start + (self.windows.gap_ms or 0) + self.grace_ms))

    @property
    def expires_after_ms(self) -> int | None:
        """How far the watermark is beyond the end of a window when it expires; None: it never does. A session is open
        for as long as its gap, and is kept after that."""
        return None if self.keep_ms is None else self.keep_ms + (self.windows.gap_ms or 0)


class WindowContent:
    """The content of a partition of a window table: a `Content` that knows which windows are open.

    Attributes:
        keeper: stream time where the records of the partition come from.
        open: the windows that are not closed.
        inputs: of a table that agents write: the agents that do, each with the topic it reads -> stream time of its
            records. The time of the partition is the least of them.
        heard: input behind `group_by` -> stream time of its source partitions, which is that of its channel.
        moved_by: input -> the record that has last moved its time; redelivered, it moves it no more. Written while
            a jump waits for a second one: else it would be its own second one after a crash.
        now_ms: the last time of the partition before the end of its input; NEVER_MS if there is none.
    """

    __slots__ = (
        "_expires_ms",
        "_is_loaded",
        "_keys",
        "_row",
        "_stored",
        "_sweep",
        "_table",
        "heard",
        "inputs",
        "keeper",
        "moved_by",
        "now_ms",
        "open",
        "spec",
        "store",
    )

    def __init__(self, store: Store, keys: Codec, values: Codec, *, table: str, spec: WindowSpec) -> None:
        self._stored = StoredContent(store, keys, values, table=table)
        self.store, self.spec, self._keys, self._table = store, spec, keys, table
        expires_ms = self._expires_ms = spec.expires_after_ms
        self._sweep = None if expires_ms is None else ExpirySweep(store, expires_ms, ended_by)
        self._forget()

    def _forget(self) -> None:
        self._is_loaded = False
        self.keeper, self.open = TimeKeeper(), OpenWindows(self.spec.windows, self._keys.keep_all)
        self.inputs: dict[Input, Channel] = {}
        self.heard: dict[Input, TimeKeeper] = {}
        self.moved_by: dict[Input, tuple[int, object]] = {}
        self.now_ms = NEVER_MS
        self._row: bytes | None = None  # the time row as it is written

    # Loading --------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the time row and the windows that are open, if that was not done since a restore or a rollback.

        Raises:
            Usage: the content belongs to a table of another kind, or with other windows.
        """
        if self._is_loaded:
            return
        self._forget()
        self._row = self._stored.get(STREAM_TIME)
        if self._row is not None:
            row = self._time_row(self._row)
            self.keeper = TimeKeeper(row["time"])
            closed = row["closed"]
            self.open.closed_ms = NEVER_MS if closed is None else END_MS if closed == "end" else closed
            self.open.taken_changes = row.get("updates", 0)
            self.open.after = None if row["after"] is None else (row["after"][0], row["after"][1].encode("latin-1"))
            for agent, topic, max_jump_ms, state in row.get("inputs", ()):
                if self.spec.is_input(agent, topic):
                    self.inputs[agent, topic] = Channel(max_jump_ms, state)
            for agent, topic, offset, of_package in row.get("moved", ()):
                if (agent, topic) in self.inputs:
                    self.moved_by[agent, topic] = offset, of_package
            for agent, topic, state in row.get("heard", ()):
                if self.spec.is_input(agent, topic):
                    self.heard[agent, topic] = TimeKeeper(state)
            self.now_ms = row.get("now", NEVER_MS)
        elif next(iter(self._current_pairs()), None) is not None:
            raise Usage(
                f"table {self._table} has windows now, but its changelog was written without them",
                hint="give the table another name, or delete its changelog to recompute it",
            )
        for kept, _ in self._current_pairs():
            key = cast(WindowKey, self._keys.decode(kept))
            if not self.open.is_closed(key, kept):
                self.open.add(key)
        self._is_loaded, self.open.is_touched = True, False

    def _time_row(self, data: bytes) -> dict[str, Any]:
        try:
            row = msgspec.json.decode(data, type=dict[str, Any])
            written = row["windows"]
        except (msgspec.MsgspecError, KeyError):
            raise Usage(
                f"table {self._table} has windows now, but its changelog was written when it had a time-to-live",
                hint="give the table another name, or delete its changelog to recompute it",
            ) from None
        if row["version"] != _VERSION:
            raise Usage(f"table {self._table} was written by a later version of anabranch", hint="update this worker")
        if written != self.spec.windows.identity:
            before = f"{written.get('kind')}({', '.join(str(v) for v in list(written.values())[1:] if v is not None)})"
            raise Usage(
                f"table {self._table} was made with the windows {before}, and now has {self.spec.windows}",
                hint="give the table another name, or delete its changelog to recompute it",
            )
        return row

    check = load

    @property
    def _written(self) -> bytes:
        closed_ms, after = self.open.closed_ms, self.open.after
        row: dict[str, Any] = {"version": _VERSION, "windows": self.spec.windows.identity, "time": self.keeper.state}
        row["closed"] = None if closed_ms == NEVER_MS else "end" if closed_ms == END_MS else closed_ms
        row["after"] = None if after is None else [after[0], after[1].decode("latin-1")]
        if self.inputs:
            row["inputs"] = [[*name, channel.max_jump_ms, channel.state] for name, channel in self.inputs.items()]
            row["now"] = self.now_ms
            moved = [[*name, *place] for name, place in self.moved_by.items() if self.inputs[name].waits_for_jump]
            if moved:
                row["moved"] = moved
        if self.open.taken_changes:
            row["updates"] = self.open.taken_changes
        if self.heard:
            row["heard"] = [[*name, keeper.state] for name, keeper in self.heard.items()]
        return msgspec.json.encode(row)

    def take_time(self, at_ms: int) -> None:
        """Bring the time of the partition forward to that of its inputs, see `least_time`.

        Args:
            at_ms: when that is so, by the wall clock.
        """
        for name, keeper in self.heard.items():
            if name in self.inputs:
                self.inputs[name].time_ms = keeper.time_ms
        least = least_time(self.inputs.values())
        if least > self.keeper.time_ms:
            self.keeper.time_ms, self.keeper.moved_at_ms = least, at_ms
            if least < END_MS:
                self.now_ms = least

    @property
    def watermark_ms(self) -> int:
        """The watermark: windows that are complete before it are due, and take no more records."""
        if not self.spec.closes:
            return self.open.closed_ms
        return max(self.keeper.watermark(self.spec.grace_ms), self.open.closed_ms)

    @property
    def waits_for(self) -> set[str]:
        """The topics of the inputs that hold time back."""
        active = [(name, channel) for name, channel in self.inputs.items() if channel.rests_at_ms is None]
        return {topic for (_, topic), channel in active if channel.time_ms <= self.keeper.time_ms < END_MS}

    # The epoch ------------------------------------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """True if a commit has the time row to write, or windows to sweep."""
        if not self._is_loaded:
            return False
        return self._written != self._row or (self._sweep is not None and self._sweeps(self._sweep))

    def _sweeps(self, sweep: ExpirySweep) -> bool:
        return NEVER_MS < self.open.closed_ms < END_MS and sweep.is_due(self.open.closed_ms)

    def encode(self, epoch: dict[object, Any], held: HeldValues, *, deletes: bool) -> Changes:
        """Encode an epoch with the time row, if that has changed, and deletions of expired windows; see `Content`."""
        changes = self._stored.encode(epoch, held, deletes=deletes)
        row, swept = self._written, list[bytes]()
        keys, values = changes.keys, changes.values
        if row != self._row:
            keys, values = [*keys, STREAM_TIME], [*values, row]
        if self._sweep is not None and self._sweeps(self._sweep):
            swept = sorted(self._sweep.keys(self.open.closed_ms).difference(keys))
        if swept:
            keys, values = [*keys, *swept], [*values, *([None] * len(swept))]
        return Changes(keys, values, deletes=changes.deletes or bool(swept))

    def freeze(self, changes: Changes) -> None:
        """Make changes the layer above the store, while they and the time row are being committed."""
        self._stored.freeze(changes)
        if self._is_loaded:
            self._row, self.open.is_touched = self._written, False

    def apply(self, position: int) -> None:
        """Write committed changes to the store."""
        self._stored.apply(position)
        if self._sweep is not None:
            self._sweep.end(committed=True)

    def drop(self) -> bool:
        """Forget what is not committed, and what it has done to windows; for the result see `Content`."""
        dropped = self._stored.drop()
        if self._is_loaded and (dropped or self.open.is_touched or self._written != self._row):
            self._is_loaded = False
        if self._sweep is not None:
            self._sweep.end(committed=False)
        return dropped

    def forget_reads(self) -> None:
        """Forget what was read from the store, because someone else has written it."""
        self._is_loaded = False

    # Content --------------------------------------------------------------------------------------------------------

    def committed(self, key: object) -> Any:
        """Return the committed value; ABSENT if there is none or if the window is expired."""
        return ABSENT if self._is_expired(key, _closed_of(self.store.get(STREAM_TIME))) else self._stored.committed(key)

    def below_epoch(self, key: object) -> Any:
        """Return the value that the epoch began with; ABSENT if there is none or if the window is expired."""
        return ABSENT if self._is_expired(key, self.open.closed_ms) else self._stored.below_epoch(key)

    def is_expired(self, key: WindowKey) -> bool:
        """Return whether a window has expired, as agents see it, who close windows only when some are complete."""
        return self._is_expired(key, self.watermark_ms)

    def _is_expired(self, key: object, closed_ms: int) -> bool:
        if self._expires_ms is None or not NEVER_MS < closed_ms < END_MS:
            return False
        return cast(WindowKey, key)[2] + self._expires_ms <= closed_ms

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over the committed pairs whose windows are not expired."""
        return self._stored.decoded_items(_current(self.store.items(), self.store.get(STREAM_TIME), self._expires_ms))

    def many_below_epoch(self, keys: Sequence[object]) -> list[Any]:
        """Return the values that the epoch began with, ABSENT where there is none or where the window is expired."""
        if not self._is_loaded:
            return self._stored.many_below_epoch(keys)
        there = self.open.possible(cast("Sequence[WindowKey]", keys))  # others need not be looked for in the store
        if self._expires_ms is not None and NEVER_MS < (closed_ms := self.open.closed_ms) < END_MS:
            there = [key for key in there if key[2] + self._expires_ms > closed_ms]
        if not there:
            return [ABSENT] * len(keys)
        found = dict(zip(there, self._stored.many_below_epoch(there), strict=True))
        return [found.get(cast(WindowKey, key), ABSENT) for key in keys]

    def items_below_epoch(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over the pairs that the epoch began with and whose windows are not expired."""
        return self._stored.decoded_items(self._current_pairs())

    def _current_pairs(self) -> Iterator[tuple[bytes, bytes]]:
        return _current(self._stored.items(), self._stored.get(STREAM_TIME), self._expires_ms)

    def has(self, key: object) -> bool:
        """Return whether a record of the key, expired or not, is below the epoch."""
        return self._stored.has(key)

    def approximate_count(self) -> int:
        """Return the number of committed windows; expired ones count until they are removed."""
        return max(0, self.store.approximate_count() - 1)


def _closed_of(row: bytes | None) -> int:
    if row is None:
        return NEVER_MS
    closed = msgspec.json.decode(row).get("closed")
    return closed if isinstance(closed, int) else NEVER_MS


def committed_now_ms(store: Store) -> int:
    """Return the committed time of a partition; NEVER_MS if there is none."""
    row = store.get(STREAM_TIME)
    return NEVER_MS if row is None else msgspec.json.decode(row).get("now", NEVER_MS)


def inputs_without_end(row: bytes | None) -> list[Input]:
    """Return the inputs whose end is not known, given the time row of a partition."""
    inputs = () if row is None else msgspec.json.decode(row).get("inputs", ())
    return [(agent, topic) for agent, topic, _, state in inputs if state[0] != "end"]


def _end_of(key: bytes) -> int:
    """Return the end of the window of an encoded key, which is a JSON array that ends with it."""
    return int(key[key.rindex(b",") + 1 : -1])


def ended_by(pairs: Iterable[tuple[bytes, bytes]], latest_ms: int) -> set[bytes]:
    """Return the keys of those windows that end until a time, among the pairs of a partition."""
    last = b",%d]" % latest_ms
    if len(last) != _USUAL or latest_ms < 0:
        return {key for key, _ in pairs if key != STREAM_TIME and _end_of(key) <= latest_ms}
    # Ends with as many digits have the order of their bytes, so few keys have to be read: those that have ended, and
    # those in which the last comma is elsewhere.
    keys = [key for key, _ in pairs if (end := key[-_USUAL:]) <= last or end.rfind(b",")]
    return {key for key in keys if key != STREAM_TIME and _end_of(key) <= latest_ms}


def _current(
    pairs: Iterable[tuple[bytes, bytes]], row: bytes | None, expires_ms: int | None
) -> Iterator[tuple[bytes, bytes]]:
    closed_ms = _closed_of(row)
    if expires_ms is None or closed_ms == NEVER_MS:
        return (pair for pair in pairs if pair[0] != STREAM_TIME)
    return (pair for pair in pairs if pair[0] != STREAM_TIME and _end_of(pair[0]) + expires_ms > closed_ms)


def current(content: dict[bytes, bytes], expires_ms: int | None) -> dict[bytes, bytes]:
    """Return the pairs of a partition without the time row and without the windows that are expired.

    Args:
        content: the partition as in the changelog.
    """
    return dict(_current(content.items(), content.get(STREAM_TIME), expires_ms))
