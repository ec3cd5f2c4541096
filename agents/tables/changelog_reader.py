"""The follower: a thread that brings stores up with their changelogs, beside the event loop.

A store that is restored and a copy that is kept warm are the same to it: records come, the store takes them. Whether a
store is far enough is for others to say (`changelog.py`).

Laws. From `follow` until `stop` returns a store is written by this thread alone; after it, never again. Between two
writes a store is a state that its changelog once had, so a restore that is interrupted goes on where it was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import Message

from ...topics import clock
from ...topics.cluster import Cluster
from ...topics.errors import Rebuild, Retriable
from ...topics.partition_reader import Key, Reader, Run
from .store import Changes, Store

__all__ = ["ChangelogReader"]

logger = logging.getLogger(__name__)

_QUEUED = 200_000
_AGAIN_S = 1.0
# A client that waits in vain for a broker (`pulse`) looks like one that has nothing to read; a new one costs little.
_SILENT_S = 30.0
# A store that is followed for long is noted as up to date this often.
_NOTE_S = 60.0

Look = Callable[[Run, Sequence[bytes], Sequence[bytes | None]], object]

_key_of: Any = Message.key
_value_of: Any = Message.value


class _Followed:
    """A store in the thread's hands.

    Attributes:
        assigned: whether the reader reads it; runs that were read before that are of an earlier life of the partition.
        records: that were written into it.
    """

    __slots__ = ("assigned", "look", "noted_s", "records", "store")

    def __init__(self, store: Store, look: Look | None) -> None:
        self.store, self.look = store, look
        self.assigned = False
        self.records = 0
        self.noted_s = clock.now_s()


class ChangelogReader:
    """See the module. The thread and its consumer are there only while a store is followed.

    Attributes:
        records_total: written into stores since the start.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._changed = threading.Condition()
        self._followed: dict[Key, _Followed] = {}
        self._unassign: set[Key] = set()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._failed: BaseException | None = None
        self.records_total = 0

    def __contains__(self, at: object) -> bool:
        return at in self._followed

    def follow(self, at: Key, store: Store, look: Look | None = None) -> None:
        """Bring a store up, from its position; one that is followed already stays as it is.

        Args:
            look: called with what is about to be written: the records, and the last key and value of each key.
        """
        with self._changed:
            if at in self._followed or self._closing:
                return
            store.begin_restore()
            self._followed[at] = _Followed(store, look)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="anabranch-follower", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def records(self, at: Key) -> int:
        """How many records were written into a store since `follow`."""
        followed = self._followed.get(at)
        return followed.records if followed is not None else 0

    def stop(self, partitions: Iterable[Key]) -> None:
        """Let go of stores. It returns when no write is under way."""
        with self._changed:
            for at in partitions:
                followed = self._followed.pop(at, None)
                if followed is not None and followed.assigned:
                    self._unassign.add(at)

    def raise_failed(self) -> None:
        """Raise what ended the thread, if something did."""
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def close(self) -> None:
        """Stop everything and wait for the thread (blocking)."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._followed.clear()

    # The thread's side ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reader: Reader | None = None
        heard_s = clock.now_s()
        try:
            while True:
                with self._changed:
                    if self._closing:
                        return
                    if not self._followed:
                        self._thread = None  # the next `follow` starts another; this one only cleans up
                        self._unassign.clear()
                        return
                    reader = reader or Reader(self._cluster, queued_messages=_QUEUED, gone="error")
                    self._tell(reader)
                try:
                    runs = reader.read()
                except (Retriable, Rebuild) as exc:
                    logger.warning("%s: reading on with a new consumer", exc)
                    with self._changed:
                        self._changed.wait_for(lambda: self._closing, _AGAIN_S)
                    runs, heard_s = list[Run](), 0.0
                now_s = clock.now_s()
                if runs:
                    heard_s = now_s
                elif now_s - heard_s > _SILENT_S:
                    reader, heard_s = self._left_behind(reader), now_s
                for run in runs:
                    with self._changed:
                        self._write(run)
        except BaseException as exc:  # noqa: BLE001 (the engine raises it)
            with self._changed:
                self._failed, self._closing = exc, True
        finally:
            if reader is not None:
                reader.close()

    def _left_behind(self, reader: Reader) -> None:
        """The next reader goes on where the stores are."""
        reader.close(hung=True)
        with self._changed:
            self._unassign.clear()
            for followed in self._followed.values():
                followed.assigned = False

    def _tell(self, reader: Reader) -> None:
        if self._unassign:
            reader.remove(self._unassign)
            self._unassign.clear()
        new = {at: followed for at, followed in self._followed.items() if not followed.assigned}
        if new:
            reader.add({at: followed.store.position for at, followed in new.items()})
            for followed in new.values():
                followed.assigned = True

    def _write(self, run: Run) -> None:
        followed = self._followed.get(run.at)
        if followed is None or not followed.assigned or self._closing:
            return
        store = followed.store
        if not run.messages:
            if run.position > store.position:
                store.apply(Changes([], [], deletes=False), run.position)
            self._note(followed)
            return
        # Within a run a key can come several times: a dict keeps the last.
        last: dict[bytes | None, bytes | None] = dict(
            zip(map(_key_of, run.messages), map(_value_of, run.messages), strict=True)
        )
        last.pop(None, None)
        values = list(last.values())
        if followed.look is not None:
            followed.look(run, list(last), values)  # pyright: ignore[reportArgumentType]
        store.apply(Changes(list(last), values, deletes=None in values), run.position)  # pyright: ignore[reportArgumentType]
        followed.records += len(run.messages)
        self.records_total += len(run.messages)

    def _note(self, followed: _Followed) -> None:
        """The end was reached just now: a store on disk remembers when it last was."""
        now_s = clock.now_s()
        if now_s - followed.noted_s > _NOTE_S:
            followed.noted_s = now_s
            followed.store.end_restore()
            followed.store.begin_restore()
