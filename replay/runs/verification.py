"""What a run's topics hold, counted by reading them: the proof that what was sent went through.

An input is counted beside the agents' work, as soon as its end is known: there is a core to spare then, and nobody has
to wait for it in the end. That nothing has been deleted since is looked at when the count is asked for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from types import TracebackType

from ...topics.admin import Admin
from ...topics.cluster import Cluster
from ...topics.errors import AnabranchError
from ..record_counts import count_between, counted_between

__all__ = ["Counts"]

Key = tuple[str, int]

_STOP_S = 1.0


class Counts:
    """Records (rows, where they are packed) between offsets of topics; a context manager, which ends what is under way.

    Used by one thread.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._under_way: dict[str, _Count] = {}

    def begin(self, starts: Mapping[Key, int], ends: Mapping[Key, int]) -> None:
        """Count beside what else is done; by topic, one after another. Topics whose offsets are the same go on."""
        for topic in {topic for topic, _ in ends}:
            own = [{at: offsets[at] for at in offsets if at[0] == topic} for offsets in (starts, ends)]
            if topic not in self._under_way or self._under_way[topic].asked != own:
                self._forget(topic)
                self._under_way[topic] = _Count(self._cluster, own)

    def between(self, starts: Mapping[Key, int], ends: Mapping[Key, int]) -> int:
        """The records of one topic between offsets (blocking); counted now, unless `begin` has done it."""
        (topic,) = {topic for topic, _ in ends}
        begun = self._under_way.get(topic)
        found = begun.found() if begun is not None and begun.asked == [dict(starts), dict(ends)] else None
        if found is None or not self._still_there(starts, ends):
            found = count_between(self._cluster, starts, ends)
        return found

    def _still_there(self, starts: Mapping[Key, int], ends: Mapping[Key, int]) -> bool:
        """Whether nothing was deleted since: Kafka deletes from the beginning, or all of a topic; where it
        compacts, nobody can tell."""
        admin = Admin(self._cluster)
        if any("compact" in admin.config(topic).get("cleanup.policy", "") for topic in {topic for topic, _ in ends}):
            return False
        begins, high = admin.spans(ends)
        return all(begins[key] <= starts[key] and high[key] >= end for key, end in ends.items())

    def _forget(self, topic: str) -> None:
        begun = self._under_way.pop(topic, None)
        if begun is not None:
            begun.stop()

    def __enter__(self) -> Counts:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for topic in list(self._under_way):
            self._forget(topic)


class _Count:
    """One count, in a thread of its own. A daemon, because it must not hold up the end of a run that has failed."""

    def __init__(self, cluster: Cluster, asked: list[dict[Key, int]]) -> None:
        self.asked = asked
        self._cluster = cluster
        self._found: int | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._count, name="anabranch-count", daemon=True)
        self._thread.start()

    def _count(self) -> None:
        found = 0
        # It is not known any more then: whoever needs it counts again, and is told why that cannot be done.
        with contextlib.suppress(AnabranchError):
            for count in counted_between(self._cluster, *self.asked):
                if self._stopped.is_set():
                    return
                found += count
            self._found = found

    def found(self) -> int | None:
        """How many (blocking); None where it came to nothing."""
        self._thread.join()
        return self._found

    def stop(self) -> None:
        """Count no more."""
        self._stopped.set()
        self._thread.join(_STOP_S)
