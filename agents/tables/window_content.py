"""The content of one partition of a window table; `window_table.py` documents format and invariants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, cast

import msgspec

from ...topics.errors import Usage
from ...topics.serde import Codec
from ..event_time.channel import END_MS, NEVER_MS
from ..event_time.time_keeper import TimeKeeper
from ..event_time.windows import Windows
from .absent import ABSENT
from .expiry_sweep import ExpirySweep
from .held_values import HeldValues
from .store import Changes, Store
from .stored_content import StoredContent
from .stream_time import STREAM_TIME

__all__ = ["WindowContent", "WindowKey", "current"]

_VERSION = 1

WindowKey = tuple[Any, int, int]
"""A key of the table: the key of the records, and the start and the end of the window in milliseconds."""

Place = tuple[int, bytes]
"""A window in the order in which windows close: when it is complete, then the bytes of its key."""


class WindowContent(StoredContent):
    """The content of a partition of a window table: a `Content` that knows which windows are open.

    Attributes:
        keeper: stream time where the records of the partition come from.
    """

    __slots__ = (
        *("_after", "_by_key", "_closed_ms", "_closing", "_closing_at", "_heap", "_is_loaded", "_is_touched", "_open"),
        *("_row", "_sweep", "grace_ms", "keep_ms", "keeper", "windows"),
    )

    def __init__(
        self,
        store: Store,
        keys: Codec,
        values: Codec,
        *,
        table: str,
        windows: Windows,
        grace_ms: int,
        keep_ms: int | None,
    ) -> None:
        super().__init__(store, keys, values, table=table)
        self.windows, self.grace_ms, self.keep_ms = windows, grace_ms, keep_ms
        self._sweep = None if keep_ms is None else ExpirySweep(store, keep_ms, lambda key, _: _end_of(key))
        self._forget()

    def _forget(self) -> None:
        self._is_loaded = False
        self._is_touched = False  # whether the epoch has changed what is open
        self.keeper = TimeKeeper()
        self._closed_ms = NEVER_MS  # windows that were complete before this are closed
        self._after: Place | None = None  # and those up to this place as well
        self._row: bytes | None = None  # the time row as it is written
        # Windows that are not closed: when they are complete -> their keys. May hold keys that do not exist any more.
        self._open: dict[int, set[WindowKey]] = {}
        self._heap: list[int] = []
        self._by_key: dict[Any, set[WindowKey]] = {}
        self._closing: list[tuple[bytes, WindowKey]] = []
        self._closing_at = 0

    # Loading --------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the time row and the windows that are open, if that was not done since a restore or a rollback.

        Raises:
            Usage: the content belongs to a table of another kind, or with other windows.
        """
        if self._is_loaded:
            return
        self._forget()
        self._row = self.get(STREAM_TIME)
        if self._row is not None:
            row = self._time_row(self._row)
            self.keeper = TimeKeeper(row["time"])
            self._closed_ms = NEVER_MS if row["closed"] is None else END_MS if row["closed"] == "end" else row["closed"]
            self._after = None if row["after"] is None else (row["after"][0], row["after"][1].encode("latin-1"))
        elif next(iter(self.items()), None) is not None:
            raise Usage(
                f"table {self._table} has windows now, but its changelog was written without them",
                hint="give the table another name, or delete its changelog to recompute it",
            )
        for kept, _ in self.items():
            key = cast(WindowKey, self.keys.decode(kept))
            if not self._is_closed((self.windows.closes_after_ms(key[2]), kept)):
                self.add_open(key)
        self._is_loaded, self._is_touched = True, False

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
        if written != self.windows.identity:
            before = f"{written.get('kind')}({', '.join(str(v) for v in list(written.values())[1:] if v is not None)})"
            raise Usage(
                f"table {self._table} was made with the windows {before}, and now has {self.windows}",
                hint="give the table another name, or delete its changelog to recompute it",
            )
        return row

    check = load

    @property
    def _written(self) -> bytes:
        closed = None if self._closed_ms == NEVER_MS else "end" if self._closed_ms == END_MS else self._closed_ms
        after = None if self._after is None else [self._after[0], self._after[1].decode("latin-1")]
        row = {"version": _VERSION, "windows": self.windows.identity, "time": self.keeper.state}
        return msgspec.json.encode({**row, "closed": closed, "after": after})

    # Windows that are open ------------------------------------------------------------------------------------------

    @property
    def watermark_ms(self) -> int:
        """The watermark: windows that are complete before it are due, and take no more records."""
        return max(self.keeper.watermark(self.grace_ms), self._closed_ms)

    def add_open(self, key: WindowKey) -> None:
        """Note that a window exists and is not closed."""
        self._is_touched = True
        at = self.windows.closes_after_ms(key[2])
        keys = self._open.get(at)
        if keys is None:
            keys = self._open[at] = set()
            heappush(self._heap, at)
        keys.add(key)
        if self.windows.gap_ms is not None:
            self._by_key.setdefault(key[0], set()).add(key)

    def remove_open(self, key: WindowKey) -> None:
        """Note that a session has become part of another one."""
        self._is_touched = True
        self._open[self.windows.closes_after_ms(key[2])].discard(key)
        self._forget_session(key)

    def _forget_session(self, key: WindowKey) -> None:
        sessions = self._by_key.get(key[0])
        if sessions is not None:
            sessions.discard(key)
            if not sessions:
                del self._by_key[key[0]]

    def open_sessions(self, key: object) -> list[WindowKey]:
        """Return the sessions of a key that are not closed, the earliest first."""
        return sorted(self._by_key.get(key, ()), key=lambda session: session[1])

    @property
    def open_windows(self) -> int:
        """Number of windows that are not closed."""
        return sum(map(len, self._open.values())) + len(self._closing) if self._is_loaded else 0

    @property
    def next_close_ms(self) -> int | None:
        """The time that the watermark has to pass until the next window closes; None if none is open."""
        return self._heap[0] if self._is_loaded and self._heap else None

    # Closing --------------------------------------------------------------------------------------------------------

    def next_due(self) -> WindowKey | None:
        """Return the next window that is complete, in the order of its completion and then of its key's bytes, and note
        it as closed. None if there is no more."""
        watermark_ms = self.watermark_ms
        while True:
            if self._closing:
                kept, key = self._closing.pop()
                self._after = self._closing_at, kept
                return key
            if not self._heap or self._heap[0] >= watermark_ms:
                self._closed_ms, self._after = watermark_ms, None
                return None
            self._is_touched = True
            self._closing_at = heappop(self._heap)
            keys = self._open.pop(self._closing_at)
            for key in keys:
                self._forget_session(key)
            self._closing = sorted(((self.keys.keep(key), key) for key in keys), reverse=True)

    @property
    def has_due(self) -> bool:
        """True if `next_due` may return a window."""
        return bool(self._closing) or (bool(self._heap) and self._heap[0] < self.watermark_ms)

    def _is_closed(self, place: Place) -> bool:
        return place[0] < self._closed_ms or (self._after is not None and place <= self._after)

    # The epoch ------------------------------------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """True if a commit has the time row to write, or windows to sweep."""
        if not self._is_loaded:
            return False
        return self._written != self._row or (self._sweep is not None and self._sweeps(self._sweep))

    def _sweeps(self, sweep: ExpirySweep) -> bool:
        return NEVER_MS < self._closed_ms < END_MS and sweep.is_due(self._closed_ms)

    def encode(self, epoch: dict[object, Any], held: HeldValues, *, deletes: bool) -> Changes:
        """Encode an epoch with the time row, if that has changed, and deletions of expired windows; see `Content`."""
        changes = super().encode(epoch, held, deletes=deletes)
        row, swept = self._written, list[bytes]()
        keys, values = list(changes.keys), list(changes.values)
        if row != self._row:
            keys.append(STREAM_TIME)
            values.append(row)
        if self._sweep is not None and self._sweeps(self._sweep):
            swept = sorted(self._sweep.keys(self._closed_ms).difference(keys))
        return Changes([*keys, *swept], [*values, *([None] * len(swept))], deletes=changes.deletes or bool(swept))

    def freeze(self, changes: Changes) -> None:
        """Make changes the layer above the store, while they and the time row are being committed."""
        super().freeze(changes)
        if self._is_loaded:
            self._row, self._is_touched = self._written, False

    def apply(self, position: int) -> None:
        """Write committed changes to the store."""
        super().apply(position)
        if self._sweep is not None:
            self._sweep.end(committed=True)

    def drop(self) -> bool:
        """Forget what is not committed, and what it has done to windows; for the result see `Content`."""
        dropped = super().drop()
        if self._is_loaded and (dropped or self._is_touched or self._written != self._row):
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
        return ABSENT if self._is_expired(key, _closed_of(self.store.get(STREAM_TIME))) else super().committed(key)

    def below_epoch(self, key: object) -> Any:
        """Return the value that the epoch began with; ABSENT if there is none or if the window is expired."""
        return ABSENT if self._is_expired(key, self._closed_ms) else super().below_epoch(key)

    def _is_expired(self, key: object, closed_ms: int) -> bool:
        if self.keep_ms is None or not NEVER_MS < closed_ms < END_MS:
            return False
        return cast(WindowKey, key)[2] + self.keep_ms <= closed_ms

    def committed_items(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over the committed pairs whose windows are not expired."""
        return self.decoded_items(_current(self.store.items(), self.store.get(STREAM_TIME), self.keep_ms))

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        """Iterate over the pairs that the epoch began with and whose windows are not expired."""
        return _current(super().items(), self.get(STREAM_TIME), self.keep_ms)

    def approximate_count(self) -> int:
        """Return the number of committed windows; expired ones count until they are removed."""
        return max(0, self.store.approximate_count() - 1)


def _closed_of(row: bytes | None) -> int:
    if row is None:
        return NEVER_MS
    closed = msgspec.json.decode(row).get("closed")
    return closed if isinstance(closed, int) else NEVER_MS


def _end_of(key: bytes) -> int:
    """Return the end of the window of an encoded key, which is a JSON array that ends with it."""
    return int(key[key.rindex(b",") + 1 : -1])


def _current(
    pairs: Iterable[tuple[bytes, bytes]], row: bytes | None, keep_ms: int | None
) -> Iterator[tuple[bytes, bytes]]:
    closed_ms = _closed_of(row)
    if keep_ms is None or closed_ms == NEVER_MS:
        return (pair for pair in pairs if pair[0] != STREAM_TIME)
    return (pair for pair in pairs if pair[0] != STREAM_TIME and _end_of(pair[0]) + keep_ms > closed_ms)


def current(content: dict[bytes, bytes], keep_ms: int | None) -> dict[bytes, bytes]:
    """Return the pairs of a partition without the time row and without the windows that are expired.

    Args:
        content: the partition as in the changelog.
    """
    return dict(_current(content.items(), content.get(STREAM_TIME), keep_ms))
