"""A group of KIP-848's protocol (`group.protocol=consumer`), as its coordinator sees it, which assigns partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError

from .failure import Refused
from .group_metadata import GroupMetadata
from .offsets import Partition
from .range_assignor import Subscriber, assign_sticky_ranges

if TYPE_CHECKING:
    from .client import Client

__all__ = ["ConsumerProtocolGroup", "IncrementalMember"]


class IncrementalMember:
    """A member.

    Attributes:
        epoch: the assignment that it has reached.
        assignment: its partitions; revoked ones are among them until it acknowledges.
        target: the partitions that it shall have.
    """

    def __init__(self, member_id: str, client: Client, rebalance_s: float) -> None:
        self.member_id, self.client, self.rebalance_s = member_id, client, rebalance_s
        self.client_id = client.client_id
        self.instance: str | None = None
        self.topics: Sequence[str] = ()
        self.epoch = 0
        self.assignment: list[Partition] = []
        self.target: list[Partition] = []
        self.asked_s: float | None = None  # since when it has to give partitions up


class ConsumerProtocolGroup:
    """Members, their epochs and their partitions. All of it advances in the calls of the members.

    A member keeps partitions that stay its own; a partition moves when its former member has given it up.

    Args:
        counts: the number of partitions of topics, for those of the given names that exist.
        session_s: how long a member may be silent.

    Attributes:
        generation: the group's epoch.
    """

    def __init__(self, name: str, counts: Callable[[Sequence[str]], Mapping[str, int]], *, session_s: float) -> None:
        self.name = name
        self._counts, self._session_s = counts, session_s
        self.generation = 0
        self.members: dict[str, IncrementalMember] = {}
        self._seen: Mapping[str, int] = {}

    @property
    def state(self) -> str:
        """The name of the state, as confluent_kafka knows it."""
        if not self.members:
            return "EMPTY"
        settled = all(member.assignment == member.target for member in self.members.values())
        return "STABLE" if settled else "UNKNOWN"

    def join(self, client: Client, member_id: str, topics: Sequence[str], *, rebalance_s: float) -> None:
        """Join, or change the subscription."""
        member = self.members.get(member_id)
        if member is None:
            member = self.members[member_id] = IncrementalMember(member_id, client, rebalance_s)
        member.topics = list(topics)
        self._assign()

    def leave(self, member_id: str, now_s: float) -> None:
        """Remove a member; the others share its partitions."""
        if self.members.pop(member_id, None) is not None:
            self._assign()

    def heartbeat(self, member_id: str, owned: Sequence[Partition], now_s: float) -> tuple[int, list[Partition]]:
        """Return the member's epoch and the partitions that it shall have now.

        Args:
            owned: the partitions that it has.

        Raises:
            Refused: it is no member.
        """
        member = self._member(member_id)
        if self._counts(self._topics()) != self._seen:
            self._assign()
        kept = [at for at in member.assignment if at in member.target]
        if len(kept) < len(member.assignment):
            if any(at in owned and at not in kept for at in member.assignment):
                member.asked_s = now_s if member.asked_s is None else member.asked_s
                return member.epoch, kept
            member.assignment = kept
        member.asked_s = None
        member.epoch = self.generation
        taken = {at for other in self.members.values() if other is not member for at in other.assignment}
        member.assignment = [at for at in member.target if at in kept or at not in taken]
        return member.epoch, list(member.assignment)

    def check_commit(
        self, member: GroupMetadata, partitions: Iterable[Partition], *, transactional: bool = False
    ) -> None:
        """Check a commit of offsets in the name of a member, or of none.

        Raises:
            Refused: it is not a member, or its epoch is over. Kafka 4.3 and later accept a former epoch for partitions
                that the member has kept since then; this group does not, like those before.
        """
        if member.generation < 0 and not self.members:
            return
        if not member.member_id and member.generation < 0:
            if transactional:
                return
            raise Refused(KafkaError.UNKNOWN_MEMBER_ID)
        if member.generation != self._member(member.member_id).epoch:
            raise Refused(KafkaError.ILLEGAL_GENERATION if transactional else KafkaError.STALE_MEMBER_EPOCH)

    def _member(self, member_id: str) -> IncrementalMember:
        member = self.members.get(member_id)
        if member is None:
            raise Refused(KafkaError.UNKNOWN_MEMBER_ID)
        return member

    def _topics(self) -> list[str]:
        return sorted({topic for member in self.members.values() for topic in member.topics})

    def _assign(self) -> None:
        self.generation += 1
        self._seen = dict(self._counts(self._topics()))
        subscribers = [
            Subscriber(member.member_id, member.member_id, member.topics) for member in self.members.values()
        ]
        current = {known: member.target for known, member in self.members.items()}
        for member_id, partitions in assign_sticky_ranges(subscribers, self._seen, current).items():
            self.members[member_id].target = partitions

    def advance(self, now_s: float) -> bool:
        """Remove members whose session has ended or that keep revoked partitions; return whether there were any."""
        gone = [member.member_id for member in self.members.values() if self._ends_s(member) <= now_s]
        for member_id in gone:
            self.leave(member_id, now_s)
        return bool(gone)

    def next_s(self) -> float:
        """Return when `advance` will have something to do; infinity for never."""
        return min(map(self._ends_s, self.members.values()), default=float("inf"))

    def _ends_s(self, member: IncrementalMember) -> float:
        ends_s = member.client.ends_s(self._session_s, leaves=True)
        return ends_s if member.asked_s is None else min(ends_s, member.asked_s + member.rebalance_s)
