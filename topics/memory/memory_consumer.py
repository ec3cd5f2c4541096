"""A consumer on a Kafka in memory, with confluent_kafka's methods and librdkafka's errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from confluent_kafka import KafkaError, Message, TopicPartition

from .. import clock
from .client import Client
from .consumer_offsets import ConsumerOffsets
from .failure import Refused, failure
from .fetcher import Fetcher
from .memberships import OnRebalance, Rebalances, new_membership
from .offsets import Offset, Partition

if TYPE_CHECKING:
    from .memory_kafka import MemoryKafka

__all__ = ["MemoryConsumer"]

T = TypeVar("T")

_MOST = 1_000_000
_POLL_INTERVAL_MS = 300_000


class MemoryConsumer(Client):
    """A consumer. Callbacks are called inside of `consume`, `poll` and `close`.

    `consume` returns as soon as there is anything, not when the batch is full.
    """

    def __init__(self, kafka: MemoryKafka, config: Mapping[str, object], owner: object = None) -> None:
        super().__init__(kafka, config, owner)
        if self.group is None:
            raise ValueError("Failed to create consumer: group.id must be set")
        if self._config.flag("enable.auto.commit", default=True):
            raise NotImplementedError("enable.auto.commit of Kafka in memory")
        committed = (self._config.text("isolation.level") or "read_committed") == "read_committed"
        self._offsets = ConsumerOffsets(kafka, self.group, committed=committed)
        self._fetcher = Fetcher(
            kafka,
            self.group,
            self._config.text("auto.offset.reset") or "latest",
            committed=committed,
            eof=self._config.flag("enable.partition.eof", default=False),
        )
        self.poll_interval_s = self._config.number("max.poll.interval.ms", _POLL_INTERVAL_MS) / 1000
        incremental = self._config.text("group.protocol") == "consumer"
        self._rebalances = Rebalances(self, self._fetcher, incremental=incremental)
        self._membership = new_membership(kafka, self, self._config, self.group, self._rebalances)
        self._closed = self._told_fatal = self._leaves = False

    def _act(self, operation: str, act: Callable[[], T]) -> T:
        if self._closed:
            raise RuntimeError("Consumer closed")
        if self.silent_since_s is not None:
            self._kafka.advance()
            self.silent_since_s = None
        return self._call(operation, act)

    # Records --------------------------------------------------------------------------------------------------------

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        """Return up to so many records and events; waits until there are any, `timeout` seconds at most."""
        if not 0 <= num_messages <= _MOST:
            raise ValueError("num_messages must be between 0 and 1000000 (1M)")
        return self._act("consume", lambda: self._consume(num_messages, timeout))

    def poll(self, timeout: float = -1) -> Message | None:
        """Return a record or an event; None if there is none for `timeout` seconds."""
        found = self._act("consume", lambda: self._consume(1, timeout))
        return found[0] if found else None

    def _consume(self, most: int, timeout: float) -> list[Message]:
        kafka, deadline_s = self._kafka, 0.0
        while True:
            seen = kafka.version
            kafka.advance()
            self._serve_errors()
            messages = self._events()
            self.polled_s = clock.now_s()
            if not messages:
                self._membership.serve()
                messages = self._events()
            if not messages:
                with kafka.lock:
                    messages = self._fetcher.fetch(most)
            leaves, self._leaves = self._leaves, False
            if messages or timeout == 0 or leaves:
                return messages
            now_s = clock.now_s()
            deadline_s = deadline_s or (now_s + timeout if timeout > 0 else float("inf"))
            if now_s >= deadline_s:
                return messages
            kafka.wait(seen, deadline_s - now_s)

    def _events(self) -> list[Message]:
        """Return the errors of the membership that were not returned yet."""
        membership, now_s = self._membership, clock.now_s()
        if membership.fatal is not None:
            if self._told_fatal:
                return []
            self._told_fatal = True
            self._fetcher.assign(())
            text = f"Fatal error: {membership.fatal.name()}: {membership.fatal.str()}"
            return [Message(error=KafkaError(KafkaError._FATAL, text), timestamp=(0, 0))]  # pyright: ignore[reportPrivateUsage]
        if membership.topics and now_s - self.polled_s > self.poll_interval_s:
            membership.lose()
            late_ms = int((now_s - self.polled_s - self.poll_interval_s) * 1000)
            text = f"Application maximum poll interval ({int(self.poll_interval_s * 1000)}ms) exceeded by {late_ms}ms"
            return [Message(error=KafkaError(KafkaError._MAX_POLL_EXCEEDED, text), timestamp=(0, 0))]  # pyright: ignore[reportPrivateUsage]
        missing, membership.missing = membership.missing, []
        code = KafkaError.UNKNOWN_TOPIC_OR_PART
        return [
            Message(
                topic=topic,
                error=KafkaError(code, f"Subscribed topic not available: {topic}: {KafkaError(code).str()}"),
                timestamp=(0, 0),
            )
            for topic in missing
        ]

    # Groups ---------------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        topics: list[str],
        on_assign: OnRebalance | None = None,
        on_revoke: OnRebalance | None = None,
        on_lost: OnRebalance | None = None,
    ) -> None:
        """Join the group; its partitions are assigned inside of the next polls."""
        if any(topic.startswith("^") for topic in topics):
            raise NotImplementedError("subscribe with a pattern, of Kafka in memory")

        def act() -> None:
            self._rebalances.callbacks = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost}
            self.polled_s = clock.now_s()
            self._membership.subscribe(list(topics))

        self._act("subscribe", act)

    def unsubscribe(self) -> None:
        """Leave the group: partitions are revoked inside of the next poll, which does not wait."""
        self._leaves = True
        self._act("unsubscribe", self._membership.unsubscribe)

    def consumer_group_metadata(self) -> bytes:
        """Return what a transaction needs to commit offsets of this member."""
        return self._act("consumer_group_metadata", lambda: self._membership.metadata.encoded())

    def memberid(self) -> str | None:
        """Return the member's id in its group; None outside."""
        return self._act("memberid", lambda: self._membership.member_id or None)

    def close(self) -> None:
        """Leave the group, unless it is a static member; partitions are revoked before."""
        if self._closed:
            return

        def act() -> None:
            self._membership.close()
            self.fall_silent()

        self._act("close", act)
        self._closed = True

    def __enter__(self) -> MemoryConsumer:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    # Assignment -----------------------------------------------------------------------------------------------------

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Read these partitions and no others."""

        def act() -> None:
            self._want(incremental=False)
            with self._kafka.lock:
                self._fetcher.assign(_starts(partitions))

        self._act("assign", act)

    def _want(self, *, incremental: bool) -> None:
        """Check that a member of a group changes its assignment in the way of the group's protocol."""
        protocol = self._membership.protocol
        if protocol is not None and incremental != (protocol == "COOPERATIVE"):
            call = "incremental_assign() or incremental_unassign()" if not incremental else "assign()"
            text = f"Changes to the current assignment must be made using {call} when rebalance protocol type is"
            raise failure(KafkaError._STATE, f"{text} {protocol}")  # pyright: ignore[reportPrivateUsage]
        self._rebalances.assigned = True

    def unassign(self) -> None:
        """Read nothing."""
        self.assign([])

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        """Read these partitions as well.

        Raises:
            KafkaException: one is read already.
        """

        def act() -> None:
            self._want(incremental=True)
            for at in partitions:
                if (at.topic, at.partition) in self._fetcher.assigned:
                    text = (
                        f"{at.topic} [{at.partition}] can't be added to the assignment since it is already part of it"
                    )
                    raise failure(KafkaError._CONFLICT, text)  # pyright: ignore[reportPrivateUsage]
            with self._kafka.lock:
                self._fetcher.add(_starts(partitions))

        self._act("incremental_assign", act)

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        """Read these partitions no longer.

        Raises:
            KafkaException: one is not read.
        """

        def act() -> None:
            self._want(incremental=True)
            for at in partitions:
                if (at.topic, at.partition) not in self._fetcher.assigned:
                    text = f"{at.topic} [{at.partition}] can't be removed since it is not in the current assignment"
                    raise failure(KafkaError._INVALID_ARG, text)  # pyright: ignore[reportPrivateUsage]
            with self._kafka.lock:
                self._fetcher.remove((at.topic, at.partition) for at in partitions)

        self._act("incremental_unassign", act)

    def assignment(self) -> list[TopicPartition]:
        """Return the partitions that are read."""
        return self._act("assignment", lambda: [TopicPartition(*start) for start in self._fetcher.starts()])

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Return no records of these partitions until `resume`."""
        self._act("pause", lambda: self._fetcher.paused.update((at.topic, at.partition) for at in partitions))

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Return records of these partitions again."""
        gone = {(at.topic, at.partition) for at in partitions}
        self._act("resume", lambda: self._fetcher.paused.difference_update(gone))

    def seek(self, partition: TopicPartition) -> None:
        """Read an assigned partition from another offset on."""

        def act() -> None:
            at = partition.topic, partition.partition
            if at not in self._fetcher.assigned:
                raise failure(KafkaError._STATE, "Failed to seek to offset: Local: Erroneous state")  # pyright: ignore[reportPrivateUsage]
            self._fetcher.seek(at, partition.offset)

        self._act("seek", act)

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Return the offset behind the last record of each partition; negative if none was consumed."""
        return self._act(
            "position",
            lambda: [
                TopicPartition(at.topic, at.partition, self._fetcher.position((at.topic, at.partition)))
                for at in partitions
            ],
        )

    # Offsets --------------------------------------------------------------------------------------------------------

    def committed(self, partitions: list[TopicPartition], timeout: float = -1) -> list[TopicPartition]:
        """Return committed offsets and their metadata; waits for open transactions that contain any of them.

        Raises:
            KafkaException: `_TIMED_OUT`.
        """
        wanted = [(at.topic, at.partition) for at in partitions]
        return self._act("committed", lambda: self._until(lambda: self._offsets.committed(wanted), timeout))

    def commit(
        self,
        message: Message | None = None,
        offsets: Sequence[TopicPartition] | None = None,
        asynchronous: bool = True,
    ) -> list[TopicPartition] | None:
        """Commit offsets: those given, that behind a message, or all positions; at once in any case.

        Raises:
            KafkaException: the group does not take them; if the commit is asynchronous, nothing tells.
        """
        if message is not None and offsets is not None:
            raise ValueError("message and offsets are mutually exclusive")

        def act() -> list[TopicPartition] | None:
            try:
                found = self._offsets.commit(self._membership, self._to_commit(message, offsets))
            except Refused as exc:
                if asynchronous:
                    return None
                raise failure(exc.code, f"Commit failed: {exc.error.str()}") from None
            return None if asynchronous else found

        return self._act("commit", act)

    def _to_commit(self, message: Message | None, offsets: Sequence[TopicPartition] | None) -> dict[Partition, Offset]:
        if message is not None:
            at = message.topic() or "", message.partition() or 0
            return {at: Offset((message.offset() or 0) + 1, "")}
        if offsets is not None:
            return {(at.topic, at.partition): Offset(at.offset, at.metadata or "") for at in offsets}
        positions = {at: self._fetcher.position(at) for at in self._fetcher.assigned}
        return {at: Offset(offset, "") for at, offset in positions.items() if offset >= 0}

    def store_offsets(self, message: Message | None = None, offsets: list[TopicPartition] | None = None) -> None:
        """Not done."""
        raise NotImplementedError("store_offsets of Kafka in memory")

    def get_watermark_offsets(
        self,
        partition: TopicPartition,
        timeout: float = -1,
        cached: bool = False,
    ) -> tuple[int, int]:
        """Return where a partition begins and ends.

        Args:
            cached: as seen by the last fetch; negative before the first.

        Raises:
            KafkaException: there is no such partition.
        """
        at = partition.topic, partition.partition
        find = self._fetcher.watermarks if cached else self._offsets.watermarks
        return self._act("get_watermark_offsets", lambda: find(at))

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float = -1) -> list[TopicPartition]:
        """Return the first offset at or after a time, given as the partitions' offsets; -1 if there is none."""
        return self._act("offsets_for_times", lambda: self._offsets.for_times(partitions))


def _starts(partitions: list[TopicPartition]) -> list[tuple[str, int, int]]:
    return [(at.topic, at.partition, at.offset) for at in partitions]
