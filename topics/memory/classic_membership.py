"""A consumer's side of the classic group protocol. All of it happens inside of the consumer's own calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from confluent_kafka import KafkaError

from .. import clock
from .failure import Refused
from .group_metadata import GroupMetadata
from .offsets import Partition

if TYPE_CHECKING:
    from .client import Client
    from .memory_kafka import MemoryKafka

__all__ = ["ClassicMembership", "Rebalanced"]

Rebalanced = Callable[[Literal["assign", "revoke", "lost"], list[Partition]], None]

_MOST_STEPS = 16
# A subscribed topic that does not exist is looked for this often.
_MISSING_S = 1.0


class ClassicMembership:
    """Joins, leaves and follows the rebalances of a group.

    Args:
        client: the consumer, whose heartbeats keep the membership alive.
        refresh_s: how often the consumer looks for new partitions and topics.
        rebalanced: called without the lock when partitions are assigned, revoked or lost.

    Attributes:
        topics: the subscription.
        fatal: the error after which the consumer is finished; None while it works.
        missing: subscribed topics that were found not to exist, to be reported once.
        protocol: how assignments change, as librdkafka calls it; None before the first.
        static: the instance id; None for a member that is not static.
    """

    def __init__(
        self,
        kafka: MemoryKafka,
        client: Client,
        group: str,
        static: str | None,
        *,
        session_s: float,
        rebalance_s: float,
        refresh_s: float,
        rebalanced: Rebalanced,
    ) -> None:
        self._kafka, self._client, self._group, self.static = kafka, client, group, static
        self._session_s, self._rebalance_s, self._refresh_s = session_s, rebalance_s, refresh_s
        self._rebalanced = rebalanced
        self.topics: list[str] = []
        self.fatal: KafkaError | None = None
        self.member_id = ""
        self.generation = -1
        self._state: Literal["out", "joining", "member"] = "out"
        self._assigned: list[Partition] | None = None
        self._leaving = self._rejoining = False
        self._counts: dict[str, int] = {}
        self._refreshed_s = 0.0
        self.protocol: str | None = None
        self._told_missing: set[str] = set()
        self.missing: list[str] = []

    @property
    def metadata(self) -> GroupMetadata:
        """The membership, as a transaction needs it."""
        return GroupMetadata(self._group, self.generation, self.member_id, self.static)

    def subscribe(self, topics: list[str]) -> None:
        """Join the group, or change the subscription.

        librdkafka joins in a thread of its own: a new member does not need its consumer to be polled for it.
        """
        self._rejoining = self._state != "out"
        self.topics, self._leaving = topics, False
        if self.topics and not self._rejoining and self.fatal is None:
            try:
                self._join()
            except Refused as exc:
                self._answer(exc)

    def unsubscribe(self) -> None:
        """Give the partitions up and leave the group, at the next poll."""
        self.topics = []
        self._leaving = self._state != "out"

    def serve(self) -> None:
        """Do what is due: join, call back, answer a rebalance."""
        for _ in range(_MOST_STEPS):
            if not self._step():
                return

    def close(self) -> None:
        """Give the partitions up; a static member does not leave the group, whose session ends by itself."""
        if self.fatal is None and self._state != "out":
            self._give_up()
            if self.static is None or self._leaving:
                self._leave()
        self._state = "out"

    def lose(self) -> None:
        """Give the partitions up, because the consumer was not polled in time; the next poll joins again."""
        if self._state == "out":
            return
        if self.static is None:
            self._leave()
        self._state, self.member_id, self.generation = "out", "", -1
        self._give_up(lost=True)

    def _step(self) -> bool:
        if self.fatal is not None:
            return False
        if self._leaving:
            self._give_up()
            self._leave()
            self._leaving = False
            return True
        if not self.topics:
            return False
        if self._state == "member" and (self._rejoining or self._look_for_changes()):
            self._rejoining = False
            self._give_up()
            self._state = "out"
        try:
            if self._state == "out":
                return self._join()
            if self._state == "joining":
                return self._take_assignment()
            self._kafka.classic_group(self._group).heartbeat(self.member_id, self.static, self.generation)
        except Refused as exc:
            return self._answer(exc)
        return False

    def _look_for_changes(self) -> bool:
        """Refresh the metadata now and then; return whether subscribed topics were added, deleted or have grown."""
        now_s = clock.now_s()
        every_s = self._refresh_s if len(self._counts) == len(self.topics) else min(_MISSING_S, self._refresh_s)
        if now_s - self._refreshed_s < every_s:
            return False
        self._refreshed_s = now_s
        return self._kafka.counts(self.topics) != self._counts

    def _join(self) -> bool:
        kafka = self._kafka
        with kafka.lock:
            self._counts, self._refreshed_s = kafka.counts(self.topics), clock.now_s()
            self.missing = [at for at in self.topics if at not in self._counts and at not in self._told_missing]
            self._told_missing = {at for at in self.topics if at not in self._counts}
            self.member_id = kafka.classic_group(self._group).join(
                self._client,
                self.member_id,
                self.static,
                sorted(self._counts),
                session_s=self._session_s,
                rebalance_s=self._rebalance_s,
                now_s=clock.now_s(),
            )
            kafka.changed()
        self._state, self._rejoining = "joining", False
        return True

    def _take_assignment(self) -> bool:
        with self._kafka.lock:
            group = self._kafka.classic_group(self._group)
            found, left_out = group.assignment(self.member_id), group.waits_for(self.member_id)
        if left_out:  # another rebalance has begun before this member was polled
            return self._join()
        if found is None:
            return False
        self.generation, partitions = found
        self._state, self._assigned, self.protocol = "member", partitions, "EAGER"
        self._rebalanced("assign", partitions)
        return True

    def _answer(self, refused: Refused) -> bool:
        """Do what an error of the coordinator asks for."""
        if refused.code == KafkaError.FENCED_INSTANCE_ID:
            text = f"Fatal consumer error: {refused.error.str()}"
            self.fatal = KafkaError(refused.code, text, True, False, False)
            self._assigned = None
            self._state = "out"
            return False
        if refused.code == KafkaError.REBALANCE_IN_PROGRESS:
            self._give_up()
        else:
            if refused.code == KafkaError.UNKNOWN_MEMBER_ID:
                self.member_id = ""
            self.generation = -1
            self._give_up(lost=True)
        self._state = "out"
        return True

    def _give_up(self, *, lost: bool = False) -> None:
        assigned, self._assigned = self._assigned, None
        if assigned is not None:
            self._rebalanced("lost" if lost else "revoke", assigned)

    def _leave(self) -> None:
        with self._kafka.lock:
            self._kafka.classic_group(self._group).leave(self.member_id, clock.now_s())
            self._kafka.changed()
        self._state, self.member_id = "out", ""  # the generation is that of the last membership
