"""The changelog reader: a thread that applies changelog records to stores, beside the event loop.

Without threads (`threads.inline`), a task of the event loop does the same, step by step.

It treats a store that is being restored and a standby copy alike: it reads records and applies them. Whether a store is
up to date enough is decided elsewhere (`restoration.py`).

Invariants. From `follow` until `stop` returns, only this thread writes to a store; after that, it never does again.
Between two writes a store is in a state that its changelog once had, so an interrupted restore resumes where it left
off.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from confluent_kafka import Message

from ...topics import clock, threads
from ...topics.cluster import Cluster
from ...topics.errors import Rebuild, Retriable
from ...topics.partition_reader import Reader, Run
from ...topics.topic_partition import TopicPartition
from .store import Changes, Store

__all__ = ["ChangelogReader"]

logger = logging.getLogger(__name__)

_QUEUED_MESSAGES = 200_000
_RETRY_S = 1.0
# Without threads a read must not wait; the next one follows after this time.
_INLINE_PAUSE_S = 0.005
# A client that has lost its broker without noticing (`client_watchdog.py`) looks like one that has nothing to read, so
# it is replaced after this silence; a new one costs little.
_SILENT_S = 30.0
# A store that is followed for a long time is marked as up to date this often.
_UP_TO_DATE_S = 60.0

Inspect = Callable[[Run, Sequence[bytes], Sequence[bytes | None]], object]

_key_of: Any = Message.key
_value_of: Any = Message.value


class _Followed:
    """A store that the thread writes to.

    Attributes:
        assigned: whether the consumer reads the partition. Runs that were read before that belong to an earlier
            assignment of the partition.
        records: number of records applied to the store.
        up_to_date_s: when the store was last marked as up to date, on the monotonic clock.
    """

    __slots__ = ("assigned", "inspect", "records", "store", "up_to_date_s")

    def __init__(self, store: Store, inspect: Inspect | None) -> None:
        self.store, self.inspect = store, inspect
        self.assigned = False
        self.records = 0
        self.up_to_date_s = clock.now_s()


class ChangelogReader:
    """Follows changelog partitions; see the module's docstring. Thread and consumer exist only while it follows any.

    Attributes:
        records_total: number of records applied to stores since the start.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._followed: dict[TopicPartition, _Followed] = {}
        self._unassign: set[TopicPartition] = set()
        self._background: threads.Background | None = None
        self._closing = False
        self._failed: BaseException | None = None
        self.records_total = 0

    def __contains__(self, partition: object) -> bool:
        return partition in self._followed

    def follow(self, partition: TopicPartition, store: Store, inspect: Inspect | None = None) -> None:
        """Apply the records of a changelog partition to a store, from the store's position on.

        A partition that is followed already is not changed.

        Args:
            inspect: called before records are applied, with the records and the last key and value of each key.
        """
        with self._lock:
            if partition in self._followed or self._closing:
                return
            store.begin_restore()
            self._followed[partition] = _Followed(store, inspect)
            if self._background is None:
                self._background = threads.Background(self._steps, "anabranch-changelog-reader")

    def records(self, partition: TopicPartition) -> int:
        """Return the number of records that were applied to a store since `follow`."""
        followed = self._followed.get(partition)
        return followed.records if followed is not None else 0

    def stop(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop following partitions; returns when no write to their stores is in progress."""
        with self._lock:
            for partition in partitions:
                followed = self._followed.pop(partition, None)
                if followed is not None and followed.assigned:
                    self._unassign.add(partition)

    def raise_failed(self) -> None:
        """Raise the error that ended the thread, if there is one."""
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def close(self) -> None:
        """Stop following everything and wait for the thread (blocking)."""
        with self._lock:
            self._closing = True
            background = self._background
        if background is not None:
            background.join()
        self._followed.clear()

    # In the thread --------------------------------------------------------------------------------------------------

    def _steps(self) -> Generator[float]:
        """Read and apply records until nothing is followed any more; yield after each read how long to pause."""
        reader: Reader | None = None
        heard_s = clock.now_s()
        try:
            while True:
                with self._lock:
                    if self._closing:
                        return
                    if not self._followed:
                        self._background = None  # the next `follow` starts another thread; this one only cleans up
                        self._unassign.clear()
                        return
                    reader = reader or Reader(self._cluster, queued_messages=_QUEUED_MESSAGES, gone="error")
                    self._update_assignment(reader)
                pause_s = 0.0
                try:
                    runs = reader.read(0.0) if threads.are_inline() else reader.read()
                except (Retriable, Rebuild) as exc:
                    logger.warning("%s: continuing with a new consumer", exc)
                    runs, heard_s, pause_s = list[Run](), 0.0, _RETRY_S
                now_s = clock.now_s()
                if runs:
                    heard_s = now_s
                elif now_s - heard_s > _SILENT_S:
                    reader, heard_s = self._abandon(reader), now_s
                for run in runs:
                    with self._lock:
                        self._apply(run)
                if threads.are_inline() and not runs:
                    pause_s = pause_s or _INLINE_PAUSE_S
                yield pause_s
        except GeneratorExit:  # `close`, without threads
            raise
        except BaseException as exc:  # noqa: BLE001 (the engine raises it)
            with self._lock:
                self._failed, self._closing = exc, True
        finally:
            if reader is not None:
                reader.close()

    def _abandon(self, reader: Reader) -> None:
        """Close a silent reader; the next one resumes at the stores' positions."""
        reader.close(hung=True)
        with self._lock:
            self._unassign.clear()
            for followed in self._followed.values():
                followed.assigned = False

    def _update_assignment(self, reader: Reader) -> None:
        if self._unassign:
            reader.remove(self._unassign)
            self._unassign.clear()
        new = {partition: followed for partition, followed in self._followed.items() if not followed.assigned}
        if new:
            reader.add({partition: followed.store.position for partition, followed in new.items()})
            for followed in new.values():
                followed.assigned = True

    def _apply(self, run: Run) -> None:
        followed = self._followed.get(run.at)
        if followed is None or not followed.assigned or self._closing:
            return
        store = followed.store
        if not run.messages:
            if run.position > store.position:
                store.apply(Changes([], [], deletes=False), run.position)
            self._mark_up_to_date(followed)
            return
        # A run may hold a key several times: a dict keeps the last value.
        last: dict[bytes | None, bytes | None] = dict(
            zip(map(_key_of, run.messages), map(_value_of, run.messages), strict=True)
        )
        last.pop(None, None)
        values = list(last.values())
        if followed.inspect is not None:
            followed.inspect(run, list(last), values)  # pyright: ignore[reportArgumentType]
        store.apply(Changes(list(last), values, deletes=None in values), run.position)  # pyright: ignore[reportArgumentType]
        followed.records += len(run.messages)
        self.records_total += len(run.messages)

    def _mark_up_to_date(self, followed: _Followed) -> None:
        """The end of the partition was just reached: let a store on disk note the time, now and then."""
        now_s = clock.now_s()
        if now_s - followed.up_to_date_s > _UP_TO_DATE_S:
            followed.up_to_date_s = now_s
            followed.store.end_restore()
            followed.store.begin_restore()
