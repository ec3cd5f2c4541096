"""Deletes the records of an app's own repartition topics that are processed: nobody reads them again.

Each worker does so for the partitions that it owns, below the offsets that its group has committed. A worker that has
lost a partition knows an older offset than its successor, so it deletes nothing that is needed.

Only topics that the app made for its `key_by` and `group_by` are touched, never one that a program names. Those of a
bounded run are deleted with the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ...topics import threads
from ...topics.errors import AnabranchError
from ...topics.threads import daemon_thread
from ...topics.topic_partition import TopicPartition
from .protocols import Host

__all__ = ["PURGE_EVERY_S", "RepartitionPurge"]

logger = logging.getLogger(__name__)

PURGE_EVERY_S = 30.0


class RepartitionPurge:
    """Deletes processed records of repartition topics.

    Args:
        committed: returns partition -> committed offset of the partitions that this worker owns.
    """

    def __init__(self, host: Host, committed: Callable[[], Mapping[TopicPartition, int]]) -> None:
        self._host, self._committed = host, committed
        self._deleted: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Delete every `PURGE_EVERY_S` seconds until cancelled, or until the cluster forbids it."""
        while True:
            await threads.idle(PURGE_EVERY_S)
            if not await self.purge():
                return

    async def purge(self) -> bool:
        """Delete once; return False if the cluster forbids it, which is logged."""
        due = self._due()
        if not due:
            return True
        try:
            refused = await daemon_thread(self._host.admin.delete_records, due)
        except AnabranchError as exc:
            logger.debug("deleting processed records of repartition topics: %s", exc)
            return True
        if refused:
            logger.warning(
                "%s: processed records stay, because this worker may not delete records (ACL DELETE): the topic will "
                "take ever more space",
                ", ".join(sorted({at.topic for at in refused})),
            )
            return False
        self._deleted |= due
        return True

    def _due(self) -> dict[TopicPartition, int]:
        """Return partition -> offset below which its records can be deleted."""
        own = self._host.repartition_topics
        committed = {at: offset for at, offset in self._committed().items() if at.topic in own}
        self._deleted = {at: offset for at, offset in self._deleted.items() if at in committed}
        return {at: offset for at, offset in committed.items() if offset > self._deleted.get(at, 0)}
