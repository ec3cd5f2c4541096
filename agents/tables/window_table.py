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
- A closed window stays in the table until the watermark is `keep` later than its end; of a session, than its end and
  the gap. An expired window does not return. Rows are removed in bounded steps at commits; readers do not see them
  before that either.
- Which windows are open is kept in memory, and read from the store after a restore and after a rollback.
"""

from __future__ import annotations

import os
from types import GenericAlias
from typing import Any, cast

from ...topics.errors import Stop, Usage
from ...topics.serde import Codec, key_codec
from ..event_time.channel import FOREVER_MS
from .open_partition import OpenPartition, V
from .partition_state import PartitionState
from .store import Store
from .table import Table
from .window_content import WindowContent, WindowSpec, current
from .window_key import window_key_codec

__all__ = [
    "MOST_OPEN",
    "WindowTable",
    "refuse_many_open",
    "window_content",
    "window_contents",
    "window_partition",
]


MOST_OPEN = "ANABRANCH_COMPLETE_WINDOWS"
"""The environment variable that says how many windows of a table may be open in a worker with `--complete`."""

# An open window takes about 500 bytes, so that these are 2 GB.
_MOST_OPEN = 4_000_000


class WindowTable(Table[Any, V]):
    """A table of windows. Its keys are (key, start, end), with times in milliseconds."""

    keeps_stream_time = True
    is_sent = False  # whether a flow sends its closed windows, one by one

    def __init__(self, name: str, *, spec: WindowSpec, **options: Any) -> None:
        self.spec, self.own_keys = spec, _own_keys(name, spec.key_type)
        key_type = None if spec.key_type is None else GenericAlias(tuple, (spec.key_type, int, int))
        super().__init__(name, key_type=key_type, **options)
        self.key_codec = window_key_codec(spec.key_type)

    def _make_state(self, store: Store) -> PartitionState:
        content = WindowContent(store, self.key_codec, self.value_codec, table=self.name, spec=self.spec)
        return PartitionState(content, self.value_codec)

    def content(self, data: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the windows of a partition that are not expired."""
        return current(data, self.spec.expires_after_ms)


def refuse_many_open(table: Table[Any, Any]) -> None:
    """Refuse a table with more open windows than may wait for the end of the input.

    Raises:
        Stop: it has more.
        Usage: see `most_open`.
    """
    if not isinstance(table, WindowTable) or table.spec.grace_ms != FOREVER_MS:
        return
    most, open = most_open(), sum(len(content.open) for content in window_contents(table).values())
    if open > most:
        raise Stop(
            f"table {table.name}: --complete keeps windows open to the end of the inputs, and these are {open:,} in "
            f"this worker; {most:,} are allowed, about {max(1, most // 2_000):,} MB",
            hint="without --complete, windows close as time goes on: --time FIELD brings the inputs into order. "
            f"{MOST_OPEN}={2 * most} allows more, and --processes N spreads them",
        )


def most_open() -> int:
    """Return how many windows of a table may be open in a worker if they wait for the end of the input.

    Raises:
        Usage: the environment says something else than a number.
    """
    given = os.environ.get(MOST_OPEN, "")
    if given and not (given.isascii() and given.isdigit() and int(given) > 0):
        raise Usage(f"{MOST_OPEN}={given}", hint="a number of windows, which take about 500 bytes each")
    return int(given) if given else _MOST_OPEN


def _own_keys(table: str, key_type: object) -> Codec:
    """Return the codec of the keys without their windows.

    Raises:
        Usage: the keys are Faust records, which JSON arrays cannot hold.
    """
    if hasattr(key_type, "from_data"):
        raise Usage(
            f"table {table}: windows of keys that are Faust records",
            hint="a tuple of their fields, or a frozen msgspec.Struct",
        )
    return key_codec(key_type)


def window_partition(table: WindowTable[V]) -> tuple[OpenPartition[Any, V], WindowContent]:
    """Return the partition of the running agent's record, and its content, loaded."""
    partition = table.opened_to_write()
    content = cast(WindowContent, partition.state.content)
    content.load()
    return partition, content


def window_content(table: WindowTable[V]) -> tuple[OpenPartition[Any, V], WindowContent]:
    """Return the same as `window_partition` without opening the table: pending changes stay pending."""
    partition = table.at_hand()
    if partition is None:
        return window_partition(table)  # which raises
    content = cast(WindowContent, partition.state.content)
    content.load()
    return partition, content


def window_contents(table: WindowTable) -> dict[int, WindowContent]:
    """Return the contents of this worker's partitions."""
    return {number: cast(WindowContent, state.content) for number, state in table.states.items()}
