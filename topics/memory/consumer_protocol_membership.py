"""A consumer's side of KIP-848's protocol: partitions are added and taken away one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import KafkaError

from .. import clock
from ..identifiers import kafka_uuid
from .classic_membership import Rebalanced
from .failure import Refused
from .group_metadata import GroupMetadata
from .offsets import Partition

if TYPE_CHECKING:
    from .client import Client
    from .memory_kafka import MemoryKafka

__all__ = ["ConsumerProtocolMembership"]

_MOST_STEPS = 16


class ConsumerProtocolMembership:
    """Joins, leaves and follows the assignments of a group; as `ClassicMembership` otherwise."""

    def __init__(
        self, kafka: MemoryKafka, client: Client, group: str, *, rebalance_s: float, rebalanced: Rebalanced
    ) -> None:
        self._kafka, self._client, self._group = kafka, client, group
        self._rebalance_s, self._rebalanced = rebalance_s, rebalanced
        self.topics: list[str] = []
        self.fatal: KafkaError | None = None
        self.member_id = ""
        self.generation = -1
        self._owned: list[Partition] = []
        self.missing: list[str] = []
        self.protocol: str | None = None
        self._joined = self._subscribing = self._leaving = False

    @property
    def metadata(self) -> GroupMetadata:
        """The membership, as a transaction needs it."""
        return GroupMetadata(self._group, self.generation, self.member_id, None)

    def subscribe(self, topics: list[str]) -> None:
        """Join the group, or change the subscription; see `ClassicMembership.subscribe`."""
        self.member_id = self.member_id or kafka_uuid()
        self.topics, self._leaving, self._subscribing, self.protocol = topics, False, True, "COOPERATIVE"
        if not self._joined:
            self._heartbeat()

    def unsubscribe(self) -> None:
        """Give the partitions up and leave the group, at the next poll."""
        self.topics = []
        self._leaving = self._joined

    def serve(self) -> None:
        """Do what is due: join, call back for partitions that come or go."""
        for _ in range(_MOST_STEPS):
            if not self._step():
                return

    def close(self) -> None:
        """Give the partitions up and leave the group."""
        if self._joined and self.fatal is None:
            self._leave()

    def lose(self) -> None:
        """Give the partitions up, because the consumer was not polled in time; the next poll joins again."""
        if self._joined:
            with self._kafka.lock:
                self._kafka.consumer_protocol_group(self._group).leave(self.member_id, clock.now_s())
                self._kafka.changed()
            self.generation, self._subscribing = 0, True
            self._give_up(list(self._owned), lost=True)

    def _step(self) -> bool:
        if self._leaving:
            self._leave()
            return False
        if not self.topics:
            return False
        try:
            assigned = self._heartbeat()
        except Refused as exc:
            if exc.code != KafkaError.UNKNOWN_MEMBER_ID:
                raise
            self.generation, self._subscribing = 0, True
            return self._give_up(self._owned, lost=True)
        given_up = self._give_up([at for at in self._owned if at not in assigned])
        new = [at for at in assigned if at not in self._owned]
        if new or given_up:  # librdkafka calls back for none as well, after partitions were given up
            self._owned = list(assigned)
            self._rebalanced("assign", new)
        return bool(new) or given_up

    def _heartbeat(self) -> list[Partition]:
        """Join where that is due, and tell the group which partitions are owned; return those that are assigned."""
        kafka = self._kafka
        with kafka.lock:
            group = kafka.consumer_protocol_group(self._group)
            if self._subscribing:
                group.join(self._client, self.member_id, self.topics, rebalance_s=self._rebalance_s)
                self._joined, self._subscribing = True, False
                kafka.changed()
            before = group.state
            self.generation, assigned = group.heartbeat(self.member_id, self._owned, clock.now_s())
            if group.state != before:
                kafka.changed()
        return assigned

    def _give_up(self, partitions: list[Partition], *, lost: bool = False) -> bool:
        """Call back for partitions that go; return whether there are any."""
        if partitions:
            self._owned = [at for at in self._owned if at not in partitions]
            self._rebalanced("lost" if lost else "revoke", partitions)
        return bool(partitions) or lost

    def _leave(self) -> None:
        self._give_up(list(self._owned))
        with self._kafka.lock:
            self._kafka.consumer_protocol_group(self._group).leave(self.member_id, clock.now_s())
            self._kafka.changed()
        self._joined = self._leaving = False  # the member id and the epoch are those of the last membership
