"""A consumer group of the classic protocol, as its coordinator sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError

from ..identifiers import random_uuid
from .failure import Refused
from .group_metadata import GroupMetadata
from .offsets import Partition
from .range_assignor import Subscriber, assign_ranges

if TYPE_CHECKING:
    from .client import Client

__all__ = ["ClassicGroup", "Member"]

_UNKNOWN_GENERATION = -1


class Member:
    """A member of a group.

    Attributes:
        client: the consumer whose heartbeats keep the member alive.
        joined: whether it has joined the generation that is being formed.
        assignment: its partitions in the group's generation.
    """

    def __init__(self, member_id: str, instance: str | None, client: Client) -> None:
        self.member_id, self.instance, self.client = member_id, instance, client
        self.client_id = client.client_id
        self.topics: Sequence[str] = ()
        self.session_s = self.rebalance_s = 0.0
        self.joined = False
        self.assignment: list[Partition] = []

    @property
    def rank(self) -> str:
        """The key by which range assignors order members."""
        return self.instance or self.member_id


class ClassicGroup:
    """Members, generations and rebalances. All of it advances in the calls of the members.

    Args:
        counts: the number of partitions of topics, for those of the given names that exist.

    Attributes:
        generation: 0 before the first.
        state: Kafka's name of the state.
    """

    def __init__(self, name: str, counts: Callable[[Sequence[str]], Mapping[str, int]]) -> None:
        self.name = name
        self._counts = counts
        self.generation = 0
        self.state = "EMPTY"
        self.members: dict[str, Member] = {}
        self._static: dict[str, str] = {}  # instance id -> member id
        self._deadline_s = 0.0  # until when members may join the generation that is being formed

    # Members --------------------------------------------------------------------------------------------------------

    def join(
        self,
        client: Client,
        member_id: str,
        instance: str | None,
        topics: Sequence[str],
        *,
        session_s: float,
        rebalance_s: float,
        now_s: float,
    ) -> str:
        """Join, or join again; returns the member id.

        Raises:
            Refused: the member is unknown or was replaced by another one with its instance id.
        """
        replaced = self._static.get(instance) if instance is not None else None
        if member_id:
            self._check(member_id, instance)
        member = self.members.get(member_id)
        if member is None:
            member = Member(f"{instance or client.client_id}-{random_uuid()}", instance, client)
        if replaced is not None and replaced != member.member_id:
            former = self.members[replaced]
            member.assignment, member.joined = former.assignment, former.joined
            # In the place of the former, so that the order of members stays.
            self.members = {
                (member.member_id if known == replaced else known): (member if known == replaced else other)
                for known, other in self.members.items()
            }
            stays = self.state == "STABLE" and list(former.topics) == list(topics)
        else:
            self.members[member.member_id] = member
            stays = False
        if instance is not None:
            self._static[instance] = member.member_id
        member.client, member.topics = client, list(topics)
        member.session_s, member.rebalance_s = session_s, rebalance_s
        if stays:
            return member.member_id
        if self.state != "PREPARING_REBALANCING":
            self._prepare(now_s)
        member.joined = True
        self._complete_if_all_joined()
        return member.member_id

    def leave(self, member_id: str, now_s: float) -> None:
        """Remove a member; the others share its partitions."""
        if self._drop(member_id):
            self._rebalance(now_s)

    def _drop(self, member_id: str) -> bool:
        member = self.members.pop(member_id, None)
        if member is not None and member.instance is not None and self._static.get(member.instance) == member_id:
            del self._static[member.instance]
        return member is not None

    def heartbeat(self, member_id: str, instance: str | None, generation: int) -> None:
        """Ask whether the member is still part of the generation.

        Raises:
            Refused: it is not, or a rebalance is in progress.
        """
        self.check(member_id, instance, generation)
        if self.state == "PREPARING_REBALANCING":
            raise Refused(KafkaError.REBALANCE_IN_PROGRESS)

    def check_commit(
        self, member: GroupMetadata, partitions: Iterable[Partition], *, transactional: bool = False
    ) -> None:
        """Check a commit of offsets in the name of a member, or of none.

        Raises:
            Refused: as `check`; or the group has members, and this is none.
        """
        if member.generation < 0 and not self.members:
            return
        if member.generation >= 0 or member.member_id or member.instance is not None:
            self.check(member.member_id, member.instance, member.generation)
        elif not transactional:
            raise Refused(KafkaError.UNKNOWN_MEMBER_ID)

    def check(self, member_id: str, instance: str | None, generation: int) -> None:
        """Check a request in the name of a member.

        Raises:
            Refused: it is not a member, another one has taken its instance id, or its generation is over.
        """
        self._check(member_id, instance)
        if generation != self.generation:
            raise Refused(KafkaError.ILLEGAL_GENERATION)

    def _check(self, member_id: str, instance: str | None) -> None:
        if instance is not None:
            known = self._static.get(instance)
            if known is not None and known != member_id:
                raise Refused(KafkaError.FENCED_INSTANCE_ID)
        if member_id not in self.members:
            raise Refused(KafkaError.UNKNOWN_MEMBER_ID)

    def assignment(self, member_id: str) -> tuple[int, list[Partition]] | None:
        """Return the generation and the partitions of a member that has joined; None while others have not.

        Raises:
            Refused: it is not a member, or the generation that it joined is over already.
        """
        member = self.members.get(member_id)
        if member is None:
            raise Refused(KafkaError.UNKNOWN_MEMBER_ID)
        if self.waits_for(member_id):
            raise Refused(KafkaError.REBALANCE_IN_PROGRESS)
        return (self.generation, list(member.assignment)) if self.state == "STABLE" else None

    def waits_for(self, member_id: str) -> bool:
        """Return whether a generation is being formed that a member has not joined yet."""
        return self.state == "PREPARING_REBALANCING" and not self.members[member_id].joined

    # Rebalances -----------------------------------------------------------------------------------------------------

    def _prepare(self, now_s: float) -> None:
        self.state = "PREPARING_REBALANCING"
        for member in self.members.values():
            member.joined = False
        self._deadline_s = now_s + max((member.rebalance_s for member in self.members.values()), default=0.0)

    def _rebalance(self, now_s: float) -> None:
        if self.state != "PREPARING_REBALANCING":
            self._prepare(now_s)
        self._complete_if_all_joined()

    def _complete_if_all_joined(self) -> None:
        if not all(member.joined for member in self.members.values()):
            return
        self.generation += 1
        if not self.members:
            self.state = "EMPTY"
            return
        self.state = "STABLE"
        topics = sorted({topic for member in self.members.values() for topic in member.topics})
        subscribers = [Subscriber(member.rank, member.member_id, member.topics) for member in self.members.values()]
        for member_id, partitions in assign_ranges(subscribers, self._counts(topics)).items():
            self.members[member_id].assignment = partitions

    def advance(self, now_s: float) -> bool:
        """Remove members whose session has ended, and end a rebalance that waits too long; returns whether any did."""
        dead = [member for member in self.members.values() if self._ends_s(member) <= now_s]
        for member in dead:
            self._drop(member.member_id)
        late = self.state == "PREPARING_REBALANCING" and self._deadline_s <= now_s
        if late:
            for member in [member for member in self.members.values() if not member.joined]:
                self._drop(member.member_id)
            self._complete_if_all_joined()
        elif dead:
            self._rebalance(now_s)
        return late or bool(dead)

    def next_s(self) -> float:
        """Return when `advance` will have something to do; infinity for never."""
        ends = min(map(self._ends_s, self.members.values()), default=float("inf"))
        return min(ends, self._deadline_s) if self.state == "PREPARING_REBALANCING" else ends

    @staticmethod
    def _ends_s(member: Member) -> float:
        return member.client.ends_s(member.session_s, leaves=member.instance is None)
