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

from types import GenericAlias
from typing import Any, cast

from ...topics.errors import Usage
from ...topics.serde import Codec, key_codec
from .open_partition import OpenPartition, V
from .partition_state import PartitionState
from .store import Store
from .table import Table
from .window_content import WindowContent, WindowSpec, current
from .window_key import window_key_codec

__all__ = ["WindowTable", "window_content", "window_contents", "window_partition"]


class WindowTable(Table[Any, V]):
    """A table of windows. Its keys are (key, start, end), with times in milliseconds."""

    keeps_stream_time = True

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
