"""Window tables: what `Flow.window` makes of a flow. Each row is one window of one key.

    by5 = sales.key_by("user").window(Tumbling("5m"), grace="30s").aggregate("by-user-5m", n=Count())

Format, in the store as in the changelog, so that restoring needs no knowledge of it:

| key | value |
| --- | --- |
| `[key, start, end]`: the key, and its window in milliseconds since 1970 | the aggregates, as in other tables |
| `STREAM_TIME` | the time row: stream time by channel, which windows are closed, and the kind of windows |

Invariants.
- A window closes when the watermark of its partition has passed its end; of a session, its end and the gap. Windows
  close in the order of their ends, then of their keys. From then on its row does not change.
- Rows, stream time and closed windows are committed with the epoch, together with what was sent for closed windows. So
  each window is closed once, wherever commits, failures and restarts fall.
- A closed window stays in the table until the watermark is `keep` later than its end. An expired window does not
  return. Rows are removed in bounded steps at commits; readers do not see them before that either.
- Which windows are open is kept in memory, and read from the store after a restore and after a rollback.
"""

from __future__ import annotations

from datetime import datetime
from types import GenericAlias
from typing import Any, cast

from ...topics.durations import duration_text
from ...topics.errors import Usage
from ...topics.serde import key_codec
from ..event_time.event_time import time_ms
from ..event_time.windows import Window, Windows
from .open_partition import K, OpenPartition, V
from .partition_state import PartitionState
from .store import Store
from .table import Table
from .window_content import WindowContent, WindowKey, current

__all__ = ["WindowTable"]


class WindowTable(Table[Any, V]):
    """A table of windows.

    Its keys are (key, start, end), with times in milliseconds; `at` and `windows` find them by key and time.

    Args:
        windows: the kind of windows.
        grace_ms: how far the watermark is behind stream time.
        keep_ms: how long closed windows are kept, in ms of event time; None: for ever.
        own_key_type: type of the keys without their windows; None is untyped JSON.

    Attributes:
        kind: the kind of windows.
        source: name of the topic whose records have the event time.
        late_topic: name of the topic for late records; None if they are only counted.
    """

    keeps_stream_time = True

    def __init__(
        self,
        name: str,
        *,
        windows: Windows,
        grace_ms: int,
        keep_ms: int | None,
        own_key_type: object = None,
        source: str = "",
        late_topic: str | None = None,
        **options: Any,
    ) -> None:
        self.kind, self.grace_ms, self.keep_ms = windows, grace_ms, keep_ms
        self.own_keys, self.source = key_codec(own_key_type), source
        self.late_topic = late_topic
        key_type = None if own_key_type is None else GenericAlias(tuple, (own_key_type, int, int))
        super().__init__(name, key_type=key_type, **options)

    def _make_state(self, store: Store) -> PartitionState:
        content = WindowContent(
            store,
            self.key_codec,
            self.value_codec,
            table=self.name,
            windows=self.kind,
            grace_ms=self.grace_ms,
            keep_ms=self.keep_ms,
        )
        return PartitionState(content, self.value_codec)

    def content(self, data: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the windows of a partition that are not expired."""
        return current(data, self.keep_ms)

    def at_hand_with_content(self) -> tuple[OpenPartition[Any, V], WindowContent]:
        """Return the partition of the running agent's record, and its content, loaded."""
        partition = self.opened_to_write()
        content = cast(WindowContent, partition.state.content)
        content.load()
        return partition, content

    def window_contents(self) -> dict[int, WindowContent]:
        """Return the contents of this worker's partitions."""
        return {number: cast(WindowContent, state.content) for number, state in self.states.items()}

    # Reading --------------------------------------------------------------------------------------------------------

    def at(self, key: K, time: datetime | str | int) -> dict[Window, V]:
        """Return the windows of a key that hold a time, the earliest first; several where windows overlap.

        Args:
            time: a datetime with a zone, ISO 8601 text with a zone, or milliseconds since 1970.

        Raises:
            Usage: it is no such time.
        """
        try:
            at_ms = time_ms(time, "ms")
        except ValueError as exc:
            raise Usage(f"table {self.name}: {exc}", hint="for example 2026-01-31T12:00Z") from None
        if self.kind.gap_ms is not None:
            return {window: value for window, value in self.windows(key).items() if _holds(window, at_ms)}
        keys = [(key, start, end) for start, end in self.kind.of_pane(self.kind.pane(at_ms))]
        return {Window.of(*row[1:]): self[row] for row in keys if row in self}

    def windows(self, key: K) -> dict[Window, V]:
        """Return all windows of a key that the table holds, the latest first; it looks at all rows of this worker."""
        rows = [(row, value) for row, value in self.items() if cast(WindowKey, row)[0] == key]
        rows.sort(key=lambda pair: cast(WindowKey, pair[0])[1:], reverse=True)
        return {Window.of(*cast(WindowKey, row)[1:]): value for row, value in rows}

    def __repr__(self) -> str:
        keep = "" if self.keep_ms is None else f", kept for {duration_text(self.keep_ms)}"
        return f"<WindowTable {self.name} {self.kind}, grace {duration_text(self.grace_ms)}{keep}>"


def _holds(window: Window, at_ms: int) -> bool:
    return window.start_ms <= at_ms < window.end_ms
