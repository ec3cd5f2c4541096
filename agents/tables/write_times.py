"""When the keys of a partition of a table with a time-to-live were last written, until the times are in the store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...topics.serde import Codec
from .stream_time import TIME

__all__ = ["WriteTimes", "value_of", "written_ms_of"]

_NEVER_EXPIRES_MS = 2**62


class WriteTimes:
    """The times of writes that are not committed, in ms.

    Args:
        values: codec of the table's values.

    Attributes:
        uncommitted: key -> time of its last write among the uncommitted writes; None for a deletion.
        epoch: key -> time of its last write in the epoch.
        last_reads: mutable values as agents got them last: (key, id) -> (value, its bytes, stream time of the read).
    """

    __slots__ = ("_values", "epoch", "last_reads", "uncommitted")

    def __init__(self, values: Codec) -> None:
        self._values = values
        self.uncommitted: dict[object, int | None] = {}
        self.epoch: dict[object, int] = {}
        self.last_reads: dict[tuple[object, int], tuple[object, bytes, int]] = {}

    def note_change(self, key: object, value: object, *, uncommitted: bool) -> None:
        """If a value has changed since an agent read it, record the time of that read as its write time.

        Args:
            uncommitted: the value is among the uncommitted writes, not in the epoch.
        """
        last_read = self.last_reads.get((key, id(value)))
        if last_read is None:
            return
        data = self._values.draft(value)
        if data != last_read[1]:
            times: dict[object, Any] = self.uncommitted if uncommitted else self.epoch
            times[key] = last_read[2]
            self.last_reads[key, id(value)] = (value, data, last_read[2])

    def note_read(self, key: object, value: object, now_ms: int) -> None:
        """Record that an agent reads a mutable value now; `note_change` has been called before."""
        last_read = self.last_reads.get((key, id(value)))
        data = self._values.draft(value) if last_read is None else last_read[1]
        self.last_reads[key, id(value)] = (value, data, now_ms)

    def add_to_epoch(self, deleted: Iterable[object]) -> None:
        """Add the times of the uncommitted writes to those of the epoch.

        Args:
            deleted: the keys that were deleted among the uncommitted writes.
        """
        for key in deleted:
            self.epoch.pop(key, None)
        self.epoch.update((key, ms) for key, ms in self.uncommitted.items() if ms is not None)

    def clear(self) -> None:
        """Forget all times: the epoch has ended."""
        self.uncommitted.clear()
        self.epoch.clear()
        self.last_reads.clear()


def written_ms_of(data: bytes) -> int:
    """Return when a stored value was written. One that is too short never expires, and cannot be decoded."""
    return TIME.unpack_from(data)[0] if len(data) >= TIME.size else _NEVER_EXPIRES_MS


def value_of(data: bytes) -> bytes:
    """Return a stored value without its time."""
    return data[TIME.size :]
