"""Closing of windows: the windows of a table that are complete are closed, and sent where the program wants them.

`window_agents.py` documents the invariants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ...topics.control_records import carries_control, is_control
from ...topics.errors import Stop
from ...topics.packed import Rows
from ...topics.topic_partition import TopicPartition
from ..engine.partition_queue import PartitionQueue, QueuedBatch
from ..runtime import runtime_of
from ..tables.absent import ABSENT
from ..tables.window_table import WindowTable, window_partition
from .window_agents import LOOK_S, private_copy

if TYPE_CHECKING:
    from ..stream import Stream
    from ..tables.open_windows import WindowKey

__all__ = ["WindowCloser", "timestamp_of"]

_CHUNK = 20_000
"""Windows that are closed before the worker does something else: commits, or processes records of other agents."""

# Windows that are closed before the worker looks whether the epoch is full.
_PORTION = 100


class WindowCloser:
    """Closes the windows of a table that are complete, and sends them where the program wants them.

    Args:
        finals: functions that send a closed window; each takes its row and its value.
    """

    def __init__(self, stream: Stream, table: WindowTable, finals: Sequence[Callable[[WindowKey, Any], Any]]) -> None:
        self._stream, self._table, self._finals = stream, table, finals
        # By queue, not by partition: a partition that another worker had meanwhile has a new one, and begins anew.
        self._held: dict[PartitionQueue, int] = {}
        for partition in stream.queue.partitions.values():
            partition.held_back = None  # of the agent function's last call
        self._seen: set[PartitionQueue] = set()
        self._left = _CHUNK  # windows that may still be closed in the running call of `close`

    def wait_s(self) -> float:
        """Return the seconds until the next look at the windows, although no record has come."""
        return 0.0 if self._held else LOOK_S

    def look_at(self, at: TopicPartition) -> None:
        """Close what is complete in a partition with the next call of `close`, although no record has come."""
        self._held.setdefault(self._stream.queue.at(at), -1)

    def begin(self, batch: QueuedBatch) -> None:
        """Note that a batch is about to be processed, so that its partition can no longer stay where it is."""
        if batch.messages:
            self._stream.queue.at(batch.at).held_back = None

    async def close(self, batch: QueuedBatch) -> None:
        """Close windows after a batch, an empty one if none has come."""
        stream, queue = self._stream, self._stream.queue
        present = set(queue.partitions.values())
        self._held = {partition: offset for partition, offset in self._held.items() if partition in present}
        self._seen &= present
        if batch.messages:
            self._held[queue.at(batch.at)] = _held_offset(stream, batch)
        else:
            for partition in queue.partitions.values():
                partition.ended = False
            # Also those that were restored: a worker may have ended in the middle of closing.
            self._held |= {partition: -1 for partition in queue.partitions.values() if partition not in self._seen}
        self._left = _CHUNK
        for partition in list(self._held):
            self._seen.add(partition)
            if batch.messages and partition.at != batch.at and (stream.context.epoch.full or not self._left):
                continue
            stream.context.at(stream, partition.at)
            if await self._closed(partition.at):
                del self._held[partition]
                partition.held_back = None
            elif self._held[partition] >= 0:
                partition.held_back = self._held[partition]

    async def _closed(self, at: TopicPartition) -> bool:
        """Close windows of a partition, in portions; return whether all that are complete are closed."""
        partition, state = window_partition(self._table)
        watermark_ms, epoch = state.watermark_ms, self._stream.context.epoch
        if not self._finals:
            state.open.close_due(watermark_ms)
            return True
        message, self._stream.message = self._stream.message, None
        try:
            while self._left and not epoch.full:
                rows = state.open.take_due(watermark_ms, min(self._left, _PORTION))
                self._left -= len(rows)
                for row in rows:
                    value = partition.find(row)
                    if value is not ABSENT:
                        for final in self._finals:
                            await final(row, private_copy(value))
                if not state.open.has_due(watermark_ms):
                    state.open.close_due(watermark_ms)
                    return True
            return not state.open.has_due(watermark_ms)
        except Stop:
            raise
        except Exception as exc:
            raise Stop(
                f"table {self._table.name}: a window that closes in {at.topic}[{at.partition}] cannot be sent: "
                f"{type(exc).__name__}: {exc}",
                hint="correct the functions behind final(); the window is sent when the worker starts again",
            ) from exc
        finally:
            self._stream.message = message


def _held_offset(stream: Stream, batch: QueuedBatch) -> int:
    """Return the offset to stay at while windows close: that of the control record at the end of a batch, which can be
    processed again; -1 if the batch ends with another record."""
    if isinstance(batch.messages, Rows):
        return -1
    last = batch.messages[-1]
    own = carries_control(batch.at.topic, runtime_of(stream.app).conf.id) and is_control(last)
    return cast(int, last.offset()) if own else -1


def timestamp_of(end_ms: int) -> int:
    """Return the timestamp of the record for a closed window, in milliseconds: the window's last one.

    Kafka has no timestamps before 1970. Windows that end earlier have the first one that can be sent.
    """
    return max(1, end_ms - 1)
